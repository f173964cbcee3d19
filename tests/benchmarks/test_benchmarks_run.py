"""Each benchmark is one command that ends well and prints its table. What it measures is not judged here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("floor", "call_path", "actors", "catalog", "scheduler")

# Several interpreters and nodes one after the other on a busy machine.
BOUND = 100.0

TINY = ("--seconds", "0.02", "--rounds", "1", "--samples", "2")


def run_benchmark(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=False,
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_prints_its_table(name: str) -> None:
    done = run_benchmark(name, *TINY, "--json")

    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["benchmark"] == name
    assert table["runs"]
    assert all(row["what"] and row["value"] for row in table["rows"])
    assert {row["mark"] for row in table["rows"]} <= {"", "within", "over"}
    assert all(row["bound"] for row in table["rows"] if row["mark"])


def test_a_table_is_written_for_people_unless_json_is_asked_for() -> None:
    done = run_benchmark("floor", *TINY)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("floor: 1 slices of 0.02 s")
    assert "floor, 16 in flight: added p50, p99" in done.stdout


def test_starts_are_measured_with_and_without_lists_on_disk(tmp_path: Path) -> None:
    file = tmp_path / "start.json"

    done = run_benchmark("start", "--samples", "1", "--servers", "3", "--json", str(file))

    assert done.returncode == 0, done.stderr
    assert "| 3 servers, 30 tools in the catalog |" in done.stdout
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == 3
    assert all(row["seconds"] > 0 and row["nodeMB"] > 0 and row["guardMB"] > 0 for row in rows)


def test_the_node_is_measured_beside_the_floor_without_any_peer(tmp_path: Path) -> None:
    file = tmp_path / "gateway.json"

    done = run_benchmark("gateway", *TINY[:4], "--peers", "none", "--json", str(file))

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gateway: 1 slices of 0.02 s")
    eras = json.loads(file.read_text())["eras"]
    for era in ("legacy", "modern"):
        assert set(eras[era]) == {"direct stdio", "floor", "mcpv-node", "direct HTTP (SDK)"}
        assert set(eras[era]["mcpv-node"]["loads"]) == {"1", "16", "64", "list"}
        assert all(one["calls"] and not one["errors"] for one in eras[era]["mcpv-node"]["loads"].values())


def test_many_clients_are_counted_and_nothing_is_left_behind(tmp_path: Path) -> None:
    file = tmp_path / "load.json"

    done = run_benchmark(
        "load",
        "--sessions",
        "40",
        "--streams",
        "10",
        "--clients",
        "5",
        "--seconds",
        "0.05",
        "--json",
        str(file),
    )

    assert done.returncode == 0, done.stderr
    assert "10 open streams: each" in done.stdout
    found = json.loads(file.read_text())
    assert found["left_behind"] == 0
    assert found["errors"] == 0
    assert found["left_out"] == []


def test_more_callers_than_sessions_are_refused() -> None:
    done = run_benchmark("load", "--sessions", "1", "--clients", "2", "--streams", "1")

    assert done.returncode == 2
    assert "have a session each" in done.stderr


def test_the_published_tables_are_made_of_the_numbers_beside_them() -> None:
    spec = importlib.util.spec_from_file_location("publish", BENCHMARKS / "publish.py")
    assert spec is not None
    assert spec.loader is not None
    publish = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(publish)
    document = publish.DOCUMENT.read_text()

    again = publish.replace_between(document, publish.tables(publish.load("gateway"), publish.load("load")))

    assert again == document


@pytest.mark.parametrize("name", [*NAMES, "gateway", "load", "publish"])
def test_a_benchmark_says_what_it_measures(name: str) -> None:
    done = run_benchmark(name, "--help")

    assert done.returncode == 0
    assert f"benchmarks/{name}.py" in done.stdout
