"""One session with a real process, from its start to its end, however either goes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support.owners import run, until
from support.processes import alive
from support.sessions import failure_of, session

from mcpv_node.actors.instance.messages import (
    ExitDetail,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    InstanceRetiring,
    InstanceStarting,
    ListsFailed,
    ReadLists,
    StopInstance,
)
from mcpv_node.actors.kernel import Shutdown


def test_a_start_is_told_step_by_step_and_enlisted_before_the_handshake(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()

            assert [type(message) for message in bad.owner.heard] == [InstanceStarting, InstanceReady]
            assert bad.owner.of(InstanceReady)[0].hello.name == "badserver"
            assert bad.guard.enlisted == [bad.pid]
            assert len(bad.said("initialize")) == 1

    run(main())


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"EXIT_IN_HANDSHAKE": 7}, "exited with code 7 before the handshake was complete"),
        ({"INIT_ERROR": 1}, "handshake failed: the server refused initialize"),
        ({"VERSION": "1999-01-01"}, 'the server wants protocolVersion "1999-01-01"'),
        ({"HANG_HANDSHAKE": 1, "start_timeout_seconds": 0.2}, "did not complete the handshake within 0.2 s"),
    ],
)
def test_a_start_that_fails_says_how_and_leaves_nothing(tmp_path: Path, knobs: Any, words: str) -> None:
    async def main() -> None:
        async with session(tmp_path, **knobs) as bad:
            failed = await bad.heard(InstanceFailed)

            assert words in failed.message
            assert not failed.fatal
            await bad.is_gone()
            assert bad.owner.of(InstanceReady) == bad.owner.of(InstanceExited) == []

    run(main())


def test_an_exit_in_the_handshake_comes_with_its_code_and_last_words(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, EXIT_IN_HANDSHAKE=7) as bad:
            failed = await bad.heard(InstanceFailed)

            assert failed.exit == ExitDetail(code=7)
            assert failed.stderr == ("exiting in the handshake, as told",)

    run(main())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"command": "there-is-no-such-program"},
            "there is no program 'there-is-no-such-program' in its PATH",
        ),
        ({"cwd": "/there/is/no/such/folder"}, "does not exist"),
    ],
)
def test_a_start_that_cannot_work_is_fatal_and_names_what_is_missing(
    tmp_path: Path, changes: Any, words: str
) -> None:
    async def main() -> None:
        async with session(tmp_path, **changes) as bad:
            failed = await bad.heard(InstanceFailed)

            assert failed.fatal
            assert words in failed.message
            assert bad.guard.enlisted == []

    run(main())


def test_a_ledger_that_cannot_be_written_fails_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, refusal=OSError("disk full")) as bad:
            failed = await bad.heard(InstanceFailed)

            assert failed.message == "could not be entered in the ledger: disk full"
            assert bad.said("initialize") == []
            await bad.is_gone()

    run(main())


# --- lists --------------------------------------------------------------------------------------


@pytest.mark.parametrize("pages", [1, 3, 10])
def test_all_pages_of_the_lists_are_told_together(tmp_path: Path, pages: int) -> None:
    async def main() -> None:
        async with session(tmp_path, LIST_PAGES=pages) as bad:
            assert len(await bad.learnt()) == 10
            assert len(bad.tool_lists()) == 1

    run(main())


def test_a_list_that_is_refused_is_told_as_a_failure(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, LIST_ERROR=1) as bad:
            await until(lambda: bad.index.of(ListsFailed))

            assert "told to fail the list" in bad.index.of(ListsFailed)[0].message

    run(main())


SCRIPTED = """
import json, sys
def send(id, result):
    print(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method")
    if method == "initialize":
        send(message["id"], {"protocolVersion": "2025-11-25", "capabilities": %s,
                             "serverInfo": {"name": "s", "version": "1"}})
    elif method == "tools/list":
        %s
    elif method == "tools/call":
        %s
"""


def scripted(
    *,
    capabilities: str = '{"tools": {"listChanged": True}}',
    on_list: str = "send(message['id'], {'tools': []})",
    on_call: str = "pass",
) -> dict[str, Any]:
    """A server of a few lines, for what the big one does not do."""
    return {"args": ("-S", "-c", SCRIPTED % (capabilities, on_list, on_call))}


def test_pages_that_never_end_are_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        loops = "send(message['id'], {'tools': [], 'nextCursor': 'again'})"
        async with session(tmp_path, **scripted(on_list=loops)) as bad:
            await until(lambda: bad.index.of(ListsFailed))

            assert (
                bad.index.of(ListsFailed)[0].message
                == "the pages of tools/list do not end: cursor 'again' came again"
            )

    run(main())


def test_a_list_that_is_not_answered_is_given_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, call_timeout_seconds=0.2, **scripted(on_list="pass")) as bad:
            await until(lambda: bad.index.of(ListsFailed))

            assert bad.index.of(ListsFailed)[0].message == "tools/list was not answered in time"
            assert bad.instance.is_alive()

    run(main())


def test_a_server_without_tools_has_an_empty_list_and_is_not_asked(tmp_path: Path) -> None:
    async def main() -> None:
        wrong = "send(message['id'], {'tools': 'nonsense'})"
        async with session(tmp_path, **scripted(capabilities="{}", on_list=wrong)) as bad:
            assert await bad.learnt() == []

    run(main())


def test_a_list_under_way_when_the_instance_ends_has_failed(tmp_path: Path) -> None:
    async def main() -> None:
        dies = "import os; os._exit(4)"
        async with session(tmp_path, **scripted(on_list=dies)) as bad:
            await until(lambda: bad.index.of(ListsFailed))

            failed = bad.index.of(ListsFailed)[0]
            assert failed.message == "the instance ended while its tools were read: exited with code 4"
            assert not failed.asked

    run(main())


def test_a_list_under_way_when_the_instance_is_told_to_end_is_nobodys_fault(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, **scripted(on_list="pass")) as bad:
            await bad.is_ready()
            # Its lists are asked for before it hears of its end.
            bad.instance.tell(ReadLists())
            bad.instance.tell(StopInstance("idle"))
            await until(lambda: bad.index.of(ListsFailed))

            failed = bad.index.of(ListsFailed)[0]
            assert (failed.message, failed.asked) == (
                "the instance ended while its tools were read: idle",
                True,
            )

    run(main())


def test_many_announcements_of_a_change_are_one_reading(tmp_path: Path) -> None:
    async def main() -> None:
        announces = (
            "[print(json.dumps({'jsonrpc': '2.0', 'method': 'notifications/tools/list_changed'})) for _ in range(20)];"
            "send(message['id'], {'content': [{'type': 'text', 'text': 'done'}]})"
        )
        counts = (
            "n = globals().setdefault('n', []); n.append(1); send(message['id'], {'tools': [{'name': f't{len(n)}',"
            " 'inputSchema': {'type': 'object'}}]})"
        )
        async with session(tmp_path, **scripted(on_list=counts, on_call=announces)) as bad:
            assert await bad.learnt() == ["t1"]
            await bad.text("announce")
            await until(lambda: len(bad.tool_lists()) == 2)
            await bad.text("announce")
            await until(lambda: len(bad.tool_lists()) == 3)

            assert await bad.learnt() == ["t3"]

    run(main())


# --- the end ------------------------------------------------------------------------------------


def test_a_stop_ends_the_process_in_order_and_says_it_was_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()

            exited = await bad.stopped()

            assert (exited.asked, exited.exit) == (True, ExitDetail(code=0))
            assert len(bad.said("stop")) == 1
            await bad.is_gone()
            assert bad.home.ends["instance"] == [Shutdown()]

    run(main())


def test_a_server_that_ignores_every_request_to_stop_is_killed_with_its_group(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(
            tmp_path, IGNORE_TERM=1, IGNORE_STDIN_EOF=1, FORK_GRANDCHILD=1, stop_grace_seconds=0.05
        ) as bad:
            await bad.is_ready()

            exited = await bad.stopped()

            assert exited.exit == ExitDetail(signal=signal.SIGKILL)
            await bad.is_gone()

    run(main())


def test_a_stop_answers_the_calls_in_flight(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()
            call = bad.call("sleep", seconds=300)
            await until(lambda: bad.said("call"))

            bad.instance.tell(StopInstance("idle"))

            assert failure_of(await call) == ("stopping", "unknown", "bad: idle")
            await bad.is_gone()

    run(main())


@pytest.mark.parametrize(
    ("arguments", "detail", "words"),
    [
        ({"code": 3}, ExitDetail(code=3), "exited with code 3"),
        ({"signal": 9}, ExitDetail(signal=9), "was ended by signal 9"),
    ],
)
def test_a_crash_is_seen_at_once_with_how_it_ended(
    tmp_path: Path, arguments: dict[str, int], detail: ExitDetail, words: str
) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()
            other = bad.call("sleep", seconds=300)
            await until(lambda: bad.said("call"))

            answer = await bad.call("crash", **arguments)
            exited = await bad.heard(InstanceExited)

            assert (
                failure_of(answer) == failure_of(await other) == ("instance_died", "unknown", f"bad: {words}")
            )
            assert (exited.asked, exited.exit, exited.message) == (False, detail, words)
            assert bad.owner.of(InstanceRetiring) == [], "an exit is a crash, not a retirement"
            await bad.is_gone()

    run(main())


def test_a_crash_is_told_while_a_grandchild_still_keeps_the_pipes(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, FORK_GRANDCHILD=1, stop_grace_seconds=0.05) as bad:
            await bad.is_ready()
            await until(lambda: bad.said("grandchild"))
            grandchild = int(bad.said("grandchild")[0].split()[-1])

            os.kill(bad.pid, signal.SIGKILL)
            await bad.heard(InstanceExited)

            await bad.is_gone()
            assert not alive(grandchild)

    run(main())


def test_a_server_that_closes_its_stdout_and_lives_on_is_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        closes = "import os, time; os.close(1); time.sleep(300)"
        async with session(tmp_path, **scripted(on_call=closes), stop_grace_seconds=0.05) as bad:
            await bad.is_ready()

            answer = await bad.call("close")

            assert failure_of(answer) == ("instance_died", "unknown", "bad: closed its stdout")
            assert [message.at_fault for message in bad.owner.of(InstanceRetiring)] == [True]
            await bad.heard(InstanceExited)
            await bad.is_gone()

    run(main())


@pytest.mark.parametrize("how", ["kill", "crash"])
def test_when_the_actor_dies_its_group_goes_and_the_ledger_knows(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        async with session(tmp_path, FORK_GRANDCHILD=1, IGNORE_TERM=1) as bad:
            await bad.is_ready()
            call = bad.call("sleep", seconds=300)
            await until(lambda: bad.said("call"))

            if how == "kill":
                bad.instance.kill("enough")
            else:
                actor: Any = bad.instance.cell.actor
                actor.note("a message it has no handler for is refused")
                actor._crash(ValueError("boom"), None)

            await bad.is_gone()
            with pytest.raises(Exception, match="instance"):
                await call

    run(main())


def test_an_actor_killed_while_it_stops_leaves_nothing_either(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, IGNORE_TERM=1, IGNORE_STDIN_EOF=1, stop_grace_seconds=60.0) as bad:
            await bad.is_ready()
            bad.instance.tell(StopInstance("idle"))
            await until(lambda: bad.said("stop"))

            bad.instance.kill("out of patience")

            await bad.is_gone()

    run(main())
