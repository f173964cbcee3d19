"""Any bytes at a real HTTP door: an end, in time, that shows nothing of the inside or of anybody else."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import hypothesis.strategies as st
import pytest
from support.doors import Stage, local, open_door
from support.fuzzing import TEST_TIMEOUT, Theatre, assert_keeps_to_itself, bodies, fuzz, until_loaded
from support.raw_http import RawClient, RawConnection, initialize

from mcpv_node.gateway import TokenTable
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY
from mcpv_node.settings import NodeLimits

pytestmark = pytest.mark.timeout(TEST_TIMEOUT)

MARKER = b"6b1d-the-victims-own"
TOKENS = TokenTable([("good", DEFAULT_AUTHORITY)])

STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")

words = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        (b"", b"*", b"0", b"-1", b"1", b"99999999999999999999", b"chunked", b"identity", b"close", b"\xff")
    ),
)
first_lines = st.one_of(
    st.sampled_from(
        (
            b"POST /mcp HTTP/1.1",
            b"POST /mcp HTTP/1.1",
            b"GET /mcp HTTP/1.1",
            b"DELETE /mcp HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"POST /mcp HTTP/1.0",
            b"POST /mcp HTTP/9.9",
            b"PRI * HTTP/2.0",
            b"GET http://other/mcp HTTP/1.1",
            b"CONNECT other:443 HTTP/1.1",
            b"GET /%00%ff/../mcp HTTP/1.1",
            b"GET /healthz?" + b"x" * 9000 + b" HTTP/1.1",
            b"GET /api/v1/servers HTTP/1.1",
            b"get /mcp HTTP/1.1",
            b"POST  /mcp  HTTP/1.1",
            b"GET /mcp",
        )
    ),
    st.binary(max_size=40),
)
names = st.sampled_from(
    (
        b"Content-Length",
        b"Transfer-Encoding",
        b"Host",
        b"Connection",
        b"Expect",
        b"Upgrade",
        b"Authorization",
        b"Accept",
        b"Content-Type",
        b"Mcp-Session-Id",
        b"Mcp-Protocol-Version",
        b"Origin",
        b"Cookie",
        b"X-Long",
        b"Trailer",
        b" Space",
        b"",
        b"Na\x00me",
    )
)
extras = st.lists(
    st.one_of(
        st.tuples(names, words),
        st.tuples(st.just(b"X-Long"), st.sampled_from((1, 1000, 20_000, 70_000))),
    ),
    max_size=4,
)
chunkings = st.sampled_from(
    ("none", "length", "length", "short", "long", "chunked", "bad-chunk", "both", "twice")
)


def request_bytes(
    first: bytes, given: list[tuple[bytes, bytes]], body: bytes, chunking: str, ends: bytes
) -> bytes:
    """One request as somebody may write it who has not read RFC 9112, or has."""
    headers = [
        (b"Host", b"127.0.0.1"),
        (b"Authorization", b"Bearer good"),
        (b"Accept", b"application/json, text/event-stream"),
        (b"Content-Type", b"application/json"),
        *((name, b"x" * value if isinstance(value, int) else value) for name, value in given),
    ]
    payload = body
    if chunking in ("length", "both", "twice"):
        headers.append((b"Content-Length", b"%d" % len(body)))
    if chunking == "twice":
        headers.append((b"Content-Length", b"%d" % (len(body) + 1)))
    if chunking == "short":
        headers.append((b"Content-Length", b"%d" % (len(body) // 2)))
    if chunking == "long":
        headers.append((b"Content-Length", b"%d" % (len(body) + 10)))
    if chunking in ("chunked", "both", "bad-chunk"):
        headers.append((b"Transfer-Encoding", b"chunked"))
        size = b"%x" % len(body) if chunking != "bad-chunk" else b"zz;ext=" + b"y" * 50
        payload = size + b"\r\n" + body + b"\r\n0\r\n\r\n"
    return ends.join([first, *(name + b": " + value for name, value in headers), b"", b""]) + payload


def test_any_bytes_at_all_end_in_answers_or_a_closed_connection(tmp_path: Path) -> None:
    limits = NodeLimits(body_bytes=20_000, depth=64, sessions=5)

    async def begin(stage: Stage) -> None:
        await until_loaded(stage.door)
        victim = await RawClient.open(stage.url, "/mcp/server/beta", token="good")
        session = next(iter(stage.sessions.cell.actor._sessions.values()))  # type: ignore[union-attr]
        note = b'{"jsonrpc":"2.0","method":"notifications/message","params":"' + MARKER + b'"}'
        session.send(note, may_be_dropped=False)
        await victim.close()

    async def throw(stage: Stage, data: bytes, pieces: int) -> bytes:
        parts = urlsplit(stage.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        size = max(1, len(data) // pieces)
        with suppress(OSError):
            for at in range(0, len(data), size):
                writer.write(data[at : at + size])
                await writer.drain()
                await asyncio.sleep(0)
            writer.write_eof()
        said = b""
        with suppress(OSError):
            said = await reader.read(-1)
        writer.close()
        return said

    async def still_works(stage: Stage) -> None:
        client = RawClient(await RawConnection.open(stage.url), token="good")
        answer = await client.post(initialize())
        assert answer.status == 200
        if "mcp-session-id" in answer.headers:
            client.session = answer.headers["mcp-session-id"]
            await client.connection.ask("DELETE", "/mcp", client.headers())
        await client.close()

    door = open_door(tmp_path, settings=local(limits=limits), tokens=TOKENS, drain_bound=0.5)
    with Theatre() as theatre, theatre.standing(door) as stage:
        theatre.run(begin(stage))

        @fuzz(
            250,
            requests=st.lists(
                st.tuples(first_lines, extras, bodies, chunkings, st.sampled_from((b"\r\n", b"\r\n", b"\n"))),
                min_size=1,
                max_size=3,
            ),
            rest=st.binary(max_size=30),
            pieces=st.integers(1, 5),
        )
        def check(
            requests: list[tuple[bytes, list[tuple[bytes, bytes | int]], bytes, str, bytes]],
            rest: bytes,
            pieces: int,
        ) -> None:
            said = theatre.run(throw(stage, b"".join(request_bytes(*one) for one in requests) + rest, pieces))

            # What was sent may come back in no error.
            assert_keeps_to_itself(said, MARKER)
            assert not [code for code in STATUS.findall(said) if code.startswith(b"5") and code != b"503"], (
                said
            )
            assert b"access-control-" not in said.lower()

        theatre.run(still_works(stage))


def test_many_headers_and_a_head_without_end_are_cut_off(tmp_path: Path) -> None:
    async def pour(stage: Stage, piece: bytes, times: int) -> bytes:
        parts = urlsplit(stage.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        said = b""
        with suppress(OSError):
            writer.write(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            for _ in range(times):
                writer.write(piece)
                await writer.drain()
                if writer.is_closing() or reader.at_eof():
                    break
            writer.write(b"\r\n")
            writer.write_eof()
            said = await reader.read(-1)
        writer.close()
        return said

    door = open_door(tmp_path, tokens=TOKENS, drain_bound=0.5)
    with Theatre() as theatre, theatre.standing(door) as stage:
        many = theatre.run(pour(stage, b"X-Header: 1\r\n" * 100, 100))
        endless = theatre.run(pour(stage, b"x" * 65_536, 200))

    for said in (many, endless):
        assert not said or STATUS.search(said).group(1).startswith(b"4"), said[:200]  # type: ignore[union-attr]
