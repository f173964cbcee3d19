"""What the harness wrote is read so that nothing passes by not having been looked at."""

from __future__ import annotations

import json
from pathlib import Path

from support.harness import Check, Report, read_results


def report(**checks: tuple[Check, ...]) -> Report:
    return Report(0, "", checks)


def check(status: str) -> Check:
    return Check("id", status, f"the {status.lower()}'s message")


def test_a_scenario_that_was_not_run_has_failed() -> None:
    assert report().failed(["one"]) == {"one": ["was not run"]}


def test_a_scenario_in_which_nothing_succeeded_has_failed() -> None:
    assert report(one=(check("INFO"), check("SKIPPED"))).failed(["one"]) == {"one": ["nothing succeeded"]}


def test_one_failure_among_successes_is_a_failure_and_says_its_check() -> None:
    found = report(one=(check("SUCCESS"), check("FAILURE")), two=(check("FAILURE"),))

    assert found.failed(["one"]) == {"one": ["id: the failure's message"]}
    assert "one: id: the failure's message" in found.describe(["one"])


def test_a_warning_is_no_failure_and_is_said() -> None:
    found = report(one=(check("SUCCESS"), check("WARNING")))

    assert found.failed(["one"]) == {}
    assert "one (warning): id: the warning's message" in found.describe(["one"])


def test_results_of_both_sides_are_read_by_their_scenario(tmp_path: Path) -> None:
    for name in ("server-a-b-2026-11-27T08-18-32-532Z", "auth/c-2026-11-27T08-18-32-532Z"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "checks.json").write_text(json.dumps([{"id": "x", "status": "SUCCESS"}]))

    assert read_results(tmp_path) == {
        "a-b": (Check("x", "SUCCESS", ""),),
        "auth/c": (Check("x", "SUCCESS", ""),),
    }
