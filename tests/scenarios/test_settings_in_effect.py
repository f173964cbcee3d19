"""Settings that nothing else here sets, seen from outside: that they are in effect, and not only read."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.nodes import BadServer, Node, running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def names_of(node: Node) -> list[str]:
    """The tools as a client sees them."""
    with node.session() as session:
        return session.tools()


@pytest.mark.parametrize(
    ("settings", "pid"),
    [
        ({"toolSeparator": "-"}, "fs-pid"),
        # One dotted name makes some clients drop the whole list.
        ({"toolSeparator": "."}, "fs_pid"),
        ({"toolNamespace": "flat"}, "pid"),
    ],
)
def test_tools_are_named_as_configured_and_called_by_that_name(
    tmp_path: Path, settings: dict[str, str], pid: str
) -> None:
    server = BadServer(tmp_path, "fs")
    with running_node(tmp_path, [server.entry()], **settings) as node:
        node.until_learnt(["fs"])

        assert pid in names_of(node)
        with node.session() as session:
            assert session.text(pid)
            # The server's own name is always understood.
            assert session.text("fs.pid")


def test_of_two_servers_without_a_prefix_the_later_one_gives_way(tmp_path: Path) -> None:
    servers = [BadServer(tmp_path, name) for name in ("one", "two")]
    with running_node(tmp_path, [one.entry() for one in servers], toolNamespace="flat") as node:
        node.until_learnt(["one", "two"])
        names = sorted(name for name in names_of(node) if name.startswith("pid"))

        assert names[0] == "pid"
        with node.session() as session:
            pids = {name: int(session.text(name)) for name in names}

    assert len(names) == 2
    assert {pids["pid"]} == set(servers[0].starts()[-1:])


@pytest.mark.parametrize(("host", "status"), [("tools.example.com", 200), ("other.example.com", 421)])
def test_a_name_that_is_allowed_may_be_used_for_the_node(tmp_path: Path, host: str, status: int) -> None:
    with running_node(tmp_path, [], auth={"allowedHosts": ["tools.example.com"]}) as node:
        exchange = node.send("GET", "/healthz", b"", {"Host": host})

        assert exchange.response.status == status
        exchange.hang_up()


def test_the_activation_mode_of_all_holds_for_who_says_nothing(tmp_path: Path) -> None:
    silent, lazy = BadServer(tmp_path, "silent"), BadServer(tmp_path, "lazy")
    entries = [silent.entry(), lazy.entry(activationMode="on-demand")]
    with running_node(tmp_path, entries, defaultActivationMode="always-on") as node:
        node.until_learnt(["silent", "lazy"])
        node.until_state("silent", "ready")
        node.until_state("lazy", "cold")


def test_a_key_that_was_not_used_for_its_time_is_bound_to_nothing_any_more(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "fs")
    entry = server.entry(strategy="stateful", sessionTTLSeconds=0.3, idleSeconds=600)
    with running_node(tmp_path, [entry]) as node, node.session() as session:
        node.until_learnt(["fs"])
        params = {"name": "fs_pid", "arguments": {}, "_meta": {"mcpv/key": "mine"}}
        session.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).text()

        assert node.why("fs")["instances"]
        node.until(
            lambda: [one["bindings"] for one in node.why("fs")["instances"]] == [0],
            "the binding has lapsed and the instance has not",
        )
