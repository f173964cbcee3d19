"""What several servers are together: what they can do, and what they say about how to use them. Pure."""

from __future__ import annotations

from mcpv_node.actors.world import Selector, World
from mcpv_node.protocol import Era, ServerHello, merge_capabilities

# What may turn out to be there once a server is learnt: a client that was not told of it would never look.
_ALL_LISTS = b'{"tools":{},"resources":{"subscribe":true},"prompts":{},"logging":{},"completions":{}}'

INTRODUCTION = (
    "What several servers offer, each started when it is needed. The first call of a server that is not running "
    "takes as long as its start. Errors with codes from -31001 on are the node's own; their data says why."
)


def capabilities_for(world: World, selector: Selector, era: Era) -> bytes:
    """What to offer whoever sees this selection."""
    hellos = _hellos(world, selector)
    said = [hello.capabilities.raw for _, hello in hellos]
    if len(said) < len(list(world.selected(selector))) or not said:
        said.append(_ALL_LISTS)
    return merge_capabilities(said, era=era)


def instructions_for(world: World, selector: Selector) -> str | None:
    """The servers' own words, each under its name; those of one server alone as they are."""
    hellos = _hellos(world, selector)
    if selector.server is not None:
        return next((hello.instructions for _, hello in hellos), None)
    parts = [INTRODUCTION]
    parts += [f"# {name}\n\n{hello.instructions}" for name, hello in hellos if hello.instructions]
    return "\n\n".join(parts)


def _hellos(world: World, selector: Selector) -> list[tuple[str, ServerHello]]:
    """What the servers that are known have said, in the order of their names."""
    return [
        (server.view.name, hello)
        for server in sorted(world.selected(selector), key=lambda server: server.view.name)
        if (hello := world.hellos.get(server.view.spec_key)) is not None
    ]
