"""Where a running node says how to reach it: `<stateDir>/node.json`.

The file is there while its node runs, is readable by its owner only, and is replaced whole: a reader sees all of
it or none. A killed node leaves it behind, so whoever reads it asks whether the process still lives.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

FILE_NAME = "node.json"
SOCKET_NAME = "node.sock"

# The output of a node that was started in the background.
LOG_NAME = "node.log"

# The host of a URL that stands for every address of the machine.
_EVERYWHERE = re.compile(r"(?<=://)(?:0\.0\.0\.0|\[::\])(?=[:/]|$)")

# It names the token's file and the socket: nobody else's business.
_MODE = 0o600


class NodeFileError(Exception):
    """The file is there, but is not what a node writes; the message names the file and what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFile:
    """How to reach a node, and which process it is."""

    pid: int
    # What `process_start_time` says of it: a reused process id is not taken for the node.
    start_time: str
    version: str
    # The base URL of the HTTP door with its real port: "http://127.0.0.1:8090".
    http: str
    # The line door, a unix socket.
    socket: str
    # None: the node asks for no token.
    token_file: str | None
    # None: the configuration came from no file, as in a host application.
    config_path: str | None
    # Of the HTTP door where that is https: the SHA-256 of its certificate's DER, in hex. Whoever can read this file may
    # believe that certificate, whatever name it is for and whoever issued it.
    certificate: str | None = None

    @property
    def endpoint(self) -> str:
        """Where clients on this machine find MCP."""
        return f"{from_here(self.http)}/mcp"

    def to_data(self) -> dict[str, Any]:
        """Give the published form."""
        data: dict[str, Any] = {
            "pid": self.pid,
            "startTime": self.start_time,
            "version": self.version,
            "http": self.http,
            "socket": self.socket,
            "tokenFile": self.token_file,
            "configPath": self.config_path,
        }
        return data if self.certificate is None else {**data, "certificate": self.certificate}


def from_here(url: str) -> str:
    """The same door as it is reached on this machine, where the URL names every address: not all systems take that."""
    return _EVERYWHERE.sub(lambda found: "[::1]" if found[0] == "[::]" else "127.0.0.1", url, count=1)


def parse_node_file(text: str | bytes) -> NodeFile:
    """Read the published form, or raise ValueError with what is wrong with it."""
    # UnicodeDecodeError and JSONDecodeError are ValueErrors, and RecursionError comes of "[[[[...".
    try:
        value: Any = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    data = cast("dict[str, Any]", value)
    return NodeFile(
        pid=_pid(data.get("pid")),
        start_time=_text(data, "startTime"),
        version=_text(data, "version"),
        http=_text(data, "http"),
        socket=_text(data, "socket"),
        token_file=_optional_text(data, "tokenFile"),
        config_path=_optional_text(data, "configPath"),
        certificate=_optional_text(data, "certificate"),
    )


def write_node_file(state_dir: Path, node: NodeFile) -> Path:
    """Write the node's file, whole and for its owner only; return its path."""
    path = state_dir / FILE_NAME
    # The process id keeps two starting nodes from writing into one another's half-written file.
    unfinished = state_dir / f".{FILE_NAME}.{node.pid}"
    with suppress(FileNotFoundError):
        unfinished.unlink()
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _MODE)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(node.to_data(), file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")
    os.replace(unfinished, path)
    return path


def read_node_file(state_dir: Path) -> NodeFile:
    """Read the file of the node on `state_dir`; FileNotFoundError when there is none, else NodeFileError."""
    path = state_dir / FILE_NAME
    try:
        return parse_node_file(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise NodeFileError(f"{path} cannot be read as a node's file: {error}") from None


def remove_node_file(state_dir: Path, *, pid: int) -> None:
    """Remove the file of the node with this process id; another node's file stays."""
    try:
        node = read_node_file(state_dir)
    except (FileNotFoundError, NodeFileError):
        return
    if node.pid == pid:
        with suppress(FileNotFoundError):
            (state_dir / FILE_NAME).unlink()


def process_start_time(pid: int) -> str | None:
    """When the kernel started this process, in its own ticks since boot; None where there is no /proc.

    The wall clock may be set while a node runs; this never changes.
    """
    stat = _stat(pid)
    # The field after the 19 that follow state: proc(5) calls it starttime.
    return None if stat is None else stat[19]


def is_running(node: NodeFile) -> bool:
    """Tell whether the node's process lives, and is not another one with the same id."""
    return is_same_process(node.pid, node.start_time)


def is_same_process(pid: int, start_time: str) -> bool:
    """Tell whether this process lives, and is the one that `process_start_time` said this of ("": nothing)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        # Another user's process; whose it is, the start time says.
        pass
    stat = _stat(pid)
    if stat is None:
        return True
    # One that has ended keeps its id until its parent looks.
    return stat[0] not in ("Z", "X") and (not start_time.isdigit() or stat[19] == start_time)


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name comes before, in parentheses, and may hold anything.
    return text.rpartition(")")[2].split()


def _pid(value: Any) -> int:
    # 0 and negative numbers mean process groups to kill(2).
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError(f"pid is no process id: {value!r}")


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if isinstance(value, str):
        return value
    raise ValueError(f"{key} is not a text: {value!r}")


def _optional_text(data: dict[str, Any], key: str) -> str | None:
    return None if data.get(key) is None else _text(data, key)
