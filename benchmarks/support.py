"""What the benchmarks share: a load generator, the processes under load, and the table of what came out.

The load generator writes requests that were made beforehand and looks for the end of the answer, so that it costs a
few microseconds a call: the machine's time belongs to what is measured. Everything is bounded in count and in time
and stays on this machine's loopback.

Runs are interleaved (A B A B), because the machine has other work; what is compared are medians and ratios of one
run. A benchmark reports: it says `within` or `over` beside a bound of DESIGN section 9, and its exit code is 0.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol, TypeVar, cast

import uvloop

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PYTHON = sys.executable
ECHO = (PYTHON, "-I", "-S", str(HERE / "echo_server.py"))

# No slice of load is longer than this whatever the machine does (seconds): what hangs is given up.
SLICE_BOUND = 60.0

# A slice ends after so many answers, too: its latencies are kept in memory.
SLICE_CALLS = 200_000

# An interpreter, a node and its first servers on a machine that has other work.
START_BOUND = 60.0

# Drain and grace of servers that end at once, with the machine busy.
STOP_BOUND = 30.0

VERSION = "2025-11-25"
MODERN_VERSION = "2026-07-28"

# Some servers close a connection on which nothing came for five seconds; a request that crosses that is lost.
FRESH = 3.0

# An answer's result begins this near to its head, also where it is the data of an event.
RESULT_WITHIN = 400


# --- what is measured ---------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


@dataclass(slots=True)
class Tally:
    """What one target did under one load, over all its slices."""

    rates: list[float] = field(default_factory=list[float])
    p50s: list[float] = field(default_factory=list[float])
    p99s: list[float] = field(default_factory=list[float])
    cpu: list[float] = field(default_factory=list[float])  # seconds a call
    calls: int = 0
    errors: int = 0

    def add(self, latencies: list[float], seconds: float, *, errors: int, cpu: float) -> None:
        """Take in one slice."""
        self.calls += len(latencies)
        self.errors += errors
        if not latencies:
            return
        self.rates.append(len(latencies) / seconds)
        self.p50s.append(percentile(latencies, 0.5))
        self.p99s.append(percentile(latencies, 0.99))
        self.cpu.append(cpu / len(latencies))

    @property
    def rate(self) -> float:
        return median(self.rates) if self.rates else float("nan")

    @property
    def p50(self) -> float:
        return median(self.p50s) if self.p50s else float("nan")

    @property
    def p99(self) -> float:
        return median(self.p99s) if self.p99s else float("nan")

    @property
    def cpu_per_call(self) -> float:
        return median(self.cpu) if self.cpu else float("nan")


def cpu_seconds(pid: int) -> float:
    """The processor time all threads of a process have had."""
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):
            total += int(path.read_text().split()[0])
    return total / 1e9


def reaped_seconds(pid: int) -> float:
    """The processor time of those children that have ended, and of theirs."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[13]) + int(words[14])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid: int) -> int:
    """What a process holds in memory now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def descendants(pid: int) -> list[int]:
    """The living processes below this one, parents first."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        with suppress(OSError):
            children = list(children_of(waiting.pop()))
            found += children
            waiting += children
    return found


def children_of(pid: int) -> dict[int, list[str]]:
    """The children of a process with their command lines."""
    found: dict[int, list[str]] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with suppress(OSError):
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().rstrip("\0").split("\0")
    return found


# --- the load -----------------------------------------------------------------------------------


class Slice:
    """One stretch of load: lanes take turns from it until its time or its count is over."""

    def __init__(self, seconds: float, calls: int = SLICE_CALLS) -> None:
        self.latencies: list[float] = []
        self.errors = 0
        self._left = calls
        self._busy = 0
        self._seconds = seconds
        self._done = asyncio.get_running_loop().create_future()
        self._ends = 0.0

    def may_send(self) -> bool:
        """Take one turn, unless it is over."""
        if not self._left or perf_counter() >= self._ends:
            return False
        self._left -= 1
        self._busy += 1
        return True

    def answered(self, latency: float, *, ok: bool) -> None:
        """One answer has come."""
        self._busy -= 1
        if ok:
            self.latencies.append(latency)
        else:
            self.errors += 1

    def settle(self) -> None:
        """Called by lanes that send no more."""
        if not self._busy and not self._done.done():
            self._done.set_result(None)

    async def run(self, lanes: Iterable[Lane], tally: Tally, pid: int | None = None) -> None:
        """Load the lanes until the end and add what came of it to `tally`; `pid` is whose processor time counts."""
        gc.collect()
        used = 0.0 if pid is None else cpu_seconds(pid)
        began = perf_counter()
        self._ends = began + self._seconds
        for lane in lanes:
            lane.begin(self)
        async with asyncio.timeout(self._seconds + SLICE_BOUND):
            await self._done
        seconds = perf_counter() - began
        used = 0.0 if pid is None else cpu_seconds(pid) - used
        tally.add(self.latencies, seconds, errors=self.errors, cpu=used)


class Lane(Protocol):
    """One place from which requests are sent, each after the answer to the one before."""

    def begin(self, work: Slice) -> None: ...


def is_whole(data: bytes, head: int) -> bool:
    """Whether an answer whose head ends here has come to its end: after so many bytes, or with the last chunk."""
    at = data.find(b"content-length: ", 0, head)
    if at < 0:
        # Others spell the names of headers their own way.
        lower = data[:head].lower()
        if b"transfer-encoding: chunked" in lower:
            return data.endswith(b"0\r\n\r\n")
        at = lower.find(b"content-length: ")
    length = int(data[at + 16 : data.index(b"\r\n", at)]) if at >= 0 else 0
    return len(data) >= head + 4 + length


class HttpLane(asyncio.Protocol):
    """One keep-alive connection that sends the same request over and over."""

    def __init__(self, port: int, request: bytes = b"") -> None:
        self.request = request
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._work: Slice | None = None
        self._sent_at = 0.0
        self._is_waiting = False
        self._buffer = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the connection was closed"))
        if self._is_waiting and self._work is not None:
            self._is_waiting = False
            self._work.answered(0.0, ok=False)
            self._work.settle()

    def begin(self, work: Slice) -> None:
        self._work = work
        self._next()

    async def ask(self, request: bytes) -> bytes:
        """Send one request by itself; the whole answer with its head."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(START_BOUND):
            return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def open(self) -> None:
        """Connect, or again where the server has closed a connection that waited, or is about to."""
        transport = self._transport
        if transport is not None and 0.0 < self._sent_at < perf_counter() - FRESH:
            transport.abort()
        if transport is None or transport.is_closing():
            self._buffer = b""
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        head = data.find(b"\r\n\r\n")
        if head < 0 or not is_whole(data, head):
            self._buffer = data
            return
        self._buffer = b""
        if self._answer is not None:
            answer, self._answer = self._answer, None
            answer.set_result(data)
            return
        work = self._work
        assert work is not None
        self._is_waiting = False
        ok = data.startswith(b"HTTP/1.1 200") and b'"result"' in data[head : head + RESULT_WITHIN]
        work.answered(perf_counter() - self._sent_at, ok=ok)
        self._next()

    def _next(self) -> None:
        work = self._work
        assert work is not None
        assert self._transport is not None
        if not self._transport.is_closing() and work.may_send():
            self._is_waiting = True
            self._sent_at = perf_counter()
            self._transport.write(self.request)
        else:
            work.settle()


class LineLane(asyncio.Protocol):
    """One connection of lines, or one pipe to a child, with up to `in_flight` requests on it at once."""

    def __init__(self, make_request: Callable[[int], bytes], *, in_flight: int = 1) -> None:
        self.in_flight = in_flight
        self.write: Callable[[bytes], object] = lambda _: None
        self._make = make_request
        self._numbers = itertools.count(1000)
        self._sent: dict[bytes, float] = {}
        self._rest = b""
        self._work: Slice | None = None
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = cast("asyncio.Transport", transport).write

    def begin(self, work: Slice) -> None:
        self._work = work
        for _ in range(self.in_flight):
            self._next(work)

    async def ask(self, line: bytes) -> bytes:
        """Send one request by itself; the line of its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self.write(line)
        async with asyncio.timeout(START_BOUND):
            return await self._answer

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._answer is not None:
                answer, self._answer = self._answer, None
                answer.set_result(line)
                continue
            sent = self._sent.pop(line[22 : line.find(b",", 22)], None)
            if sent is not None and self._work is not None:
                self._work.answered(perf_counter() - sent, ok=b'"result"' in line[:80])
                self._next(self._work)

    def _next(self, work: Slice) -> None:
        if work.may_send():
            number = next(self._numbers)
            self._sent[b"%d" % number] = perf_counter()
            self.write(self._make(number))
        else:
            work.settle()


def rpc(method: str, params: Mapping[str, object] | None = None, *, id: int | None = 1) -> bytes:
    """One JSON-RPC message; a notification if it has no id."""
    head = b'{"jsonrpc":"2.0",' + (b"" if id is None else b'"id":%d,' % id)
    shown = b"" if params is None else b',"params":' + json.dumps(params, separators=(",", ":")).encode()
    return head + b'"method":"' + method.encode() + b'"' + shown + b"}"


def call_of(tool: str, *, id: int = 1) -> bytes:
    return rpc("tools/call", {"name": tool, "arguments": {"text": "how fast is this"}}, id=id)


INITIALIZE = rpc(
    "initialize",
    {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "benchmark", "version": "1"}},
)
INITIALIZED = rpc("notifications/initialized", id=None)


def http_request(
    body: bytes,
    *,
    path: str = "/mcp",
    token: str = "-",
    host: str = "127.0.0.1",
    session: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """A POST as clients of MCP write it."""
    more = dict(headers or {})
    if session is not None:
        more = {"Mcp-Session-Id": session, "MCP-Protocol-Version": VERSION, **more}
    own = "".join(f"{name}: {value}\r\n" for name, value in more.items())
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        f"{own}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def modern_body(method: str, params: Mapping[str, object] | None = None) -> bytes:
    """A request of the modern era, which says with each request who asks."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "version": "1"},
    }
    return rpc(method, {**(params or {}), "_meta": meta})


def modern_headers(method: str, name: str | None = None) -> dict[str, str]:
    """What a modern request repeats of its body for whoever looks at heads only."""
    named = {} if name is None else {"Mcp-Name": name}
    return {"MCP-Protocol-Version": MODERN_VERSION, "Mcp-Method": method, **named}


async def open_http(port: int) -> HttpLane:
    """A new connection to a port of this machine."""
    lane = HttpLane(port)
    await lane.open()
    return lane


async def open_session(
    port: int, *, path: str = "/mcp", token: str = "-"
) -> tuple[HttpLane, Callable[[bytes], bytes]]:
    """A connection with a legacy session on it, and what makes a request of a body; some servers have no sessions."""
    lane = await open_http(port)
    host = f"127.0.0.1:{port}"
    answer = await lane.ask(http_request(INITIALIZE, path=path, token=token, host=host))
    if b'"protocolVersion"' not in answer:
        raise RuntimeError(f"no session: {answer[:1000]!r}")
    session = header_of(answer, "mcp-session-id")

    def make(body: bytes) -> bytes:
        return http_request(body, path=path, token=token, host=host, session=session)

    await lane.ask(make(INITIALIZED))
    return lane, make


def header_of(answer: bytes, name: str) -> str | None:
    """A header of a whole answer, by its lower-case name."""
    for line in answer[: answer.index(b"\r\n\r\n")].decode("latin-1").split("\r\n")[1:]:
        found, _, value = line.partition(":")
        if found.lower() == name:
            return value.strip()
    return None


# --- what is under load -------------------------------------------------------------------------


class EchoChild:
    """The echo server as a child of ours, spoken to without anything between."""

    def __init__(self, *arguments: str, make: Callable[[int], bytes] | None = None) -> None:
        self.lane = LineLane(make or (lambda number: call_of("echo", id=number) + b"\n"))
        self._process = subprocess.Popen([*ECHO, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input = self._process.stdin.fileno()
        self._output = self._process.stdout.fileno()
        self.lane.write = lambda data: os.write(self._input, data)
        asyncio.get_running_loop().add_reader(self._output, self._on_output)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def handshake(self) -> None:
        """What a client does before its first call."""
        await self.lane.ask(INITIALIZE + b"\n")
        self.lane.write(INITIALIZED + b"\n")

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._output)
        self._process.kill()
        self._process.communicate(timeout=STOP_BOUND)

    def _on_output(self) -> None:
        data = os.read(self._output, 65536)
        if data:
            self.lane.data_received(data)
        else:
            asyncio.get_running_loop().remove_reader(self._output)


class Serving:
    """A server program in a process of its own, in a folder that goes with it."""

    def __init__(self, arguments: Sequence[str], *, environ: Mapping[str, str] | None = None) -> None:
        self.port = 0
        self._process = subprocess.Popen(
            [PYTHON, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(environ or {})},
            cwd=ROOT,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def first_line(self) -> dict[str, Any]:
        """What the program says when it is ready."""
        assert self._process.stdout is not None
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(START_BOUND):
            line = await loop.run_in_executor(None, self._process.stdout.readline)
        if not line:
            raise RuntimeError(f"it ended with code {self._process.wait(STOP_BOUND)} before it was ready")
        return cast("dict[str, Any]", json.loads(line))

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.communicate(timeout=STOP_BOUND)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


class Node:
    """A whole node with the servers it is given, at a free port, in a folder that is removed with it."""

    def __init__(self, servers: Sequence[Mapping[str, object]] | None, **settings: object) -> None:
        self.port = 0
        self.token = ""
        self._servers = servers
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="mcpv-bench-"))
        self._serving: Serving | None = None

    async def __aenter__(self) -> Node:
        try:
            await self.start()
        except BaseException:
            self._remove()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        self._remove()

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        state = self._folder / "state"
        arguments = ["-m", "mcpv_node", "start", "--json", "--http", "127.0.0.1:0", "--state-dir", str(state)]
        if self._servers is not None:
            config = self._folder / "runtime.yaml"
            # JSON is YAML, too.
            config.write_text(json.dumps({"servers": list(self._servers), **self._settings}))
            arguments += ["--config", str(config)]
        own = {"HOME": str(self._folder), "XDG_CONFIG_HOME": str(self._folder), "MCPV_CONFIG": ""}
        environ = {name: value for name, value in own.items() if value}
        self._serving = Serving(arguments, environ=environ)
        ready = await self._serving.first_line()
        self.port = int(str(ready["http"]).rpartition(":")[2])
        self.token = _read_token(str(ready["tokenFile"]))

    async def stop(self) -> None:
        """Stop it in order; its folder stays."""
        if self._serving is not None:
            serving, self._serving = self._serving, None
            await asyncio.get_running_loop().run_in_executor(None, serving.close)

    @property
    def state_dir(self) -> Path:
        return self._folder / "state"

    @property
    def pid(self) -> int:
        assert self._serving is not None
        return self._serving.pid

    @property
    def guard_pid(self) -> int:
        return next(
            pid for pid, argv in children_of(self.pid).items() if any("guard.py" in part for part in argv)
        )

    async def rest(self, path: str) -> Any:
        """What REST says; asked again while that part is still being loaded."""
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.token}\r\n\r\n"
        async with asyncio.timeout(START_BOUND):
            while True:
                lane = await open_http(self.port)
                answer = await lane.ask(request.encode())
                lane.close()
                if answer.startswith(b"HTTP/1.1 200"):
                    return json.loads(answer[answer.index(b"\r\n\r\n") :])
                await asyncio.sleep(0.05)

    async def until_learnt(self, tools: int) -> None:
        """Wait until so many tools are listed and no server runs for it any more."""
        async with asyncio.timeout(START_BOUND):
            while len((await self.rest("/api/v1/catalog/tools"))["entries"]) < tools:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            while any(len(server["instances"]) for server in await self.servers()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def until_running(self) -> None:
        """Wait until every server has an instance."""
        async with asyncio.timeout(START_BOUND):
            while not all(len(server["instances"]) for server in await self.servers()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def servers(self) -> list[dict[str, Any]]:
        """The state of every server."""
        found = await self.rest("/api/v1/servers")
        return cast("list[dict[str, Any]]", found if isinstance(found, list) else found["servers"])

    async def open_session(self, *, path: str = "/mcp") -> tuple[HttpLane, Callable[[bytes], bytes]]:
        """A connection with a session on it, and what makes a request of a body."""
        return await open_session(self.port, path=path, token=self.token)

    async def open_line(self, tool: str) -> LineLane:
        """A connection to the line door with its handshake made, ready to call `tool`."""
        lane = LineLane(lambda number: call_of(tool, id=number) + b"\n")
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        await loop.sock_connect(sock, str(self._folder / "state" / "node.sock"))
        await loop.create_connection(lambda: lane, sock=sock)
        lane.write(b'{"mcpv":1}\n')
        await lane.ask(INITIALIZE + b"\n")
        lane.write(INITIALIZED + b"\n")
        return lane

    def _remove(self) -> None:
        if self._serving is not None:
            self._serving.close()
            self._serving = None
        shutil.rmtree(self._folder, ignore_errors=True)


def _read_token(path: str) -> str:
    return Path(path).read_text().strip()


def echo_entry(name: str, *arguments: str, **settings: object) -> dict[str, object]:
    """One entry of `servers:` that runs the echo server."""
    return {"name": name, "command": ECHO[0], "args": [*ECHO[1:], *arguments], **settings}


# --- what is said -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `within` is None where DESIGN has no bound."""

    what: str
    value: str
    bound: str = ""
    within: bool | None = None

    @property
    def mark(self) -> str:
        return "" if self.within is None else "within" if self.within else "over"


@dataclass(slots=True)
class Report:
    """The table of one benchmark."""

    name: str
    runs: str
    rows: list[Row] = field(default_factory=list[Row])

    def add(self, what: str, value: str, bound: str = "", *, within: bool | None = None) -> None:
        self.rows.append(Row(what, value, bound, within))

    def show(self, *, as_json: bool) -> None:
        """Print it."""
        if as_json:
            rows = [
                {"what": row.what, "value": row.value, "bound": row.bound, "mark": row.mark}
                for row in self.rows
            ]
            print(json.dumps({"benchmark": self.name, "runs": self.runs, "rows": rows}))
            return
        first = max(len(row.what) for row in self.rows)
        second = max(len(row.value) for row in self.rows)
        print(f"{self.name}: {self.runs}")
        for row in self.rows:
            line = f"  {row.what:<{first}}  {row.value:>{second}}  {row.bound:<32}  {row.mark}"
            print(line.rstrip())


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured."""

    seconds: float  # the length of one slice of load
    rounds: int  # how often every slice is repeated, interleaved
    samples: int  # how often what happens once at a time is repeated


def run_benchmark(
    docstring: str | None, measure: Callable[[Options], Coroutine[Any, Any, Report]], *, seconds: float = 0.5
) -> int:
    """Parse the command line, measure, print the table; 0 whatever came out."""
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=seconds, help="of one slice of load")
    parser.add_argument("--rounds", type=int, default=5, help="how often each slice is repeated")
    parser.add_argument("--samples", type=int, default=10, help="how often single events are repeated")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    given = parser.parse_args()
    options = Options(seconds=given.seconds, rounds=given.rounds, samples=given.samples)
    report = uvloop.run(measure(options))
    report.show(as_json=given.json)
    return 0


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"
