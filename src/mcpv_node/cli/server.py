"""`mcpv-node server start|stop|retry|approve NAME`: what an operator may do with one server."""

from __future__ import annotations

import click

from mcpv_node.client import ServerVerb

from .common import CommandFailed, common_options, connect, invocation
from .output import clean, print_body

# The states in which what was asked for has come about; with --wait, anything else is a failure.
_REACHED: dict[ServerVerb, frozenset[str]] = {
    "start": frozenset({"ready", "degraded"}),
    "stop": frozenset({"cold", "disabled", "suspended"}),
    # Without anybody who wants it, a server that has forgiven itself is cold, and rightly so.
    "retry": frozenset({"ready", "degraded", "cold"}),
}

# What the node accepts: no start or drain takes longer.
LONGEST_WAIT = 600.0


@click.group("server")
@common_options
def command() -> None:
    """Start, stop or retry one server, or approve of its changed tools."""


def _act(verb: ServerVerb, name: str, wait: float | None) -> None:
    answer = connect().act(name, verb, wait=wait)
    if invocation().as_json:
        print_body(answer.body)
    else:
        act = answer.value
        state = act.state.replace("_", " ")
        click.echo(clean(f"{name} is {state}: {act.reason}" if act.reason else f"{name} is {state}"))
    if wait is not None and answer.value.state not in _REACHED[verb]:
        raise CommandFailed(
            f"{verb} of {name} has not come about within {wait:g} s: it is {answer.value.state}; "
            f"`mcpv-node why {name}` tells more"
        )


def _add(verb: ServerVerb, meaning: str) -> None:
    @command.command(verb, help=meaning)
    @click.argument("name")
    @click.option(
        "--wait",
        type=click.FloatRange(0, LONGEST_WAIT),
        metavar="SECONDS",
        help="Wait for the outcome, this long at most.",
    )
    @common_options
    def act(name: str, wait: float | None) -> None:
        _act(verb, name, wait)


_add("start", "Have an instance of NAME up, also when an operator had stopped it.")
_add("stop", "Drain NAME, stop it, and keep it stopped.")
_add("retry", "Forget the failures of NAME and try again now.")


@command.command("approve")
@click.argument("name")
@click.argument("tools", nargs=-1, metavar="[TOOL]...")
@common_options
def approve(name: str, tools: tuple[str, ...]) -> None:
    """Take the changed definitions of NAME's tools for good, or of these TOOLs, by the server's own names.

    With `pinTools: block` a tool whose definition has changed is listed again only after that; `mcpv-node why NAME`
    shows which have.
    """
    answer = connect().approve(name, tools)
    if invocation().as_json:
        print_body(answer.body)
        return
    approved = answer.value.approved
    if approved:
        click.echo(clean(f"approved of {name}'s {', '.join(approved)}"))
    missed = sorted(set(tools) - set(approved))
    if missed:
        raise CommandFailed(
            clean(f"{name} has no changed tool named {', '.join(missed)}; nothing to approve there")
        )
    if not approved:
        click.echo(f"no tool of {name} has changed")
