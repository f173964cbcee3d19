"""The node beside other programs that put MCP over HTTP in front of a stdio server, all in front of the same one.

    .venv/bin/python benchmarks/gateway.py [--seconds N] [--rounds N] [--peers NAME,NAME] [--json FILE]

Measured with one raw load generator: `tools/call` at 1, 16 and 64 in flight (one session for each) and `tools/list`
of 1,000 tools, in both eras of the protocol where a target speaks them: calls/s, p50 and p99 and what they add to the
server spoken to over its own pipes, processor time a call and memory, of the program alone and with its children.
Beside the floor and the node: the same server served by the official SDK over HTTP, and every peer that can be had
from PyPI and npm (`--peers none` leaves them out). What a target cannot do is a dash with a footnote.

Every round gives every target one slice; what is compared are medians and ratios against the floor of the same run.
DESIGN section 9's bounds: >= 0.5x the floor at 16 in flight, added p50 <= 1.5x the floor's and <= 0.35 ms at one
session, >= 5x mcp-proxy (PyPI), >= 15x a fastmcp proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from floor import LOADS, start_floor
from peers import PEERS, SDK, InstallError, Peer, PeerError, start
from support import (
    ECHO,
    EchoChild,
    HttpLane,
    Lane,
    Node,
    Report,
    Slice,
    Tally,
    call_of,
    cpu_seconds,
    descendants,
    echo_entry,
    http_request,
    modern_body,
    modern_headers,
    ms,
    open_http,
    open_session,
    reaped_seconds,
    rpc,
    rss_kb,
    us,
)

ERAS = ("legacy", "modern")
TOOLS = 1000
LIST = "list"

POOL = {"maxConcurrent": max(LOADS), "maxInstances": 1, "idleSeconds": 600}
ARGUMENTS = {"text": "how fast is this"}

# A peer at a hundred calls a second needs a moment for its first one (calls, seconds).
WARM_CALLS = 50
WARM_SECONDS = 0.5

# The first answer of a peer that starts its server then (seconds).
FIRST_ANSWER = 30.0


@dataclass(slots=True)
class Load:
    """What one target did under one load."""

    tally: Tally = field(default_factory=Tally)
    alone: list[float] = field(default_factory=list[float])  # processor seconds a call, without the children

    def as_json(self, floor: Load | None, direct: Load | None) -> dict[str, Any]:
        tally = self.tally
        found: dict[str, Any] = {
            "rate": round(tally.rate, 1),
            "p50_ms": round(tally.p50 * 1e3, 3),
            "p99_ms": round(tally.p99 * 1e3, 3),
            "cpu_us": round(tally.cpu_per_call * 1e6, 1),
            "cpu_alone_us": round(sorted(self.alone)[len(self.alone) // 2] * 1e6, 1),
            "calls": tally.calls,
            "errors": tally.errors,
        }
        if floor is not None and floor.tally.calls:
            # Round by round: the machine's other work comes and goes between rounds, not within one.
            shares = [own / least for own, least in zip(tally.rates, floor.tally.rates, strict=False)]
            found["of_floor"] = round(median(shares), 4)
        if direct is not None and direct.tally.calls:
            found["added_p50_ms"] = round((tally.p50 - direct.tally.p50) * 1e3, 3)
            found["added_p99_ms"] = round((tally.p99 - direct.tally.p99) * 1e3, 3)
        return found


@dataclass(slots=True)
class Target:
    """One thing under load: whose processor time and memory count, and how its lanes are opened."""

    name: str
    pid: int
    open: Callable[[int], Awaitable[Sequence[Lane]]]
    package: str = ""
    loads: dict[int | str, Load] = field(default_factory=dict[int | str, Load])
    lanes: Sequence[Lane] = ()
    notes: list[str] = field(default_factory=list[str])
    rss_alone: float = math.nan  # MB, under load
    rss_all: float = math.nan

    async def run(self, seconds: float, load: int | str) -> None:
        """Give it one slice of load."""
        await self.open_again(load)
        below = descendants(self.pid)
        alone, others = cpu_seconds(self.pid), self._children_seconds(below)
        kept = self.loads.setdefault(load, Load())
        calls = kept.tally.calls
        await Slice(seconds).run(self.chosen(load), kept.tally)
        done = kept.tally.calls - calls
        if done:
            own = cpu_seconds(self.pid) - alone
            kept.alone.append(own / done)
            kept.tally.cpu[-1] = (own + self._children_seconds(below) - others) / done

    async def open_again(self, load: int | str) -> None:
        """Connect where the server has closed a connection that waited."""
        for lane in self.chosen(load):
            if isinstance(lane, HttpLane):
                await lane.open()

    def _children_seconds(self, below: list[int]) -> float:
        return sum(map(cpu_seconds, below)) + reaped_seconds(self.pid)

    def chosen(self, load: int | str) -> Sequence[Lane]:
        """The lanes of this load."""
        return self.lanes[:load] if isinstance(load, int) else self.lanes[:1]

    def weigh(self) -> None:
        """Note the memory, while everything it needs is there."""
        self.rss_alone = rss_kb(self.pid) / 1e3
        self.rss_all = self.rss_alone
        for pid in descendants(self.pid):
            with suppress(OSError):  # it was there for one call
                self.rss_all += rss_kb(pid) / 1e3


class Direct(Target):
    """The server over its own pipes: one lane, as wide as the load."""

    def chosen(self, load: int | str) -> Sequence[Lane]:
        self.lanes[0].in_flight = load if isinstance(load, int) else 1  # type: ignore[attr-defined]
        return self.lanes


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: one call, or one list, in one era."""

    era: str
    method: str = "tools/call"

    @property
    def child(self) -> tuple[str, ...]:
        """The arguments of the echo server."""
        tools = ("--tools", str(TOOLS if self.is_list else 1))
        return (*tools, "--modern") if self.era == "modern" else tools

    @property
    def is_list(self) -> bool:
        return self.method == "tools/list"

    def body(self, tool: str, *, id: int = 1) -> bytes:
        if self.is_list:
            return modern_body(self.method) if self.era == "modern" else rpc(self.method, id=id)
        if self.era == "modern":
            return modern_body(self.method, {"name": tool, "arguments": ARGUMENTS})
        return call_of(tool, id=id)

    def is_met(self, answer: bytes) -> bool:
        """Whether an answer is what was asked for."""
        if not answer.startswith(b"HTTP/1.1 200") or b'"isError":true' in answer:
            return False
        wanted = b"echo999" if self.is_list else ARGUMENTS["text"].encode()
        return wanted in answer

    async def open(
        self, port: int, count: int, *, tool: str = "echo", path: str = "/mcp", token: str = "-"
    ) -> list[HttpLane]:
        """Lanes that send it, each with a session of its own where the era has sessions."""
        lanes: list[HttpLane] = []
        for _ in range(count):
            lanes.append(await self._open_one(port, tool, path, token))
            if len(lanes) == 1:
                async with asyncio.timeout(FIRST_ANSWER):
                    answer = await lanes[0].ask(lanes[0].request)
                if not self.is_met(answer):
                    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
                    status = head.partition("\r\n")[0]
                    raise PeerError(f"{status}: {body}")
        return lanes

    async def _open_one(self, port: int, tool: str, path: str, token: str) -> HttpLane:
        if self.era == "legacy":
            lane, make = await open_session(port, path=path, token=token)
            lane.request = make(self.body(tool))
            return lane
        lane = await open_http(port)
        headers = modern_headers(self.method, None if self.is_list else tool)
        body = self.body(tool)
        lane.request = http_request(body, path=path, token=token, host=f"127.0.0.1:{port}", headers=headers)
        return lane


async def start_targets(
    wish: Wish, peers: Sequence[Peer], stack: AsyncExitStack, failed: dict[str, str]
) -> list[Target]:
    """Everything that is to be loaded, at work; what does not work is in `failed` with the reason."""
    command = [*ECHO, *wish.child]
    child = EchoChild(*wish.child, make=lambda number: _line(wish, number))
    stack.callback(child.close)
    await child.handshake()
    listing = await _constant(wish, stack)
    floor = await start_floor(listing)
    stack.callback(floor.close)
    node = await stack.enter_async_context(Node([echo_entry("echo", *wish.child, **POOL)]))
    await node.until_learnt(TOOLS if wish.is_list else 1)

    async def open_direct(_: int) -> Sequence[Lane]:
        return [child.lane]

    async def open_floor(count: int) -> Sequence[Lane]:
        lanes = [await open_http(floor.port) for _ in range(count)]
        for lane in lanes:
            lane.request = http_request(wish.body("echo"), path="/list" if wish.is_list else "/mcp")
        return lanes

    async def open_node(count: int) -> Sequence[Lane]:
        tool, path = ("echo", "/mcp/server/echo") if wish.is_list else ("echo_echo", "/mcp")
        return await wish.open(node.port, count, tool=tool, path=path, token=node.token)

    targets = [
        Direct("direct stdio", child.pid, open_direct),
        Target("floor", floor.pid, open_floor),
        Target("mcpv-node", node.pid, open_node),
    ]
    for peer in (SDK, *peers):
        try:
            running = await start(peer, command)
        except (InstallError, PeerError) as error:
            failed[peer.name] = str(error)
            continue
        stack.callback(running.close)

        async def open_peer(count: int, port: int = running.port) -> Sequence[Lane]:
            return await wish.open(port, count)

        targets.append(Target(peer.name, running.pid, open_peer, package=peer.package))
    return targets


async def measure(
    wish: Wish, peers: Sequence[Peer], seconds: float, rounds: int
) -> tuple[list[Target], dict[str, str]]:
    """Load every target in turns; those that fail are told apart with the reason."""
    failed: dict[str, str] = {}
    loads: tuple[int | str, ...] = (LIST,) if wish.is_list else LOADS
    async with AsyncExitStack() as stack:
        targets: list[Target] = []
        for target in await start_targets(wish, peers, stack, failed):
            try:
                target.lanes = await target.open(1 if wish.is_list else max(LOADS))
                await target.open_again(loads[-1])
                await Slice(WARM_SECONDS, WARM_CALLS).run(target.chosen(loads[-1]), Tally())
            except (PeerError, RuntimeError, OSError, TimeoutError) as error:
                failed[target.name] = describe(error)
                continue
            targets.append(target)
        for _ in range(rounds):
            for load in loads:
                for target in targets:
                    if target.name in failed:
                        continue
                    try:
                        await target.run(seconds, load)
                    except (OSError, TimeoutError) as error:
                        failed[target.name] = describe(error)
        for target in targets:
            if target.name not in failed:
                target.weigh()
    return targets, failed


def _line(wish: Wish, number: int) -> bytes:
    return rpc("tools/list", id=number) + b"\n" if wish.is_list else call_of("echo", id=number) + b"\n"


async def _constant(wish: Wish, stack: AsyncExitStack) -> Path | None:
    """The file that the floor answers a list with: what the server itself says."""
    if not wish.is_list:
        return None
    child = EchoChild(*wish.child)
    try:
        await child.handshake()
        line = await child.lane.ask(rpc("tools/list") + b"\n")
    finally:
        child.close()
    file = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115  (the stack is the context)
    file.write(line)
    file.flush()
    return Path(file.name)


# --- what came out ------------------------------------------------------------------------------


def to_json(
    measured: dict[str, tuple[list[Target], dict[str, str]]], seconds: float, rounds: int
) -> dict[str, Any]:
    """All that was measured, by era."""
    eras: dict[str, Any] = {}
    for era in ERAS:
        found: dict[str, Any] = {}
        for kind in ("call", LIST):
            targets, failed = measured.get(f"{era} {kind}", ([], {}))
            by_name = {target.name: target for target in targets}
            floor, direct = by_name.get("floor"), by_name.get("direct stdio")
            for target in targets:
                entry = found.setdefault(target.name, {"package": target.package, "loads": {}})
                if target.name in failed:
                    continue
                for load, kept in target.loads.items():
                    entry["loads"][str(load)] = kept.as_json(
                        None if floor is None else floor.loads.get(load),
                        None if direct is None else direct.loads.get(load),
                    )
                if kind == "call":
                    entry["rss_mb"] = {"alone": round(target.rss_alone, 1), "all": round(target.rss_all, 1)}
            for name, why in failed.items():
                entry = found.setdefault(name, {"package": "", "loads": {}})
                entry[f"failed_{kind}"] = shorten(why)
        eras[era] = found
    return {
        "benchmark": "gateway",
        "measured": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        "seconds": seconds,
        "rounds": rounds,
        "eras": eras,
    }


def describe_machine() -> dict[str, Any]:
    """What machine it was, in general words."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[1], 1),
    }


def describe(error: Exception) -> str:
    """Why a target failed; what says it in a sentence of ours needs no name of a class."""
    return str(error) if isinstance(error, PeerError) else f"{type(error).__name__}: {error}"


def shorten(why: str) -> str:
    """A reason as a footnote has it: one line."""
    line = " ".join(why.split())
    return line if len(line) <= 160 else line[:157] + "..."


def to_report(result: dict[str, Any]) -> Report:
    """The same as a table for people."""
    report = Report(
        "gateway", f"{result['rounds']} slices of {result['seconds']:g} s each, interleaved; medians"
    )
    for era, found in result["eras"].items():
        for load in (*map(str, LOADS), LIST):
            for name, entry in found.items():
                _report_one(report, era, load, name, entry)
        _report_bounds(report, era, found)
        for name, entry in found.items():
            if rss := entry.get("rss_mb"):
                report.add(
                    f"{era}: memory, {name}", f"{rss['alone']:.0f} MB, with children {rss['all']:.0f} MB"
                )
    return report


def _report_one(report: Report, era: str, load: str, name: str, entry: dict[str, Any]) -> None:
    what = f"{era}, {TOOLS:,} tools listed: {name}" if load == LIST else f"{era}, {load} in flight: {name}"
    one = entry["loads"].get(load)
    if one is None:
        why = entry.get(f"failed_{LIST if load == LIST else 'call'}")
        if why is not None:
            report.add(what, "-", why)
        return
    ratio = f" = {one['of_floor']:.2f}x floor" if "of_floor" in one else ""
    added = f", added p50 {ms(one['added_p50_ms'] / 1e3)}" if "added_p50_ms" in one else ""
    cpu = f", cpu {us(one['cpu_alone_us'] / 1e6)} ({us(one['cpu_us'] / 1e6)} with children)"
    errors = f", {one['errors']} FAILED" if one["errors"] else ""
    report.add(what, f"{one['rate']:,.0f}/s{ratio}{added}{cpu}{errors}")


def _report_bounds(report: Report, era: str, found: dict[str, Any]) -> None:
    own, floor = found.get("mcpv-node", {}).get("loads", {}), found.get("floor", {}).get("loads", {})
    if "16" in own and "16" in floor:
        share = own["16"]["of_floor"]
        report.add(f"{era}: of the floor, 16 in flight", f"{share:.2f}x", ">= 0.5x", within=share >= 0.5)
        one, least = own["1"]["added_p50_ms"], floor["1"]["added_p50_ms"]
        within = one <= 0.35 and one <= 1.5 * least
        report.add(
            f"{era}: added p50, 1 in flight",
            f"{one:.2f} ms = {one / least:.2f}x floor's",
            "<= 1.5x, <= 0.35 ms",
            within=within,
        )
    for name, bound in (("mcp-proxy (PyPI)", 5), ("fastmcp proxy", 15)):
        theirs = found.get(name, {}).get("loads", {})
        if "16" in own and "16" in theirs:
            times = own["16"]["of_floor"] / theirs["16"]["of_floor"]
            report.add(f"{era}: over {name}", f"{times:.1f}x", f">= {bound}x", within=times >= bound)


async def measure_all(peers: Sequence[Peer], seconds: float, rounds: int) -> dict[str, Any]:
    measured: dict[str, tuple[list[Target], dict[str, str]]] = {}
    for era in ERAS:
        measured[f"{era} call"] = await measure(Wish(era), peers, seconds, rounds)
        measured[f"{era} {LIST}"] = await measure(Wish(era, "tools/list"), peers, seconds, rounds)
    return to_json(measured, seconds, rounds)


def choose(names: str | None) -> list[Peer]:
    """The peers of these names; all where nothing was said."""
    if names is None:
        return list(PEERS)
    wanted = [name for name in names.split(",") if name not in ("", "none")]
    unknown = [name for name in wanted if not any(name in peer.name for peer in PEERS)]
    if unknown:
        known = ", ".join(peer.name for peer in PEERS)
        raise SystemExit(f"--peers: {', '.join(unknown)}: there are {known}")
    return [peer for peer in PEERS if any(name in peer.name for name in wanted)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=0.4, help="of one slice of load")
    parser.add_argument("--rounds", type=int, default=7, help="how often each slice is repeated")
    parser.add_argument("--peers", help="parts of the peers' names, or none")
    parser.add_argument("--json", type=Path, help="also write what came out to this file")
    given = parser.parse_args()
    result = uvloop.run(measure_all(choose(given.peers), given.seconds, given.rounds))
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    to_report(result).show(as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
