"""`mcpv-node VERB`: the group of commands, and the one place where errors become sentences and exit codes."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

import click

from mcpv_node.client import CallRefused, ClientError, NodeRefused, NodeUnreachable

from .common import FAILED, OK, UNREACHABLE, USAGE_ERROR, CommandFailed, Invocation, common_options

PROGRAM = "mcpv-node"

# In the order in which one meets them.
VERBS = (
    "start",
    "stdio",
    "status",
    "why",
    "servers",
    "server",
    "tools",
    "call",
    "catalog",
    "reload",
    "logs",
    "diagnose",
    "top",
    "stop",
    "service",
    "validate",
    "import",
    "export",
    "completion",
    "version",
)

# `import` cannot name a module.
_MODULES = {"import": "import_"}


class VerbGroup(click.Group):
    """Commands that are imported when they are used; each module's command is its `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        if cmd_name == "stdio":
            return _stdio
        command = import_module(f".{_MODULES.get(cmd_name, cmd_name)}", __package__).command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
@common_options
def group() -> None:
    """One place that owns your MCP servers.

    \b
      mcpv-node start                 run it, with two small servers to try
      mcpv-node import FILE --write   take over the servers of an MCP client
      mcpv-node status                how it stands
      mcpv-node why NAME              why a server is as it is, and what to do
    """


@click.command(
    "stdio",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
    short_help="An MCP server on stdio that joins the running node.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def _stdio(context: click.Context, arguments: tuple[str, ...]) -> int:
    # Usually it never comes here: only when an option stands before the verb.
    from .stdio import main as stdio_main

    said = context.find_root().ensure_object(Invocation)
    before = ["--json"] if said.as_json else []
    if said.state_dir is not None:
        before += ["--state-dir", str(said.state_dir)]
    return stdio_main([*before, *arguments])


def main(arguments: list[str]) -> int:
    """Run the command that `arguments` name; return its exit code."""
    as_json = "--json" in arguments
    try:
        # None: on a terminal, and nowhere else.
        colour = False if os.environ.get("NO_COLOR") else None
        result: Any = group.main(arguments, prog_name=PROGRAM, standalone_mode=False, color=colour)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return USAGE_ERROR
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else PROGRAM
        _say(f"{error.format_message().rstrip('.')}; see `{command} --help`", as_json=as_json)
        return USAGE_ERROR
    except click.ClickException as error:
        _say(error.format_message(), as_json=as_json)
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted", as_json=as_json)
        return FAILED
    except CommandFailed as failure:
        _say(failure.message, as_json=as_json, **failure.details)
        return failure.code
    except ClientError as error:
        _say(str(error) + ("" if as_json else _next_step(error)), as_json=as_json, **_details(error))
        return UNREACHABLE if isinstance(error, NodeUnreachable) else FAILED
    except BrokenPipeError:
        # Whoever read us has enough. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return result if isinstance(result, int) else OK


def _next_step(error: ClientError) -> str:
    """What to do about a name that the node does not know."""
    is_unknown = isinstance(error, NodeRefused) and error.status == 404 and "no server" in str(error)
    return "; `mcpv-node servers` lists them" if is_unknown else ""


def _details(error: ClientError) -> dict[str, Any]:
    match error:
        case NodeRefused():
            details = {"status": error.status, "title": error.title, "reason": error.reason}
            return {name: value for name, value in details.items() if value is not None}
        case CallRefused():
            return {"code": error.code, "data": error.data}
        case _:
            return {}


def _say(message: str, *, as_json: bool, **details: Any) -> None:
    if as_json:
        click.echo(json.dumps({"error": message, **details}, ensure_ascii=False), err=True)
    else:
        click.echo(f"{PROGRAM}: {message}", err=True)
