"""The source tree as data: which module imports what, read without importing anything."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "mcpv_node"


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, as absolute dotted name, and how it was written."""

    module: str
    names: tuple[str, ...]
    line: int
    # 0 for an absolute import, else the number of dots.
    level: int
    # Whether it runs when the module is imported, rather than in a function or for a type checker only.
    at_import: bool


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file below a folder that is on an import path."""

    # Relative to the package, with forward slashes: "transports/stdio.py".
    path: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        """The first part of the path; a module directly in the package is its own folder."""
        return self.path.split("/")[0].removesuffix(".py")

    def imports(self, package: str = "mcpv_node") -> tuple[Import, ...]:
        """Return every import of this file, in the order of its lines."""
        parents = [package, *self.path.split("/")[:-1]]
        found = [
            item
            for node, at_import in _walk(self.tree, at_import=True)
            for item in _read_import(node, parents, at_import=at_import)
        ]
        return tuple(sorted(found, key=lambda item: item.line))


def read_sources(folder: Path = PACKAGE) -> tuple[Source, ...]:
    """Read every Python file below `folder`, also behind links."""
    paths = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.endswith(".py")
    ]
    return tuple(
        parse_source(path.relative_to(folder).as_posix(), path.read_text()) for path in sorted(paths)
    )


def parse_source(path: str, text: str) -> Source:
    """Parse one file's text."""
    return Source(path, ast.parse(text, filename=path))


def _walk(node: ast.AST, *, at_import: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield child, at_import
        yield from _walk(child, at_import=at_import and not later)


def _read_import(node: ast.AST, parents: list[str], *, at_import: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, (), node.lineno, 0, at_import)
    if isinstance(node, ast.ImportFrom):
        base = parents[: len(parents) - node.level + 1] if node.level else []
        module = ".".join([*base, node.module] if node.module else base)
        yield Import(module, tuple(alias.name for alias in node.names), node.lineno, node.level, at_import)
