"""The official validators of the protocol, as npm has them: the conformance harness and the Inspector.

Both need a newer Node than many machines have, so theirs comes from npm too. A run of the harness is a process; what
it found is read from the files it writes:

    report = run_server_scenarios(url, "2026-07-28", tmp_path)
    assert report.failed(scored) == {}
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .real_servers import npm_folder

NODE = "node@22.23.3"
CONFORMANCE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
INSPECTOR = "@modelcontextprotocol/inspector@2.12.0"

FOLDER = Path(__file__).resolve().parents[1] / "conformance"
FIXTURE = FOLDER / "fixture_server.py"
ADAPTER = FOLDER / "client_adapter.py"

# A scenario that hangs must not hide what the others found; the slowest needs about a second.
SCENARIO_TIMEOUT = 10.0

# A scenario of the client leg has a node start and stop in it, on a busy machine.
CLIENT_SCENARIO_TIMEOUT = 60.0

# Every scenario takes its whole time, and there are fifty.
RUN_TIMEOUT = 500.0

# An interpreter and the SDK, on a busy machine.
FIXTURE_START_TIMEOUT = 30.0

# Its own grace for open streams is a second.
FIXTURE_STOP_TIMEOUT = 15.0

_RESULTS = re.compile(r"(?:server-)?(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass(frozen=True)
class Check:
    """One thing that the harness looked at."""

    id: str
    status: str
    message: str


@dataclass(frozen=True)
class Report:
    """What one run of the harness found, by scenario."""

    exit_code: int
    output: str
    checks: Mapping[str, tuple[Check, ...]]

    def failed(self, scenarios: Iterable[str]) -> dict[str, list[str]]:
        """Return what these failed at; one that was not run, or looked at nothing, has failed too."""
        found: dict[str, list[str]] = {}
        for scenario in scenarios:
            checks = self.checks.get(scenario, ())
            messages = [f"{one.id}: {one.message}" for one in checks if one.status == "FAILURE"]
            if not any(one.status == "SUCCESS" for one in checks):
                messages.append("nothing succeeded" if checks else "was not run")
            if messages:
                found[scenario] = messages
        return found

    def describe(self, scenarios: Iterable[str]) -> str:
        """Say in a few lines what failed of these, and what the harness warns of."""
        scenarios = tuple(scenarios)
        failed = self.failed(scenarios)
        lines = [
            f"{len(scenarios) - len(failed)} of {len(scenarios)} scenarios passed; exit {self.exit_code}"
        ]
        lines += [f"  {name}: {message}" for name, messages in failed.items() for message in messages]
        lines += [
            f"  {name} (warning): {one.id}: {one.message}"
            for name in scenarios
            for one in self.checks.get(name, ())
            if one.status == "WARNING"
        ]
        return "\n".join(lines)


def run_server_scenarios(url: str, revision: str, folder: Path) -> Report:
    """Test the server at `url` with all scenarios that a revision of the protocol requires, and the unscored ones."""
    words = ["server", "--url", url, "--requirements", revision, "--timeout", _milliseconds(SCENARIO_TIMEOUT)]
    return _run_harness(words, folder)


def run_client_scenario(command: list[str], scenario: str, revision: str, folder: Path) -> Report:
    """Test the client that `command` with a URL behind it runs, with one scenario."""
    words = ["client", "--command", shlex.join(command), "--scenario", scenario, "--spec-version", revision]
    words += ["--timeout", _milliseconds(CLIENT_SCENARIO_TIMEOUT)]
    # The client finds this package by it.
    return _run_harness(words, folder, PYTHONPATH=str(FOLDER.parent))


def inspector_argv(*words: str) -> list[str]:
    """Return the argv that runs the Inspector's command line."""
    program = npm_folder("npm-inspector", INSPECTOR) / "node_modules/.bin/mcp-inspector"
    return [_node(), str(program), "--cli", *words]


@contextmanager
def fixture_over_http(folder: Path) -> Iterator[str]:
    """Run the fixture server; give its URL. What it wrote to its log is shown when the test fails."""
    log = folder / "fixture.log"
    with log.open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(FIXTURE), "http"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    finished = False
    try:
        came = select.select([process.stdout], [], [], FIXTURE_START_TIMEOUT)[0]
        url = process.stdout.readline().decode().strip() if came else ""
        assert url, f"the fixture server did not start:\n{log.read_text()}"
        yield url
        finished = True
    finally:
        process.terminate()
        try:
            process.wait(FIXTURE_STOP_TIMEOUT)
        finally:
            process.kill()
            process.wait(FIXTURE_STOP_TIMEOUT)
            process.stdout.close()
        if not finished:
            print(log.read_text())


def _run_harness(words: list[str], folder: Path, **environment: str) -> Report:
    results = folder / "results"
    program = npm_folder("npm-conformance", CONFORMANCE) / "node_modules/.bin/conformance"
    done = subprocess.run(
        [_node(), str(program), *words, "--output-dir", str(results)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=RUN_TIMEOUT,
        check=False,
        cwd=folder,
        env={**os.environ, **environment},
    )
    return Report(done.returncode, done.stdout, read_results(results))


def read_results(folder: Path) -> dict[str, tuple[Check, ...]]:
    """Read what the harness wrote below `folder`, by scenario."""
    found: dict[str, list[Check]] = defaultdict(list)
    for path in sorted(folder.glob("**/checks.json")):
        match = _RESULTS.fullmatch(path.parent.relative_to(folder).as_posix())
        assert match is not None, f"the harness names its results another way: {path}"
        for check in json.loads(path.read_text()):
            message = str(check.get("errorMessage", check.get("description", "")))
            found[match["scenario"]].append(Check(str(check["id"]), str(check["status"]), message))
    return {scenario: tuple(checks) for scenario, checks in found.items()}


def _node() -> str:
    return str(npm_folder("npm-node", NODE) / "node_modules/node/bin/node")


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
