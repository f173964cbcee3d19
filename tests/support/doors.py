"""An open HTTP door with fake servers behind it, to be spoken to over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.fake_servers import FakeNode, Finish, fake_node, make_settings, until

from mcpv_node.actors.kernel import Handle
from mcpv_node.gateway import HttpDoor, Sessions, TokenTable
from mcpv_node.settings import ListenSettings, NodeSettings


@dataclass
class Stage:
    """An open door."""

    node: FakeNode
    url: str
    sessions: Handle[Any]
    door: Handle[Any]
    told: list[tuple[str, str | None]]  # each time: where it is, and the fingerprint of its certificate

    async def finish_slow(self, name: str = "alpha") -> None:
        """Have the oldest slow call answered, once there is one."""
        await until(lambda: self.node.instances[name].waiting)
        Handle[Finish](self.node.instances[name].cell).tell(Finish())


def local(**changes: Any) -> NodeSettings:
    return make_settings(listen=ListenSettings(http="127.0.0.1:0"), **changes)


@asynccontextmanager
async def open_door(
    state_dir: Path,
    *,
    settings: NodeSettings | None = None,
    tokens: TokenTable | None = None,
    drain_bound: float = 5.0,
    **more: Any,
) -> AsyncIterator[Stage]:
    async with fake_node(state_dir, settings=settings or local(), tokens=tokens, **more) as node:
        told: list[tuple[str, str | None]] = []
        sessions = await node.start(Sessions(node.services), "sessions")
        door = await node.start(
            HttpDoor(
                node.services,
                sessions,
                on_bound=lambda *place: told.append(place),
                drain_bound=lambda: drain_bound,
            ),
            "http",
        )
        yield Stage(node, told[0][0], sessions, door, told)
