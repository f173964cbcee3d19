"""Commands on a real terminal: `top` draws, obeys its keys, and leaves the terminal as it was, however it ends."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.fake_node import FakeNode, ok, running_fake_node

# An interpreter, rich, and a first frame on a busy machine.
BOUND = 30.0

ALTERNATE_SCREEN = b"\x1b[?1049h"
BACK = b"\x1b[?1049l"
SHOWS_CURSOR = b"\x1b[?25h"
RED = b"\x1b[31m"


@dataclass
class Terminal:
    """The other end of a terminal, and the program on it."""

    end: int
    side: int
    process: subprocess.Popen[bytes]
    seen: bytearray = field(default_factory=bytearray)

    def until(self, words: bytes) -> None:
        """Read until the program has written this."""
        while words not in self.seen:
            assert select.select([self.end], [], [], BOUND)[0], bytes(self.seen)
            self.seen += os.read(self.end, 1 << 16)

    def types(self, keys: bytes) -> None:
        os.write(self.end, keys)

    def modes(self) -> list[Any]:
        return termios.tcgetattr(self.side)


@contextmanager
def top_on_a_terminal(state_dir: Path, *options: str, **environment: str) -> Iterator[Terminal]:
    with on_a_terminal("top", "--state-dir", str(state_dir), *options, **environment) as terminal:
        yield terminal


@contextmanager
def on_a_terminal(*arguments: str, **environment: str) -> Iterator[Terminal]:
    end, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 80))
    words = [sys.executable, "-P", "-m", "mcpv_node", *arguments]
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")
    }
    env = {**inherited, "TERM": "xterm-256color", **environment}
    try:
        with subprocess.Popen(
            words, stdin=side, stdout=side, stderr=side, env=env, start_new_session=True
        ) as process:
            try:
                yield Terminal(end, side, process)
            finally:
                process.kill()
    finally:
        os.close(end)
        os.close(side)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with running_fake_node(tmp_path) as running:
        running.reply("GET /api/v1/logs?level=info&follow=false", ok({}))
        yield running


@pytest.mark.parametrize("end", ["q", "escape", "interrupt", "terminate"])
def test_it_draws_and_leaves_the_terminal_as_it_was(node: FakeNode, end: str) -> None:
    with top_on_a_terminal(node.state_dir) as terminal:
        before = terminal.modes()
        terminal.until(b"q quit")
        during = terminal.modes()
        match end:
            case "q":
                terminal.types(b"q")
            case "escape":
                terminal.types(b"\x1b")
            case "interrupt":
                terminal.process.send_signal(signal.SIGINT)
            case _:
                terminal.process.terminate()
        terminal.until(BACK)
        terminal.until(SHOWS_CURSOR)

        assert terminal.process.wait(BOUND) == 0
        assert ALTERNATE_SCREEN in terminal.seen
        assert b"suspended" in terminal.seen
        assert RED in terminal.seen
        assert during != before
        assert terminal.modes() == before


def test_no_colours_where_none_are_wanted(node: FakeNode) -> None:
    with top_on_a_terminal(node.state_dir, NO_COLOR="1") as terminal:
        terminal.until(b"q quit")
        terminal.types(b"q")
        terminal.until(BACK)

        assert terminal.process.wait(BOUND) == 0
        assert RED not in terminal.seen


def test_a_node_that_goes_away_is_a_sentence_on_a_terminal_that_is_as_it_was(node: FakeNode) -> None:
    with top_on_a_terminal(node.state_dir, "--interval", "0.2") as terminal:
        before = terminal.modes()
        terminal.until(b"q quit")
        node.reply("GET /api/v1/servers", ok("nonsense"))
        terminal.until(BACK)
        terminal.until(b"cannot be read")

        assert terminal.process.wait(BOUND) == 1
        assert terminal.modes() == before


def test_what_takes_long_shows_a_sign_of_life_to_a_person_and_to_nobody_else(node: FakeNode) -> None:
    node.reply("POST /api/v1/servers/fs/start?wait=5", ok({"state": "ready"}))
    words = ["server", "start", "fs", "--wait", "5", "--state-dir", str(node.state_dir)]

    with on_a_terminal(*words) as terminal:
        terminal.until(b"fs is ready")
        assert terminal.process.wait(BOUND) == 0
    piped = subprocess.run([sys.executable, "-P", "-m", "mcpv_node", *words], capture_output=True, check=True)

    assert b"start fs" in terminal.seen
    assert (piped.stdout, piped.stderr) == (b"fs is ready\n", b"")
