"""The spans of one call, for every way it can end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec import Raw
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from support.fake_servers import FakeNode, fake_node, run, until

from mcpv_node.actors.callers import Era
from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.world import EVERYTHING
from mcpv_node.gateway import make_caller, perform_request
from mcpv_node.protocol import CallFailure, Reason
from mcpv_node.telemetry.tracing import Tracing, traces_url

CALLER = make_caller("somebody", None, conversation="session:1")


class Traced:
    """A node whose spans are kept here."""

    def __init__(self, node: FakeNode) -> None:
        self._kept = InMemorySpanExporter()
        tracing = Tracing(
            SimpleSpanProcessor(self._kept),
            clock=node.services.node.clock,
            attributes={"service.version": "1"},
        )
        self.context: NodeContext = replace(node.services.node, tracing=tracing)

    async def call(self, name: str, **more: Any) -> None:
        params = Raw(json.dumps({"name": name}).encode())
        await perform_request(self.context, CALLER, EVERYTHING, params, **more)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """In the order in which they ended."""
        return self._kept.get_finished_spans()

    @property
    def story(self) -> list[tuple[str, str | None]]:
        """Each span's name and what went wrong with it."""
        return [(span.name, _error(span)) for span in self.spans]


def _error(span: ReadableSpan) -> str | None:
    if span.status.status_code is not StatusCode.ERROR:
        return None
    assert span.attributes is not None
    assert span.attributes["error.type"] == span.status.description
    return span.status.description


def test_a_call_that_waited_for_a_start_has_the_parts_that_its_lease_tells_of(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            traced = Traced(node)

            await traced.call("alpha_echo")

            assert traced.story == [
                ("start", None),
                ("queue", None),
                ("call", None),
                ("tools/call alpha_echo", None),
            ]
            assert len({span.context.trace_id for span in traced.spans}) == 1

    run(main)


def test_a_refusal_is_a_wait_that_ended_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            traced = Traced(node)
            node.types["alpha"].refusal = CallFailure(
                reason=Reason.OVERLOADED, message="full", server="alpha", executed="no"
            )

            await traced.call("alpha_echo")

            assert traced.story == [("queue", "overloaded"), ("tools/call alpha_echo", "overloaded")]

    run(main)


def test_a_second_try_is_a_second_queue_and_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            traced = Traced(node)
            node.instances["alpha"].refusing = 1

            await traced.call("alpha_echo")

            parts = [name for name, _ in traced.story]
            assert parts == ["start", "queue", "call", "start", "queue", "call", "tools/call alpha_echo"]
            assert traced.story[2] == ("call", "failed")

    run(main)


def test_a_server_that_answers_with_an_error_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            traced = Traced(node)

            await traced.call("alpha_error")

            assert traced.story[-1] == ("tools/call alpha_error", "error")

    run(main)


def test_a_caller_that_leaves_the_queue_leaves_no_span_open_and_no_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            traced = Traced(node)
            node.types["alpha"].keeps_waiting = True
            calling = asyncio.get_running_loop().create_task(traced.call("alpha_echo"))
            await until(lambda: node.types["alpha"].parked)

            calling.cancel()
            await asyncio.wait([calling])
            await until(lambda: len(traced.spans) == 2)

            assert traced.story == [("queue", "no_answer"), ("tools/call alpha_echo", None)]
            assert traced.spans[-1].attributes["mcpv.outcome"] == "cancelled"  # type: ignore[index]

    run(main)


def test_a_caller_of_the_modern_era_is_shown_as_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            traced = Traced(node)
            modern = replace(CALLER, era=Era.MODERN)
            params = Raw(b'{"name":"alpha_echo"}')

            await perform_request(traced.context, modern, EVERYTHING, params)

            assert traced.spans[-1].attributes["mcpv.era"] == "modern"  # type: ignore[index]

    run(main)


def test_a_collector_without_a_path_is_asked_where_collectors_take_traces() -> None:
    assert traces_url("http://collector:4318") == "http://collector:4318/v1/traces"
    assert traces_url("http://collector:4318/") == "http://collector:4318/v1/traces"
    assert traces_url("https://collector/otlp/v1/traces") == "https://collector/otlp/v1/traces"
