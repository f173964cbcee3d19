"""Many clients at once: what a session, an open stream and a client that calls cost the node, and how it stops.

    .venv/bin/python benchmarks/load.py [--sessions N] [--streams N] [--clients N] [--seconds N] [--json FILE]

Against one node: 10,000 idle sessions, 5,000 of them with their stream open, then 1,000 clients that call at the same
time, each on a connection of its own. Measured are the node's memory for each (DESIGN section 9: an idle session
<= 20 KB), calls/s and latencies, and how long the node takes to stop with all of it open: its calls have ended, so
nothing may keep it but the bound for its streams. As many files are needed as there are streams and clients; where the
hard limit is too low, that part is left out with a sentence.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import uvloop
from gateway import describe_machine
from support import (
    INITIALIZE,
    INITIALIZED,
    HttpLane,
    Node,
    Report,
    Slice,
    Tally,
    call_of,
    descendants,
    echo_entry,
    header_of,
    http_request,
    ms,
    open_http,
    rss_kb,
)

# What the benchmark itself and the node need besides: pipes, sockets, libraries.
SPARE_FILES = 500

# So many connections are opened before the node has its turn.
AT_ONCE = 100

# What the node has to stop: the drain of calls that do not exist, and the bound of its door (seconds).
STOP_WITHIN = 10.0

# How many connections make the sessions.
OPENERS = 16

# What the first of everything takes is not what one more takes.
WARM = 16

VERSION_HEADER = "MCP-Protocol-Version: 2025-11-25"


class Stream(asyncio.Protocol):
    """One GET that stays open; it counts what it is told."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.is_open = asyncio.get_running_loop().create_future()
        self.is_closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.is_open.done():
            self.is_open.set_result(data.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.is_open.done():
            self.is_open.set_result(False)
        self.is_closed.set_result(None)


def raise_file_limit() -> int:
    """Allow as many open files as this user may have; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


async def open_sessions(node: Node, count: int) -> list[str]:
    """So many sessions, each with its handshake made, over a few connections."""
    names: list[str] = []
    initialize = http_request(INITIALIZE, token=node.token)

    async def open_some(lane: HttpLane, share: int) -> None:
        for _ in range(share):
            answer = await lane.ask(initialize)
            session = header_of(answer, "mcp-session-id")
            if session is None:
                raise RuntimeError(f"no session: {answer[:500]!r}")
            await lane.ask(http_request(INITIALIZED, token=node.token, session=session))
            names.append(session)

    lanes = [await open_http(node.port) for _ in range(OPENERS)]
    shares = [count // OPENERS + (number < count % OPENERS) for number in range(OPENERS)]
    await asyncio.gather(*(open_some(lane, share) for lane, share in zip(lanes, shares, strict=True)))
    for lane in lanes:
        lane.close()
    return names


async def open_streams(node: Node, sessions: list[str]) -> list[Stream]:
    """The standing stream of each of these sessions."""
    loop = asyncio.get_running_loop()
    streams: list[Stream] = []
    for first in range(0, len(sessions), AT_ONCE):
        some = [Stream(_get(node, name)) for name in sessions[first : first + AT_ONCE]]
        for stream in some:
            await loop.create_connection(lambda stream=stream: stream, "127.0.0.1", node.port)  # type: ignore[misc]
        opened = await asyncio.gather(*(stream.is_open for stream in some))
        if not all(opened):
            raise RuntimeError(f"{opened.count(False)} streams were refused")
        streams += some
    return streams


def _get(node: Node, session: str) -> bytes:
    return (
        f"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {node.token}\r\n"
        f"Accept: text/event-stream\r\nMcp-Session-Id: {session}\r\n{VERSION_HEADER}\r\n\r\n"
    ).encode()


async def open_clients(node: Node, sessions: list[str]) -> list[HttpLane]:
    """A connection for each of these sessions, ready to call."""
    lanes: list[HttpLane] = []
    for session in sessions:
        lane = await open_http(node.port)
        lane.request = http_request(call_of("echo_echo"), token=node.token, session=session)
        lanes.append(lane)
    return lanes


async def measure(sessions: int, streams: int, clients: int, seconds: float) -> dict[str, Any]:
    files = raise_file_limit() - SPARE_FILES
    result: dict[str, Any] = {
        "benchmark": "load",
        "machine": describe_machine(),
        "sessions": sessions,
        "streams": streams,
        "clients": clients,
        "left_out": [],
    }
    pool = {"maxConcurrent": max(64, clients), "maxInstances": 1, "queueLimit": 10_000, "idleSeconds": 600}
    limits = {"sessions": sessions + WARM, "inFlightPerPrincipal": max(512, clients)}
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(Node([echo_entry("echo", **pool)], limits=limits))
        await node.until_learnt(1)
        await _warm(node)
        before = rss_kb(node.pid)
        began = perf_counter()
        names = await open_sessions(node, sessions)
        result["sessions_per_second"] = round(sessions / (perf_counter() - began))
        with_sessions = rss_kb(node.pid)
        result["session_kb"] = round((with_sessions - before) / sessions, 2)

        opened: list[Stream] = []
        if streams <= files:
            opened = await open_streams(node, names[:streams])
            result["stream_kb"] = round((rss_kb(node.pid) - with_sessions) / streams, 2)
        else:
            result["left_out"].append(f"{streams:,} streams: this user may open {files:,} files")
        if streams + clients <= files:
            with_streams = rss_kb(node.pid)
            lanes = await open_clients(node, names[-clients:])
            tally = Tally()
            await Slice(seconds).run(lanes, tally, node.pid)
            result["client_kb"] = round((rss_kb(node.pid) - with_streams) / clients, 2)
            result |= {
                "rate": round(tally.rate),
                "p50_ms": round(tally.p50 * 1e3, 2),
                "p99_ms": round(tally.p99 * 1e3, 2),
                "cpu_us": round(tally.cpu_per_call * 1e6, 1),
                "errors": tally.errors,
            }
        else:
            result["left_out"].append(f"{clients:,} clients: this user may open {files:,} files")
        result["rss_mb"] = round(rss_kb(node.pid) / 1e3, 1)
        below = descendants(node.pid)
        began = perf_counter()
        await node.stop()
        result["stop_seconds"] = round(perf_counter() - began, 2)
        async with asyncio.timeout(STOP_WITHIN):
            await asyncio.gather(*(stream.is_closed for stream in opened))
        result["left_behind"] = sum(map(is_running, below))
    return result


def is_running(pid: int) -> bool:
    """Whether this process still is there."""
    return Path(f"/proc/{pid}").exists()


async def _warm(node: Node) -> None:
    """Have a few clients come and call before anything is weighed."""
    names = await open_sessions(node, WARM)
    lanes = await open_clients(node, names)
    await lanes[0].ask(lanes[0].request)
    await Slice(0.5, 500).run(lanes, Tally())
    for lane in lanes:
        lane.close()


def to_report(result: dict[str, Any]) -> Report:
    report = Report("load", "one node, everything at once")
    count = f"{result['sessions']:,} idle sessions"
    kb = result["session_kb"]
    report.add(f"{count}: each", f"{kb:.1f} KB", "<= 20 KB", within=kb <= 20)
    report.add(f"{count}: opened", f"{result['sessions_per_second']:,}/s")
    if "stream_kb" in result:
        report.add(f"{result['streams']:,} open streams: each", f"{result['stream_kb']:.1f} KB")
    if "rate" in result:
        what = f"{result['clients']:,} clients call"
        report.add(what, f"{result['rate']:,}/s, {result['errors']} failed")
        report.add(f"{what}: p50, p99", f"{ms(result['p50_ms'] / 1e3)}, {ms(result['p99_ms'] / 1e3)}")
        report.add(f"{what}: each", f"{result['client_kb']:.1f} KB")
    report.add("the node with all of it", f"{result['rss_mb']:.0f} MB")
    stop = result["stop_seconds"]
    report.add(
        "stopped with all of it open", f"{stop:.2f} s", f"<= {STOP_WITHIN:g} s", within=stop <= STOP_WITHIN
    )
    report.add("processes left behind", str(result["left_behind"]))
    for sentence in result["left_out"]:
        report.add("left out", sentence)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=10_000, help="idle sessions")
    parser.add_argument("--streams", type=int, default=5_000, help="of them with their stream open")
    parser.add_argument("--clients", type=int, default=1_000, help="of them calling")
    parser.add_argument("--seconds", type=float, default=5.0, help="of calling")
    parser.add_argument("--json", type=Path, help="also write what came out to this file")
    given = parser.parse_args()
    if not 0 < max(given.streams, given.clients) <= given.sessions:
        parser.error("streams and clients have a session each")
    result = uvloop.run(measure(given.sessions, given.streams, given.clients, given.seconds))
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    to_report(result).show(as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
