"""`mcpv-node stdio`: an MCP server on stdin and stdout, for clients that want a command.

It joins the running node through `<stateDir>/node.sock` and is then a byte pipe: what the client writes goes to
the node, what the node writes goes to stdout, unchanged. Where no node runs it starts one in the background; of
two that find none at once, one starts it and both join it.

Clients start this again and again, so it costs what a bare interpreter costs: no argument parser, no `socket`
(`_socket` is what that module wraps, and the wrapper takes 5 ms), nothing else until it is needed. stdout carries
MCP only; everything said to people goes to stderr.

Exit codes: 0 the client is done, 1 the node went away, 2 usage, 3 configuration, 4 the node cannot be reached.
"""

from __future__ import annotations

import _socket
import os
import select
import sys

USAGE = """\
Usage: mcpv-node stdio [--server NAME | --tag T... | --profile P] [--state-dir DIR] [--json]

An MCP server on stdin and stdout that joins the running node; if none runs, it
starts one in the background, which ends when nobody was connected for 300 s.

  --server NAME    only this server, with its own names
  --tag T          only servers with this tag, and untagged ones; may be repeated
  --profile P      only what this profile shows
  --state-dir DIR  where the node's state is (default: $MCPV_STATE_DIR)
  --json           say errors as JSON on stderr

  mcpv-node stdio
  mcpv-node stdio --server clock
"""

STDIN = 0
STDOUT = 1

OK = 0
FAILED = 1
USAGE_ERROR = 2
UNREACHABLE = 4

# Connecting to a unix socket is immediate unless the node's backlog is full, and then the node is stuck.
CONNECT_TIMEOUT = 5.0

# The hello line fits any socket buffer: only a node that does not run at all lets it wait.
HELLO_TIMEOUT = 5.0

# A node started by us ends by itself when nobody was connected for this long.
LINGER = 300

# Whoever has the lock is starting a node, for which `start --detach` takes 60 s at most, and ends it for 10 s more.
LOCK_TIMEOUT = 90.0

LOCK_POLL_INTERVAL = 0.05

# After the client's last byte, how long the node may be silent: the longest call may take is 3600 s by default.
LAST_REPLY_TIMEOUT = 3700.0

# What one direction may hold. Reading pauses while it is full, so a slow reader slows its writer down.
BUFFER_SIZE = 256 * 1024
READ_SIZE = 64 * 1024

# POSIX: a pipe that polls as writable takes this much without blocking. stdout stays in blocking mode because the
# mode belongs to the open file, which the client may share.
PIPE_WRITE = 512 if sys.platform == "darwin" else 4096

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Unusable(Exception):
    """What was asked for cannot be done: the sentence to say, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Request:
    """What the command line asked for."""

    __slots__ = ("help", "json", "profile", "server", "state_dir", "tags")

    def __init__(self) -> None:
        self.server: str | None = None
        self.tags: list[str] = []
        self.profile: str | None = None
        self.state_dir: str | None = None
        self.json = False
        self.help = False


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    try:
        request = parse_arguments(arguments)
        if request.help:
            os.write(STDOUT, USAGE.encode())
            return OK
        node = join_node(find_state_dir(request.state_dir), hello_line(request))
        return pump(node)
    except Unusable as refusal:
        say_error(refusal.message, as_json="--json" in arguments)
        return refusal.code
    except KeyboardInterrupt:
        return FAILED


def parse_arguments(arguments: list[str]) -> Request:
    """Read the command line."""
    request = Request()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--json":
            request.json = True
            continue
        if word in ("--help", "-h"):
            request.help = True
            continue
        option, separator, value = word.partition("=")
        if option not in ("--server", "--tag", "--profile", "--state-dir"):
            raise Unusable(f"stdio does not know {word!r}; see `mcpv-node stdio --help`", USAGE_ERROR)
        if not separator:
            if not rest:
                raise Unusable(f"{option} needs a value; see `mcpv-node stdio --help`", USAGE_ERROR)
            value = rest.pop(0)
        if not value:
            raise Unusable(f"the value of {option} is empty", USAGE_ERROR)
        if option == "--server":
            request.server = value
        elif option == "--tag":
            request.tags.append(value)
        elif option == "--profile":
            request.profile = value
        else:
            request.state_dir = value
    if (request.server is not None) + bool(request.tags) + (request.profile is not None) > 1:
        raise Unusable("choose one of --server, --tag and --profile", USAGE_ERROR)
    return request


def find_state_dir(explicit: str | None) -> str:
    """Say where the node's state is: what the other commands learn from `mcpv_node.settings`, in a millisecond."""
    named = explicit or os.environ.get("MCPV_STATE_DIR")
    if named:
        # Joined, not normalised: `link/..` is not always where we are.
        return os.path.join(os.getcwd(), named)
    base = os.environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = os.path.join(os.environ.get("HOME") or os.path.expanduser("~"), ".local/state")
    return os.path.join(base, "mcpv-node")


def hello_line(request: Request) -> bytes:
    """Write the line that says which part of the node this client wants to see."""
    if request.server is not None:
        return b'{"mcpv":1,"server":' + _json_text(request.server) + b"}\n"
    if request.tags:
        return b'{"mcpv":1,"tags":[' + b",".join(map(_json_text, request.tags)) + b"]}\n"
    if request.profile is not None:
        return b'{"mcpv":1,"profile":' + _json_text(request.profile) + b"}\n"
    return b'{"mcpv":1}\n'


def join_node(state_dir: str, hello: bytes) -> _socket.socket:
    """Connect to the node on `state_dir`, starting one where none runs, and say hello."""
    path = os.path.join(state_dir, "node.sock")
    node = _connect(path)
    if node is None:
        node = _start_and_connect(state_dir, path)
    node.settimeout(HELLO_TIMEOUT)
    try:
        node.sendall(hello)
    except OSError as error:
        node.close()
        raise Unusable(
            f"the node at {path} took the connection, but not the first line ({error.strerror or error}); "
            "`mcpv-node status` shows whether it is stopping",
            UNREACHABLE,
        ) from None
    return node


def pump(node: _socket.socket) -> int:
    """Carry bytes both ways until one side is done; return the exit code."""
    try:
        node.setblocking(False)
        return _Pipe(node).run()
    finally:
        node.close()


class _Pipe:
    """The two directions, and how far each of them has come."""

    __slots__ = ("client_writes", "node", "node_reads", "node_writes", "to_client", "to_node")

    def __init__(self, node: _socket.socket) -> None:
        self.node = node
        self.to_node = bytearray()
        self.to_client = bytearray()
        # Whether more may come from either side, and whether the node takes what comes.
        self.client_writes = True
        self.node_writes = True
        self.node_reads = True

    def run(self) -> int:
        while self.node_writes or self.to_client:
            ready = self._wait()
            if STDIN in ready:
                self._read_client()
            if ready.get(self.node.fileno(), 0) & (select.POLLIN | _GONE):
                self._read_node()
            if self.to_node and self.node_reads:
                self._write_node()
            if ready.get(STDOUT, 0) & (select.POLLOUT | _GONE) and not self._write_client():
                # Nobody reads any more: the client has left.
                return OK
        if self.client_writes or self.to_node or not self.node_reads:
            raise Unusable(
                "the node closed the connection; `mcpv-node status` shows whether it still runs", FAILED
            )
        return OK

    def _wait(self) -> dict[int, int]:
        """Wait until something can be done. Errors always count, so what is not wanted now is left out."""
        wanted = select.poll()
        if self.client_writes and len(self.to_node) < BUFFER_SIZE:
            wanted.register(STDIN, select.POLLIN)
        events = select.POLLIN if self.node_writes and len(self.to_client) < BUFFER_SIZE else 0
        events |= select.POLLOUT if self.to_node else 0
        if events:
            wanted.register(self.node.fileno(), events)
        # Even with nothing to write: a client that is gone shows here while the node is silent.
        wanted.register(STDOUT, select.POLLOUT if self.to_client else 0)
        ready = dict(wanted.poll(None if self.client_writes else LAST_REPLY_TIMEOUT * 1000))
        if not ready:
            raise Unusable(
                f"the node has been silent for {LAST_REPLY_TIMEOUT:.0f} s; what was asked last has no answer",
                FAILED,
            )
        return ready

    def _read_client(self) -> None:
        try:
            chunk = os.read(STDIN, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            chunk = b""
        self.to_node += chunk
        if not chunk:
            self.client_writes = False
            self._end_writing_when_sent()

    def _read_node(self) -> None:
        try:
            chunk = self.node.recv(READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # It closed with something of ours unread.
            self._node_stopped_reading()
            chunk = b""
        self.to_client += chunk
        self.node_writes = bool(chunk)

    def _write_node(self) -> None:
        try:
            sent = self.node.send(self.to_node)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._node_stopped_reading()
            return
        del self.to_node[:sent]
        self._end_writing_when_sent()

    def _write_client(self) -> bool:
        """Write what surely does not block; tell whether anybody reads."""
        try:
            # Nothing to write, and yet we were called: stdout is broken, and writing nothing would not say so.
            written = os.write(STDOUT, self.to_client[:PIPE_WRITE]) if self.to_client else 0
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            return False
        del self.to_client[:written]
        return written > 0

    def _end_writing_when_sent(self) -> None:
        if self.client_writes or self.to_node or not self.node_reads:
            return
        try:
            self.node.shutdown(_socket.SHUT_WR)
        except OSError:
            self._node_stopped_reading()

    def _node_stopped_reading(self) -> None:
        # It may have said why before it closed: its last lines are still read.
        self.node_reads = False
        self.client_writes = False
        self.to_node.clear()


def say(sentence: str) -> None:
    """Say a sentence on stderr; nobody may be listening."""
    try:  # noqa: SIM105 (contextlib takes a third of the time this command may take)
        os.write(2, f"mcpv-node: {sentence}\n".encode(errors="replace"))
    except OSError:
        pass


def say_error(sentence: str, *, as_json: bool) -> None:
    """Say why this ends."""
    if not as_json:
        say(sentence)
        return
    try:  # noqa: SIM105 (as above)
        os.write(2, b'{"error":' + _json_text(sentence) + b"}\n")
    except OSError:
        pass


def _connect(path: str) -> _socket.socket | None:
    """Connect to the node; None when none listens there."""
    node = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        node.settimeout(CONNECT_TIMEOUT)
        node.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        node.close()
        return None
    except OSError as error:
        node.close()
        raise Unusable(
            f"the node at {path} cannot be reached: {error.strerror or error}; "
            "check who owns it, or name another folder with --state-dir",
            UNREACHABLE,
        ) from None
    return node


def _start_and_connect(state_dir: str, path: str) -> _socket.socket:
    """Start a node in the background, unless another client just did, and connect to it."""
    try:
        os.makedirs(state_dir, mode=0o700, exist_ok=True)
        lock = os.open(os.path.join(state_dir, "stdio.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Unusable(
            f"no node runs, and none can be started on {state_dir}: {error.strerror or error}", UNREACHABLE
        ) from None
    try:
        _take(lock, state_dir)
        # Whoever had the lock before us may have started it.
        node = _connect(path)
        if node is not None:
            return node
        code = _start(state_dir)
        # Whatever the start says: if a node is there now, it is the one to join.
        node = _connect(path)
        if node is not None:
            return node
    finally:
        os.close(lock)
    raise Unusable(
        f"no node runs on {state_dir}, and starting one failed; `mcpv-node start` shows why",
        code if code == 3 else UNREACHABLE,
    )


def _start(state_dir: str) -> int:
    # The one slow way: loaded only when there is a node to start.
    from .detach import run_detached_start

    say(
        f"no node runs on {state_dir}; starting one in the background (it ends {LINGER} s after its last client)"
    )
    return run_detached_start(state_dir, linger=LINGER)


def _take(lock: int, state_dir: str) -> None:
    import fcntl
    import time

    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unusable(
                    f"another client has been starting a node on {state_dir} for {LOCK_TIMEOUT:.0f} s; "
                    "`mcpv-node start` shows what is wrong",
                    UNREACHABLE,
                ) from None
        time.sleep(LOCK_POLL_INTERVAL)


def _json_text(text: str) -> bytes:
    # Names are plain; only for anything else is the JSON module worth its 3 ms.
    if text.isascii() and text.replace("-", "").replace("_", "").isalnum():
        return b'"' + text.encode() + b'"'
    import json

    return json.dumps(text).encode()
