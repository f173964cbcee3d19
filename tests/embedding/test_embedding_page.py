"""What docs/embedding.md shows runs, and its tables have every message with its fields."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest
from support.embedded import TIMEOUT, write_config
from support.hosts import STRICT, host, nothing_is_left
from support.house import ROOT
from support.readme import Block, local_links, read_blocks

import mcpv_node
from mcpv_node.protocol import errors

PAGE = ROOT / "docs" / "embedding.md"
TEXT = PAGE.read_text()
PROGRAMS = read_blocks(PAGE, "python", mark="run")
CLOCK = {"name": "clock", "command": sys.executable, "args": ["-m", "mcpv_node.servers.clock"]}

# What the methods and the registry of a host are for, and no message.
NO_MESSAGES = {"CallError", "Node", "NodeActor"}


def row_of(name: str) -> str:
    """Return the row of the table that is about this message."""
    (row,) = (line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
    return row


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda block: f"line {block.line}")
def test_a_program_on_the_page_runs_as_it_is(program: Block, tmp_path: Path) -> None:
    write_config(tmp_path, CLOCK)
    (tmp_path / "app.py").write_text(program.text)
    options = () if "thespian" in program.text else STRICT

    with host("app.py", tmp_path, options=options) as process:
        out, err = process.communicate(timeout=TIMEOUT)

    assert (process.returncode, out.splitlines()[0], err) == (0, "UTC", "")
    assert nothing_is_left(tmp_path)
    assert not (tmp_path / "state" / "node.json").exists()


def test_there_is_a_program_for_each_way_and_no_other_code() -> None:
    assert len(PROGRAMS) == 3
    assert read_blocks(PAGE, "python") == PROGRAMS


@pytest.mark.parametrize("name", sorted(set(mcpv_node.__all__) - NO_MESSAGES - {"WhyReport"}))
def test_every_message_has_its_row_with_its_fields(name: str) -> None:
    row = row_of(name)

    for field in dataclasses.fields(getattr(mcpv_node, name)):
        assert f"`{field.name}`" in row or f"{field.name}=" in row, field.name


def test_every_reason_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", TEXT, re.M))))

    assert {reason.value for reason in errors.Reason} <= explained


def test_every_link_leads_to_something() -> None:
    links = local_links(TEXT)

    assert links
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def test_the_readme_leads_here() -> None:
    assert "docs/embedding.md" in local_links((ROOT / "README.md").read_text())
