"""`mcpv-node call TOOL`: call one tool and print what it answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import click

from mcpv_node.client import CallRefused, ToolResult

from .common import FAILED, OK, CommandFailed, common_options, connect, invocation
from .output import clean_text, print_body

# What to do next, for the errors a node gives itself.
_ADVICE = {
    "suspended": "`mcpv-node why {server}` says what to do",
    "backing_off": "`mcpv-node why {server}` says when it is tried again",
    "start_failed": "`mcpv-node why {server}` shows what it wrote",
    "instance_died": "`mcpv-node why {server}` shows how it ended",
    "stopping": "`mcpv-node server start {server}` starts it, if an operator stopped it",
}


@click.command("call", short_help="Call a tool and print what it answers.")
@click.argument("tool")
@click.option(
    "--args",
    "arguments",
    default="{}",
    metavar="JSON",
    help="Its arguments: a JSON object, @FILE, or - for stdin.",
)
@common_options
def command(tool: str, arguments: str) -> int:
    """Call TOOL and print the text it answers; ends 1 when the tool reports an error.

    \b
      mcpv-node call clock_now
      mcpv-node call clock_now --args '{"tz": "UTC"}'
      mcpv-node call notes_add --args @note.json
    """
    parsed = parse_arguments(_read_arguments(arguments))
    client = connect()
    try:
        result = client.call_tool(tool, parsed)
    except CallRefused as refusal:
        raise CommandFailed(
            _explain(tool, refusal), FAILED, {"code": refusal.code, "data": refusal.data}
        ) from None
    if invocation().as_json:
        print_body(result.raw)
    else:
        _print_content(result)
    return FAILED if result.is_error else OK


def parse_arguments(text: str) -> dict[str, Any]:
    """Read a JSON object, or refuse as a usage error."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"--args is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise click.UsageError(f"--args is not a JSON object, but {_kind(value)}")
    return cast("dict[str, Any]", value)


def _read_arguments(said: str) -> str:
    try:
        if said == "-":
            return sys.stdin.read()
        if said.startswith("@"):
            return Path(said[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--args {said} cannot be read: {error}") from None
    return said


def _print_content(result: ToolResult) -> None:
    for text in result.texts:
        # Nothing is changed on its way into a file or another program.
        click.echo(clean_text(text) if sys.stdout.isatty() else text)
    if result.others:
        click.echo(f"not shown: {', '.join(result.others)}; --json prints the whole result", err=True)


def _explain(tool: str, refusal: CallRefused) -> str:
    data = cast("dict[str, Any]", refusal.data) if isinstance(refusal.data, dict) else {}
    advice = _ADVICE.get(str(data.get("reason")), "")
    # JSON-RPC's "invalid params": no such tool, or none we may see.
    if refusal.code == -32602:
        advice = "`mcpv-node tools` lists what there is, `mcpv-node status` which servers are not known yet"
    told = advice.format(server=data.get("server", "SERVER"))
    return f"{tool}: {refusal.message}" + (f"; {told}" if told else "")


def _kind(value: object) -> str:
    match value:
        case list():
            return "an array"
        case str():
            return "a string"
        case bool():
            return "a boolean"
        case None:
            return "null"
        case _:
            return "a number"
