"""What a consumer may see: the path's selector, cut by its token's, with the profile's rules for tools.

Pure. A selector names a part of the node; here it is looked up, and two of them are put together so that the
result never shows what one of them hides.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcpv_node.actors.snapshot import Entry, Kind, ServerView
from mcpv_node.actors.world import EVERYTHING, Selector, World
from mcpv_node.settings import ServerName, ToolRules


@dataclass(frozen=True, slots=True)
class Cut(Selector):
    """A selector that also stays within a set of servers, and within each of other selectors."""

    servers: frozenset[ServerName] | None = None
    within: tuple[Selector, ...] = ()
    rules: tuple[ToolRules, ...] = ()

    def selects(self, view: ServerView) -> bool:
        if self.servers is not None and view.name not in self.servers:
            return False
        return all(other.selects(view) for other in self.within) and Selector.selects(self, view)

    def thins_out(self, kind: Kind) -> bool:
        return kind == "tools" and bool(self.rules)

    def shows(self, kind: Kind, entry: Entry) -> bool:
        return not self.thins_out(kind) or all(_shows(rule, entry) for rule in self.rules)


def resolve_selector(world: World, wanted: Selector, *, within: Selector = EVERYTHING) -> Selector | None:
    """What `wanted` means for somebody who may see `within`; None when that is unknown or hidden."""
    if wanted is EVERYTHING and within is EVERYTHING:
        return EVERYTHING
    selector = _look_up(world, wanted)
    outer = _look_up(world, within)
    if selector is None or outer is None:
        return None
    cut = _cut(selector, outer)
    if cut.server is not None and not cut.selects(world.servers[cut.server].view):
        return None
    return cut


def _look_up(world: World, selector: Selector) -> Selector | None:
    if selector.server is not None and selector.server not in world.servers:
        return None
    if selector.profile is None:
        return selector
    profile = next((one for one in world.settings.profiles if one.name == selector.profile), None)
    if profile is None:
        return None
    return Cut(
        profile=profile.name,
        server=selector.server,
        tags=frozenset(profile.tags) or None,
        servers=None if profile.servers is None else frozenset(profile.servers),
        rules=() if profile.tools == ToolRules() else (profile.tools,),
    )


def _cut(selector: Selector, outer: Selector) -> Selector:
    if outer in (EVERYTHING, selector):
        return selector
    if selector == EVERYTHING:
        return outer
    return Cut(
        # A token for one server sees that server, by its raw names, on every path it may use.
        server=selector.server or outer.server,
        profile=selector.profile,
        within=(selector, outer),
        rules=(*_rules(selector), *_rules(outer)),
    )


def _rules(selector: Selector) -> tuple[ToolRules, ...]:
    return selector.rules if isinstance(selector, Cut) else ()


def _shows(rules: ToolRules, entry: Entry) -> bool:
    names = {entry.name, entry.raw_name, f"{entry.server}.{entry.raw_name}"}
    allowed = rules.allow is None or not names.isdisjoint(rules.allow)
    return allowed and names.isdisjoint(rules.deny)
