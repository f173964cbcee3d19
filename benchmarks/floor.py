"""The floor: what nothing that speaks HTTP in front of a stdio server can beat.

    .venv/bin/python benchmarks/floor.py [--seconds N] [--rounds N] [--json]

A bare uvicorn (uvloop, httptools) ASGI application, a dict of calls in flight and the same echo server: a request's
body is read as an envelope, goes to the child under an id of our own, and its answer goes back under the client's.
No sessions, no tokens, no checks. `/list` answers a file's content, read once. Measured against the same child
spoken to directly over its pipes; the difference is what the floor adds. DESIGN section 9 bounds the node by this.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from support import (
    ECHO,
    EchoChild,
    Options,
    Report,
    Serving,
    Slice,
    Tally,
    call_of,
    http_request,
    ms,
    open_http,
    run_benchmark,
    us,
)

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

LOADS = (1, 16, 64)


class Envelope(msgspec.Struct):
    """As much of a message as a pass-through has to read."""

    id: msgspec.Raw
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")
    result: msgspec.Raw = msgspec.Raw(b"null")


decode = msgspec.json.Decoder(Envelope).decode


class Floor:
    """The application."""

    def __init__(self, listing: bytes) -> None:
        self._listing = listing
        self._pending: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._next = 0
        self._child: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self._child = await asyncio.create_subprocess_exec(*ECHO, stdin=pipe, stdout=pipe)
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._child is not None
        assert self._child.stdout is not None
        rest = b""
        while data := await self._child.stdout.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                answer = decode(line)
                self._pending.pop(int(bytes(answer.id))).set_result(answer.result)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        message = await receive()
        body: bytes = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message["body"]
        if scope["path"] == "/list":
            reply = self._listing
        else:
            request = decode(body)
            result = await self._call(request)
            reply = b"".join((b'{"jsonrpc":"2.0","id":', request.id, b',"result":', result, b"}"))
        headers = [(b"content-length", b"%d" % len(reply)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    async def _call(self, request: Envelope) -> msgspec.Raw:
        assert self._child is not None
        assert self._child.stdin is not None
        self._next += 1
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._pending[self._next] = future
        line = (b'{"jsonrpc":"2.0","id":%d,"method":"' % self._next, request.method.encode(), b'","params":')
        self._child.stdin.write(b"".join((*line, request.params, b"}\n")))
        return await future


async def serve(listing: bytes) -> None:
    """Serve on a free port until asked to stop; say on stdout where."""
    floor = Floor(listing)
    await floor.start()
    config = uvicorn.Config(
        floor,
        port=0,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        # As long as the node's own: connections wait while others have their slices.
        timeout_keep_alive=75,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    print(json.dumps({"port": port}), flush=True)
    await serving


async def start_floor(listing: Path | None = None) -> Serving:
    """The floor in a process of its own."""
    serving = Serving([__file__, "--serve", *([str(listing)] if listing is not None else [])])
    try:
        serving.port = int((await serving.first_line())["port"])
    except BaseException:
        serving.close()
        raise
    return serving


async def measure(options: Options) -> Report:
    direct = {load: Tally() for load in LOADS}
    through = {load: Tally() for load in LOADS}
    child = EchoChild()
    floor = await start_floor()
    try:
        await child.handshake()
        lanes = [await open_http(floor.port) for _ in range(max(LOADS))]
        for lane in lanes:
            lane.request = http_request(call_of("echo"))
        for _ in range(options.rounds):
            for load in LOADS:
                child.lane.in_flight = load
                await Slice(options.seconds).run([child.lane], direct[load], child.pid)
                await Slice(options.seconds).run(lanes[:load], through[load], floor.pid)
        for lane in lanes:
            lane.close()
    finally:
        floor.close()
        child.close()
    report = Report("floor", f"{options.rounds} slices of {options.seconds:g} s each, interleaved, medians")
    for load in LOADS:
        one, two = direct[load], through[load]
        report.add(f"direct stdio, {load} in flight", f"{one.rate:,.0f}/s")
        report.add(f"floor, {load} in flight", f"{two.rate:,.0f}/s")
        report.add(f"floor, {load} in flight: p50, p99", f"{ms(two.p50)}, {ms(two.p99)}")
        report.add(
            f"floor, {load} in flight: added p50, p99", f"{ms(two.p50 - one.p50)}, {ms(two.p99 - one.p99)}"
        )
        report.add(f"floor, {load} in flight: processor time a call", us(two.cpu_per_call))
    report.add("errors", str(sum(tally.errors for tally in (*direct.values(), *through.values()))))
    return report


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        import uvloop

        uvloop.run(serve(Path(sys.argv[2]).read_bytes() if len(sys.argv) > 2 else b""))
    else:
        sys.exit(run_benchmark(__doc__, measure))
