"""The official conformance harness, against the node and against the server we put behind it.

A leg is a revision of the protocol in front and a transport behind. Every scenario that the revision requires is
named here, and all must pass: there is no list of expected failures. Which legs are run is `LEGS`. The scenarios that the
harness runs and does not score are reported (`pytest -s`, or a failure), not asserted.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import ElicitResult
from support.harness import FIXTURE, Report, fixture_over_http, run_server_scenarios
from support.nodes import running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BOTH_ERAS = {
    "completion-complete",
    "dns-rebinding-protection",
    "prompts-get-embedded-resource",
    "prompts-get-simple",
    "prompts-get-with-args",
    "prompts-get-with-image",
    "prompts-list",
    "resources-list",
    "resources-read-binary",
    "resources-read-text",
    "resources-templates-read",
    "server-sse-multiple-streams",
    "tools-call-audio",
    "tools-call-embedded-resource",
    "tools-call-error",
    "tools-call-image",
    "tools-call-mixed-content",
    "tools-call-simple-text",
    "tools-call-with-progress",
    "tools-list",
}
REQUIRED = {
    "2025-11-25": BOTH_ERAS
    | {
        "elicitation-sep1034-defaults",
        "elicitation-sep1330-enums",
        "logging-set-level",
        "ping",
        "resources-subscribe",
        "resources-unsubscribe",
        "server-initialize",
        "tools-call-elicitation",
        "tools-call-sampling",
        "tools-call-with-logging",
    },
    "2026-07-28": BOTH_ERAS
    | {
        "caching",
        "input-required-result-basic-elicitation",
        "input-required-result-basic-list-roots",
        "input-required-result-basic-sampling",
        "input-required-result-capability-check",
        "input-required-result-ignore-extra-params",
        "input-required-result-missing-input-response",
        "input-required-result-multi-round",
        "input-required-result-multiple-input-requests",
        "input-required-result-non-tool-request",
        "input-required-result-request-state",
        "input-required-result-result-type",
        "input-required-result-tampered-state",
        "input-required-result-unsupported-methods",
        "input-required-result-validate-input",
        "sep-2164-resource-not-found",
        "server-stateless",
    },
}
UNSCORED = {
    "2025-11-25": {"json-schema-2020-12", "server-session-lifecycle", "server-sse-polling"},
    "2026-07-28": {
        "http-custom-header-server-validation",
        "http-header-validation",
        "json-schema-2020-12",
    },
}
HOW_MANY = {"2025-11-25": 30, "2026-07-28": 37}

# The legs that pass, as (revision in front, transport behind); each joins with the work that makes it pass.
LEGS: list[tuple[str, str]] = [
    ("2025-11-25", "stdio"),
    ("2025-11-25", "http"),
    ("2026-07-28", "stdio"),
    ("2026-07-28", "http"),
]

# The official client waits for ever by itself; this takes a second.
CONVERSATION_TIMEOUT = 30.0

# The harness opens several sessions at once and waits for none of them.
CALLS_AT_ONCE = 8


def assert_conforms(report: Report, revision: str) -> None:
    required = REQUIRED[revision]
    print(f"{revision}, not scored: {report.describe(sorted(UNSCORED[revision]))}")
    assert len(required) == HOW_MANY[revision]
    assert report.failed(required) == {}, report.describe(sorted(required))
    assert report.exit_code == 0, report.output


@pytest.mark.parametrize("revision", REQUIRED)
def test_the_fixture_server_itself_conforms(revision: str, tmp_path: Path) -> None:
    with fixture_over_http(tmp_path) as url:
        report = run_server_scenarios(url, revision, tmp_path)

    assert_conforms(report, revision)
    assert report.failed(UNSCORED[revision]) == {}


@pytest.mark.parametrize(("mode", "version"), [("legacy", "2025-11-25"), ("auto", "2026-07-28")])
def test_the_fixture_server_asks_its_client_in_both_eras_over_pipes(mode: Any, version: str) -> None:
    async def fill_in(_context: object, params: Any) -> ElicitResult:
        return ElicitResult(
            action="accept", content=dict.fromkeys(params.requested_schema["properties"], "blue")
        )

    async def converse() -> tuple[str, Any]:
        command = StdioServerParameters(command=sys.executable, args=[str(FIXTURE), "stdio"])
        async with (
            asyncio.timeout(CONVERSATION_TIMEOUT),
            Client(stdio_client(command), mode=mode, elicitation_callback=fill_in) as client,
        ):
            answer = await client.call_tool("test_input_required_result_multi_round", {})
            return client.protocol_version, answer.content[0]

    negotiated, content = asyncio.run(converse())

    assert negotiated == version
    assert content.text == "blue likes blue."


@pytest.mark.parametrize(("revision", "back"), LEGS)
def test_the_node_conforms_in_front_of_the_fixture_server(revision: str, back: str, tmp_path: Path) -> None:
    if back == "http":
        with fixture_over_http(tmp_path) as url:
            report = run_through_a_node(tmp_path, revision, {"transport": "streamable-http", "url": url})
    else:
        report = run_through_a_node(
            tmp_path, revision, {"command": sys.executable, "args": [str(FIXTURE), "stdio"]}
        )

    assert_conforms(report, revision)


def run_through_a_node(folder: Path, revision: str, entry: dict[str, Any]) -> Report:
    servers = [{"name": "fixture", "maxConcurrent": CALLS_AT_ONCE, **entry}]
    # The harness has no token to send.
    with running_node(folder, servers, "--token", "none") as node:
        node.until_learnt(["fixture"])
        port = urlsplit(node.url).port
        return run_server_scenarios(f"http://localhost:{port}/mcp/server/fixture", revision, folder)
