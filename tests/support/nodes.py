"""A real node as a process of its own, and what its users do with it: MCP over HTTP and lines, REST, signals.

    with running_node(tmp_path, [server.entry()]) as node, node.session() as session:
        assert session.text("bad_echo", text="hello") == "hello"

Requests are sent and answers are read apart, each on a connection of its own, so a test has many calls in flight
without a thread. Every wait has a bound. Whatever the test did to the node, nothing of it is left at the end, and what
the node wrote to its log is shown when the test fails.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import shlex
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from .processes import TIMEOUT, alive, group_members, marked, process_census, wait_until

BADSERVER = Path(__file__).with_name("badserver.py")

# An answer that takes longer does not come; a start, a queue and a drain of the tests' settings fit well in.
ANSWER_TIMEOUT = 30.0

# An interpreter and all that a node imports, on a busy machine.
START_TIMEOUT = 30.0

# A drain and a grace of the tests' settings, the guard's last look.
STOP_TIMEOUT = 30.0

# What of the log a failed test shows.
LOG_TAIL = 12_000

Json = dict[str, Any]


class NodeFailed(Exception):
    """The node did not start; the message holds its exit code and its log."""


# ---- the server that misbehaves, as told, from its next start on ------------------------------------------------


class BadServer:
    """A server whose knobs can be turned without its spec key changing: it is learnt well and then misbehaves."""

    def __init__(self, folder: Path, name: str, **knobs: object) -> None:
        self.name = name
        self.script = folder / f"{name}.sh"
        self.spawn_log = folder / f"{name}.log"
        self.behave(**knobs)

    def behave(self, **knobs: object) -> None:
        """Turn the knobs of badserver.py for every start from now on; those not named are off."""
        given = {"SPAWN_LOG": self.spawn_log, **knobs}
        words = [sys.executable, "-S", str(BADSERVER), *(f"{knob}={value}" for knob, value in given.items())]
        # In one step: a start may be reading it.
        beside = self.script.with_suffix(".new")
        beside.write_text(f"#!/bin/sh\nexec {shlex.join(words)}\n")
        beside.chmod(0o700)
        beside.replace(self.script)

    def entry(self, **settings: object) -> Json:
        """What stands in the node's configuration."""
        return {"name": self.name, "command": str(self.script), **settings}

    def tool(self, raw_name: str) -> str:
        """Return the name a tool is listed by."""
        return f"{self.name}_{raw_name}"

    def story(self) -> list[tuple[int, str]]:
        """Return what it did: pairs of pid and words, in order."""
        if not self.spawn_log.exists():
            return []
        lines = (line.partition(" ") for line in self.spawn_log.read_text().splitlines())
        return [(int(pid), words) for pid, _, words in lines]

    def told(self, words: str) -> list[int]:
        """Return the pids that said exactly this."""
        return [pid for pid, said in self.story() if said == words]

    def starts(self) -> list[int]:
        """Return the pids of all its starts."""
        return self.told("start")

    def grandchildren(self) -> list[int]:
        return [int(words.split()[1]) for _, words in self.story() if words.startswith("grandchild ")]

    def cancellations(self) -> list[str]:
        """Return the ids of the calls it was told to cancel, as JSON."""
        return [words.split(" ", 1)[1] for _, words in self.story() if words.startswith("cancelled ")]

    def until_told(self, words: str, times: int = 1) -> None:
        """Wait until it has said this so often."""
        assert wait_until(lambda: len(self.told(words)) >= times), f"never {words!r}: {self.story()}"

    def forget(self) -> None:
        """Begin a new story: what happened until now (the node learning its tools) is not the test's."""
        self.spawn_log.unlink(missing_ok=True)


# ---- one answer that is under way -------------------------------------------------------------------------------


class Exchange:
    """A request that was sent; its answer is read when somebody wants it."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._response: http.client.HTTPResponse | None = None

    @property
    def response(self) -> http.client.HTTPResponse:
        """Wait for the head of the answer."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def body(self) -> bytes:
        """Read a whole answer."""
        try:
            return self.response.read()
        finally:
            self.hang_up()

    def messages(self) -> Iterator[bytes]:
        """Read the messages of the answer as they come: one JSON body, or the events of a stream."""
        if "text/event-stream" not in self.response.getheader("content-type", ""):
            if body := self.body():
                yield body
            return
        try:
            while line := self.response.readline():
                data = line.removeprefix(b"data: ").rstrip(b"\r\n")
                # An event without data only says from where to go on.
                if line.startswith(b"data: ") and data:
                    yield data
        finally:
            self.hang_up()

    def raw_reply(self) -> bytes:
        """Read to the answer, past what comes before it; its bytes."""
        messages = deque(self.messages(), maxlen=1)
        return messages.pop() if messages else b""

    def reply(self) -> Json:
        """Read to the answer."""
        raw = self.raw_reply()
        assert raw, f"no answer: {self.response.status} {self.response.headers}"
        return json.loads(raw)

    def text(self) -> str:
        """Return the text of a tool's result."""
        reply = self.reply()
        assert "result" in reply, reply
        return str(reply["result"]["content"][0]["text"])

    def failure(self) -> Json:
        """Return the error of an answer that is one."""
        reply = self.reply()
        assert "error" in reply, reply
        return reply["error"]

    def answered(self) -> bool:
        """Tell whether something has come, without waiting."""
        if self._response is not None:
            return True
        sock = self._connection.sock
        return sock is None or bool(select.select([sock], [], [], 0)[0])

    def hang_up(self) -> None:
        """Close the connection, whatever is on it."""
        self._connection.close()
        if self._response is not None:
            self._response.close()


def text_of(reply: Mapping[str, Any]) -> str:
    """Return the text of a tool's result."""
    assert "result" in reply, reply
    return str(reply["result"]["content"][0]["text"])


# ---- one client -------------------------------------------------------------------------------------------------


class Session:
    """A client of the legacy era over HTTP."""

    def __init__(self, node: Node, path: str, capabilities: Json | None = None) -> None:
        self._node = node
        self._path = path
        self._capabilities = capabilities
        self._exchanges: list[Exchange] = []
        self._last_id = 0
        self.id: str | None = None

    def open(self) -> Session:
        """Shake hands."""
        exchange = self.send(initialize(capabilities=self._capabilities))
        reply = exchange.reply()
        assert "result" in reply, reply
        self.id = exchange.response.getheader("mcp-session-id")
        assert self.send({"jsonrpc": "2.0", "method": "notifications/initialized"}).response.status == 202
        return self

    def close(self) -> None:
        """Hang up everywhere; the session itself is left to the node."""
        while self._exchanges:
            self._exchanges.pop().hang_up()

    def __enter__(self) -> Session:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, message: Json | bytes) -> Exchange:
        """Send one message on a connection of its own."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self._keep(self._node.send("POST", self._path, body, self._headers()))

    def listen(self) -> Exchange:
        """Open the stream on which the node says what nobody asked for."""
        exchange = self._keep(self._node.send("GET", self._path, b"", self._headers()))
        assert exchange.response.status == 200
        return exchange

    def request(self, method: str, **params: Any) -> Exchange:
        """Send a request with an id nobody has used here."""
        self._last_id += 1
        return self.send({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})

    def call(
        self, tool: str, arguments: Json | None = None, *, id: object = None, token: object = None
    ) -> Exchange:
        """Send a tools/call."""
        self._last_id += 1
        params: Json = {"name": tool, "arguments": arguments or {}}
        if token is not None:
            params["_meta"] = {"progressToken": token}
        given = self._last_id if id is None else id
        return self.send({"jsonrpc": "2.0", "id": given, "method": "tools/call", "params": params})

    def text(self, tool: str, **arguments: Any) -> str:
        """Call a tool and return its text."""
        return self.call(tool, arguments).text()

    def cancel(self, id: object) -> None:
        """Say that nobody wants the answer to this request."""
        params = {"requestId": id, "reason": "the test says so"}
        answer = self.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        assert answer.response.status == 202

    def tools(self) -> list[str]:
        """Return the names that are listed."""
        return [tool["name"] for tool in self.request("tools/list").reply()["result"]["tools"]]

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        return headers if self.id is None else {**headers, "Mcp-Session-Id": self.id}

    def _keep(self, exchange: Exchange) -> Exchange:
        self._exchanges.append(exchange)
        return exchange


class LineSession:
    """A client that runs a command and speaks lines with it, as desktop programs do."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._buffer = b""

    def open(self) -> LineSession:
        """Shake hands."""
        assert "result" in self.ask(initialize())
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def send(self, message: Json | bytes) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        self._process.stdin.write(body + b"\n")
        self._process.stdin.flush()

    def read(self) -> Json:
        """Read one line."""
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while b"\n" not in self._buffer:
            assert select.select([fd], [], [], ANSWER_TIMEOUT)[0], "no line came"
            data = os.read(fd, 1 << 16)
            assert data, "the line client's stdout has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)

    def ask(self, message: Json | bytes) -> Json:
        """Send a request; return the next line that is an answer."""
        self.send(message)
        while "method" in (line := self.read()):
            pass
        return line


def initialize(id: object = 0, version: str = "2025-11-25", capabilities: Json | None = None) -> Json:
    """The first request of a session."""
    info = {"name": "scenario", "version": "1"}
    params = {"protocolVersion": version, "capabilities": capabilities or {}, "clientInfo": info}
    return {"jsonrpc": "2.0", "id": id, "method": "initialize", "params": params}


# ---- the node ---------------------------------------------------------------------------------------------------


class Node:
    """A node that is ready."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], ready: Json) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.process = process
        self.ready = ready
        self.url = str(ready["http"])
        # Empty on a node that asks for none.
        self._token = Path(ready["tokenFile"]).read_text().strip() if ready["tokenFile"] else ""
        self._address = urlsplit(self.url).netloc
        self.guard = self._find_guard()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def token(self) -> str:
        return self._token

    # ---- HTTP ----

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Exchange:
        """Send a request on a new connection."""
        connection = http.client.HTTPConnection(self._address, timeout=ANSWER_TIMEOUT)
        given = {**self._authorization(), **(headers or {})}
        connection.request(method, path, body or None, given)
        return Exchange(connection)

    def rest(self, method: str, path: str) -> tuple[int, Any]:
        """Ask the REST interface; return the status and the JSON."""
        exchange = self.send(method, f"/api/v1/{path}")
        try:
            status = exchange.response.status
            return status, json.loads(exchange.body())
        finally:
            exchange.hang_up()

    def get(self, path: str) -> Any:
        """Read something from the REST interface."""
        status, body = self.rest("GET", path)
        assert status == 200, (status, body)
        return body

    def why(self, server: str | BadServer) -> Json:
        """Ask why a server is as it is."""
        body: Json = self.get(f"servers/{_name(server)}")
        return body

    def state(self, server: str | BadServer) -> str:
        return str(self.why(server)["state"])

    def pids(self, server: str | BadServer) -> list[int]:
        """Return the processes of a server that are ready."""
        states = ("ready", "busy")
        return [one["pid"] for one in self.why(server)["instances"] if one["state"] in states]

    def order(self, server: str | BadServer, verb: str, wait: float = ANSWER_TIMEOUT) -> Json:
        """`server start|stop|retry`, to its outcome."""
        status, body = self.rest("POST", f"servers/{_name(server)}/{verb}?wait={wait}")
        assert status in (200, 202), (status, body)
        outcome: Json = body
        return outcome

    def metrics(self) -> dict[str, float]:
        """Read every sample: its name with labels, and its value."""
        text = self.send("GET", "/metrics").body().decode()
        samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def session(self, path: str = "/mcp", capabilities: Json | None = None) -> Session:
        """Make a client; use it with `with`."""
        return Session(self, path, capabilities)

    @contextmanager
    def line_session(self, *options: str) -> Iterator[LineSession]:
        """Run `mcpv-node stdio` and shake hands with it."""
        with self._command("stdio", *options) as process:
            yield LineSession(process).open()
            assert process.stdin is not None
            process.stdin.close()
            process.wait(STOP_TIMEOUT)

    def command(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run `mcpv-node WORDS` about this node, to its end."""
        with self._command(*words) as process:
            out, err = process.communicate(timeout=ANSWER_TIMEOUT)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    @contextmanager
    def _command(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mcpv_node", *words, "--state-dir", str(self.state_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(self.folder),
        )
        try:
            yield process
        finally:
            _end(process)

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    # ---- waiting ----

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Look again and again until it is so."""
        assert wait_until(condition), f"never {what}"

    def until_state(self, server: str | BadServer, state: str) -> None:
        """Wait until a server is in this state."""
        assert wait_until(lambda: self.state(server) == state), f"never {state}: {self.why(server)}"

    def until_learnt(self, servers: Iterable[str]) -> None:
        """Wait until the tools of these servers are listed and what learnt them has ended."""
        wanted = set(servers)

        def learnt() -> bool:
            return wanted <= {entry["server"] for entry in self.get("catalog/tools")["entries"]}

        assert wait_until(learnt), f"never learnt: {wanted}"
        for name in wanted:
            assert wait_until(lambda name=name: not self._is_probed(name)), self.why(name)

    def _is_probed(self, server: str) -> bool:
        why = self.why(server)
        return why["startCause"] == "bootstrap" and bool(why["instances"])

    # ---- its end ----

    def kill(self) -> None:
        """Kill -9, and wait for the process; not for what it leaves."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT)

    def leftovers(self) -> list[int]:
        """Return the living processes that carry this node's mark: its servers and what they started."""
        return marked(f"{self.node_id}/")

    @property
    def node_id(self) -> str:
        return (self.state_dir / "node.id").read_text().strip()

    def log(self) -> str:
        """Return what it wrote to its log."""
        return log_path(self.folder).read_text(errors="replace")

    def log_lines(self) -> list[Json]:
        """Return the lines of its log."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def _find_guard(self) -> int:
        ledger = str(self.state_dir / "ledger.jsonl").encode()
        for pid in process_census():
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if ledger in words and str(self.pid).encode() in words:
                    return pid
        raise NodeFailed("the node has no guard")


def start_node(folder: Path, servers: Sequence[Mapping[str, Any]], *options: str, **settings: Any) -> Node:
    """Start a node on `folder`/state and wait until it is ready; `running_node` also ends it.

    A second start on the same folder is the same node, later.
    """
    config = folder / "node.yaml"
    # JSON is YAML.
    config.write_text(json.dumps({**settings, "servers": list(servers)}, indent=1))
    return start_node_as_configured(folder, *options)


def start_node_as_configured(folder: Path, *options: str) -> Node:
    """Start a node with the configuration of the start before."""
    process = spawn_node(folder, *options)
    assert process.stdout is not None
    line, started = b"", False
    try:
        if select.select([process.stdout], [], [], START_TIMEOUT)[0]:
            line = process.stdout.readline()
        if not line:
            # One that hangs says where; one that has ended does not hear it.
            process.send_signal(signal.SIGABRT)
            code = process.wait(STOP_TIMEOUT)
            raise NodeFailed(f"the node did not start and ended {code}:\n{_log_tail(folder)}")
        node = Node(folder, process, json.loads(line))
        # The doors are open first; the REST interface is imported after them.
        node.until(lambda: node.rest("GET", "node")[0] == 200, "loaded")
        started = True
        return node
    finally:
        if not started:
            _end(process)


def spawn_node(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start the process of a node; its log goes to a file, its stdout is a pipe."""
    config = folder / "node.yaml"
    words = ["start", "--json", "--state-dir", str(folder / "state")]
    words += ["--config", str(config)] if config.exists() else []
    with log_path(folder).open("ab") as log:
        return subprocess.Popen(
            # -P: the folder we are in is not on the import path, as with the installed command.
            [
                sys.executable,
                "-P",
                "-X",
                "faulthandler",
                "-m",
                "mcpv_node",
                *words,
                "--http",
                "127.0.0.1:0",
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(folder),
            cwd=folder,
        )


def refused_start(folder: Path, *options: str) -> tuple[int, str]:
    """Start a node that cannot; return its exit code and the last line of its log."""
    before = len(log_path(folder).read_bytes()) if log_path(folder).exists() else 0
    process = spawn_node(folder, *options)
    try:
        code = process.wait(START_TIMEOUT)
    finally:
        _end(process)
    return code, log_path(folder).read_bytes()[before:].decode().splitlines()[-1]


@contextmanager
def running_node(
    folder: Path, servers: Sequence[Mapping[str, Any]], *options: str, **settings: Any
) -> Iterator[Node]:
    """Have a node; at the end nothing of it is left, and a node that still runs stops as asked."""
    node = start_node(folder, servers, *options, **settings)
    with ended_at_last(node):
        yield node


@contextmanager
def default_node(folder: Path) -> Iterator[Node]:
    """Have a node without a configuration of its own: it runs what is packaged."""
    with ended_at_last(start_node_as_configured(folder)) as node:
        yield node


@contextmanager
def ended_at_last(node: Node) -> Iterator[Node]:
    """Have the node stopped at the end, and killed if it does not; what it left is a failure, and ended."""
    finished = False
    try:
        yield node
        if node.process.poll() is None:
            code = node.stop()
            assert code == 0, f"the node ended {code}"
        finished = True
    finally:
        _end(node.process)
        # Its guard has its grace; then whatever is left was missed.
        gone = wait_until(lambda: not alive(node.guard) and not node.leftovers())
        left = _kill_all([*node.leftovers(), *([node.guard] if alive(node.guard) else [])])
        if not finished:
            print(_log_tail(node.folder))
        elif not gone:
            raise AssertionError(f"the node left {left}\n{_log_tail(node.folder)}")


def log_path(folder: Path) -> Path:
    """Where a node's log goes."""
    return folder / "node.log"


def groups_gone(pids: Iterable[int], timeout: float = TIMEOUT) -> bool:
    """Wait until no member of the groups that these lead is left."""
    leaders = tuple(pids)
    return wait_until(lambda: not any(group_members(pid) for pid in leaders), timeout)


def _name(server: str | BadServer) -> str:
    return server if isinstance(server, str) else server.name


def environment(folder: Path) -> dict[str, str]:
    """Nothing of this user's is found, and nothing of a node that runs these tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MCPV_", "XDG_"))}
    return {**inherited, "HOME": str(folder)}


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(STOP_TIMEOUT)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def _kill_all(pids: Iterable[int]) -> list[int]:
    killed: list[int] = []
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
    return killed


def _log_tail(folder: Path) -> str:
    path = log_path(folder)
    return path.read_text(errors="replace")[-LOG_TAIL:] if path.exists() else "(no log)"
