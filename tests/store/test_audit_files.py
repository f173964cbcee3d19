"""The audit file is its owner's alone, grows to a bound, and is never half a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcpv_node.store import AuditFile, AuditLine

LINE = AuditLine(
    at="2026-01-31T09:08:07.006Z",
    principal="ci",
    client="someone",
    server="fs",
    method="tools/call",
    name="fs_read",
    arguments="sha256:00",
    outcome="ok",
    seconds=0.25,
)


def test_a_line_is_one_json_object_under_the_names_of_the_documentation(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "logs" / "audit.jsonl")
    file.append((LINE, LINE))
    file.close()

    first, second = (tmp_path / "logs" / "audit.jsonl").read_text().splitlines()
    assert first == second
    assert json.loads(first) == {
        "at": "2026-01-31T09:08:07.006Z",
        "principal": "ci",
        "client": "someone",
        "server": "fs",
        "method": "tools/call",
        "name": "fs_read",
        "arguments": "sha256:00",
        "outcome": "ok",
        "seconds": 0.25,
    }


def test_the_file_is_its_owners_alone_also_one_that_was_not(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.touch(mode=0o644)
    file = AuditFile(path)
    file.append((LINE,))
    file.close()

    assert path.stat().st_mode & 0o777 == 0o600


def test_a_full_file_makes_room_for_the_next_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    file = AuditFile(path, limit=400, kept=2)
    for _ in range(20):
        file.append((LINE,))
    file.close()

    assert sorted(one.name for one in tmp_path.iterdir()) == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    for one in tmp_path.iterdir():
        assert one.stat().st_size <= 400
        assert one.stat().st_mode & 0o777 == 0o600
        assert all(json.loads(line) for line in one.read_text().splitlines())


def test_what_an_earlier_life_wrote_counts_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        file = AuditFile(path)
        file.append((LINE,))
        file.close()

    assert len(path.read_text().splitlines()) == 2


def test_no_link_leads_the_audit_elsewhere(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine\n")
    (tmp_path / "audit.jsonl").symlink_to(target)

    with pytest.raises(OSError, match="symbolic"):
        AuditFile(tmp_path / "audit.jsonl").append((LINE,))
    assert target.read_text() == "mine\n"
