"""The ledger says what runs, whatever crash tore it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.processes import open_fds

from mcpv_node.transports import Ledger, LedgerEntry, guard, read_ledger
from mcpv_node.transports.ledger import COMPACT_AFTER


def entry(number: int) -> LedgerEntry:
    return LedgerEntry(
        instance=f"node/fs-{number}",
        pid=number,
        pgid=number,
        start_time=number * 10,
        argv0="/bin/ünï code",
        at="2026-01-31T09:08:07.006Z",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def test_what_was_started_and_has_not_ended_is_live(path: Path) -> None:
    ledger = Ledger(path)

    for number in (11, 12, 13):
        ledger.append_started(entry(number))
    ledger.append_ended(12)

    ledger.close()
    assert read_ledger(path) == (entry(11), entry(13)) == ledger.live


def test_a_ledger_that_is_not_there_says_nothing(path: Path) -> None:
    assert read_ledger(path) == ()


def test_only_its_user_may_read_it(path: Path) -> None:
    ledger = Ledger(path)
    ledger.append_started(entry(11))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    ledger.compact()

    ledger.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_group_number_given_again_is_the_later_process(path: Path) -> None:
    ledger = Ledger(path)
    ledger.append_started(entry(11))
    ledger.append_ended(11)
    again = entry(11)._replace(instance="node/other-1", start_time=999)

    ledger.append_started(again)

    ledger.close()
    assert read_ledger(path) == (again,)


@given(torn=st.integers(min_value=1, max_value=150))
def test_a_torn_last_line_costs_that_line_alone(tmp_path_factory: pytest.TempPathFactory, torn: int) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger"
    ledger = Ledger(path)
    ledger.append_started(entry(11))
    ledger.append_started(entry(12))
    ledger.close()
    path.write_bytes(path.read_bytes()[:-torn])

    after = Ledger(path)
    after.append_started(entry(13))
    after.close()

    # Without its newline alone, the line is still whole.
    expected = (entry(11), entry(12), entry(13)) if torn == 1 else (entry(11), entry(13))
    assert read_ledger(path) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\0\0\0",
        b"[1]",
        b"7",
        b'{"event":"started"}',
        b'{"event":"ended"}',
        b'{"event":"ended","pgid":[]}',
        b"\xff\xfe",
        b'{"event":"unheard of","pgid":11}',
    ],
)
def test_a_line_that_cannot_be_read_is_passed_over(line: bytes) -> None:
    lines = [guard.started_line(entry(11), "boot"), line, guard.started_line(entry(12), "boot")]

    assert list(guard.parse_ledger(lines, "boot").values()) == [entry(11), entry(12)]


@pytest.mark.parametrize("change", [{"pgid": 0}, {"pgid": 1}, {"pgid": -1}, {"pid": 1}, {"start_time": "5"}])
def test_no_line_can_name_a_group_that_is_everybodys(change: dict[str, object]) -> None:
    record = {**json.loads(guard.started_line(entry(11), "boot")), **change}

    assert guard.parse_ledger([json.dumps(record).encode()], "boot") == {}


def test_another_boots_processes_are_gone() -> None:
    assert guard.parse_ledger([guard.started_line(entry(11), "the last boot")], "this boot") == {}


def test_a_ledger_of_many_dead_lines_becomes_small_and_loses_nothing(path: Path) -> None:
    ledger = Ledger(path)
    before = open_fds()
    ledger.append_started(entry(11))

    for number in range(1000, 1000 + COMPACT_AFTER):
        ledger.append_started(entry(number))
        ledger.append_ended(number)
    ledger.append_started(entry(12))

    assert len(path.read_bytes().splitlines()) < COMPACT_AFTER
    assert read_ledger(path) == (entry(11), entry(12))
    assert open_fds() == before
    ledger.close()
    ledger.close()


def test_a_full_disk_is_an_error_that_names_the_ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(path)
    write = guard.os.write
    monkeypatch.setattr(guard.os, "write", lambda fd, data: write(fd, data[:20]))

    with pytest.raises(OSError, match=f"the ledger {path} took 20 of"):
        ledger.append_started(entry(11))
    monkeypatch.undo()
    ledger.append_started(entry(12))

    ledger.close()
    assert read_ledger(path) == (entry(12),)
