"""Servers that misbehave: each gets its clear error, none harms another, and none leaves a process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.nodes import BadServer, Node, Session, groups_gone, running_node
from support.processes import alive, group_members, wait_until

LONG = 600

# A line that is longer than this is no message for the node of these tests.
LINE_BYTES = 200_000

NAMES = ("noisy", "liar", "mangled", "endless", "hanging", "quitting", "refusing", "deaf", "parent", "mute")


class House:
    """One node, one server for each misbehaviour, and one that behaves."""

    def __init__(self, folder: Path) -> None:
        self.steady = BadServer(folder, "steady")
        self.servers = {name: BadServer(folder, name) for name in NAMES}
        self.entries = [
            self.steady.entry(idleSeconds=LONG, maxInstances=1, maxConcurrent=4),
            *(
                server.entry(
                    idleSeconds=LONG,
                    maxInstances=1,
                    maxConcurrent=2,
                    drainTimeoutSeconds=1,
                    startTimeoutSeconds=1 if name == "hanging" else 30,
                    stopGraceSeconds=0.3,
                )
                for name, server in self.servers.items()
            ),
        ]
        self.node: Node

    def stop_all(self) -> None:
        """End every process, and forget what failed."""
        for name in ("steady", *self.servers):
            if self.node.why(name)["instances"]:
                self.node.order(name, "stop")
            self.node.order(name, "retry")


@pytest.fixture(scope="module")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("misbehaviour")
    house = House(folder)
    limits = {"lineBytes": LINE_BYTES}
    with running_node(folder, house.entries, bootstrapConcurrency=4, limits=limits) as house.node:
        house.node.until_learnt(["steady", *NAMES])
        yield house


@pytest.fixture
def house(_house: House) -> Iterator[House]:
    """The node, with nothing running at the end of each test: a test leaves no process."""
    for server in _house.servers.values():
        server.forget()
    yield _house
    _house.stop_all()


@contextmanager
def undisturbed(house: House, session: Session) -> Iterator[None]:
    """Have calls to another server all the while: they go on as if nothing were wrong."""
    pid = session.text("steady_pid")
    call = session.call("steady_sleep", {"seconds": 0.7})
    yield
    assert session.text("steady_echo", text="as ever") == "as ever"
    assert call.text() == "slept 0.7"
    assert session.text("steady_pid") == pid
    assert house.node.why("steady")["calls"]["failed"] == 0


def test_noise_between_messages_is_passed_over(house: House) -> None:
    house.servers["noisy"].behave(GARBAGE=1)
    with house.node.session() as session, undisturbed(house, session):
        texts = [session.text("noisy_echo", text=str(number)) for number in range(5)]

    assert texts == ["0", "1", "2", "3", "4"]
    assert len(house.servers["noisy"].starts()) == 1


def test_noise_instead_of_a_reply_is_a_bad_reply_and_three_in_a_row_replace_the_instance(
    house: House,
) -> None:
    liar = house.servers["liar"]
    liar.behave(GARBAGE_REPLY=1)
    with house.node.session() as session, undisturbed(house, session):
        errors = [session.call("liar_echo", {"text": "x"}).failure() for _ in range(2)]
        lives = house.node.pids("liar") == liar.starts()
        errors.append(session.call("liar_echo", {"text": "x"}).failure())
        liar.behave()
        text = session.text("liar_echo", text="hello")

    assert [error["code"] for error in errors] == [-31009] * 3
    assert [error["data"]["executed"] for error in errors] == ["unknown"] * 3
    assert lives
    assert text == "hello"
    assert len(liar.starts()) == 2
    assert groups_gone(liar.starts()[:1])


@pytest.mark.parametrize(
    ("name", "knobs"), [("mangled", {"BAD_UTF8": 1}), ("endless", {"LONG_LINE": 3 * LINE_BYTES})]
)
def test_a_reply_that_cannot_be_read_fails_its_call_only_and_three_in_a_row_replace_the_instance(
    house: House, name: str, knobs: dict[str, int]
) -> None:
    server = house.servers[name]
    server.behave(**knobs)
    with house.node.session() as session, undisturbed(house, session):
        errors = [session.call(f"{name}_echo", {"text": "x"}).failure() for _ in range(2)]
        lives = house.node.pids(name) == server.starts()
        errors.append(session.call(f"{name}_echo", {"text": "x"}).failure())
        server.behave()
        text = session.text(f"{name}_echo", text="hello")

    assert [error["code"] for error in errors] == [-31009] * 3
    assert [error["data"]["reason"] for error in errors] == ["bad_reply"] * 3
    assert lives
    assert text == "hello"
    assert len(server.starts()) == 2
    assert groups_gone(server.starts()[:1])


def test_a_reply_that_cannot_be_read_fails_its_own_call_beside_another(house: House) -> None:
    server = house.servers["mangled"]
    server.behave(BAD_UTF8=1)
    with house.node.session() as session:
        other = session.call("mangled_sleep", {"seconds": LONG})
        server.until_told("call sleep")

        error = session.call("mangled_echo", {"text": "x"}).failure()

        assert error["data"]["reason"] == "bad_reply"
        assert not other.answered()


def test_a_good_reply_between_bad_ones_keeps_the_instance(house: House) -> None:
    server = house.servers["mangled"]
    server.behave(BAD_UTF8=1)
    with house.node.session() as session:
        for _ in range(4):
            assert session.call("mangled_echo", {"text": "x"}).failure()["data"]["reason"] == "bad_reply"
            # The server's own error is a message like any other.
            assert session.call("mangled_error", {"code": -32050}).failure()["code"] == -32050

    assert len(server.starts()) == 1


def test_a_handshake_that_hangs_fails_the_start_in_time_and_in_words(house: House) -> None:
    server = house.servers["hanging"]
    server.behave(HANG_HANDSHAKE=1)
    with house.node.session() as session, undisturbed(house, session):
        error = session.call("hanging_echo", {"text": "x"}).failure()

    assert (error["code"], error["data"]["reason"]) == (-31003, "start_failed")
    assert error["data"]["executed"] == "no"
    assert "hanging" in error["message"]
    assert "did not complete the handshake within 1 s" in error["message"]
    assert groups_gone(server.starts())


def test_an_exit_in_the_handshake_is_told_with_its_code_and_its_last_words(house: House) -> None:
    server = house.servers["quitting"]
    server.behave(EXIT_IN_HANDSHAKE=7)
    with house.node.session() as session, undisturbed(house, session):
        error = session.call("quitting_echo", {"text": "x"}).failure()

    assert (error["code"], error["data"]["reason"]) == (-31003, "start_failed")
    assert error["data"]["executed"] == "no"
    assert (error["data"]["lastExit"]["code"], error["data"]["lastExit"]["signal"]) == (7, None)
    assert error["data"]["stderr"] == ["exiting in the handshake, as told"]
    assert "exited with code 7" in error["message"]
    why = house.node.why("quitting")
    assert (why["lastExit"]["code"], why["stderr"]) == (7, ["exiting in the handshake, as told"])


def test_a_refused_handshake_fails_the_start_with_the_servers_words(house: House) -> None:
    server = house.servers["refusing"]
    server.behave(INIT_ERROR=1)
    with house.node.session() as session:
        error = session.call("refusing_echo", {"text": "x"}).failure()

    assert error["data"]["reason"] == "start_failed"
    assert "told to refuse" in error["message"]
    assert groups_gone(server.starts())


def test_a_server_that_ignores_every_request_to_go_is_killed(house: House) -> None:
    server = house.servers["deaf"]
    server.behave(IGNORE_TERM=1, IGNORE_STDIN_EOF=1)
    with house.node.session() as session, undisturbed(house, session):
        pid = int(session.text("deaf_pid"))
        outcome = house.node.order("deaf", "stop")

    assert outcome["state"] == "disabled"
    assert server.told("signal TERM") == [pid]
    assert not group_members(pid)
    assert house.node.why("deaf")["lastExit"]["signal"] == signal.SIGKILL


def test_a_grandchild_that_keeps_the_pipe_hides_no_exit_and_does_not_stay(house: House) -> None:
    server = house.servers["parent"]
    server.behave(FORK_GRANDCHILD=1)
    with house.node.session() as session, undisturbed(house, session):
        error = session.call("parent_crash", {"code": 4}).failure()
        [leader], [grandchild] = server.starts(), server.grandchildren()

        assert error["data"]["reason"] == "instance_died"
        assert error["data"]["lastExit"]["code"] == 4
        assert groups_gone([leader])
        assert wait_until(lambda: not alive(grandchild))


def test_a_grandchild_in_a_session_of_its_own_ends_with_a_server_that_crashed(house: House) -> None:
    server = house.servers["parent"]
    server.behave(SETSID_GRANDCHILD=1)
    with house.node.session() as session:
        session.call("parent_crash", {"code": 4}).failure()
        [grandchild] = server.grandchildren()

        assert wait_until(lambda: not alive(grandchild))


def test_a_server_that_floods_its_stderr_is_read_and_served(house: House) -> None:
    house.servers["noisy"].behave(STDERR_FLOOD=5_000_000)
    with house.node.session() as session, undisturbed(house, session):
        assert session.text("noisy_echo", text="hello") == "hello"


def test_a_server_that_answers_no_ping_of_ours_keeps_its_calls(house: House) -> None:
    server = house.servers["mute"]
    server.behave(PING_BLOCK=1)
    with house.node.session() as session:
        assert session.text("mute_ping_client") == "answered"


def test_a_server_that_exits_after_its_reply_has_answered_and_serves_the_next_call(house: House) -> None:
    server = house.servers["mute"]
    server.behave(EXIT_AFTER_CALLS=1)
    with house.node.session() as session:
        first = session.text("mute_pid")
        server.until_told("exit 0")
        house.node.until(lambda: house.node.pids("mute") == [], "noticed")
        second = session.text("mute_pid")

    assert [int(first), int(second)] == server.starts()


def test_a_list_that_fails_leaves_the_last_good_one_marked_stale(house: House) -> None:
    server = house.servers["mute"]
    server.behave(LIST_ERROR=1)
    with house.node.session() as session:
        assert session.text("mute_echo", text="hello") == "hello"

        def entries() -> list[dict[str, object]]:
            catalog = house.node.get("catalog/tools")["entries"]
            return [entry for entry in catalog if entry["server"] == "mute"]

        house.node.until(lambda: all(entry["stale"] for entry in entries()), "stale")
        assert len(entries()) == 10
        assert "mute_echo" in session.tools()
