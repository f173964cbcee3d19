"""`mcpv-node server VERB NAME`: what an operator may do with one server.

`start`, `stop`, `retry` and `approve` are about a running node; the verbs that change the configuration have their own files.
"""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module

import click

from mcpv_node.client import ServerVerb

from .common import CommandFailed, common_options, connect, invocation
from .output import clean, print_body
from .progress import working

# The states in which what was asked for has come about; with --wait, anything else is a failure.
_REACHED: dict[ServerVerb, frozenset[str]] = {
    "start": frozenset({"ready", "degraded"}),
    "stop": frozenset({"cold", "disabled", "suspended"}),
    # Without anybody who wants it, a server that has forgiven itself is cold, and rightly so.
    "retry": frozenset({"ready", "degraded", "cold"}),
}

# What the node accepts: no start or drain takes longer.
LONGEST_WAIT = 600.0


# Verbs with a file of their own, imported when they are used.
_IN_FILES: dict[str, tuple[str, str]] = {
    "add": ("server_add", "command"),
    "edit": ("server_change", "command"),
    "remove": ("server_remove", "command"),
    "enable": ("server_switch", "enable"),
    "disable": ("server_switch", "disable"),
}


class _ServerGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *_IN_FILES]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _IN_FILES:
            return super().get_command(ctx, cmd_name)
        module, name = _IN_FILES[cmd_name]
        command: object = getattr(import_module(f".{module}", __package__), name)
        assert isinstance(command, click.Command)
        return command


@click.group("server", cls=_ServerGroup, short_help="Order one server about, or change its entry.")
@common_options
def command() -> None:
    """Start, stop or retry one server, approve of its changed tools, or change its entry in the configuration.

    \b
      mcpv-node server start clock --wait 30
      mcpv-node server add time -- uvx mcp-server-time
    """


def _act(verb: ServerVerb, name: str, wait: float | None) -> None:
    client = connect()
    with working(f"{verb} {name}") if wait else nullcontext():
        answer = client.act(name, verb, wait=wait)
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
    @command.command(
        verb,
        help=f"{meaning}\n\n\b\n  mcpv-node server {verb} clock\n  mcpv-node server {verb} clock --wait 30",
    )
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

    \b
      mcpv-node server approve notes
      mcpv-node server approve notes add search
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
