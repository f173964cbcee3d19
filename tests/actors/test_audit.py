"""The audit writes what it is told, in order and to the last; a disk that refuses stops nothing."""

from __future__ import annotations

import json
from pathlib import Path

from support.fakes import BEGINNING
from support.owners import home, run, until

from mcpv_node.actors.audit import Audit, Audited, digest_of
from mcpv_node.actors.callers import Caller

CALLER = Caller(principal="ci", client="someone", key="session:1")


def audited(name: str, digest: bytes | None = None) -> Audited:
    return Audited(BEGINNING, CALLER, "fs", "tools/call", name, digest, "ok", 0.1234567)


def test_everything_that_was_told_before_the_end_is_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"

    async def main() -> None:
        async with home(tmp_path) as at_home:
            audit = await at_home.fill("audit", lambda: Audit(path))
            for number in range(500):
                audit.tell(audited(f"tool-{number}", digest_of(b'{"a":1}')))

    run(main())

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["name"] for line in lines] == [f"tool-{number}" for number in range(500)]
    assert lines[0]["arguments"] == "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert (lines[0]["principal"], lines[0]["client"], lines[0]["seconds"]) == ("ci", "someone", 0.123457)


def test_a_file_that_cannot_be_written_refuses_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            try:
                await at_home.fill("audit", lambda: Audit(tmp_path))
            except Exception:  # noqa: BLE001  (how a place says that it could not be filled is not ours)
                return
            raise AssertionError("it started on a folder")

    run(main())


def test_a_disk_that_refuses_later_is_survived_and_written_to_again(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    path = folder / "audit.jsonl"

    async def main() -> None:
        async with home(tmp_path) as at_home:
            one = Audit(path)
            audit = await at_home.fill("audit", lambda: one)
            audit.tell(audited("first"))
            await until(lambda: path.stat().st_size)
            one._file.close()
            path.rename(tmp_path / "away")
            path.mkdir()
            audit.tell(audited("lost"))
            await until(lambda: one._unwritten == 1)
            path.rmdir()
            audit.tell(audited("again"))
            await until(lambda: one._unwritten == 0)

    run(main())

    assert json.loads(path.read_text())["name"] == "again"
