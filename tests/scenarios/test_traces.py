"""A node whose calls are traced: what a collector is sent of them, and what servers are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.collector import Collector, collector
from support.modern_client import VERSION, modern
from support.nodes import BadServer, Node, NodeFailed, running_node, start_node

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
SECRET = "collector-key-that-is-secret"


def telemetry(traces: Collector, **more: Any) -> dict[str, Any]:
    return {"otlp": {"endpoint": traces.url, **more}}


def call(node: Node, tool: str, *, headers: dict[str, str], meta: dict[str, str] | None = None) -> None:
    """Call a tool of a client that traces."""
    with node.session() as session:
        params: dict[str, Any] = {"name": tool, "arguments": {"text": "hello"}}
        if meta is not None:
            params["_meta"] = meta
        body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).encode()
        given = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Mcp-Session-Id": str(session.id),
            **headers,
        }
        exchange = node.send("POST", "/mcp", body, given)
        assert exchange.reply()["result"]["content"][0]["text"] == "hello"


def metas(server: BadServer) -> list[dict[str, str]]:
    """What its calls said of themselves."""
    told = (words.removeprefix("meta ") for _, words in server.story() if words.startswith("meta "))
    return [json.loads(words) for words in told]


@pytest.fixture
def one(tmp_path: Path) -> BadServer:
    return BadServer(tmp_path, "one", LOG_META=1, START_DELAY=0.3)


def test_the_trace_of_a_cold_call_shows_queue_start_and_call_below_its_callers_span(
    tmp_path: Path, one: BadServer
) -> None:
    with collector() as traces:
        options = telemetry(traces, headers={"x-api-key": SECRET}, serviceName="gate")
        with running_node(tmp_path, [one.entry(idleSeconds=0)], telemetry=options) as node:
            node.until_learnt(["one"])
            call(node, "one_echo", headers={"traceparent": PARENT, "tracestate": "vendor=1"})
            log = node.log()
        whole = traces.one("tools/call one_echo")
        queue, start, asked = (traces.one(name) for name in ("queue", "start", "call"))

    assert (whole.trace, whole.parent, whole.kind) == (TRACE, "b7ad6b7169203331", "SERVER")
    assert [span.parent for span in (queue, start, asked)] == [whole.id, queue.id, whole.id]
    assert whole.begin <= queue.begin <= start.begin < start.end <= queue.end <= asked.begin
    assert asked.end <= whole.end
    assert whole.attributes == {
        "mcp.method.name": "tools/call",
        "gen_ai.tool.name": "one_echo",
        "mcpv.server": "one",
        "mcpv.era": "legacy",
        "mcpv.outcome": "ok",
        "mcpv.instance": asked.attributes["mcpv.instance"],
    }
    assert (asked.kind, asked.attributes["mcp.protocol.version"]) == ("CLIENT", "2025-11-25")
    assert whole.resource["service.name"] == "gate"
    assert traces.paths == ["/v1/traces"]
    assert {headers["x-api-key"] for headers in traces.headers} == {SECRET}
    assert SECRET not in log
    # Its server may go on with the trace.
    assert metas(one)[-1] == {"traceparent": f"00-{TRACE}-{asked.id}-01", "tracestate": "vendor=1"}


def test_what_the_request_itself_says_comes_before_the_headers(tmp_path: Path, one: BadServer) -> None:
    other = f"00-{'c' * 32}-{'d' * 16}-01"
    with collector() as traces:
        with running_node(tmp_path, [one.entry()], telemetry=telemetry(traces)) as node:
            node.until_learnt(["one"])
            meta = {"traceparent": other, "mine": "stays"}
            call(node, "one_echo", headers={"traceparent": PARENT}, meta=meta)
        whole = traces.one("tools/call one_echo")

    assert (whole.trace, whole.parent) == ("c" * 32, "d" * 16)
    assert metas(one)[-1]["mine"] == "stays"
    assert metas(one)[-1]["traceparent"].startswith(f"00-{'c' * 32}-")
    assert metas(one)[-1]["traceparent"] != other


def test_a_caller_that_does_not_keep_its_trace_is_not_traced_and_its_server_is_told_so(
    tmp_path: Path, one: BadServer
) -> None:
    with (
        collector() as traces,
        running_node(tmp_path, [one.entry()], telemetry=telemetry(traces)) as node,
    ):
        node.until_learnt(["one"])
        call(node, "one_echo", headers={"traceparent": f"{PARENT[:-2]}00"})
        assert node.stop() == 0

    assert traces.spans == []
    assert metas(one)[-1]["traceparent"].endswith("-00")


def test_a_modern_client_s_headers_and_a_line_client_s_request_say_whose_trace_it_is(
    tmp_path: Path, one: BadServer
) -> None:
    params = {"name": "one_echo", "arguments": {"text": "hello"}}
    with collector() as traces:
        with running_node(tmp_path, [one.entry()], telemetry=telemetry(traces)) as node:
            node.until_learnt(["one"])
            headers = {
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                "Mcp-Protocol-Version": VERSION,
                "Mcp-Method": "tools/call",
                "Mcp-Name": "one_echo",
                "traceparent": PARENT,
            }
            body = json.dumps(modern("tools/call", **params)).encode()
            assert "result" in node.send("POST", "/mcp", body, headers).reply()
            with node.line_session() as lines:
                meta = {"traceparent": f"00-{'c' * 32}-{'d' * 16}-01"}
                asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
                assert "result" in lines.ask({**asked, "params": {**params, "_meta": meta}})
        whole = traces.named("tools/call one_echo")

    assert {(span.attributes["mcpv.era"], span.trace) for span in whole} == {
        ("modern", TRACE),
        ("legacy", "c" * 32),
    }


def test_what_the_configuration_does_not_say_the_library_s_variables_say(
    tmp_path: Path, one: BadServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as traces:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", traces.url)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=ours,deployment.environment.name=test")
        with running_node(tmp_path, [one.entry()], telemetry={"otlp": {}}) as node:
            node.until_learnt(["one"])
            call(node, "one_echo", headers={})
            node_id = node.node_id
        resource = traces.one("tools/call one_echo").resource

    assert resource["service.name"] == "ours"
    assert resource["deployment.environment.name"] == "test"
    assert resource["service.instance.id"] == node_id
    assert resource["telemetry.sdk.language"] == "python"


def test_calls_without_a_trace_are_sampled_as_configured(tmp_path: Path, one: BadServer) -> None:
    with collector() as traces:
        options = telemetry(traces, sampleRatio=0)
        with running_node(tmp_path, [one.entry()], telemetry=options) as node:
            node.until_learnt(["one"])
            call(node, "one_echo", headers={})
            call(node, "one_echo", headers={"traceparent": PARENT})

    (whole,) = traces.named("tools/call one_echo")
    assert whole.trace == TRACE


def test_without_a_collector_a_request_passes_untouched(tmp_path: Path, one: BadServer) -> None:
    meta = {"traceparent": PARENT}
    with running_node(tmp_path, [one.entry()]) as node:
        node.until_learnt(["one"])
        call(node, "one_echo", headers={"traceparent": f"00-{'c' * 32}-{'d' * 16}-01"}, meta=meta)
        loaded = Path(f"/proc/{node.pid}/maps").read_text()

    assert metas(one)[-1] == meta
    assert "google/_upb" not in loaded


def test_a_collector_that_is_away_costs_spans_and_neither_calls_nor_the_stop(
    tmp_path: Path, one: BadServer
) -> None:
    with collector() as traces:
        gone = traces.url
    options = {"otlp": {"endpoint": gone}}
    with running_node(tmp_path, [one.entry()], telemetry=options) as node:
        node.until_learnt(["one"])
        call(node, "one_echo", headers={})

        code = node.stop()

    assert code == 0


def test_a_node_that_lacks_the_packages_says_which_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "opentelemetry"
    site.mkdir()
    (site / "__init__.py").write_text("raise ModuleNotFoundError('no', name='opentelemetry')")

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(NodeFailed, match=r"mcpv-node\[otel\]"):
        start_node(tmp_path, [], telemetry={"otlp": {}})
