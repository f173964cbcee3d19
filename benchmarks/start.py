"""How long a node takes from its command to `/readyz`, and what it holds then, with few and with many servers.

    .venv/bin/python benchmarks/start.py [--samples N] [--servers N,N] [--json FILE]

Every sample is a new process on a folder of its own: with the packaged configuration, with so many servers on demand
whose lists are not known (nothing is learnt meanwhile), and with the same servers whose ten tools each are in the
catalog on disk. Medians, and the slowest; memory is resident memory after `/readyz`, the guard's beside it. The cases take turns, so
that a busy moment is shared by all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from support import Node, cpu_seconds, rss_kb

from mcpv_node.settings import ServerName, load_settings, spec_key
from mcpv_node.store.catalog import CatalogRecord, ListedEntry, save_catalog

SAMPLES = 5
SERVERS = (100, 1000)
TOOLS = 10

# DESIGN 9: with the packaged configuration and nothing running.
NODE_BOUND_MB = 60
GUARD_BOUND_MB = 12


@dataclass(slots=True)
class Case:
    """One way to start, and what came of it."""

    name: str
    entries: list[dict[str, object]] | None
    is_warm: bool = False
    seconds: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])
    node_mb: list[float] = field(default_factory=list[float])
    guard_mb: list[float] = field(default_factory=list[float])

    async def sample(self) -> None:
        """Start it once."""
        settings = {} if self.entries is None else {"bootstrapMode": "disabled"}
        node = Node(self.entries, **settings)
        if self.is_warm:
            _warm(node.state_dir, self.entries or [])
        before = time.perf_counter()
        async with node:
            self.seconds.append(time.perf_counter() - before)
            self.cpu.append(cpu_seconds(node.pid))
            # What is imported after the doors are open belongs to what a node holds.
            await node.rest("/api/v1/node")
            self.node_mb.append(rss_kb(node.pid) / 1024)
            self.guard_mb.append(rss_kb(node.guard_pid) / 1024)

    def row(self) -> dict[str, Any]:
        """What is published of it."""
        return {
            "case": self.name,
            "seconds": round(median(self.seconds), 3),
            "slowest": round(max(self.seconds), 3),
            "cpu": round(median(self.cpu), 3),
            "nodeMB": round(median(self.node_mb), 1),
            "guardMB": round(median(self.guard_mb), 1),
        }


def entries_of(number: int) -> list[dict[str, object]]:
    """So many servers, each another program: nothing of them ever runs here."""
    return [{"name": f"s{index}", "command": "some-server", "args": [str(index)]} for index in range(number)]


def cases_of(numbers: Sequence[int]) -> list[Case]:
    """The packaged configuration, and each number of servers without and with their lists."""
    cases = [Case("the packaged configuration", None)]
    for number in numbers:
        cases.append(Case(f"{number:,} servers, catalog empty", entries_of(number)))
        cases.append(
            Case(f"{number:,} servers, {number * TOOLS:,} tools in the catalog", entries_of(number), True)
        )
    return cases


def _warm(state_dir: Path, entries: Sequence[dict[str, object]]) -> None:
    """Put lists on disk as a node does that has learnt them."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runtime.yaml"
        config.write_text(json.dumps({"servers": list(entries)}))
        specs = load_settings(config, environ=os.environ).settings.servers
    for spec in specs:
        tools = tuple(_tool(number) for number in range(TOOLS))
        save_catalog(
            state_dir,
            CatalogRecord(
                spec_key=spec_key(spec),
                profile="",
                server_name=ServerName(spec.name),
                lists={"tools": tools, "resources": (), "templates": (), "prompts": ()},
                learnt_at="2026-01-01T00:00:00.000Z",
                era="2025-11-25",
                capabilities=b'{"tools":{"listChanged":true}}',
            ),
        )


def _tool(number: int) -> ListedEntry:
    definition = {
        "name": f"tool{number}",
        "description": "Does what tools of this kind do, to a text that it is given.",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    }
    return ListedEntry(f"tool{number}", json.dumps(definition).encode())


async def measure(cases: Sequence[Case], samples: int) -> None:
    """Let the cases take turns."""
    for _ in range(samples):
        for case in cases:
            await case.sample()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--servers", default=",".join(map(str, SERVERS)))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    cases = cases_of([int(number) for number in options.servers.split(",") if number])
    load = [f"{os.getloadavg()[0]:.1f}"]
    asyncio.run(measure(cases, options.samples))
    load.append(f"{os.getloadavg()[0]:.1f}")
    result = {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
            "load": " to ".join(load),
        },
        "samples": options.samples,
        "bounds": {"nodeMB": NODE_BOUND_MB, "guardMB": GUARD_BOUND_MB},
        "rows": [case.row() for case in cases],
    }
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    _print(result)


def _print(result: dict[str, Any]) -> None:
    machine = result["machine"]
    out = sys.stdout.write
    out(
        f"{result['samples']} starts of each, {machine['cores']} shared cores ({machine['system']}, Python "
        f"{machine['python']}), load average {machine['load']}\n\n"
    )
    out(
        "| start | to /readyz, median (slowest) | processor time of it | memory of the node | of its guard |\n"
        "|---|---|---|---|---|\n"
    )
    for row in result["rows"]:
        out(
            f"| {row['case']} | {row['seconds']:.2f} s ({row['slowest']:.2f} s) | {row['cpu']:.2f} s | {row['nodeMB']:.0f} MB "
            f"| {row['guardMB']:.0f} MB |\n"
        )


if __name__ == "__main__":
    main()
