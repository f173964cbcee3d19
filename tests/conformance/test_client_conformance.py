"""The official conformance harness plays the server, and looks at what the node sends to it.

The command that the harness runs is `client_adapter.py`: a node, and the official SDK's client in front of it. Which
scenarios the node passes is `LEGS`; with the SDK's client alone all of them must pass, so what fails through the node is
the node's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.harness import ADAPTER, run_client_scenario

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Each with the revision whose wire it is run on.
SCENARIOS = {
    "initialize": "2025-11-25",
    "elicitation-sep1034-client-defaults": "2025-11-25",
    "sse-retry": "2025-11-25",
    "tools_call": "2025-11-25",
    "http-custom-headers": "2026-07-28",
    "http-invalid-tool-headers": "2026-07-28",
    "http-standard-headers": "2026-07-28",
    "json-schema-ref-no-deref": "2026-07-28",
    "request-metadata": "2026-07-28",
    "sep-2322-client-request-state": "2026-07-28",
}

# What passes through the node; each joins with the work that makes it pass.
LEGS: list[str] = sorted(SCENARIOS)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_sdks_client_alone_passes(scenario: str, tmp_path: Path) -> None:
    assert_passes([sys.executable, str(ADAPTER), "--direct"], scenario, tmp_path)


@pytest.mark.parametrize("scenario", LEGS)
def test_the_node_passes_as_a_client(scenario: str, tmp_path: Path) -> None:
    assert_passes([sys.executable, str(ADAPTER)], scenario, tmp_path)


def assert_passes(command: list[str], scenario: str, folder: Path) -> None:
    report = run_client_scenario(command, scenario, SCENARIOS[scenario], folder)

    assert report.failed([scenario]) == {}, f"{report.describe([scenario])}\n{report.output}"
    assert report.exit_code == 0, report.output
