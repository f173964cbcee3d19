"""A sign of life while something takes long: on a terminal's stderr alone, so that no answer is mixed with it."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

from .common import invocation
from .output import clean


@contextmanager
def working(what: str) -> Generator[None]:
    """Show that `what` is under way. rich is imported only where somebody looks."""
    if invocation().as_json or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status(Text(clean(what))):
        yield
