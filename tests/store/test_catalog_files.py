"""What was learnt comes back, and what cannot be read is kept and reported."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mcpv_node.settings import ServerName, SpecKey
from mcpv_node.store import (
    MAX_PROFILES,
    CatalogRecord,
    KindVersion,
    ListedEntry,
    forget_catalog,
    load_catalogs,
    load_versions,
    save_catalog,
    save_versions,
    write_atomically,
)
from mcpv_node.store.catalog import merge_versions

KEY = SpecKey("a" * 64)
OTHER_KEY = SpecKey("b" * 64)

# Key order, spaces and number spelling are the server's own.
DEFINITION = b'{ "name":"read", "x":1.0e0,"inputSchema":{"type":"object"} }'


def record(
    *, key: SpecKey = KEY, profile: str = "", definition: bytes = DEFINITION, kind: str = "tools"
) -> CatalogRecord:
    return CatalogRecord(
        spec_key=key,
        profile=profile,
        server_name=ServerName("fs"),
        lists={kind: (ListedEntry("read", definition),)},
        learnt_at="2026-01-31T09:08:07.006Z",
        era="2025-11-25",
        server_version="1.2",
        instructions="be kind",
        capabilities=b'{"tools":{}}',
    )


def file_of(state: Path, key: SpecKey = KEY) -> Path:
    return state / "catalog" / f"{key}.json"


def test_nothing_is_learnt_where_nothing_was_saved(tmp_path: Path) -> None:
    assert load_catalogs(tmp_path) == ((), ())
    assert load_versions(tmp_path) == ({}, ())


def test_record_comes_back_to_the_byte(tmp_path: Path) -> None:
    assert save_catalog(tmp_path, record()) == ()

    assert load_catalogs(tmp_path) == ((record(),), ())


def test_record_of_the_same_profile_is_replaced_and_of_another_is_kept(tmp_path: Path) -> None:
    save_catalog(tmp_path, record(profile="sampling"))
    save_catalog(tmp_path, record())
    save_catalog(tmp_path, record(definition=b"{}"))

    assert load_catalogs(tmp_path)[0] == (record(definition=b"{}"), record(profile="sampling"))


def test_of_many_profiles_those_learnt_last_are_kept_and_the_empty_one_always(tmp_path: Path) -> None:
    save_catalog(tmp_path, replace(record(), learnt_at="2020-01-01T00:00:00.000Z"))
    for number in range(MAX_PROFILES + 3):
        at = f"2026-01-01T00:00:{number:02}.000Z"
        save_catalog(tmp_path, replace(record(profile=f"p{number:02}"), learnt_at=at))

    records, _ = load_catalogs(tmp_path)

    kept = [f"p{number:02}" for number in range(3, MAX_PROFILES + 3)]
    assert sorted(one.profile for one in records) == ["", *kept]


def test_kinds_of_later_need_no_other_format(tmp_path: Path) -> None:
    save_catalog(tmp_path, record(kind="prompts"))

    assert load_catalogs(tmp_path)[0] == (record(kind="prompts"),)


def test_every_server_has_a_private_file_of_its_own(tmp_path: Path) -> None:
    save_catalog(tmp_path, record())
    save_catalog(tmp_path, record(key=OTHER_KEY))

    assert sorted(path.name for path in (tmp_path / "catalog").iterdir()) == [
        f"{KEY}.json",
        f"{OTHER_KEY}.json",
    ]
    assert file_of(tmp_path).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "catalog").stat().st_mode & 0o777 == 0o700


def test_file_says_its_format_and_checksum(tmp_path: Path) -> None:
    save_catalog(tmp_path, record())

    written = json.loads(file_of(tmp_path).read_bytes())

    assert (written["format"], len(written["checksum"])) == (1, 64)
    assert written["body"][0]["server_name"] == "fs"


@pytest.mark.parametrize("damage", ["cut", "empty", "one letter", "other shape", "not text", "deep"])
def test_damaged_file_is_set_aside_and_reported_and_others_are_read(tmp_path: Path, damage: str) -> None:
    save_catalog(tmp_path, record())
    save_catalog(tmp_path, record(key=OTHER_KEY))
    good = file_of(tmp_path).read_bytes()
    bad = {
        "cut": good[:-30],
        "empty": b"",
        "one letter": good.replace(b"be kind", b"be kinD"),
        "other shape": b"[]",
        "not text": b"\xff\xfe",
        "deep": b"[" * 100_000,
    }[damage]
    file_of(tmp_path).write_bytes(bad)

    records, problems = load_catalogs(tmp_path)

    assert records == (record(key=OTHER_KEY),)
    assert [problem.path for problem in problems] == [file_of(tmp_path)]
    assert f"set aside as {KEY}.json.corrupt-1" in str(problems[0])
    assert file_of(tmp_path).with_name(f"{KEY}.json.corrupt-1").read_bytes() == bad


def test_newer_file_is_set_aside_as_such_whatever_its_shape(tmp_path: Path) -> None:
    save_catalog(tmp_path, record())
    file_of(tmp_path).write_text('{"format": 2, "rows": []}')

    records, (problem,) = load_catalogs(tmp_path)

    assert records == ()
    assert "is of format 2, and this node knows 1" in problem.message
    assert file_of(tmp_path).with_name(f"{KEY}.json.newer-1").is_file()


def test_saving_over_a_damaged_file_keeps_it_and_says_so(tmp_path: Path) -> None:
    save_catalog(tmp_path, record())
    for expected in (1, 2):
        file_of(tmp_path).write_bytes(b"broken")

        (problem,) = save_catalog(tmp_path, record())

        assert f"corrupt-{expected}" in problem.message
        assert file_of(tmp_path).with_name(f"{KEY}.json.corrupt-{expected}").read_bytes() == b"broken"
    assert load_catalogs(tmp_path) == ((record(),), ())


def test_foreign_files_are_left_alone_and_partial_ones_removed(tmp_path: Path) -> None:
    save_catalog(tmp_path, record())
    (tmp_path / "catalog" / "README").write_text("hello")
    (tmp_path / "catalog" / ".x.json.abc.partial").write_text("half")

    load_catalogs(tmp_path)

    assert sorted(path.name for path in (tmp_path / "catalog").iterdir()) == ["README", f"{KEY}.json"]


def test_forgotten_catalog_is_gone(tmp_path: Path) -> None:
    save_catalog(tmp_path, record())

    forget_catalog(tmp_path, KEY)
    forget_catalog(tmp_path, KEY)

    assert load_catalogs(tmp_path) == ((), ())


def test_spec_key_that_is_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a spec key"):
        save_catalog(tmp_path, record(key=SpecKey("../x")))


def test_versions_come_back_and_never_go_back(tmp_path: Path) -> None:
    save_versions(tmp_path, {"tools": KindVersion(7, "e7"), "prompts": KindVersion(1, "p1")})

    kept, problems = save_versions(tmp_path, {"tools": KindVersion(6, "e6"), "prompts": KindVersion(2, "p2")})

    assert problems == ()
    assert kept == {"tools": KindVersion(7, "e7"), "prompts": KindVersion(2, "p2")}
    assert load_versions(tmp_path) == (kept, ())


def test_damaged_versions_are_reported(tmp_path: Path) -> None:
    save_versions(tmp_path, {"tools": KindVersion(7, "e7")})
    file = tmp_path / "catalog" / "versions.json"
    file.write_bytes(b"{")

    versions, (problem,) = load_versions(tmp_path)

    assert versions == {}
    assert problem.path == file


VERSIONS = st.dictionaries(
    st.sampled_from(["tools", "resources", "prompts"]),
    st.builds(KindVersion, st.integers(0, 5), st.just("e")),
)


@given(VERSIONS, VERSIONS)
def test_merged_versions_are_the_higher_ones(
    stored: dict[str, KindVersion], new: dict[str, KindVersion]
) -> None:
    merged = merge_versions(stored, new)

    assert set(merged) == set(stored) | set(new)
    for kind, version in merged.items():
        assert version.version == max(side[kind].version for side in (stored, new) if kind in side)


def test_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f"
    write_atomically(file, b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")

    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
