"""An MCP server of the older era that asks its client things while it serves. Standard library only; runs by path.

    python -S tests/support/askserver.py [KNOB=VALUE ...]          over pipes
    python -S tests/support/askserver.py http [KNOB=VALUE ...]     over HTTP; its first line on stdout is its URL

It knows nothing of the modern era: `server/discover` is answered with -32601. Calls run side by side. Over pipes it ends
with its stdin, and it never outlives 600 seconds. Its own requests have the ids 1, 2, 3, ... like those of its clients.

Knobs (arguments; a switch is on with any value but "" and "0")
  SPAWN_LOG=FILE     append lines "PID start", "PID call TOOL", "PID asked METHOD", "PID answered JSON" (the client's
                     answer, whole), "PID cancelled ID", "PID level LEVEL", "PID told METHOD" (another notification),
                     "PID subscribed URI", "PID unsubscribed URI", "PID deleted" (the HTTP session)
  ROOTS_AT_ONCE      ask for the roots right after the handshake
  SILENT_PROBE       say nothing to what it does not know

Tools (answer with one text unless said otherwise)
  ask(method, params={}, times=1)      ask the client so often, one after the other: a JSON list of its answers, each
                                       {"result": ..} or {"error": ..}
  ask_all(questions)                   the same for [[method, params], ..], all at once
  ask_then_withdraw(method, params)    ask and cancel that at once; "withdrawn"
  ask_then_go(method, params)          ask and do not wait for the answer; "gone"
  ask_then_crash(method, params)       ask and exit 3
  ask_in_noise(method, params)         ask with lines that are no JSON before and after it (pipes only)
  log()                                a log message of each level that the client wants; "logged"
  progress(steps)                      so many notifications/progress; "done"
  announce(method, params={})          any notification, which belongs to no call; "announced"
  verbatim(json)                       the result is exactly this text
  wait()                               never answers, until it is cancelled
  forget()                             over HTTP: every session is unknown from now on; "forgotten"
  echo(text)                           text
There is one resource, ask://note, which can be subscribed to, and one prompt, `greeting`.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSION = "2025-11-25"
LIFETIME = 600
# Longer than any test waits for anything.
ANSWER_TIMEOUT = 60.0

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
NOTE = "ask://note"

Json = dict[str, Any]
Say = Callable[[bytes], None]

KNOBS = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)


def switch(name: str) -> bool:
    return KNOBS.get(name, "") not in ("", "0")


def log(*words: object) -> None:
    if path := KNOBS.get("SPAWN_LOG"):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, (" ".join(map(str, (os.getpid(), *words))) + "\n").encode())
        os.close(fd)


def encode(message: Json) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **message}).encode()


class NotNow(Exception):
    """The call ends without an answer."""


def tool(name: str, *arguments: str) -> Json:
    properties = {argument: {} for argument in arguments}
    schema = {"type": "object", "properties": properties}
    return {"name": name, "description": f"The {name} of a server that asks.", "inputSchema": schema}


TOOLS = [
    tool("ask", "method", "params", "times"),
    tool("ask_all", "questions"),
    tool("ask_then_withdraw", "method", "params"),
    tool("ask_then_go", "method", "params"),
    tool("ask_then_crash", "method", "params"),
    tool("ask_in_noise", "method", "params"),
    tool("log"),
    tool("progress", "steps"),
    tool("announce", "method", "params"),
    tool("verbatim", "json"),
    tool("wait"),
    tool("forget"),
    tool("echo", "text"),
]


class Server:
    """What it does, whatever the transport; `unasked` says what belongs to no call."""

    def __init__(self, unasked: Say) -> None:
        self.unasked = unasked
        self.level = "debug"
        self.numbers = itertools.count(1)
        self.answers: dict[int, queue.Queue[Json]] = {}
        self.cancelled: dict[str, threading.Event] = {}

    def receive(self, message: Json, say: Say) -> None:
        """Take one message; what comes of it is said, for a call later and from another thread."""
        method, request = message.get("method"), message.get("id")
        params: Json = message.get("params") or {}
        if method is None:
            self.on_answer(message)
        elif request is None:
            self.on_notification(str(method), params)
        elif method == "tools/call":
            # Known before the thread runs: its cancellation may be the very next line.
            self.cancelled[json.dumps(request)] = threading.Event()
            threading.Thread(target=self.call, args=(request, params, say), daemon=True).start()
        elif (result := self.result_of(str(method), params)) is not None:
            say(encode({"id": request, "result": result}))
        elif not switch("SILENT_PROBE"):
            say(encode({"id": request, "error": {"code": -32601, "message": f"no method {method}"}}))

    def result_of(self, method: str, params: Json) -> Json | None:
        """The answer to what is answered at once."""
        match method:
            case "initialize":
                capabilities = {
                    "tools": {"listChanged": True},
                    "resources": {"listChanged": True, "subscribe": True},
                    "prompts": {"listChanged": True},
                    "logging": {},
                    "completions": {},
                }
                info = {"name": "askserver", "version": "1.0"}
                return {"protocolVersion": VERSION, "capabilities": capabilities, "serverInfo": info}
            case "ping":
                return {}
            case "tools/list":
                return {"tools": TOOLS}
            case "resources/list":
                return {"resources": [{"uri": NOTE, "name": "note"}]}
            case "resources/templates/list":
                return {"resourceTemplates": [{"uriTemplate": "ask://page/{id}", "name": "page"}]}
            case "prompts/list":
                return {"prompts": [{"name": "greeting"}]}
            case "prompts/get":
                content = {"type": "text", "text": "hello"}
                return {"messages": [{"role": "user", "content": content}]}
            case "resources/read":
                return {"contents": [{"uri": params["uri"], "text": "noted"}]}
            case "completion/complete":
                return {"completion": {"values": [json.dumps(params["ref"], sort_keys=True)]}}
            case "resources/subscribe":
                log("subscribed", params["uri"])
                return {}
            case "resources/unsubscribe":
                log("unsubscribed", params["uri"])
                return {}
            case "logging/setLevel":
                self.level = str(params["level"])
                log("level", self.level)
                return {}
            case _:
                return None

    def on_answer(self, message: Json) -> None:
        log("answered", json.dumps(message))
        request = message.get("id")
        if isinstance(request, int) and (waiting := self.answers.get(request)) is not None:
            waiting.put({key: message[key] for key in ("result", "error") if key in message})

    def on_notification(self, method: str, params: Json) -> None:
        if method == "notifications/cancelled":
            request = json.dumps(params.get("requestId"))
            log("cancelled", request)
            if event := self.cancelled.get(request):
                event.set()
        elif method == "notifications/initialized":
            if switch("ROOTS_AT_ONCE"):
                self.ask(self.unasked, "roots/list", None)
        else:
            log("told", method)

    # ---- asking ----

    def ask(self, say: Say, method: str, params: Json | None) -> int:
        number = next(self.numbers)
        self.answers[number] = queue.Queue()
        request: Json = {"id": number, "method": method}
        if params is not None:
            request["params"] = params
        say(encode(request))
        log("asked", method)
        return number

    def answer_to(self, number: int) -> Json:
        return self.answers[number].get(timeout=ANSWER_TIMEOUT)

    # ---- tools ----

    def call(self, request: Any, params: Json, say: Say) -> None:
        name, arguments = str(params.get("name")), params.get("arguments") or {}
        log("call", name)
        try:
            result = self.answer(name, arguments, params, request, say)
        except NotNow:
            # The stream ends.
            say(b"")
            return
        except (KeyError, TypeError, ValueError, queue.Empty) as error:
            failure = {"code": -32602, "message": f"wrong arguments for {name}: {error!r}"}
            say(encode({"id": request, "error": failure}))
            return
        say(b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (json.dumps(request).encode(), result.encode()))

    def answer(self, name: str, arguments: Json, params: Json, request: Any, say: Say) -> str:
        method, asked = str(arguments.get("method")), arguments.get("params")
        match name:
            case "ask":
                times = int(arguments.get("times", 1))
                words = json.dumps([self.answer_to(self.ask(say, method, asked)) for _ in range(times)])
            case "ask_all":
                numbers = [self.ask(say, one, given) for one, given in arguments["questions"]]
                words = json.dumps([self.answer_to(number) for number in numbers])
            case "ask_then_withdraw":
                number = self.ask(say, method, asked)
                withdrawn = {"requestId": number, "reason": "not needed"}
                say(encode({"method": "notifications/cancelled", "params": withdrawn}))
                words = "withdrawn"
            case "ask_then_go":
                self.ask(say, method, asked)
                words = "gone"
            case "ask_then_crash":
                self.ask(say, method, asked)
                os._exit(3)
            case "ask_in_noise":
                say(b"[info] about to ask, {not json")
                number = self.ask(say, method, asked)
                say(b"[info] asked")
                words = json.dumps([self.answer_to(number)])
            case "log":
                words = self.log_all(say)
            case "progress":
                words = self.progress(int(arguments["steps"]), params, say)
            case "announce":
                self.unasked(encode({"method": method, "params": asked or {}}))
                words = "announced"
            case "verbatim":
                return str(arguments["json"])
            case "wait":
                self.cancelled[json.dumps(request)].wait(ANSWER_TIMEOUT)
                raise NotNow
            case "forget":
                SESSIONS.clear()
                words = "forgotten"
            case "echo":
                words = str(arguments["text"])
            case _:
                raise ValueError(name)
        return json.dumps({"content": [{"type": "text", "text": words}]})

    def log_all(self, say: Say) -> str:
        for level in LEVELS[LEVELS.index(self.level) :]:
            params = {"level": level, "data": f"this is {level}"}
            say(encode({"method": "notifications/message", "params": params}))
        return "logged"

    def progress(self, steps: int, params: Json, say: Say) -> str:
        token = (params.get("_meta") or {}).get("progressToken")
        for step in range(1, steps + 1):
            if token is not None:
                told = {"progressToken": token, "progress": step, "total": steps}
                say(encode({"method": "notifications/progress", "params": told}))
        return "done"


# ---- over pipes -------------------------------------------------------------------------------------------------


def serve_pipes() -> None:
    writing = threading.Lock()

    def say(line: bytes) -> None:
        with writing:
            data = memoryview(line + b"\n" if line else b"")
            try:
                while data:
                    data = data[os.write(1, data) :]
            except OSError:
                # Nobody reads any more; the end of stdin says the rest.
                pass

    server = Server(say)
    for line in sys.stdin.buffer:
        server.receive(json.loads(line), say)


# ---- over HTTP --------------------------------------------------------------------------------------------------


class HttpSession:
    """One client: its server, and what waits for the stream on which nobody asked."""

    def __init__(self) -> None:
        self.standing: queue.Queue[bytes] = queue.Queue()
        self.server = Server(self.standing.put)


SESSIONS: dict[str, HttpSession] = {}


class Handler(BaseHTTPRequestHandler):
    """Every request of every session, each on a thread of its own."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if message.get("method") == "initialize":
            name = uuid.uuid4().hex
            SESSIONS[name] = HttpSession()
            said: queue.Queue[bytes] = queue.Queue()
            SESSIONS[name].server.receive(message, said.put)
            self.answer(200, said.get(), session=name)
            return
        session = SESSIONS.get(self.headers.get("Mcp-Session-Id", ""))
        if session is None:
            # As the official SDK does it: JSON, with an id that is nobody's.
            failure = {"code": -32600, "message": "Session not found"}
            self.answer(404, encode({"id": "server-error", "error": failure}))
        elif message.get("method") == "tools/call":
            said = queue.Queue()
            session.server.receive(message, said.put)
            self.stream(said, until=message["id"])
        elif "id" in message and "method" in message:
            said = queue.Queue()
            session.server.receive(message, said.put)
            self.answer(200, said.get())
        else:
            session.server.receive(message, lambda _: None)
            self.answer(202)

    def do_GET(self) -> None:
        session = SESSIONS.get(self.headers.get("Mcp-Session-Id", ""))
        if session is None:
            self.answer(404)
        else:
            self.stream(session.standing, until=None)

    def do_DELETE(self) -> None:
        log("deleted")
        self.answer(204 if SESSIONS.pop(self.headers.get("Mcp-Session-Id", ""), None) else 404)

    def answer(self, status: int, body: bytes = b"", session: str | None = None) -> None:
        self.send_response(status)
        if session is not None:
            self.send_header("Mcp-Session-Id", session)
        if body:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, said: queue.Queue[bytes], until: object) -> None:
        """Say what comes, up to the answer to a request or, without one, for ever."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self.wfile.write(b": hello\n\n")
            while message := said.get():
                self.wfile.write(b"data: " + message + b"\n\n")
                head = json.loads(message)
                if until is not None and "method" not in head and head.get("id") == until:
                    break
        except OSError:
            # The client has hung up.
            pass
        self.close_connection = True


def serve_http() -> None:
    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    print(f"http://127.0.0.1:{listener.server_address[1]}/mcp", flush=True)
    listener.serve_forever()


def main() -> None:
    signal.alarm(LIFETIME)
    log("start")
    if "http" in sys.argv[1:]:
        serve_http()
    else:
        serve_pipes()


if __name__ == "__main__":
    main()
