"""What docs/security.md says is held by a test is held by one that exists."""

from __future__ import annotations

import ast
import re

import pytest
from support.house import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"\b(tests/[\w/]+\.py)::(\w+)", PAGE)


def test_every_threat_names_what_holds_it_and_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "tests/" in line]

    assert len(rows) == len(NAMED) > 40
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 3, row
        assert all(cells), row


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_is_named_exists(file: str, test: str) -> None:
    tree = ast.parse((ROOT / file).read_text())

    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
