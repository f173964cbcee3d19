"""What a consumer may see: the path's selector, cut by its token's, with the profile's rules for tools.

Pure. A selector names a part of the node; here it is looked up, and two of them are put together so that the
result never shows what one of them hides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from mcpv_node.actors.snapshot import ServerView, ToolEntry, fingerprint
from mcpv_node.actors.world import EVERYTHING, Selector, ToolView, World
from mcpv_node.settings import NodeSettings, ProfileSettings, ServerName, ToolRules


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


class Visibility:
    """Looks selectors up and keeps the views that rules have thinned out, one per selector."""

    __slots__ = ("_profiles", "_thinned")

    def __init__(self, settings: NodeSettings) -> None:
        self._profiles: Mapping[str, ProfileSettings] = MappingProxyType(
            {profile.name: profile for profile in settings.profiles}
        )
        self._thinned: dict[Selector, tuple[ToolView, ToolView]] = {}

    def resolve(self, world: World, wanted: Selector, *, within: Selector = EVERYTHING) -> Selector | None:
        """What `wanted` means for somebody who may see `within`; None when that is unknown or hidden."""
        selector = self._look_up(world, wanted)
        outer = self._look_up(world, within)
        if selector is None or outer is None:
            return None
        cut = _cut(selector, outer)
        if cut.server is not None and not cut.selects(world.servers[cut.server].view):
            return None
        return cut

    def view(self, world: World, selector: Selector) -> ToolView:
        """The tools that `selector` sees, in this world."""
        whole = world.tool_view(selector)
        if not isinstance(selector, Cut) or not selector.rules:
            return whole
        known = self._thinned.get(selector)
        if known is not None and known[0] is whole:
            return known[1]
        thinned = _thin(whole, selector.rules)
        self._thinned[selector] = (whole, thinned)
        return thinned

    def _look_up(self, world: World, selector: Selector) -> Selector | None:
        if selector.server is not None and selector.server not in world.servers:
            return None
        if selector.profile is None:
            return selector
        profile = self._profiles.get(selector.profile)
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


def _thin(view: ToolView, rules: tuple[ToolRules, ...]) -> ToolView:
    entries = tuple(entry for entry in view.entries if all(_shows(rule, entry) for rule in rules))
    kept = {(entry.server, entry.raw_name) for entry in entries}
    return replace(
        view,
        etag=fingerprint(entries),
        entries=entries,
        targets=MappingProxyType(
            {name: entry for name, entry in view.targets.items() if (entry.server, entry.raw_name) in kept}
        ),
        _pages={},
    )


def _shows(rules: ToolRules, entry: ToolEntry) -> bool:
    names = {entry.name, entry.raw_name, f"{entry.server}.{entry.raw_name}"}
    allowed = rules.allow is None or not names.isdisjoint(rules.allow)
    return allowed and names.isdisjoint(rules.deny)
