"""The file a running node leaves for those who look for it."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.node_file import (
    NodeFile,
    NodeFileError,
    is_running,
    parse_node_file,
    process_start_time,
    read_node_file,
    remove_node_file,
    write_node_file,
)

NODE = NodeFile(
    pid=4711,
    start_time="12345",
    version="1.2.3",
    http="http://127.0.0.1:8090",
    socket="/tmp/x/node.sock",
    token_file=None,
    config_path="/etc/mcpv.yaml",
)

# The largest process id Linux gives is 2^22: this one is nobody's.
NOBODY = 2**22 + 1


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_node_file(tmp_path, NODE)

    assert read_node_file(tmp_path) == NODE


@pytest.mark.parametrize(
    ("http", "endpoint"),
    [
        ("http://127.0.0.1:8090", "http://127.0.0.1:8090/mcp"),
        ("http://0.0.0.0:8090", "http://127.0.0.1:8090/mcp"),
        ("https://[::]:8443", "https://[::1]:8443/mcp"),
        ("https://10.0.0.0:8443", "https://10.0.0.0:8443/mcp"),
    ],
)
def test_a_door_at_every_address_is_shown_as_this_machine_reaches_it(http: str, endpoint: str) -> None:
    assert replace(NODE, http=http).endpoint == endpoint


def test_a_certificate_is_there_where_the_door_has_one(tmp_path: Path) -> None:
    secure = replace(NODE, http="https://127.0.0.1:8443", certificate="ab" * 32)
    write_node_file(tmp_path, secure)

    assert read_node_file(tmp_path) == secure
    assert "certificate" not in NODE.to_data()


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = write_node_file(tmp_path, NODE)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_but_the_file_is_left(tmp_path: Path) -> None:
    write_node_file(tmp_path, NODE)
    write_node_file(tmp_path, replace(NODE, version="2"))

    assert os.listdir(tmp_path) == ["node.json"]


def test_its_names_are_the_contract(tmp_path: Path) -> None:
    data = json.loads(write_node_file(tmp_path, NODE).read_text())

    assert list(data) == ["pid", "startTime", "version", "http", "socket", "tokenFile", "configPath"]


@given(st.text(), st.text(), st.none() | st.text())
def test_any_text_survives(version: str, path: str, token: str | None) -> None:
    node = replace(NODE, version=version, socket=path, token_file=token)

    assert parse_node_file(json.dumps(node.to_data())) == node


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({**NODE.to_data(), "pid": "4711"}).encode(),
        json.dumps({**NODE.to_data(), "pid": True}).encode(),
        json.dumps({**NODE.to_data(), "pid": -1}).encode(),
        json.dumps({**NODE.to_data(), "http": None}).encode(),
        json.dumps({**NODE.to_data(), "tokenFile": 1}).encode(),
    ],
)
def test_what_no_node_wrote_is_refused_and_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "node.json").write_bytes(text)

    with pytest.raises(NodeFileError, match=r"node\.json"):
        read_node_file(tmp_path)


def test_a_node_removes_its_own_file(tmp_path: Path) -> None:
    path = write_node_file(tmp_path, NODE)

    remove_node_file(tmp_path, pid=NODE.pid)

    assert not path.exists()


def test_a_node_leaves_the_file_of_its_successor(tmp_path: Path) -> None:
    path = write_node_file(tmp_path, NODE)

    remove_node_file(tmp_path, pid=NODE.pid + 1)

    assert path.exists()


def test_a_living_process_is_running() -> None:
    start = process_start_time(os.getpid())

    assert is_running(replace(NODE, pid=os.getpid(), start_time=start or ""))


def test_a_process_that_is_gone_is_not_running() -> None:
    assert not is_running(replace(NODE, pid=NOBODY))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="start times are read from /proc")
def test_another_process_with_the_same_id_is_not_the_node() -> None:
    assert not is_running(replace(NODE, pid=os.getpid(), start_time="1"))
