"""The whole tree at one moment, as one frozen value. Loop thread only; no message is sent."""

from __future__ import annotations

from dataclasses import dataclass

from mcpv_node.actors.kernel import Cell

from .keeper import ChildKeeper
from .messages import ChildStatus


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One actor and what is under it; `kind` is its class, `since` is on the monotonic clock."""

    id: str
    kind: str
    state: str
    restarts: int
    since: float
    children: tuple[TreeNode, ...] = ()


def tree(root: Cell) -> TreeNode:
    """What stands under `root`, the place of a supervisor that nobody here supervises."""
    statistics = root.statistics()
    return TreeNode(
        id=root.name,
        kind=statistics.kind,
        state=statistics.state,
        restarts=max(0, statistics.incarnation - 1),
        since=statistics.since,
        children=_under(root),
    )


def _under(cell: Cell) -> tuple[TreeNode, ...]:
    keeper = cell.actor
    if not isinstance(keeper, ChildKeeper):
        return ()
    return tuple(_child(status) for status in keeper.children())


def _child(status: ChildStatus) -> TreeNode:
    cell = status.handle.cell
    return TreeNode(
        id=status.id,
        kind=cell.kind if cell.incarnation else str(status.kind),
        state=str(status.phase),
        restarts=status.restarts,
        since=status.since,
        children=_under(cell),
    )
