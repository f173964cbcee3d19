"""What a log line looks like, and what never stands in one."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from support.fakes import BEGINNING

from mcpv_node.telemetry import Event, EventKind
from mcpv_node.telemetry.logs import MEGABYTE, OwnOutput, configure_logging, lead_logging, log_event
from mcpv_node.telemetry.redaction import Redactor, redact


@pytest.fixture(autouse=True)
def _logging_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {
        name: item.level for name, item in root.manager.loggerDict.items() if isinstance(item, logging.Logger)
    }
    yield
    logger.remove()
    logger.add(sys.stderr)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, item in root.manager.loggerDict.items():
        if isinstance(item, logging.Logger):
            item.setLevel(levels.get(name, logging.NOTSET))


def json_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_line_is_json_where_nobody_looks() -> None:
    stream = io.StringIO()
    configure_logging("info", sink=stream)

    logger.bind(server="fs", incarnation=3).warning("restarting in {:.1f}s", 2)

    (line,) = json_lines(stream)
    assert line.pop("at").endswith("Z")
    assert line == {"level": "warning", "message": "restarting in 2.0s", "server": "fs", "incarnation": 3}


def test_line_is_text_when_asked_for() -> None:
    stream = io.StringIO()
    configure_logging("info", json=False, sink=stream)

    logger.bind(server="fs").info("{}", "a {brace} and a <tag>")

    assert stream.getvalue().endswith("a {brace} and a <tag>  server=fs\n")


def test_lower_levels_are_not_written() -> None:
    stream = io.StringIO()
    configure_logging("warning", sink=stream)

    logger.info("quiet")
    logging.getLogger("library").info("quiet")

    assert stream.getvalue() == ""


def test_event_is_one_line_with_its_fields() -> None:
    stream = io.StringIO()
    configure_logging("info", sink=stream)
    event = Event(
        kind=EventKind.SERVER_STATE, at=BEGINNING, server="fs", from_="cold", to="starting", reason="a call"
    )

    log_event(event)

    (line,) = json_lines(stream)
    del line["at"]
    assert line == {
        "level": "info",
        "message": "server state fs cold -> starting (a call)",
        "event": "server_state",
        "server": "fs",
        "from": "cold",
        "to": "starting",
        "reason": "a call",
    }


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        (EventKind.ACTOR_CRASHED, "warning"),
        (EventKind.SUPERVISOR_GAVE_UP, "error"),
        (EventKind.SESSION_OPENED, "info"),
    ],
)
def test_level_of_an_event_says_whether_somebody_may_have_to_act(kind: EventKind, level: str) -> None:
    stream = io.StringIO()
    configure_logging("info", sink=stream)

    log_event(Event(kind=kind, at=BEGINNING, actor="Index"))

    assert json_lines(stream)[0]["level"] == level


def test_standard_logging_comes_through_once() -> None:
    stream = io.StringIO()
    configure_logging("info", sink=stream)

    logging.getLogger("uvicorn.error").warning("%s is late", "it")

    (line,) = json_lines(stream)
    assert (line["level"], line["message"], line["logger"]) == ("warning", "it is late", "uvicorn.error")


def test_library_with_a_handler_of_its_own_does_not_write_twice() -> None:
    own, ours = io.StringIO(), io.StringIO()
    logging.getLogger("uvicorn").addHandler(logging.StreamHandler(own))
    configure_logging("info", sink=ours)

    logging.getLogger("uvicorn").warning("late")

    assert own.getvalue() == ""
    assert len(json_lines(ours)) == 1


def open_with(password: str) -> None:
    raise ValueError(f"broken: {len(password)}")


def test_exception_is_in_the_line_without_values_of_variables() -> None:
    as_json, as_text = io.StringIO(), io.StringIO()

    for stream, is_json in ((as_json, True), (as_text, False)):
        configure_logging("info", json=is_json, sink=stream)
        try:
            open_with("-".join(("very", "hidden")))
        except ValueError:
            logger.exception("it failed")

    (line,) = json_lines(as_json)
    assert line["message"] == "it failed"
    assert line["error"].endswith("ValueError: broken: 11")
    assert as_text.getvalue().endswith("ValueError: broken: 11\n")
    assert "very-hidden" not in as_json.getvalue() + as_text.getvalue()


def test_known_secrets_are_masked_in_every_line_of_every_kind(tmp_path: Path) -> None:
    for as_json in (True, False):
        sink = io.StringIO()
        configure_logging("info", json=as_json, sink=sink, redact=Redactor(["hunter2-and-more"]))
        logger.bind(server="hunter2-and-more").info("it says hunter2-and-more")
        try:
            raise ValueError("hunter2-and-more")
        except ValueError as error:
            logger.opt(exception=error).error("it failed")

        assert "***" in sink.getvalue()
        assert "hunter2" not in sink.getvalue()


def test_file_gets_json_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "node.log"
    configure_logging("info", json=False, file=file, sink=io.StringIO())

    logger.info("hello")
    logger.remove()

    assert json.loads(file.read_text())["message"] == "hello"
    assert file.stat().st_mode & 0o777 == 0o600


def test_file_begins_anew_at_its_size_and_so_many_former_ones_stay(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    configure_logging("info", file=file, rotate_mb=1, keep=2, sink=io.StringIO())

    for number in range(9):
        logger.info("{} {}", number, "x" * 600_000)
    logger.remove()

    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert all(one.stat().st_size < 2 * MEGABYTE for one in files)
    assert {one.stat().st_mode & 0o777 for one in files} == {0o600}
    assert json.loads(file.read_text().splitlines()[-1])["message"].startswith("8 ")


WRITES_MUCH = """
import sys
from pathlib import Path
from mcpv_node.telemetry.logs import OwnOutput, configure_logging
from loguru import logger
configure_logging("info", sink=OwnOutput.at(Path(sys.argv[1]), 10_000))
for number in range(200):
    logger.info("line {}", number)
print("said last", flush=True)
"""


def write_much(path: Path) -> None:
    """Have a process of its own write more than `path`, its stdout and stderr, is to hold."""
    with path.open("ab") as output:
        subprocess.run(
            [sys.executable, "-c", WRITES_MUCH, str(path)], stdout=output, stderr=output, check=True
        )


def test_a_process_that_writes_to_its_own_log_bounds_it_and_loses_no_line_of_the_last(tmp_path: Path) -> None:
    path = tmp_path / "node.log"

    write_much(path)

    former = Path(f"{path}.1")
    *lines, last = path.read_text().splitlines()
    numbers = [
        int(json.loads(line)["message"].split()[1]) for line in (*former.read_text().splitlines(), *lines)
    ]
    assert numbers == list(range(numbers[0], 200))
    assert last == "said last"
    assert former.stat().st_size <= 10_000
    assert path.stat().st_mode & 0o777 == 0o600


MOVES_IT_MEANWHILE = """
import os, sys
from pathlib import Path
from mcpv_node.telemetry.logs import OwnOutput, configure_logging
from loguru import logger
path = Path(sys.argv[1])
configure_logging("info", sink=OwnOutput.at(path, 10_000))
logger.info("before")
os.replace(path, f"{path}.1")
logger.info("after")
"""


def test_a_log_that_somebody_else_has_begun_anew_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "node.log"

    with path.open("ab") as output:
        subprocess.run(
            [sys.executable, "-c", MOVES_IT_MEANWHILE, str(path)], stdout=output, stderr=output, check=True
        )

    assert [json.loads(line)["message"] for line in path.read_text().splitlines()] == ["after"]


def test_a_log_that_cannot_begin_anew_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "node.log"
    Path(f"{path}.1").mkdir()

    write_much(path)

    assert len(path.read_text().splitlines()) == 201


def test_a_file_that_is_not_this_process_s_own_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "node.log"
    other.touch()

    assert OwnOutput.at(other, 10) is None
    assert OwnOutput.at(tmp_path / "missing", 10) is None


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic dXNlcg=='}", "{'authorization': 'Basic ***'}"),
        ("using bearer abcdefgh1234", "using bearer ***"),
        ("GET /mcp?token=abc&x=1", "GET /mcp?token=***&x=1"),
        ("API_KEY=abc OTHER=1", "API_KEY=*** OTHER=1"),
        ('{"client_secret": "abc", "a": 1}', '{"client_secret": "***", "a": 1}'),
        ("http://user:pass@host/", "http://***@host/"),
        ("the token is fine, no secret told", "the token is fine, no secret told"),
        ("MAX_TOKENS=100 tokens=5", "MAX_TOKENS=100 tokens=5"),
    ],
)
def test_credentials_are_masked(text: str, masked: str) -> None:
    assert redact(text) == masked


def test_credentials_are_masked_in_messages_fields_and_text() -> None:
    as_json, as_text = io.StringIO(), io.StringIO()

    for stream, is_json in ((as_json, True), (as_text, False)):
        configure_logging("info", json=is_json, sink=stream)
        logger.bind(authorization="s3cret", header="Authorization: Bearer s3cret").info("token={}", "s3cret")

    assert "s3cret" not in as_json.getvalue()
    assert "s3cret" not in as_text.getvalue()


def test_a_log_that_is_led_elsewhere_comes_as_finished_masked_records_and_as_json_in_a_file(
    tmp_path: Path,
) -> None:
    records: list[logging.LogRecord] = []
    file = tmp_path / "log"
    lead_logging("info", records.append, file=file, redact=Redactor(["s3cret-value"]))

    logger.debug("too low")
    logger.bind(server="fs").warning("it says {}", "s3cret-value {brace}")
    logging.getLogger("library").error("from below")
    logger.remove()

    assert [(one.levelname, one.getMessage()) for one in records] == [
        ("WARNING", "it says *** {brace}  server=fs"),
        ("ERROR", "from below  logger=library"),
    ]
    assert all(one.exc_info is None and one.args is None for one in records)
    assert [json.loads(line)["message"] for line in file.read_text().splitlines()] == [
        "it says *** {brace}",
        "from below",
    ]
