"""The server that misbehaves does what its knobs say: the tests that use it rely on it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.children import RecordingSink, run, spawn_badserver
from support.processes import alive, wait_until

from mcpv_node.transports import StdioProcess

Json = dict[str, Any]


class Talk:
    """A conversation with the server."""

    def __init__(self, *knobs: str) -> None:
        self.sink = RecordingSink()
        self.process: StdioProcess = spawn_badserver(*knobs, sink=self.sink)

    def send(self, method: str, params: Json | None = None, *, id: object = None) -> None:
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}
        if id is None:
            del message["id"]
        self.process.write(json.dumps(message).encode() + b"\n")

    def call(self, id: object, name: str, **arguments: object) -> None:
        params = {"name": name, "arguments": arguments, "_meta": {"progressToken": id}}
        self.send("tools/call", params, id=id)

    def messages(self) -> list[Json]:
        found: list[Json] = []
        for line in self.sink.stdout.split(b"\n")[:-1]:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    async def answer(self, id: object) -> Json:
        return await self.message(lambda message: message.get("id") == id)

    async def message(self, condition: Callable[[Json], bool]) -> Json:
        await self.sink.until(lambda: any(map(condition, self.messages())))
        return next(message for message in self.messages() if condition(message))

    async def text(self, id: object) -> str:
        answer = await self.answer(id)
        return str(answer["result"]["content"][0]["text"])

    async def end(self) -> int | None:
        self.process.close_stdin()
        return (await self.sink.until_exit()).code


def test_a_long_call_holds_up_no_other_and_a_cancelled_one_is_not_answered(tmp_path: Path) -> None:
    async def main() -> None:
        log = tmp_path / "log"
        talk = Talk(f"SPAWN_LOG={log}")
        talk.call(1, "sleep", seconds=300)
        talk.call(2, "pid")
        assert await talk.text(2) == str(talk.process.pid)

        talk.send("notifications/cancelled", {"requestId": 1})
        talk.call(3, "echo", text="still here")

        assert await talk.text(3) == "still here"
        assert await talk.end() == 0
        assert all(message.get("id") != 1 for message in talk.messages())
        lines = {line.split(maxsplit=1)[1] for line in log.read_text().splitlines()}
        assert {"start", "call sleep", "cancelled 1", "stop", "exit 0"} <= lines

    run(main())


def test_progress_comes_with_the_callers_token() -> None:
    async def main() -> None:
        talk = Talk()

        talk.call("p", "slow_progress", seconds=0.01, steps=3)
        await talk.answer("p")

        progress = [m["params"] for m in talk.messages() if m.get("method") == "notifications/progress"]
        assert [(step["progressToken"], step["progress"]) for step in progress] == [
            ("p", n) for n in (1, 2, 3)
        ]
        await talk.end()

    run(main())


def test_the_list_comes_in_pages_and_whole() -> None:
    async def main() -> None:
        talk = Talk("LIST_PAGES=4")
        names: list[str] = []
        params: Json = {}

        for page in range(4):
            talk.send("tools/list", params, id=page)
            result = (await talk.answer(page))["result"]
            names += [tool["name"] for tool in result["tools"]]
            params = {"cursor": result.get("nextCursor")}

        assert params == {"cursor": None}
        assert len(names) == len(set(names)) == 10
        await talk.end()

    run(main())


def test_a_changed_list_file_is_read_and_told_on_hangup(tmp_path: Path) -> None:
    async def main() -> None:
        tools = tmp_path / "tools.json"
        tools.write_text('[{"name": "old", "inputSchema": {"type": "object"}}]')
        talk = Talk(f"LIST_FILE={tools}")
        talk.send("tools/list", id=1)
        assert [tool["name"] for tool in (await talk.answer(1))["result"]["tools"]] == ["old"]

        tools.write_text('[{"name": "new", "inputSchema": {"type": "object"}}]')
        os.kill(talk.process.pid, signal.SIGHUP)
        await talk.message(lambda m: m.get("method") == "notifications/tools/list_changed")
        talk.send("tools/list", id=2)

        assert [tool["name"] for tool in (await talk.answer(2))["result"]["tools"]] == ["new"]
        await talk.end()

    run(main())


def test_the_first_handshakes_fail_as_counted(tmp_path: Path) -> None:
    async def main() -> None:
        knob = f"INIT_FAIL_N=2:{tmp_path / 'count'}"
        codes: list[int | None] = []

        for _ in range(3):
            talk = Talk(knob)
            talk.send("initialize", {"protocolVersion": "2025-06-18"}, id=0)
            await talk.sink.until(lambda talk=talk: talk.sink.status is not None or bool(talk.messages()))
            codes.append(await talk.end())

        assert codes == [3, 3, 0]

    run(main())


def test_it_asks_its_client_and_reports_the_answer() -> None:
    async def main() -> None:
        talk = Talk()
        talk.call(1, "ping_client")

        ping = await talk.message(lambda m: m.get("method") == "ping")
        reply = {"jsonrpc": "2.0", "id": ping["id"], "result": {}}
        talk.process.write(json.dumps(reply).encode() + b"\n")

        assert await talk.text(1) == "answered"
        await talk.end()

    run(main())


def test_garbage_errors_and_long_lines_are_as_told() -> None:
    async def main() -> None:
        noisy, wrong, long = Talk("GARBAGE=1"), Talk("BAD_UTF8=1"), Talk("LONG_LINE=300000")
        noisy.call(1, "error", code=-5, message="no")
        noisy.call(2, "is_error", text="oh")
        wrong.call(1, "echo", text="x")
        long.call(1, "echo", text="x")

        assert (await noisy.answer(1))["error"] == {"code": -5, "message": "no"}
        assert (await noisy.answer(2))["result"]["isError"] is True
        assert noisy.sink.stdout.startswith(b"Welcome")
        await wrong.sink.until(lambda: b"\xff\xfe" in wrong.sink.stdout)
        assert len(await long.text(1)) == 300_000
        for talk in (noisy, wrong, long):
            await talk.end()

    run(main())


def test_it_ends_after_so_many_calls_and_with_the_code_it_is_told() -> None:
    async def main() -> None:
        counted, crashing, refusing = Talk("EXIT_AFTER_CALLS=2"), Talk(), Talk("EXIT_IN_HANDSHAKE=9")
        counted.call(1, "pid")
        await counted.answer(1)
        counted.call(2, "pid")
        crashing.call(1, "crash", code=42)
        refusing.send("initialize", id=1)

        assert (await counted.sink.until_exit()).code == 0
        assert len(counted.messages()) == 2
        assert (await crashing.sink.until_exit()).code == 42
        assert (await refusing.sink.until_exit()).code == 9
        assert wait_until(lambda: not any(alive(talk.process.pid) for talk in (counted, crashing, refusing)))

    run(main())
