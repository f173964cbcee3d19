"""One node on a loop: what starts and stops in which order, what it leaves, and why it refuses to start."""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from support.embedded import guards, options, run, running, until
from support.nodes import BadServer
from support.processes import group_members

from mcpv_node import node as composition
from mcpv_node.actors.callers import Caller
from mcpv_node.actors.events import RecentEvents
from mcpv_node.actors.kernel import Handle, Health, Shutdown
from mcpv_node.actors.status import ShowLearning
from mcpv_node.actors.world import EVERYTHING
from mcpv_node.gateway import TreeData, perform_request
from mcpv_node.node import NodeRuntime, StartRefused
from mcpv_node.node_file import NodeFile, read_node_file, write_node_file
from mcpv_node.state_dir import StateDirBusy, lock_state_dir, unlock_state_dir
from mcpv_node.supervisors import ChildExited, ChildStarted, SupervisionEvent
from mcpv_node.version import VERSION

QUICK = {"drainTimeoutSeconds": 20, "stopGraceSeconds": 0.5}


def ids(branch: TreeData) -> list[str]:
    """Return the ids right under a branch, in order."""
    return [child.id for child in branch.children]


def under(branch: TreeData, *path: str) -> TreeData:
    """Walk down a tree."""
    for step in path:
        branch = next(child for child in branch.children if child.id == step)
    return branch


async def get(url: str, path: str) -> int:
    """Ask for a path without a token; return the status."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    status = (await reader.readline()).split()
    writer.close()
    await writer.wait_closed()
    return int(status[1])


async def call(node: NodeRuntime, name: str, /, **arguments: object) -> dict[str, Any]:
    """Call a tool as a host would; return its result or its error."""
    context = node.context
    params = json.dumps({"name": name, "arguments": arguments}).encode()
    caller = Caller(principal="test", client="test", key="test")
    reply = await perform_request(context, caller, EVERYTHING, Raw(params))
    answer: dict[str, Any] = json.loads(bytes(reply.result or reply.error or b"null"))
    return answer


async def learnt(node: NodeRuntime) -> None:
    """Wait until the tools are listed and nothing runs any more."""
    context = node.context
    await until(lambda: bool(context.world.world.tools.entries) and not context.world.world.tools.pending)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[SupervisionEvent]:
    """What the supervisors tell, in order."""
    events: list[SupervisionEvent] = []
    monkeypatch.setattr(composition, "log_event", events.append)
    return events


# ---- the tree ---------------------------------------------------------------------------------------------------


def test_the_tree_stands_as_it_is_drawn(tmp_path: Path) -> None:
    bad, other = BadServer(tmp_path, "bad"), BadServer(tmp_path, "other")

    async def main() -> None:
        async with running(options(tmp_path, bad.entry(), other.entry(disabled=True))) as (node, _):
            tree = node.tree()

        drawn = [line.split()[1] for line in (composition.__doc__ or "").splitlines() if "── " in line]
        assert tree.id == "node"
        assert ids(tree) == drawn
        assert ids(under(tree, "init")) == ["bad"]
        assert ids(under(tree, "gateway")) == ["tasks", "held", "sessions", "http", "lines"]
        assert [ids(one) for one in under(tree, "init").children] == [["instances", "server-type"]]
        assert {child.state for child in tree.children} == {"running"}
        assert {child.restarts for child in tree.children} == {0}

    run(main)


def test_nothing_is_probed_where_bootstrap_is_disabled(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        async with running(options(tmp_path, bad.entry(), bootstrapMode="disabled")) as (node, _):
            status = await node._bootstrap.ask(ShowLearning(), 5.0)

            assert (status.mode, status.state, status.total) == ("disabled", "completed", 0)
            assert ids(under(node.tree(), "bootstrap")) == []
        assert bad.starts() == []

    run(main)


def test_it_starts_from_top_to_bottom_and_stops_from_bottom_to_top(
    tmp_path: Path, told: list[SupervisionEvent]
) -> None:
    async def main() -> None:
        async with running(options(tmp_path)) as (node, _):
            order = ids(node.tree())
        started = [one.child for one in told if isinstance(one, ChildStarted) and one.supervisor == "node"]
        ended = [one.child for one in told if isinstance(one, ChildExited) and one.supervisor == "node"]
        assert started == order
        assert ended == order[::-1]
        assert all(one.asked for one in told if isinstance(one, ChildExited))

    run(main)


def test_the_doors_close_before_the_servers_stop(tmp_path: Path, told: list[SupervisionEvent]) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        async with running(options(tmp_path, bad.entry())) as (node, _):
            await learnt(node)
            await call(node, "bad_echo")
            told.clear()
        ended = [one.child for one in told if isinstance(one, ChildExited)]
        assert (
            ended.index("lines") < ended.index("http") < ended.index("gateway") < ended.index("server-type")
        )
        assert ended.index("init") < ended.index("store") < ended.index("guard")

    run(main)


# ---- a node that runs -------------------------------------------------------------------------------------------


def test_it_says_in_its_file_where_it_is_until_it_has_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(options(tmp_path)) as (_, file):
            assert read_node_file(tmp_path / "state") == file
            assert (file.pid, file.version) == (os.getpid(), VERSION)
            assert file.config_path == str(tmp_path / "node.yaml")
            assert await get(file.http, "/readyz") == 200
            assert (tmp_path / "state" / "node.sock").is_socket()
        assert not (tmp_path / "state" / "node.json").exists()
        assert not (tmp_path / "state" / "node.sock").exists()

    run(main)


def test_the_address_given_at_the_start_beats_the_configured_one(tmp_path: Path) -> None:
    async def main() -> None:
        given = options(tmp_path, listen={"http": "127.0.0.1:1"})
        object.__setattr__(given, "http", "127.0.0.1:0")
        async with running(given) as (_, file):
            assert await get(file.http, "/healthz") == 200

    run(main)


def test_the_token_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "token"

    async def main() -> None:
        async with running(options(tmp_path)) as (_, file):
            assert file.token_file == str(path)
            first = path.read_text()
            assert await get(file.http, "/api/v1/node") == 401
        async with running(options(tmp_path)):
            assert path.read_text() == first
        assert len(first.strip()) >= 32
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    run(main)


def test_no_token_is_for_loopback_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(options(tmp_path, token="none")) as (_, file):
            assert file.token_file is None
            assert await get(file.http, "/api/v1/node") != 401
        assert not (tmp_path / "state" / "token").exists()
        await refused(
            options(tmp_path, token="none", listen={"http": "0.0.0.0:0"}),
            "listen.http: 0.0.0.0 can be reached by other machines; that needs a token",
        )

    run(main)


def test_its_id_is_the_same_over_restarts_and_its_servers_carry_it(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        seen: list[str] = []
        for _ in range(2):
            async with running(options(tmp_path, bad.entry())) as (node, _file):
                await learnt(node)
                seen.append(node.context.node_id)
                mark = await call(node, "bad_env", name="MCPV_INSTANCE")
                assert mark["content"][0]["text"].startswith(f"{node.context.node_id}/")
        assert seen[0] == seen[1] == (tmp_path / "state" / "node.id").read_text().strip()

    run(main)


def test_a_crash_inside_is_counted_and_told_and_the_node_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(options(tmp_path)) as (node, file):
            node.context.indexes["tools"].kill("for a test")
            await until(lambda: under(node.tree(), "catalog", "index-tools").restarts == 1)
            await until(lambda: under(node.tree(), "catalog", "index-tools").state == "running")
            recent = await node.context.events.ask(RecentEvents(), 5.0)
            kinds = [(str(one.event.kind), one.event.actor) for one in recent]
            assert ("actor_crashed", "index-tools") in kinds
            assert ("actor_restarted", "index-tools") in kinds
            assert 'mcpv_actor_restarts_total{actor="Index"} 1.0' in node.metrics.exposition()[0].decode()
            assert await get(file.http, "/readyz") == 200

    run(main)


def test_a_message_to_an_actor_that_has_ended_is_counted_by_its_class(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(options(tmp_path)) as (node, _file):
            gone = Handle[Any].create(node.system, "gone")
            gone.cell.close(Shutdown())
            gone.tell("anybody there?")

            (kind,) = node.system.dead_letters
            counted = f'mcpv_dead_letters_total{{actor="{kind}"}} 1.0'
            assert counted in node.metrics.exposition()[0].decode()

    run(main)


# ---- its end ----------------------------------------------------------------------------------------------------


def test_a_stop_waits_for_the_call_in_hand_and_leaves_no_process(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad", FORK_GRANDCHILD=1)

    async def main() -> None:
        async with running(options(tmp_path, bad.entry(**QUICK))) as (node, _):
            await learnt(node)
            calling = asyncio.ensure_future(call(node, "bad_sleep", seconds=0.5))
            await until(lambda: bool(bad.told("call sleep")))
            await node.stop("drain")
            assert "content" in await calling
        assert not any(group_members(pid) for pid in bad.starts())
        assert guards(tmp_path / "state") == []

    run(main)


def test_hurry_ends_the_calls_that_a_stop_is_waiting_for(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        async with running(options(tmp_path, bad.entry(**QUICK))) as (node, _):
            await learnt(node)
            calling = asyncio.ensure_future(call(node, "bad_sleep", seconds=60))
            await until(lambda: bool(bad.told("call sleep")))
            stopping = asyncio.ensure_future(node.stop("drain"))
            await until(lambda: "gateway" not in running_ids(node))
            assert not calling.done()
            node.hurry()
            ended = await calling
            await stopping
        assert ended["data"]["reason"] in {"stopping", "instance_died"}

    run(main)


def running_ids(node: NodeRuntime) -> list[str]:
    """Return who runs right under the root."""
    return [child.id for child in node.tree().children if child.state == "running"]


def count(branch: TreeData) -> int:
    """Return how many places a tree has."""
    return 1 + sum(count(child) for child in branch.children)


def test_it_is_well_when_every_actor_of_its_tree_answers_and_not_once_it_has_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(options(tmp_path, bootstrapMode="disabled")) as (node, _):
            assert await node.check_health() == Health(count(node.tree()))
        assert await node.check_health() == Health(0, ("node",))

    run(main)


def test_stopping_again_and_at_once_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(options(tmp_path)) as (node, _):
            await asyncio.gather(node.stop(), node.stop("now"), node.stop())
            await node.stop()
            await node.wait_ended()
            unlock_state_dir(lock_state_dir(tmp_path / "state"))

    run(main)


def test_a_node_that_was_never_started_stops_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        await NodeRuntime(options(tmp_path)).stop()

    run(main)


# ---- refused starts ---------------------------------------------------------------------------------------------


async def refused(given: composition.NodeOptions, sentence: str) -> None:
    """Start a node that cannot: for this reason, leaving nothing, the folder free."""
    node = NodeRuntime(given)
    with pytest.raises(StartRefused) as refusal:
        await node.start(lambda: None)
    node.system.close()
    assert str(refusal.value) == sentence
    if given.state_dir.is_dir():
        assert guards(given.state_dir) == []
        assert not (given.state_dir / "node.json").exists()
        assert not (given.state_dir / "node.sock").exists()
        unlock_state_dir(lock_state_dir(given.state_dir))


def test_a_taken_port_refuses_the_start_and_everything_is_undone(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            await refused(
                options(tmp_path, bad.entry(activationMode="always-on"), listen={"http": address}),
                f"listen.http: {address} cannot be had: Address already in use; port 0 takes a free one",
            )
        assert not any(group_members(pid) for pid in bad.starts())

    run(main)


def test_a_second_node_on_the_folder_is_refused_and_the_first_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(options(tmp_path)) as (_, file):
            second = NodeRuntime(options(tmp_path))
            with pytest.raises(StartRefused, match=f"a node with pid {os.getpid()} already runs on"):
                await second.start(lambda: None)
            await second.stop()
            assert read_node_file(tmp_path / "state") == file
            with pytest.raises(StateDirBusy):
                lock_state_dir(tmp_path / "state")
            assert await get(file.http, "/readyz") == 200

    run(main)


def test_a_file_in_the_place_of_the_folder_refuses_the_start(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")

    run(lambda: refused(options(tmp_path), f"{tmp_path / 'state'}: File exists"))


@pytest.mark.parametrize(
    ("obstacle", "sentence"),
    [
        ("token", "{path}: the token file cannot be read: Is a directory"),
        ("node.id", "{path}: Is a directory"),
        ("node.json", "{path}: Is a directory"),
    ],
)
def test_a_folder_in_the_place_of_a_file_refuses_the_start(
    obstacle: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "state" / obstacle
    path.mkdir(parents=True)

    async def main() -> None:
        node = NodeRuntime(options(tmp_path))
        with pytest.raises(StartRefused) as refusal:
            await node.start(lambda: None)
        node.system.close()
        assert str(refusal.value) == sentence.format(path=path)
        unlock_state_dir(lock_state_dir(tmp_path / "state"))

    run(main)


def test_what_a_killed_node_left_is_in_nobodys_way(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    stale = NodeFile(
        pid=2**22 + 1,
        start_time="1",
        version="0",
        http="http://127.0.0.1:1",
        socket="/nowhere",
        token_file=None,
        config_path=None,
    )
    write_node_file(state, stale)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(state / "node.sock"))
    (state / "node.lock").write_text("4194305\n")

    async def main() -> None:
        async with running(options(tmp_path)) as (_, file):
            assert read_node_file(state) == file
        assert not (state / "node.json").exists()

    run(main)


# ---- small parts ------------------------------------------------------------------------------------------------


def test_the_version_is_the_packages_own() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).resolve().parents[2] / "setup.cfg")

    assert setup["metadata"]["version"] == VERSION


def test_the_longest_stop_covers_the_slowest_server(tmp_path: Path) -> None:
    slow = BadServer(tmp_path, "slow").entry(drainTimeoutSeconds=100, stopGraceSeconds=7)
    quick = BadServer(tmp_path, "quick").entry()

    async def main() -> None:
        longest: Callable[[], float] = NodeRuntime(options(tmp_path, slow, quick)).longest_stop
        assert longest() > 107

    run(main)
