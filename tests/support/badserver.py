"""An MCP server that misbehaves as told: for tests of those who run servers. Standard library only; runs by path.

    python -S tests/support/badserver.py [KNOB=VALUE ...]

It speaks MCP on stdio (legacy handshake, newest version 2025-11-25), answers calls side by side, ends with its
stdin, and never outlives 600 seconds. Knobs are environment variables or arguments `KNOB=VALUE` (these win);
a switch is on with any value but "" and "0".

At the start and in the handshake
  START_DELAY=SECONDS         wait before the first look at stdin
  INIT_FAIL_N=N:FILE          the first N starts (counted in FILE) exit 3 in the handshake
  INIT_ERROR                  answer `initialize` with a JSON-RPC error
  HANG_HANDSHAKE              never answer `initialize`
  EXIT_IN_HANDSHAKE=CODE      exit with CODE on `initialize`
  VERSION=TEXT                answer `initialize` with this protocol version
Garbage
  GARBAGE                     a line of noise first of all, and one before every reply
  GARBAGE_REPLY               answer every tools/call with a line that is not JSON
  BAD_UTF8                    answer every tools/call with bytes that are not UTF-8
  LONG_LINE=BYTES             answer every tools/call with a line this long
  STDERR_FLOOD=BYTES          write so much to stderr first of all, in one line
  STDERR_LINES=N              write so many lines of 100 bytes to stderr first of all
Refusing to go
  IGNORE_TERM                 ignore SIGTERM
  IGNORE_STDIN_EOF            go on (doing nothing) after stdin has ended
  FORK_GRANDCHILD             a child in the same group that keeps stdin, stdout and stderr open for 300 s
  SETSID_GRANDCHILD           a child in a session of its own, with no pipe of ours, for 300 s
  EXIT_AFTER_CALLS=N          exit 0 right after the reply to the N-th tools/call
  IGNORE_CANCEL               a cancelled call goes on to its end, and is answered
Lists
  LIST_PAGES=N                the tools come in N pages
  LIST_FILE=FILE              the tools are this JSON list (whole definitions); on SIGHUP it is read again, and
                              notifications/tools/list_changed is sent; all tools of the list answer like `echo`
  LIST_ERROR                  answer tools/list with a JSON-RPC error
Others
  SPAWN_LOG=FILE              append lines "PID start", "PID stop" (stdin ended), "PID signal NAME" (TERM, HUP), "PID exit CODE",
                              "PID grandchild PID", "PID initialize", "PID call TOOL", "PID cancelled ID"
  PING_BLOCK                  never answer `ping`
  LOG_PINGS                   the log says "PID ping" at each ping from the client
  LOG_META                    the log says "PID meta JSON" at each tools/call: its `_meta`
  ECHO_PING                   send `ping` to the client after the handshake; the log says "PID pong"

Tools (all answer with text)
  echo(text)                  text
  sleep(seconds, steps=0)     sleeps in `steps` steps, with notifications/progress for each if asked for; says how long
  slow_progress(seconds, steps)   the same, with progress always (if there is a token) and 5 steps by default
  pid()                       its process id
  env(name)                   the variable's value, or "(unset)"
  crash(code | signal)        exits with `code`, or by `signal` (a number), without an answer
  ping_client()               sends `ping` to the client and reports its answer
  big(bytes)                  so many x
  error(code=-32000, message="told to fail")   a JSON-RPC error
  is_error(text)              a result with isError true
A cancelled call is not answered, but for IGNORE_CANCEL.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
LIFETIME = 600
GRANDCHILD_LIFETIME = 300
PING_ANSWER_TIMEOUT = 10.0

Json = dict[str, Any]

KNOBS = {**os.environ, **dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)}


def knob(name: str) -> str:
    return KNOBS.get(name, "")


def switch(name: str) -> bool:
    return knob(name) not in ("", "0")


def log(*words: object) -> None:
    if path := knob("SPAWN_LOG"):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, (" ".join(map(str, (os.getpid(), *words))) + "\n").encode())
        os.close(fd)


def leave(code: int) -> None:
    """Exit at once, whatever the other threads do."""
    log("exit", code)
    os._exit(code)


def text_tool(name: str, /, **properties: str) -> Json:
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"name": name, "description": f"The {name} of a server that misbehaves.", "inputSchema": schema}


TOOLS = [
    text_tool("echo", text="string"),
    text_tool("sleep", seconds="number", steps="integer"),
    text_tool("slow_progress", seconds="number", steps="integer"),
    text_tool("pid"),
    text_tool("env", name="string"),
    text_tool("crash", code="integer", signal="integer"),
    text_tool("ping_client"),
    text_tool("big", bytes="integer"),
    text_tool("error", code="integer", message="string"),
    text_tool("is_error", text="string"),
]


class ToolError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Server:
    def __init__(self) -> None:
        # The replies of calls that run side by side must not mix within a line.
        self.writing = threading.Lock()
        self.cancelled: dict[str, threading.Event] = {}
        self.pings: dict[str, threading.Event] = {}
        self.calls = 0
        self.tools: list[Json] = TOOLS
        self.read_tools()

    def read_tools(self) -> None:
        if path := knob("LIST_FILE"):
            with open(path) as file:
                self.tools = json.load(file)

    # ---- writing ----

    def write_line(self, line: bytes) -> None:
        with self.writing:
            data = memoryview(line + b"\n")
            try:
                while data:
                    data = data[os.write(1, data) :]
            except OSError:
                # Nobody reads any more; the end of stdin says the rest.
                pass

    def send(self, message: Json) -> None:
        self.write_line(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def reply(self, request: Any, result: Json) -> None:
        if switch("GARBAGE"):
            self.write_line(b"[info] about to reply, {not json")
        self.send({"id": request, "result": result})

    def refuse(self, request: Any, code: int, message: str) -> None:
        self.send({"id": request, "error": {"code": code, "message": message}})

    # ---- what comes in ----

    def receive(self, message: Json) -> None:
        method, request = message.get("method"), message.get("id")
        params: Json = message.get("params") or {}
        if method is None:
            if event := self.pings.get(str(request)):
                event.set()
        elif method == "initialize":
            self.initialize(request, params)
        elif method == "notifications/initialized":
            if switch("ECHO_PING"):
                threading.Thread(target=self.ping, daemon=True).start()
        elif method == "notifications/cancelled":
            log("cancelled", json.dumps(params.get("requestId")))
            event = self.cancelled.get(json.dumps(params.get("requestId")))
            if event and not switch("IGNORE_CANCEL"):
                event.set()
        elif method == "ping":
            if switch("LOG_PINGS"):
                log("ping")
            if not switch("PING_BLOCK"):
                self.reply(request, {})
        elif method == "tools/list":
            self.list_tools(request, params)
        elif method == "tools/call":
            if switch("LOG_META"):
                log("meta", json.dumps(params.get("_meta", {}), separators=(",", ":")))
            # Known before the thread runs: its cancellation may be the very next line.
            self.cancelled[json.dumps(request)] = threading.Event()
            threading.Thread(target=self.call, args=(request, params), daemon=True).start()
        elif request is not None:
            self.refuse(request, -32601, f"no method {method}")

    def initialize(self, request: Any, params: Json) -> None:
        log("initialize")
        if failures := knob("INIT_FAIL_N"):
            limit, _, path = failures.partition(":")
            with open(path, "a+") as file:
                file.write("x")
                file.seek(0)
                if len(file.read()) <= int(limit):
                    file.flush()
                    leave(3)
        if code := knob("EXIT_IN_HANDSHAKE"):
            os.write(2, b"exiting in the handshake, as told\n")
            leave(int(code))
        if switch("HANG_HANDSHAKE"):
            return
        if switch("INIT_ERROR"):
            self.refuse(request, -32000, "told to refuse")
            return
        asked = params.get("protocolVersion")
        version = knob("VERSION") or (asked if asked in VERSIONS else VERSIONS[0])
        self.reply(
            request,
            {
                "protocolVersion": version,
                "capabilities": {"tools": {"listChanged": True}},
                "serverInfo": {"name": "badserver", "version": "1.0"},
            },
        )

    def list_tools(self, request: Any, params: Json) -> None:
        if switch("LIST_ERROR"):
            self.refuse(request, -32000, "told to fail the list")
            return
        tools, pages = self.tools, int(knob("LIST_PAGES") or 1)
        page = int(params.get("cursor") or 0)
        size = -(-len(tools) // pages)
        result: Json = {"tools": tools[page * size : (page + 1) * size]}
        if page + 1 < pages:
            result["nextCursor"] = str(page + 1)
        self.reply(request, result)

    # ---- tools ----

    def call(self, request: Any, params: Json) -> None:
        name = params.get("name")
        log("call", name)
        cancelled = self.cancelled[json.dumps(request)]
        try:
            result = self.answer(name, params, cancelled)
        except ToolError as error:
            self.refuse(request, error.code, str(error))
        except (KeyError, TypeError, ValueError) as error:
            self.refuse(request, -32602, f"wrong arguments for {name}: {error!r}")
        else:
            if not cancelled.is_set():
                self.reply_to_call(request, result)
        del self.cancelled[json.dumps(request)]
        self.count_call()

    def reply_to_call(self, request: Any, result: Json) -> None:
        if switch("GARBAGE_REPLY"):
            self.write_line(b"this is not JSON, though it should answer " + json.dumps(request).encode())
        elif switch("BAD_UTF8"):
            self.write_line(
                b'{"jsonrpc":"2.0","id":' + json.dumps(request).encode() + b',"result":{"x":"\xff\xfe"}}'
            )
        elif size := knob("LONG_LINE"):
            self.reply(request, {"content": [{"type": "text", "text": "x" * int(size)}]})
        else:
            self.reply(request, result)

    def count_call(self) -> None:
        with self.writing:
            self.calls += 1
            if self.calls == int(knob("EXIT_AFTER_CALLS") or -1):
                leave(0)

    def answer(self, name: Any, params: Json, cancelled: threading.Event) -> Json:
        arguments: Json = params.get("arguments") or {}
        tools: dict[str, Callable[[], str]] = {
            "echo": lambda: str(arguments["text"]),
            "sleep": lambda: self.sleep(params, cancelled, steps=int(arguments.get("steps", 0))),
            "slow_progress": lambda: self.sleep(params, cancelled, steps=int(arguments.get("steps", 5))),
            "pid": lambda: str(os.getpid()),
            "env": lambda: os.environ.get(str(arguments["name"]), "(unset)"),
            "crash": lambda: self.crash(arguments),
            "ping_client": self.ping,
            "big": lambda: "x" * int(arguments["bytes"]),
            "is_error": lambda: str(arguments.get("text", "told to fail")),
        }
        if name == "error":
            raise ToolError(int(arguments.get("code", -32000)), str(arguments.get("message", "told to fail")))
        if all(tool["name"] != name for tool in self.tools):
            raise ToolError(-32602, f"Unknown tool: {name}")
        tool = tools.get(str(name), lambda: str(arguments.get("text", name)))
        return {"content": [{"type": "text", "text": tool()}], "isError": name == "is_error"}

    def sleep(self, params: Json, cancelled: threading.Event, *, steps: int) -> str:
        seconds = float((params.get("arguments") or {}).get("seconds", 0))
        token = (params.get("_meta") or {}).get("progressToken")
        for step in range(1, max(steps, 1) + 1):
            if cancelled.wait(seconds / max(steps, 1)):
                return "cancelled"
            if token is not None and steps:
                progress = {"progressToken": token, "progress": step, "total": steps}
                self.send({"method": "notifications/progress", "params": progress})
        return f"slept {seconds}"

    def crash(self, arguments: Json) -> str:
        if "signal" in arguments:
            log("signal", arguments["signal"])
            os.kill(os.getpid(), int(arguments["signal"]))
            # A signal other than KILL arrives when the main thread gets to it.
            time.sleep(PING_ANSWER_TIMEOUT)
        leave(int(arguments.get("code", 1)))
        return "unreachable"

    def ping(self) -> str:
        request = f"ping-{time.monotonic_ns()}"
        event = self.pings[request] = threading.Event()
        self.send({"id": request, "method": "ping"})
        if not event.wait(PING_ANSWER_TIMEOUT):
            return "no answer"
        log("pong")
        return "answered"


def start_grandchildren() -> None:
    program = [sys.executable, "-S", "-c", f"import time; time.sleep({GRANDCHILD_LIFETIME})"]
    if switch("FORK_GRANDCHILD"):
        log("grandchild", subprocess.Popen(program).pid)
    if switch("SETSID_GRANDCHILD"):
        null = subprocess.DEVNULL
        child = subprocess.Popen(program, start_new_session=True, stdin=null, stdout=null, stderr=null)
        log("grandchild", child.pid)


def take_signals(server: Server) -> None:
    """Own the signals in the main thread; the others inherit the block."""

    def on_term(number: int, frame: object) -> None:
        log("signal", "TERM")
        if not switch("IGNORE_TERM"):
            leave(128 + number)

    def on_hup(number: int, frame: object) -> None:
        log("signal", "HUP")
        server.read_tools()
        # Not from here: the reply it interrupts may hold the writing end.
        message: Json = {"method": "notifications/tools/list_changed"}
        threading.Thread(target=server.send, args=(message,), daemon=True).start()

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGHUP, on_hup)
    signal.alarm(LIFETIME)


def read_lines() -> None:
    """Read requests until stdin ends."""
    for line in sys.stdin.buffer:
        with suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                SERVER.receive(message)


def main() -> None:
    log("start")
    take_signals(SERVER)
    start_grandchildren()
    if size := knob("STDERR_FLOOD"):
        sys.stderr.write(("complaint " * (int(size) // 10 + 1))[: int(size)])
        sys.stderr.flush()
    if count := knob("STDERR_LINES"):
        sys.stderr.write(("complaint " * 10)[:99].join(["", *["\n"] * int(count)]))
        sys.stderr.flush()
    if switch("GARBAGE"):
        SERVER.write_line(b"Welcome to the server that misbehaves!")
    if delay := knob("START_DELAY"):
        time.sleep(float(delay))
    read_lines()
    log("stop")
    while switch("IGNORE_STDIN_EOF"):
        signal.pause()
    leave(0)


SERVER = Server()

if __name__ == "__main__":
    main()
