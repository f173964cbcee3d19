"""What every command takes and how it fails.

`--json` and `--state-dir` may stand before or after the verb. A failure is one sentence and what to do next, on
stderr, with an exit code of the contract: 1 failed or refused, 2 usage, 3 configuration, 4 node unreachable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from mcpv_node.client import NodeClient, find_node
from mcpv_node.settings import SettingsError, state_dir

OK = 0
FAILED = 1
USAGE_ERROR = 2
CONFIG_ERROR = 3
UNREACHABLE = 4

_Command = TypeVar("_Command", bound=Callable[..., Any])


class CommandFailed(Exception):
    """A command ends without success: the sentence to say, the exit code, and more for `--json`."""

    def __init__(self, message: str, code: int = FAILED, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = details or {}


@dataclass(slots=True)
class Invocation:
    """What was said on this command line, before or after the verb."""

    as_json: bool = False
    state_dir: Path | None = field(default=None)


def invocation() -> Invocation:
    """Give what was said on the command line that runs now."""
    return click.get_current_context().find_root().ensure_object(Invocation)


def common_options(command: _Command) -> _Command:
    """Add `--json` and `--state-dir`."""
    json_option = click.option(
        "--json", is_flag=True, expose_value=False, callback=_remember_json, help="Answer and fail in JSON."
    )
    state_option = click.option(
        "--state-dir",
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=_remember_state_dir,
        help="Where the node keeps its state (default: $MCPV_STATE_DIR).",
    )
    return json_option(state_option(command))


def chosen_state_dir() -> Path:
    """Say on which folder the node is that a command is about."""
    return state_dir(invocation().state_dir, os.environ, None)


def connect() -> NodeClient:
    """Find the running node, or fail with exit code 4."""
    return NodeClient(find_node(chosen_state_dir()))


def config_failure(error: SettingsError) -> CommandFailed:
    """Say all that is wrong with a configuration."""
    problems = [
        {
            "file": str(problem.file),
            "line": problem.line,
            "key": problem.key_path,
            "message": problem.message,
            "found": problem.found,
            "allowed": list(problem.allowed),
            "nearest": problem.nearest,
        }
        for problem in error.problems
    ]
    what = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    message = "\n  ".join([f"the configuration has {what}:", *map(str, error.problems)])
    return CommandFailed(message, CONFIG_ERROR, {"problems": problems})


def _remember_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().ensure_object(Invocation).as_json = True


def _remember_state_dir(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.find_root().ensure_object(Invocation).state_dir = value
