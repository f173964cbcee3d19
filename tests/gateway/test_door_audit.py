"""What the audit is told of a door beside its calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_servers import fake_node, run, until
from support.fakes import FakeClock

from mcpv_node.actors.audit import Audited
from mcpv_node.actors.kernel import LoopActor, handles
from mcpv_node.gateway.door_audit import REFUSALS_PER_MINUTE, DoorAudit, is_order, server_in


class FakeAudit(LoopActor[None]):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Audited] = []

    @handles(Audited)
    def _on_audited(self, message: Audited) -> None:
        self.lines.append(message)


def refuse(audit: DoorAudit) -> None:
    audit.refused(principal="", client="somewhere", method="POST", name="/mcp", outcome="unauthorized")


def test_a_flood_of_refusals_makes_a_bounded_number_of_lines_and_all_are_counted(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock()
        async with fake_node(tmp_path, clock=clock) as node:
            kept = FakeAudit()
            context = replace(node.services.node, audit=await node.start(kept, "audit"))
            audit = DoorAudit(context)

            for _ in range(10 * REFUSALS_PER_MINUTE):
                refuse(audit)
            clock.advance(60.0 / REFUSALS_PER_MINUTE)
            refuse(audit)
            await until(lambda: len(kept.lines) > REFUSALS_PER_MINUTE)

        assert len(kept.lines) == REFUSALS_PER_MINUTE + 1
        assert sum(line.times for line in kept.lines) == 10 * REFUSALS_PER_MINUTE + 1

    run(main)


@pytest.mark.parametrize(
    ("method", "path", "order"),
    [
        ("POST", "/api/v1/servers/fs/stop", True),
        ("POST", "/api/v1/reload", True),
        ("GET", "/api/v1/servers", False),
        ("HEAD", "/api/v1/servers", False),
        ("PUT", "/api/v1/clients/1", False),
        ("POST", "/api/v1/clients", False),
        ("POST", "/mcp", False),
    ],
)
def test_what_changes_the_node_is_an_order(method: str, path: str, order: Any) -> None:
    assert is_order(method, path) is order


@pytest.mark.parametrize(
    ("path", "server"), [("/api/v1/servers/fs/stop", "fs"), ("/api/v1/reload", ""), ("/mcp/server/fs", "")]
)
def test_an_order_names_its_server(path: str, server: str) -> None:
    assert server_in(path) == server
