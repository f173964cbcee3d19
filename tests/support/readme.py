"""The fenced blocks of a Markdown file, so that what it shows can be run.

A block whose fence says `run` after its language is meant to be run against a started node.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(?P<info>\S[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)#]+)[^)]*\)")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, the words after it, and its text."""

    language: str
    marks: frozenset[str]
    text: str
    line: int

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """Split a shell block into its commands, one per line; a `\\` at the end continues one."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return tuple(
            tuple(shlex.split(line, comments=True)) for line in lines if shlex.split(line, comments=True)
        )


def read_blocks(path: Path, language: str, *, mark: str | None = None) -> tuple[Block, ...]:
    """Return the blocks in `language`, those with `mark` only when it is given."""
    return tuple(
        block
        for block in parse_blocks(path.read_text())
        if block.language == language and (mark is None or mark in block.marks)
    )


def parse_blocks(text: str) -> tuple[Block, ...]:
    """Return every fenced block that names its language."""
    return tuple(
        Block(
            language=words[0],
            marks=frozenset(words[1:]),
            text=found["text"],
            line=text.count("\n", 0, found.start()) + 1,
        )
        for found in FENCE.finditer(text)
        if (words := found["info"].split())
    )


def local_links(text: str) -> tuple[str, ...]:
    """Return the targets of links that lead into the tree."""
    return tuple(found["target"] for found in LINK.finditer(text) if "://" not in found["target"])
