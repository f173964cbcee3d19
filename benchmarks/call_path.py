"""What the node costs on the way of a call, beside the floor and beside the server spoken to directly.

    .venv/bin/python benchmarks/call_path.py [--seconds N] [--rounds N] [--samples N] [--json]

Measured, with DESIGN section 9's bounds: `tools/call` at 1, 16 and 64 in flight through the HTTP door (one legacy
session for each in flight) and through the line door, against floor.py and against the bare pipes (calls/s at 16 in
flight >= 0.5x the floor; added p50 <= 1.5x the floor's and <= 0.35 ms at one session); processor time a call;
the memory of a node after `/readyz` with nothing running (<= 60 MB, its guard <= 12 MB); a cold call over spawn and
handshake (<= 10 ms more); the first restart of an always-on server over spawn and handshake (<= 50 ms more).
"""

from __future__ import annotations

import os
import signal
import sys
from statistics import median
from time import perf_counter

from floor import LOADS, start_floor
from support import (
    EchoChild,
    HttpLane,
    LineLane,
    Node,
    Options,
    Report,
    Slice,
    Tally,
    call_of,
    echo_entry,
    http_request,
    ms,
    open_http,
    rss_kb,
    run_benchmark,
    us,
)

# As wide as the load: what is measured is the path, not the queue.
POOL = {"maxConcurrent": max(LOADS), "maxInstances": 1, "idleSeconds": 600}

# A call that meets the instance before its end is known there is refused in a fraction of a millisecond.
TRIES = 1000

MB = 1e6


async def measure(options: Options) -> Report:
    report = Report(
        "call_path",
        f"{options.rounds} slices of {options.seconds:g} s each, interleaved; single events {options.samples} times; medians",
    )
    await measure_calls(options, report)
    await measure_memory(report)
    await measure_cold_calls(options, report)
    await measure_restarts(options, report)
    return report


# --- calls under load ---------------------------------------------------------------------------


async def measure_calls(options: Options, report: Report) -> None:
    names = ("direct", "floor", "http", "line")
    tallies = {(name, load): Tally() for name in names for load in LOADS}
    child = EchoChild()
    floor = await start_floor()
    try:
        await child.handshake()
        async with Node([echo_entry("echo", **POOL)]) as node:
            await node.until_learnt(1)
            floor_lanes = [await open_http(floor.port) for _ in range(max(LOADS))]
            for lane in floor_lanes:
                lane.request = http_request(call_of("echo_echo"))
            node_lanes = [await _session(node, call_of("echo_echo")) for _ in range(max(LOADS))]
            line_lanes = [await node.open_line("echo_echo") for _ in range(max(LOADS))]
            await _warm(node_lanes[0], line_lanes[0], options)
            for _ in range(options.rounds):
                for load in LOADS:
                    child.lane.in_flight = load
                    await Slice(options.seconds).run([child.lane], tallies["direct", load], child.pid)
                    await Slice(options.seconds).run(floor_lanes[:load], tallies["floor", load], floor.pid)
                    await Slice(options.seconds).run(node_lanes[:load], tallies["http", load], node.pid)
                    await Slice(options.seconds).run(line_lanes[:load], tallies["line", load], node.pid)
            for lane in (*floor_lanes, *node_lanes):
                lane.close()
    finally:
        floor.close()
        child.close()
    for load in LOADS:
        _report_calls(report, load, {name: tallies[name, load] for name in names})
    report.add("calls that failed", str(sum(tally.errors for tally in tallies.values())))


async def _session(node: Node, body: bytes, *, path: str = "/mcp") -> HttpLane:
    lane, make = await node.open_session(path=path)
    lane.request = make(body)
    return lane


async def _warm(http: HttpLane, line: LineLane, options: Options) -> None:
    """The first call starts the server: not part of what is measured here."""
    await http.ask(http.request)
    for lane in (http, line):
        await Slice(options.seconds, calls=200).run([lane], Tally())


def _report_calls(report: Report, load: int, tallies: dict[str, Tally]) -> None:
    direct, floor = tallies["direct"], tallies["floor"]
    at = f"{load} in flight"
    report.add(f"{at}: direct, floor", f"{direct.rate:,.0f}/s, {floor.rate:,.0f}/s")
    for name in ("http", "line"):
        tally = tallies[name]
        share = tally.rate / floor.rate
        is_bound = load == 16 and name == "http"
        report.add(
            f"{at}: {name}",
            f"{tally.rate:,.0f}/s = {share:.2f}x floor",
            ">= 0.5x" if is_bound else "",
            within=share >= 0.5 if is_bound else None,
        )
        floor_added, added = floor.p50 - direct.p50, tally.p50 - direct.p50
        ratio = added / floor_added
        is_bound = load == 1 and name == "http"
        report.add(
            f"{at}: {name}, added p50",
            f"{ms(added)} = {ratio:.2f}x floor's {ms(floor_added)}",
            "<= 1.5x, <= 0.35 ms" if is_bound else "",
            within=ratio <= 1.5 and added <= 0.35e-3 if is_bound else None,
        )
        report.add(
            f"{at}: {name}, added p99", f"{ms(tally.p99 - direct.p99)}, floor {ms(floor.p99 - direct.p99)}"
        )
        report.add(
            f"{at}: {name}, processor time a call",
            f"{us(tally.cpu_per_call)}, floor {us(floor.cpu_per_call)}",
        )


# --- memory -------------------------------------------------------------------------------------


async def measure_memory(report: Report) -> None:
    """With the default config, its lists known from an earlier start, and the REST part loaded."""
    async with Node(None) as node:
        await node.until_learnt(1)
        await node.stop()
        await node.start()
        await node.servers()
        own, guard = rss_kb(node.pid) * 1024 / MB, rss_kb(node.guard_pid) * 1024 / MB
    report.add("memory of a node, nothing running", f"{own:.1f} MB", "<= 60 MB", within=own <= 60)
    report.add("memory of its guard", f"{guard:.1f} MB", "<= 12 MB", within=guard <= 12)


# --- single events ------------------------------------------------------------------------------


async def measure_cold_calls(options: Options, report: Report) -> None:
    """Each server is called once: its first call starts it."""
    count = options.samples
    # Another argument makes another spec key, so each is a server type of its own.
    entries = [echo_entry(f"cold{n}", "--tools", "1", env={"N": str(n)}, **POOL) for n in range(count)]
    bare: list[float] = []
    cold: list[float] = []
    async with Node(entries, bootstrapConcurrency=2) as node:
        await node.until_learnt(count)
        lane, make = await node.open_session()
        for n in range(count):
            bare.append(await _spawn_and_call())
            began = perf_counter()
            await _expect(lane, make(call_of(f"cold{n}_echo")))
            cold.append(perf_counter() - began)
        lane.close()
    _report_event(report, "cold call", bare, cold, bound=10e-3)


async def measure_restarts(options: Options, report: Report) -> None:
    """Each always-on server is killed once and called at once: the answer comes from its first restart."""
    count = options.samples
    entries = [
        echo_entry(f"on{n}", env={"N": str(n)}, activationMode="always-on", **POOL) for n in range(count)
    ]
    bare: list[float] = []
    back: list[float] = []
    async with Node(entries) as node:
        await node.until_running()
        lane, make = await node.open_session()
        for n in range(count):
            await _expect(lane, make(call_of(f"on{n}_echo")))
        pids = {server["name"]: server["instances"][0]["pid"] for server in await node.servers()}
        for n in range(count):
            bare.append(await _spawn_and_call())
            began = perf_counter()
            os.kill(pids[f"on{n}"], signal.SIGKILL)
            await _until_answered(lane, make(call_of(f"on{n}_echo")))
            back.append(perf_counter() - began)
        lane.close()
    _report_event(report, "crash to ready again", bare, back, bound=50e-3)


async def _spawn_and_call() -> float:
    """Start the server ourselves, make the handshake and one call."""
    began = perf_counter()
    child = EchoChild()
    try:
        await child.handshake()
        await child.lane.ask(call_of("echo") + b"\n")
        return perf_counter() - began
    finally:
        child.close()


async def _expect(lane: HttpLane, request: bytes) -> None:
    answer = await lane.ask(request)
    if b'"result"' not in answer:
        raise RuntimeError(f"a call failed: {answer!r}")


async def _until_answered(lane: HttpLane, request: bytes) -> None:
    """Ask again while the dying instance refuses: a client would."""
    for _ in range(TRIES):
        if b'"result"' in await lane.ask(request):
            return
    raise RuntimeError("the server did not come back")


def _report_event(report: Report, what: str, bare: list[float], own: list[float], *, bound: float) -> None:
    more = median(own) - median(bare)
    report.add(
        what,
        f"{ms(median(own))} = spawn and handshake {ms(median(bare))} + {ms(more)}",
        f"<= + {bound * 1e3:g} ms",
        within=more <= bound,
    )


if __name__ == "__main__":
    sys.exit(run_benchmark(__doc__, measure))
