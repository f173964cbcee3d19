"""What the HTTP server writes, and when it goes out."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from support.doors import open_door
from support.fake_servers import run
from support.raw_http import RawConnection

from mcpv_node.gateway import TokenTable, wire
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY
from mcpv_node.gateway.wire import _Held

TIMEOUT = 20.0


class Recorder:
    """As much of a transport as is used; it remembers each write."""

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.closed = False

    def writelines(self, pieces: list[bytes]) -> None:
        self.writes.append([*pieces])

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def hold() -> tuple[Any, Recorder]:
    recorder = Recorder()
    held = _Held(
        cast("asyncio.Transport", recorder), asyncio.get_running_loop(), lambda transport: transport.close()
    )
    return held, recorder


def test_an_answer_goes_out_in_one_write_when_it_is_complete() -> None:
    async def main() -> None:
        held, recorder = hold()

        held.write(b"head")
        held.write(b"body")
        held.flush()
        await asyncio.sleep(0)

        assert recorder.writes == [[b"head", b"body"]]

    asyncio.run(main())


def test_what_is_not_complete_goes_out_when_the_turn_is_over() -> None:
    async def main() -> None:
        held, recorder = hold()

        held.write(b"event")
        assert recorder.writes == []
        await asyncio.sleep(0)

        assert recorder.writes == [[b"event"]]

    asyncio.run(main())


def test_a_close_sends_what_is_held_and_nothing_is_written_after_it() -> None:
    async def main() -> None:
        held, recorder = hold()

        held.write(b"last words")
        held.close()
        held.write(b"too late")
        await asyncio.sleep(0)

        assert (recorder.writes, recorder.closed) == ([[b"last words"]], True)

    asyncio.run(main())


# --- clients that are still sending -----------------------------------------------------------------------------

LARGE = 32 * 1024 * 1024
TOKENS = TokenTable([("good", DEFAULT_AUTHORITY)])


def head(host: str, token: str, length: int) -> bytes:
    lines = {
        "Host": host,
        "Authorization": f"Bearer {token}",
        "Connection": "close",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Content-Length": str(length),
    }
    shown = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST /mcp HTTP/1.1\r\n{shown}\r\n".encode()


def send_all_then_read(url: str, token: str) -> bytes:
    """As common clients do it: nothing is read before everything has been sent."""
    host = url.removeprefix("http://").partition("/")[0]
    name, _, port = host.partition(":")
    with socket.create_connection((name, int(port)), timeout=TIMEOUT) as client:
        client.sendall(head(host, token, LARGE))
        for _ in range(LARGE // 65536):
            client.sendall(b"x" * 65536)
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


@pytest.mark.parametrize(("token", "status"), [("good", b"413"), ("another", b"401")])
def test_who_has_sent_too_much_and_wants_it_closed_reads_why(
    tmp_path: Path, token: str, status: bytes
) -> None:
    async def main() -> bytes:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            return await asyncio.to_thread(send_all_then_read, stage.url, token)

    answer = run(main)

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(b"}")


async def send_for_ever(connection: RawConnection) -> None:
    while True:
        connection.writer.write(b".")
        await connection.writer.drain()
        await asyncio.sleep(0)


def test_who_goes_on_sending_after_the_answer_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LINGER", 0.2)

    async def main() -> bytes:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            connection = await RawConnection.open(stage.url)
            connection.writer.write(head(connection.host, "another", 1000) + b"only some of it")
            async with asyncio.timeout(TIMEOUT):
                answer = await connection.reader.read()
                with pytest.raises(ConnectionError):
                    await send_for_ever(connection)
            await connection.close()
            return answer

    assert run(main).startswith(b"HTTP/1.1 401")
