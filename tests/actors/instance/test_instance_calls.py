"""Calls over one real session: ids, progress, cancellation, time limits, garbage."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from support.owners import run, turns, until
from support.sessions import failure_of, session, text_of

from mcpv_node.actors.instance import bad_lines
from mcpv_node.actors.instance import stdio as stdio_instance
from mcpv_node.actors.instance.messages import (
    Answer,
    CallFailed,
    CancelCall,
    InstanceExited,
    InstanceRetiring,
)
from mcpv_node.actors.instance.stderr import LINE_BYTES, RING_LINES, StderrRing
from mcpv_node.actors.leases import Release, new_lease_id
from mcpv_node.settings import NodeLimits


def test_calls_run_side_by_side_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()
            texts = [f"text {number}" for number in range(50)]

            calls = [bad.call("echo", text=text) for text in texts]

            assert [text_of(await call) for call in calls] == texts

    run(main())


def test_a_fast_call_does_not_wait_for_a_slow_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()
            slow = bad.call("sleep", seconds=300)
            await until(lambda: bad.said("call"))

            assert await bad.text("echo", text="fast") == "fast"
            assert not slow.done()
            slow.cancel()

    run(main())


def test_the_servers_own_error_passes_untouched(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()

            answer = await bad.call("error", code=-32042, message="mine")

            assert isinstance(answer, Answer)
            assert answer.error is not None
            assert msgspec.json.decode(answer.error) == {"code": -32042, "message": "mine"}

    run(main())


def test_the_servers_ping_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()

            assert await bad.text("ping_client") == "answered"

    run(main())


def test_a_call_to_an_instance_that_stops_was_not_executed(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, IGNORE_STDIN_EOF=1, stop_grace_seconds=0.2) as bad:
            await bad.is_ready()
            stopping = asyncio.get_running_loop().create_task(bad.stopped())
            await until(lambda: bad.said("stop"))

            assert failure_of(await bad.call("echo", text="late"))[:2] == ("stopping", "no")
            await stopping

    run(main())


def test_a_server_that_does_not_read_gets_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio_instance, "MAX_UNSENT", 200_000)

    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()
            os.kill(bad.pid, signal.SIGSTOP)
            waiting = [bad.call("echo", text="x" * 150_000) for _ in range(2)]
            await turns()

            refused = await bad.call("echo", text="one too many")
            os.kill(bad.pid, signal.SIGCONT)

            assert failure_of(refused)[:2] == ("overloaded", "no")
            assert [len(text_of(await call)) for call in waiting] == [150_000] * 2

    run(main())


# --- progress and time --------------------------------------------------------------------------


def test_progress_reaches_the_caller_of_that_call_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()
            heard: dict[str, list[Any]] = {"a": [], "b": []}

            def listen(name: str) -> Any:
                return lambda params: heard[name].append(msgspec.json.decode(params)["progress"])

            first = bad.call("sleep", seconds=0.05, steps=3, on_progress=listen("a"))
            second = bad.call("sleep", seconds=0.05, steps=2, on_progress=listen("b"))
            await asyncio.gather(first, second)

            assert heard == {"a": [1, 2, 3], "b": [1, 2]}

    run(main())


def test_without_a_listener_the_server_gets_no_token(tmp_path: Path) -> None:
    async def main() -> None:
        shows = "send(message['id'], {'content': [{'type': 'text', 'text': json.dumps(message['params'])}]})"
        async with session(tmp_path, **scripted(shows)) as bad:
            await bad.is_ready()

            silent = msgspec.json.decode(await bad.text("show", a=1))
            asked = msgspec.json.decode(text_of(await bad.call("show", on_progress=lambda _: None)))

            assert silent == {"name": "show", "arguments": {"a": 1}}
            assert isinstance(asked["_meta"]["progressToken"], int)

    run(main())


def scripted(on_call: str) -> dict[str, Any]:
    """A server of a few lines that answers calls as told."""
    script = f"""
import json, sys, os, time
def send(id, result):
    print(json.dumps({{"jsonrpc": "2.0", "id": id, "result": result}}), flush=True)
def write(text):
    print(text, flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "initialize":
        send(message["id"], {{"protocolVersion": "2025-11-25", "capabilities": {{}},
                              "serverInfo": {{"name": "s", "version": "1"}}}})
    elif message.get("method") == "tools/call":
        {on_call}
"""
    return {"args": ("-S", "-c", script)}


def test_a_call_without_a_sign_of_life_times_out_and_holds_its_slot_until_the_server_answers(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        # It answers, though late, and whatever it was told of a cancellation.
        slow = "time.sleep(0.6); send(message['id'], {})"
        async with session(tmp_path, call_timeout_seconds=0.2, **scripted(slow)) as bad:
            await bad.is_ready()
            lease = new_lease_id()

            answer = await bad.call("slow", lease=lease)

            assert isinstance(answer, CallFailed)
            assert failure_of(answer) == (
                "call_timeout",
                "unknown",
                "bad: no reply and no progress for 0.2 s",
            )
            assert answer.slot_held
            assert await bad.heard(Release) == Release(lease)
            assert bad.owner.of(InstanceRetiring) == []

    run(main())


def test_progress_is_a_sign_of_life(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, call_timeout_seconds=0.6) as bad:
            await bad.is_ready()

            assert (
                await bad.text("slow_progress", seconds=1.2, steps=12, on_progress=lambda _: None)
                == "slept 1.2"
            )

    run(main())


def test_a_call_ends_at_its_deadline_whatever_progress_it_makes(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()

            answer = await bad.call(
                "slow_progress", seconds=300, steps=30_000, within=0.3, on_progress=lambda _: None
            )

            assert failure_of(answer)[0] == "call_timeout"
            assert "the call did not end within 0.3 s" in failure_of(answer)[2]
            await until(lambda: bad.said("cancelled"))

    run(main())


def test_a_cancellation_reaches_the_server_under_our_id_and_the_caller_hears_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()
            lease = new_lease_id()
            call = bad.call("sleep", lease=lease, seconds=300)
            await until(lambda: bad.said("call"))

            bad.instance.tell(CancelCall(lease, "changed my mind"))
            answer = await call

            assert isinstance(answer, CallFailed)
            assert (failure_of(answer)[0], answer.slot_held) == ("call_timeout", True)
            await until(lambda: bad.said("cancelled"))
            assert bad.said("cancelled")[0].split()[-1].isdigit()

    run(main())


def test_a_cancellation_of_an_unknown_call_is_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()
            bad.instance.tell(CancelCall(new_lease_id()))

            assert await bad.text("echo", text="fine") == "fine"
            assert bad.said("cancelled") == []

    run(main())


def test_a_server_that_never_ends_a_cancelled_call_is_replaced_without_blame(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, drain_timeout_seconds=0.2) as bad:
            await bad.is_ready()
            lease = new_lease_id()
            call = bad.call("sleep", lease=lease, seconds=300)
            await until(lambda: bad.said("call"))

            bad.instance.tell(CancelCall(lease))
            await call
            retiring = await bad.heard(InstanceRetiring)

            assert retiring.message == "a call did not end within 0.2 s of its cancellation"
            assert not retiring.at_fault
            await bad.heard(InstanceExited)
            await bad.is_gone()

    run(main())


# --- garbage ------------------------------------------------------------------------------------


def test_noise_before_replies_is_skipped(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, GARBAGE=1) as bad:
            await bad.is_ready()

            assert [await bad.text("echo", text=str(number)) for number in range(5)] == list("01234")

    run(main())


@pytest.mark.parametrize("knobs", [{"BAD_UTF8": 1}, {"LONG_LINE": 50_000}])
def test_a_reply_that_is_none_fails_its_call_and_three_in_a_row_replace_the_instance(
    tmp_path: Path, knobs: dict[str, int]
) -> None:
    async def main() -> None:
        async with session(tmp_path, limits=NodeLimits(line_bytes=10_000), **knobs) as bad:
            await bad.learnt()  # a good reply in between would begin the count again

            for _ in range(2):
                assert failure_of(await bad.call("echo", text="x"))[:2] == ("bad_reply", "unknown")
            assert bad.instance.is_alive()
            assert bad.owner.of(InstanceRetiring) == []

            await bad.call("echo", text="x")
            retiring = await bad.heard(InstanceRetiring)
            assert retiring.at_fault
            assert retiring.message.startswith("3 replies in a row were not JSON-RPC")
            await bad.is_gone()

    run(main())


def test_garbage_instead_of_a_reply_fails_the_call_that_waits_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bad_lines, "BAD_REPLY_PATIENCE", 0.1)

    async def main() -> None:
        async with session(tmp_path, GARBAGE_REPLY=1) as bad:
            await bad.learnt()  # a good line after it would make the garbage a habit

            assert failure_of(await bad.call("echo", text="x"))[0] == "bad_reply"
            assert bad.instance.is_alive()

    run(main())


def test_a_reply_to_no_request_of_ours_does_no_harm(tmp_path: Path) -> None:
    async def main() -> None:
        strange = ["9" * 5000, '"abc"', "-1", "999999"]
        writes = "; ".join(f"""write('{{"jsonrpc":"2.0","id":{id},"result":{{}}}}')""" for id in strange)
        answers = f"{writes}; send(message['id'], {{'content': [{{'type': 'text', 'text': 'ok'}}]}})"
        async with session(tmp_path, **scripted(answers)) as bad:
            await bad.is_ready()

            assert await bad.text("any") == "ok"
            assert bad.instance.cell.crashes == 0

    run(main())


def test_progress_for_no_call_of_ours_does_no_harm(tmp_path: Path) -> None:
    async def main() -> None:
        writes = "; ".join(
            f"""write('{{"jsonrpc":"2.0","method":"notifications/progress","params":{params}}}')"""
            for params in (
                "{}",
                '{"progressToken":77}',
                '{"progressToken":"x"}',
                '{"progressToken":%s}' % ("9" * 5000),
            )
        )
        answers = f"{writes}; send(message['id'], {{'content': [{{'type': 'text', 'text': 'ok'}}]}})"
        async with session(tmp_path, **scripted(answers)) as bad:
            await bad.is_ready()

            assert text_of(await bad.call("any", on_progress=lambda _: None)) == "ok"

    run(main())


def test_a_flood_of_complaints_blocks_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, STDERR_FLOOD=1_000_000) as bad:
            await bad.is_ready()

            assert await bad.text("echo", text="fine") == "fine"

    run(main())


def test_payload_bytes_pass_untouched(tmp_path: Path) -> None:
    async def main() -> None:
        body = '{"content":[],  "big":12345678901234567890123, "half":"\\\\ud83d", "x" : 1.0e2}'
        answers = (
            f"""write('{{"jsonrpc":"2.0","id":' + str(message["id"]) + ',"result":' + r'''{body}''' + '}}')"""
        )
        async with session(tmp_path, **scripted(answers)) as bad:
            await bad.is_ready()

            answer = await bad.call("any")

            assert isinstance(answer, Answer)
            assert isinstance(answer.result, Raw)
            assert bytes(answer.result).decode() == body

    run(main())


# --- the ring of complaints ---------------------------------------------------------------------


def test_the_ring_keeps_the_last_lines_and_the_unfinished_one() -> None:
    ring = StderrRing()

    complete = ring.feed(b"one\r\ntwo\nthr") + ring.feed(b"ee\nfour")

    assert complete == ["one", "two", "three"]
    assert ring.last(2) == ("three", "four")


def test_the_ring_is_bounded_in_lines_and_in_length() -> None:
    ring = StderrRing()
    ring.feed(b"x" * 10 * LINE_BYTES)
    ring.feed(b"y" * 10 * LINE_BYTES + b"\n" + b"line\n" * 10 * RING_LINES)

    lines = ring.last(10 * RING_LINES)

    assert len(lines) == RING_LINES
    assert all(len(line) <= LINE_BYTES for line in lines)


def test_complaints_that_are_not_text_are_shown_as_well_as_they_can() -> None:
    ring = StderrRing()

    assert ring.feed(b"caf\xe9\n") == ["caf�"]
