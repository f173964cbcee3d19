"""A node in an actor's own process, and every death there is: of it, of its host's actors, of the application."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.embedded import TIMEOUT, guards, write_config
from support.hosts import host, nothing_is_left, processes_of
from support.nodes import BadServer
from support.processes import alive, group_members, wait_until

# A host application: an actor of its own holds the node and passes on what it is told to say. The application is
# driven line by line; what its actor hears is written to the file `heard`.
HOST = """
import os, sys, time
from thespian.actors import Actor, ActorExitRequest, ActorSystem, ActorSystemMessage, ChildActorExited
from mcpv_node import *


class Holder(Actor):
    def receiveMessage(self, message, sender):
        if message == "create":
            self.node = self.createActor("mcpv_node.embedding.thespian.ThespianNode")
            self.send(sender, self.node)
        elif message == "start":
            # Made in this process, not in the application's.
            self.send(self.node, StartNode(config="node.yaml"))
            self.send(self.node, Subscribe("tools"))
        elif message == "pid":
            self.send(sender, os.getpid())
        elif isinstance(message, tuple):
            self.send(self.node, message[0])
        elif isinstance(message, ActorSystemMessage) and not isinstance(message, ChildActorExited):
            pass
        else:
            with open("heard", "a") as file:
                print(repr(message), file=file, flush=True)


def main():
    system = ActorSystem("multiprocQueueBase", {"Process Startup Method": sys.argv[1]}, **LOGS)
    holder = system.createActor(Holder)
    node = system.ask(holder, "create", 20)
    system.tell(holder, "start")
    called = system.ask(node, CallTool("bad_pid"), 30)
    print(system.ask(holder, "pid", 20), called.json()["content"][0]["text"], flush=True)
    while line := sys.stdin.readline():
        exec(line)
    system.shutdown()


LOGS = {}
if __name__ == "__main__":
    main()
"""


class Application:
    """The host as a process, its holder's and its server's."""

    def __init__(self, process: Any, folder: Path, bad: BadServer) -> None:
        self.process = process
        self.folder = folder
        self.bad = bad
        self.holder, self.server = (int(word) for word in process.stdout.readline().split())

    @property
    def node(self) -> int:
        """The process of the node's actor: that of the server's parent."""
        file = json.loads((self.folder / "state" / "node.json").read_text())
        return int(file["pid"])

    def do(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def heard(self, *words: str) -> bool:
        """Wait until the holder has heard something with each of these words in it."""
        path = self.folder / "heard"

        def has_line() -> bool:
            lines = path.read_text().splitlines() if path.exists() else []
            return any(all(word in line for word in words) for line in lines)

        return wait_until(has_line)


@contextmanager
def application(
    folder: Path, *, method: str = "fork", code: str = HOST, ends: bool = True
) -> Iterator[Application]:
    """Have the host run, with a server that does not end of itself."""
    bad = BadServer(folder, "bad", IGNORE_STDIN_EOF=1, FORK_GRANDCHILD=1)
    write_config(folder, bad.entry(stopGraceSeconds=0.3))
    (folder / "app.py").write_text(code)
    with host("app.py", folder, method, options=()) as process:
        yield Application(process, folder, bad)
        if ends:
            # Where a test has left it alive, it shuts its system down.
            assert process.stdin is not None
            process.stdin.close()
            process.wait(TIMEOUT)
    assert nothing_is_left(folder), processes_of(folder)


def is_all_gone(app: Application) -> bool:
    """Whether nothing is left, and the node stopped in order rather than was cut off."""
    assert nothing_is_left(app.folder), processes_of(app.folder)
    assert not any(group_members(pid) for pid in app.bad.starts())
    assert guards(app.folder / "state") == []
    return not (app.folder / "state" / "node.json").exists()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_application_that_is_killed_takes_its_node_and_its_actors_with_it(
    method: str, tmp_path: Path
) -> None:
    with application(tmp_path, method=method) as app:
        assert len({app.process.pid, app.holder, app.node, app.server}) == 4
        assert app.heard("SnapshotChanged")

        app.process.kill()

        assert is_all_gone(app)


def test_an_application_that_ends_without_a_word_leaves_nothing_either(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        app.do("os._exit(0)")

        assert app.process.wait(TIMEOUT) == 0
        assert is_all_gone(app)


def test_an_application_that_shuts_its_system_down_stops_the_node_in_order(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        app.process.stdin.close()

        assert app.process.wait(TIMEOUT) == 0
        assert is_all_gone(app)


def test_an_actor_that_is_killed_takes_its_node_with_it_and_the_application_goes_on(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        node = app.node

        os.kill(app.holder, signal.SIGKILL)

        assert wait_until(lambda: not alive(node) and not alive(app.server))
        assert wait_until(lambda: guards(tmp_path / "state") == [])
        assert not (tmp_path / "state" / "node.json").exists()
        assert app.process.poll() is None


def test_a_node_that_is_killed_is_an_exited_child_and_its_servers_go(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        os.kill(app.node, signal.SIGKILL)

        assert app.heard("ChildActorExited")
        assert wait_until(lambda: not group_members(app.server))
        assert alive(app.holder)


def test_a_node_that_gives_up_says_so_and_its_actor_starts_another(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        process = app.node
        seen: set[int] = set()

        def kill_guard() -> bool:
            for pid in set(guards(tmp_path / "state")) - seen:
                seen.add(pid)
                os.kill(pid, signal.SIGKILL)
            heard = tmp_path / "heard"
            return heard.exists() and "the node gave up" in heard.read_text()

        assert wait_until(kill_guard)
        app.do("system.tell(holder, 'start'); system.tell(holder, (ListTools(id='again'),))")

        assert app.heard("ToolList", "again")
        assert app.node == process


def test_a_polite_signal_to_the_actor_stops_the_node_in_order(tmp_path: Path) -> None:
    with application(tmp_path) as app:
        os.kill(app.node, signal.SIGTERM)

        assert app.heard("NodeDown", "asked to stop")
        assert app.heard("ChildActorExited")
        assert not alive(app.server)
        assert not (tmp_path / "state" / "node.json").exists()


LOGGED = HOST.replace(
    "LOGS = {}",
    """
LOGS = {"logDefs": {
    "version": 1,
    "formatters": {"plain": {"format": "%(levelname)s %(name)s %(message)s"}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "thespian.log", "formatter": "plain"}},
    "root": {"handlers": ["file"], "level": "INFO"},
    "disable_existing_loggers": False,
}}
""",
)

DEAD_LETTERS = LOGGED.replace(
    "LOGS = {",
    """
from thespian.actors import DeadEnvelope


class Other(Actor):
    def receiveMessage(self, message, sender):
        if isinstance(message, tuple):
            self.send(message[0], Subscribe("events"))
        elif isinstance(message, ServerEvent):
            write("other", message)


class Undertaker(Actor):
    def receiveMessage(self, message, sender):
        if message == "begin":
            self.handleDeadLetters(True)
            self.send(sender, "begun")
        elif isinstance(message, tuple):
            self.node = message[0]
        elif isinstance(message, DeadEnvelope) and isinstance(message.deadMessage, ServerEvent):
            write("dead", message.deadMessage)
            if hasattr(self, "node"):
                self.send(self.node, message)


def write(name, event):
    with open(name, "a") as file:
        print(event.id, file=file, flush=True)


LOGS = {""",
)


class Failures:
    """Calls that fail, each of which is an event."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self.numbers = count()

    def one(self) -> None:
        """Have a call fail, and wait until the holder has heard of it."""
        call = f"call{next(self.numbers)}."
        sleep = f"CallTool('bad_sleep', {{'seconds': 0.1}}, timeout=0.05, id={call!r})"
        self.app.do(f"system.tell(holder, ({sleep},))")
        assert self.app.heard("Failed", call)

    def until(self, condition: Callable[[], bool]) -> bool:
        """Have calls fail until it is so; one after the other, for Thespian's queues are short."""
        return wait_until(lambda: self.one() is None and condition())


def test_a_host_that_hears_dead_letters_goes_on_hearing_them_and_may_pass_them_on(tmp_path: Path) -> None:
    other, dead = tmp_path / "other", tmp_path / "dead"
    with application(tmp_path, code=DEAD_LETTERS) as app:
        failures = Failures(app)
        # The holder's own subscription has made the node the hearer; the host's takes its place.
        app.do("undertaker = system.createActor(Undertaker); system.ask(undertaker, 'begin', 20)")
        app.do("other = system.createActor(Other); system.tell(other, (node,))")
        assert failures.until(other.exists)
        app.do("system.tell(other, ActorExitRequest())")
        assert failures.until(dead.exists)
        letters = dead.read_text()
        assert failures.until(lambda: dead.read_text() != letters)

        app.do("system.tell(undertaker, (node,))")

        assert failures.until(lambda: is_unchanged(dead, failures))


def test_a_subscriber_that_has_died_is_told_nothing_more(tmp_path: Path) -> None:
    other, dead, log = tmp_path / "other", tmp_path / "dead", tmp_path / "thespian.log"
    with application(tmp_path, code=DEAD_LETTERS) as app:
        failures = Failures(app)
        app.do("other = system.createActor(Other); system.tell(other, (node,))")
        assert failures.until(other.exists)
        app.do("system.tell(other, ActorExitRequest())")

        # Thespian needs up to two seconds to see that an actor has ended, and a letter has to come back.
        assert failures.until(lambda: "its subscriptions end" in log.read_text())

        app.do("system.ask(system.createActor(Undertaker), 'begin', 20)")
        for _ in range(3):
            failures.one()
        assert not dead.exists()


def is_unchanged(path: Path, failures: Failures) -> bool:
    """Whether a few more events add nothing."""
    before = path.read_text()
    for _ in range(5):
        failures.one()
    return path.read_text() == before


def test_what_the_node_logs_goes_to_the_hosts_logging_and_nowhere_else(tmp_path: Path) -> None:
    with application(tmp_path, code=LOGGED) as app:
        lines = tmp_path / "thespian.log"
        assert wait_until(lambda: lines.exists() and "server state bad" in lines.read_text())
        app.process.stdin.close()
        out, err = app.process.stdout.read(), app.process.stderr.read()

    text = lines.read_text()
    assert "INFO mcpv_node.telemetry.logs server state bad starting -> ready" in text
    assert "DEBUG" not in text
    assert (out, err) == ("", "")


LASTING = HOST.replace(
    'StartNode(config="node.yaml")', 'StartNode(config="node.yaml", outlives_host=True)'
).replace(
    """        elif isinstance(message, ActorSystemMessage) and""",
    """        elif isinstance(message, WakeupMessage) or message == "keep asking":
            self.send(self.node, ListTools(id="still here"))
            self.wakeupAfter(timedelta(seconds=0.2))
        elif isinstance(message, ActorSystemMessage) and""",
)


def test_a_node_that_may_outlive_its_application_does(tmp_path: Path) -> None:
    code = LASTING.replace(
        "import os, sys, time",
        "import os, sys, time\nfrom datetime import timedelta\nfrom thespian.actors import WakeupMessage",
    )
    with application(tmp_path, code=code, ends=False) as app:
        heard = tmp_path / "heard"
        app.do("system.tell(holder, 'keep asking')")
        assert app.heard("ToolList", "still here")

        app.process.kill()
        app.process.wait(TIMEOUT)
        before = heard.read_text().count("still here")

        # In that time it would have looked for the application several times.
        assert wait_until(lambda: heard.read_text().count("still here") > before + 10)
        assert alive(app.node)
        for pid in processes_of(tmp_path):
            if pid not in guards(tmp_path / "state"):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    assert nothing_is_left(tmp_path), processes_of(tmp_path)


def test_two_nodes_of_one_application_stop_without_each_other(tmp_path: Path) -> None:
    two = HOST.replace(
        "    print(system.ask(holder",
        """
    for name in ("one", "two"):
        address = system.createActor("mcpv_node.embedding.thespian.ThespianNode")
        globals()[name] = address
        system.tell(address, StartNode(config="node.yaml", state_dir=name, http="127.0.0.1:0"))
        assert isinstance(system.ask(address, ListTools(), 20), ToolList)
    print(system.ask(holder""",
    )
    with application(tmp_path, code=two) as app:
        assert all((tmp_path / name / "node.json").exists() for name in ("state", "one", "two"))

        app.do("system.tell(one, ActorExitRequest())")

        assert wait_until(lambda: not (tmp_path / "one" / "node.json").exists())
        # Its starter hears of its end, and then what the other answers.
        app.do("print(type(system.listen(20)).__name__, flush=True)")
        app.do("print(type(system.ask(two, CallTool('bad_pid'), 20)).__name__, flush=True)")
        assert [app.process.stdout.readline() for _ in range(2)] == ["NodeDown\n", "ToolResult\n"]
    assert not any((tmp_path / name / "node.json").exists() for name in ("state", "one", "two"))
