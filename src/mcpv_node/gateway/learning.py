"""Waiting, for a bounded time, for servers that are being listed for the very first time.

Only a node that has never seen a server has to wait; from then on the catalog answers, whatever runs. Waiting
starts nothing: the node's own first sweep is under way, or nobody waits.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.index_messages import AwaitFirstLists
from mcpv_node.actors.kernel import ActorError
from mcpv_node.actors.snapshot import Kind, ServerView
from mcpv_node.actors.world import Selector, World
from mcpv_node.settings import NodeSettings, SpecKey

# A client shows what it has after a few seconds rather than nothing after many; the rest comes with `list_changed`.
LIST_PATIENCE = 5.0


def unlearnt_for_list(world: World, kind: Kind, selector: Selector) -> frozenset[SpecKey]:
    """What a list for `selector` still lacks and will have soon."""
    return _pending_of(world, kind, selector.selects)


def unlearnt_for_call(
    world: World, kind: Kind, selector: Selector, name: str, settings: NodeSettings
) -> frozenset[SpecKey]:
    """What may turn out to have the thing that is called `name` here and that nobody knows yet."""
    is_anybodys = selector.server is not None or kind == "resources" or settings.tool_namespace == "flat"
    return _pending_of(
        world,
        kind,
        lambda view: selector.selects(view) and (is_anybodys or _may_own(view, name, settings)),
    )


async def wait_for_first_lists(
    node: NodeContext, kind: Kind, keys: frozenset[SpecKey], patience: float
) -> None:
    """Return when the first attempt to list these is over, or after `patience` seconds."""
    with suppress(ActorError):  # too slow, or the index restarts: what is known by then has to do
        await node.indexes[kind].ask(AwaitFirstLists(keys), patience)


def _pending_of(world: World, kind: Kind, concerns: Callable[[ServerView], bool]) -> frozenset[SpecKey]:
    """What is being learnt for the first time, of the servers that `concerns` says yes to."""
    pending = world.snapshot(kind).pending
    if not pending:
        return pending
    return pending & {server.view.spec_key for server in world.servers.values() if concerns(server.view)}


def _may_own(view: ServerView, name: str, settings: NodeSettings) -> bool:
    # Listed names have "_" for any separator that clients refuse.
    return name.startswith((f"{view.name}{settings.tool_separator}", f"{view.name}_", f"{view.name}."))
