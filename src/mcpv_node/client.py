"""For programs that talk to a running node.

    node = find_node(state_dir)
    client = NodeClient(node)
    client.servers().value          # REST, over HTTP
    client.call_tool("clock_now", {"tz": "UTC"})   # MCP lines, over the node's unix socket

Blocking, one connection for each request, every wait bounded. An answer is kept twice: as the bytes the node
sent, and as typed data, which ignores members it does not know. Errors:

    ClientError
    ├── NodeUnreachable   no node, or it does not answer: start one, or name another folder
    ├── NodeRefused       it answered with a problem: status, title, detail
    ├── CallRefused       it answered a request with a JSON-RPC error: code, message, data
    └── BadAnswer         it answered with what is not the contract
"""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Raw, Struct

from mcpv_node.node_file import NodeFile, NodeFileError, from_here, is_running, read_node_file
from mcpv_node.reports import (
    Approved,
    Catalog,
    CatalogDifference,
    Learning,
    NodeState,
    Reloaded,
    ServerAct,
    ServerReport,
    TreePlace,
)
from mcpv_node.telemetry.clock import SystemClock
from mcpv_node.version import VERSION

# New servers may have to start before the old ones end, each within its own bound (seconds).
RELOAD_TIMEOUT = 610.0

# A stream says something every few seconds, if only that it is there.
FOLLOW_TIMEOUT = 60.0

# A node answers REST from memory; what takes longer is a node that does not run any more.
ANSWER_TIMEOUT = 10.0

# The longest a call may take is 3600 s by default, and the node ends it then; the rest is for its queue and a start.
CALL_TIMEOUT = 3700.0

# REST is loaded after the doors are open: a fraction of a second, more on a busy machine.
LOADING_TIMEOUT = 10.0
LOADING_POLL_INTERVAL = 0.1

# The catalog of 1,000 servers with 10 tools each is 10 MB; this stops an answer that never ends.
MAX_ANSWER_BYTES = 256 * 1024 * 1024

# The newest revision of the era with a handshake: the line door speaks it.
PROTOCOL_VERSION = "2025-11-25"

ServerVerb = Literal["start", "stop", "retry"]
CatalogKind = Literal["tools", "resources", "prompts"]

_T = TypeVar("_T")


class ClientError(Exception):
    """A request to a node did not succeed; the text says why, and what to do where something can be done."""


class NodeUnreachable(ClientError):
    """There is no node, or it does not answer."""


class BadAnswer(ClientError):
    """What was answered is not the contract: another program has the port, or the versions differ."""


class NodeRefused(ClientError):
    """The node answered with a problem (RFC 9457)."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        reason: str | None = None,
        problems: tuple[str, ...] = (),
    ) -> None:
        super().__init__("\n  ".join((detail or title, *problems)))
        self.status = status
        self.title = title
        self.detail = detail
        self.reason = reason
        self.problems = problems


class CallRefused(ClientError):
    """A request got a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


@dataclass(frozen=True, slots=True)
class Answer(Generic[_T]):
    """What a node answered: the meaning, and the bytes as sent."""

    value: _T
    body: bytes


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered."""

    # The `result` member as sent.
    raw: bytes
    is_error: bool
    # The text blocks of its content, in order.
    texts: tuple[str, ...]
    # What its other blocks are: "image", "resource_link", ...
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListedTool:
    """One tool as clients see it."""

    name: str
    description: str
    definition: Mapping[str, Any]


class _ServerList(Struct, frozen=True):
    servers: tuple[ServerReport, ...]


class _MaybeFull(Struct, frozen=True):
    full: bool = False


class _Owned(Struct, frozen=True):
    server: str = ""


class _Problem(Struct, frozen=True):
    title: str = ""
    detail: str = ""
    reason: str | None = None
    problems: tuple[str, ...] = ()


class _RpcError(Struct, frozen=True):
    code: int = 0
    message: str = ""
    data: Any = None


class _RpcMessage(Struct, frozen=True):
    id: int | str | float | None = None
    method: str | None = None
    result: Raw = Raw(b"")
    error: _RpcError | None = None


class _CallContent(Struct, frozen=True):
    content: tuple[dict[str, Any], ...] = ()
    is_error: bool = msgspec.field(name="isError", default=False)


class _ToolPage(Struct, frozen=True):
    tools: tuple[dict[str, Any], ...] = ()
    next_cursor: str | None = msgspec.field(name="nextCursor", default=None)


def find_node(state_dir: Path) -> NodeFile:
    """Say how to reach the node on `state_dir`, or raise NodeUnreachable with what to do."""
    try:
        node = read_node_file(state_dir)
    except FileNotFoundError:
        raise NodeUnreachable(
            f"no node runs on {state_dir}; start one with `mcpv-node start`, "
            "or name its folder with --state-dir or $MCPV_STATE_DIR"
        ) from None
    except NodeFileError as error:
        raise NodeUnreachable(f"{error}; `mcpv-node start` writes it anew") from None
    if not is_running(node):
        raise NodeUnreachable(
            f"the node on {state_dir} is not running: its process {node.pid} is gone; "
            "start it again with `mcpv-node start`"
        )
    return node


class NodeClient:
    """Talks to one node."""

    def __init__(self, node: NodeFile) -> None:
        self._node = node
        self._address = _parse_http_address(node.http)

    @property
    def node(self) -> NodeFile:
        """The node this talks to."""
        return self._node

    def node_state(self) -> Answer[NodeState]:
        """Ask for the node's own state."""
        body = self._request("GET", "/api/v1/node")
        return Answer(_decode(body, NodeState), body)

    def servers(self) -> Answer[tuple[ServerReport, ...]]:
        """Ask for the state of all servers."""
        body = self._request("GET", "/api/v1/servers")
        if body.lstrip().startswith(b"["):
            return Answer(_decode(body, tuple[ServerReport, ...]), body)
        return Answer(_decode(body, _ServerList).servers, body)

    def server(self, name: str) -> Answer[ServerReport]:
        """Ask why a server is as it is."""
        body = self._request("GET", f"/api/v1/servers/{quote(name, safe='')}")
        return Answer(_decode(body, ServerReport), body)

    def tree(self) -> Answer[TreePlace]:
        """Ask for the tree of actors."""
        body = self._request("GET", "/api/v1/tree")
        return Answer(_decode(body, TreePlace), body)

    def act(self, name: str, verb: ServerVerb, *, wait: float | None = None) -> Answer[ServerAct]:
        """Start, stop or retry a server: its state at once, or the outcome within `wait` seconds."""
        path = f"/api/v1/servers/{quote(name, safe='')}/{verb}"
        path += f"?wait={wait:g}" if wait is not None else ""
        body = self._request("POST", path, timeout=ANSWER_TIMEOUT + (wait or 0.0))
        return Answer(_decode(body, ServerAct), body)

    def approve(self, name: str, tools: Sequence[str] = ()) -> Answer[Approved]:
        """Agree to the changed definitions of these tools of a server, by its own names; of none: of all."""
        content = json.dumps({"tools": list(tools)} if tools else {}).encode()
        body = self._request("POST", f"/api/v1/servers/{quote(name, safe='')}/approve", content=content)
        return Answer(_decode(body, Approved), body)

    def catalog(self, kind: CatalogKind, *, server: str | None = None) -> Answer[Catalog]:
        """Ask for the catalog of a kind, or for one server's part of it. Listing never starts a server."""
        body = self._request("GET", f"/api/v1/catalog/{kind}")
        if server is not None:
            body = _only_of(body, server)
        return Answer(_decode(body, Catalog), body)

    def catalog_since(self, kind: CatalogKind, version: int) -> Answer[Catalog | CatalogDifference]:
        """Ask what has changed since a version; the whole catalog where that is too long ago."""
        body = self._request("GET", f"/api/v1/catalog/{kind}?since={version}")
        if _decode(body, _MaybeFull).full:
            return Answer(_decode(body, Catalog), body)
        return Answer(_decode(body, CatalogDifference), body)

    def refresh(self, servers: Sequence[str] = (), *, wait: float | None = None) -> Answer[Learning]:
        """Have the lists of these servers, or of all, learnt again: how far at once, or within `wait` seconds."""
        path = "/api/v1/catalog/refresh" + (f"?wait={wait:g}" if wait is not None else "")
        content = json.dumps({"servers": list(servers)}).encode()
        body = self._request("POST", path, timeout=ANSWER_TIMEOUT + (wait or 0.0), content=content)
        return Answer(_decode(body, Learning), body)

    def reload(self) -> Answer[Reloaded]:
        """Have the configuration read again and brought into effect; NodeRefused says why it is not."""
        body = self._request("POST", "/api/v1/reload", timeout=RELOAD_TIMEOUT)
        return Answer(_decode(body, Reloaded), body)

    def logs(
        self, *, level: str | None = None, server: str | None = None, follow: bool = False
    ) -> Iterator[bytes]:
        """The lines of the node's log, each a JSON object: those that are kept and, to follow, each that is written."""
        return (line for _, line in self._log_lines(level=level, server=server, follow=follow))

    def logs_since(self, last: str | None, *, level: str | None = None) -> tuple[list[bytes], str | None]:
        """The lines after the one with the id `last`, or all that are kept; and the id to go on with."""
        lines: list[bytes] = []
        for id, line in self._log_lines(level=level, after=last):
            last = id or last
            lines.append(line)
        return lines, last

    def _log_lines(
        self,
        *,
        level: str | None = None,
        server: str | None = None,
        follow: bool = False,
        after: str | None = None,
    ) -> Iterator[tuple[str | None, bytes]]:
        asked = {"level": level, "server": server, "follow": "true" if follow else "false"}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        return self._stream(f"/api/v1/logs?{query}", after=after)

    def events(self) -> Iterator[bytes]:
        """The last transitions that the node remembers, each a JSON object."""
        return (event for _, event in self._stream("/api/v1/events?follow=false"))

    def health(self) -> dict[str, Any]:
        """What the node says to probes: the status of each, and why it is not good."""
        answers: dict[str, Any] = {}
        for path in ("/healthz", "/readyz"):
            status, _, body = self._exchange("GET", path, timeout=ANSWER_TIMEOUT, content=None)
            answers[path] = {"status": status, "detail": _read_problem(body).detail}
        return answers

    def read(self, path: str) -> bytes:
        """What the node says at a path, as it was sent; for those who keep it and do not look at it."""
        return self._request("GET", path)

    def _stream(self, path: str, *, after: str | None = None) -> Iterator[tuple[str | None, bytes]]:
        """The data of each server-sent event, and the id that it or one before it has."""
        self.node_state()  # refuses what this would refuse, and waits until REST is loaded
        connection = self._connection(FOLLOW_TIMEOUT)
        try:
            connection.request(
                "GET",
                path,
                headers={
                    **self._authorization(),
                    "Accept": "text/event-stream",
                    **({} if after is None else {"Last-Event-ID": after}),
                },
            )
            response = connection.getresponse()
            if response.status != 200:
                problem = _read_problem(_read_body(response))
                raise NodeRefused(response.status, problem.title or "nothing to read", problem.detail)
            id: str | None = None
            while line := response.readline():
                if line.startswith(b"id: "):
                    id = line.removeprefix(b"id: ").strip().decode("ascii", "replace")
                elif line.startswith(b"data: "):
                    yield id, line.removeprefix(b"data: ").rstrip(b"\r\n")
        except (OSError, HTTPException) as error:
            raise NodeUnreachable(f"the node at {self._node.http} has gone: {error}") from None
        finally:
            connection.close()

    def stop_node(self) -> Answer[dict[str, Any]]:
        """Ask the node to drain and end; answered before it does."""
        body = self._request("POST", "/api/v1/node/stop")
        return Answer(_decode(body or b"{}", dict[str, Any]), body)

    def call_tool(
        self, name: str, arguments: Mapping[str, Any] | None = None, *, timeout: float = CALL_TIMEOUT
    ) -> ToolResult:
        """Call a tool and wait for its result, or raise CallRefused."""
        with self._lines(timeout) as lines:
            raw = lines.request("tools/call", {"name": name, "arguments": dict(arguments or {})})
        call = _decode(raw, _CallContent)
        texts = tuple(str(block.get("text", "")) for block in call.content if block.get("type") == "text")
        others = tuple(str(block.get("type")) for block in call.content if block.get("type") != "text")
        return ToolResult(raw=raw, is_error=call.is_error, texts=texts, others=others)

    def list_tools(self, *, timeout: float = ANSWER_TIMEOUT) -> tuple[ListedTool, ...]:
        """List the tools as an MCP client sees them, all pages."""
        found: list[ListedTool] = []
        with self._lines(timeout) as lines:
            cursor: str | None = None
            while True:
                page = _decode(
                    lines.request("tools/list", {} if cursor is None else {"cursor": cursor}), _ToolPage
                )
                found += [
                    ListedTool(str(tool.get("name", "")), str(tool.get("description", "")), tool)
                    for tool in page.tools
                ]
                # A page that leads to itself would never end.
                if page.next_cursor is None or page.next_cursor == cursor:
                    return tuple(found)
                cursor = page.next_cursor

    def _request(
        self, method: str, path: str, *, timeout: float = ANSWER_TIMEOUT, content: bytes | None = None
    ) -> bytes:
        clock = SystemClock()
        deadline = clock.monotonic() + LOADING_TIMEOUT
        while True:
            status, headers, body = self._exchange(method, path, timeout=timeout, content=content)
            problem = _read_problem(body)
            # A 503 with a reason is an answer about a server; one without means that REST is still being loaded.
            loading = status == 503 and headers.get("retry-after") is not None and problem.reason is None
            if not loading or clock.monotonic() > deadline:
                break
            time.sleep(LOADING_POLL_INTERVAL)
        if 200 <= status < 300:
            return body
        if status == 401:
            raise NodeRefused(
                status, problem.title, f"the node does not accept the token in {self._node.token_file}"
            )
        raise NodeRefused(
            status, problem.title or f"HTTP {status}", problem.detail, problem.reason, problem.problems
        )

    def _exchange(
        self, method: str, path: str, *, timeout: float, content: bytes | None
    ) -> tuple[int, dict[str, str], bytes]:
        headers = {"Accept": "application/json", **self._authorization()}
        if content is not None:
            headers["Content-Type"] = "application/json"
        connection = self._connection(timeout)
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            body = _read_body(response)
            return response.status, {name.lower(): value for name, value in response.getheaders()}, body
        except TimeoutError:
            raise NodeUnreachable(
                f"the node at {self._node.http} (process {self._node.pid}) did not answer within {timeout:g} s; "
                "its log may say why"
            ) from None
        except HTTPException as error:
            raise BadAnswer(f"what answers at {self._node.http} is not a node: {error!r}") from None
        except OSError as error:
            raise NodeUnreachable(
                f"the node at {self._node.http} cannot be reached: {error.strerror or error}; "
                "it may be stopping, or was killed: `mcpv-node start` starts it again"
            ) from None
        finally:
            connection.close()

    def _connection(self, timeout: float) -> HTTPConnection:
        address = self._address
        if address.tls:
            return _NodeConnection(address, self._node.certificate, timeout)
        return HTTPConnection(address.host, address.port, timeout=timeout)

    def _authorization(self) -> dict[str, str]:
        if self._node.token_file is None:
            return {}
        try:
            token = Path(self._node.token_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise NodeUnreachable(
                f"the node's token cannot be read: {error}; ask the user who runs the node"
            ) from None
        return {"Authorization": f"Bearer {token}"}

    @contextmanager
    def _lines(self, timeout: float) -> Generator[_LineConnection]:
        deadline = SystemClock().monotonic() + timeout
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with connection:
            try:
                connection.settimeout(ANSWER_TIMEOUT)
                connection.connect(self._node.socket)
                lines = _LineConnection(connection, deadline)
                lines.open()
                yield lines
            except TimeoutError:
                raise NodeUnreachable(
                    f"the node (process {self._node.pid}) did not answer within {timeout:g} s"
                ) from None
            except OSError as error:
                raise NodeUnreachable(
                    f"the node at {self._node.socket} cannot be reached: {error.strerror or error}; "
                    "`mcpv-node status` shows whether it still runs"
                ) from None


class _NodeConnection(HTTPSConnection):
    """A connection to the very certificate that the node's file names, or, where it names none, to any that is believed.

    The node's file is its owner's alone, so what stands there is worth more than an authority's word; and the certificate
    may well be for a name under which others come.
    """

    def __init__(self, address: _Address, certificate: str | None, timeout: float) -> None:
        context = ssl.create_default_context()
        if certificate is not None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        super().__init__(address.host, address.port, timeout=timeout, context=context)
        self._certificate = certificate

    def connect(self) -> None:
        super().connect()
        if self._certificate is None:
            return
        shown = self.sock.getpeercert(binary_form=True) or b""
        if hashlib.sha256(shown).hexdigest() != self._certificate:
            self.close()
            raise ssl.SSLCertVerificationError(
                "its certificate is not the one that the node has written down"
            )


class _LineConnection:
    """One MCP session over the node's unix socket: one request at a time."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline
        self._clock = SystemClock()
        self._received = bytearray()
        self._searched = 0
        self._last_id = 0

    def open(self) -> None:
        """Say hello, and shake hands."""
        self._send({"mcpv": 1})
        self.request(
            "initialize",
            {
                "protocolVersion": PROTOCOL_VERSION,
                "capabilities": {},
                "clientInfo": {"name": "mcpv-node", "version": VERSION},
            },
        )
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def request(self, method: str, params: Mapping[str, Any]) -> bytes:
        """Send a request and wait for its result, as sent."""
        self._last_id += 1
        self._send({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})
        while True:
            message = _decode(self._read_line(), _RpcMessage)
            # Notifications and requests of the other side are none of ours; an error without an id is.
            if message.method is not None or message.id not in (self._last_id, None):
                continue
            if message.error is not None:
                raise CallRefused(message.error.code, message.error.message, message.error.data)
            if message.id is not None:
                return bytes(message.result)

    def _send(self, message: Mapping[str, Any]) -> None:
        self._connection.settimeout(self._left())
        self._connection.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def _read_line(self) -> bytes:
        while True:
            end = self._received.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._received[:end])
                del self._received[: end + 1]
                self._searched = 0
                if line.strip():
                    return line
                continue
            self._searched = len(self._received)
            self._connection.settimeout(self._left())
            chunk = self._connection.recv(256 * 1024)
            if not chunk:
                raise ConnectionResetError("it closed the connection before it had answered")
            self._received += chunk
            if len(self._received) > MAX_ANSWER_BYTES:
                raise BadAnswer(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")

    def _left(self) -> float:
        left = self._deadline - self._clock.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int
    tls: bool


def _parse_http_address(http: str) -> _Address:
    """Read "http://HOST:PORT" or "HOST:PORT"; a host that means "everywhere" is reached on this machine."""
    try:
        parts = urlsplit(from_here(http if "://" in http else f"http://{http}"))
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadAnswer(f"the node's address {http!r} cannot be read: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise BadAnswer(f"the node's address {http!r} is no HTTP address")
    tls = parts.scheme == "https"
    return _Address(host or "127.0.0.1", port or (443 if tls else 80), tls)


def _read_body(response: HTTPResponse) -> bytes:
    body = response.read(MAX_ANSWER_BYTES + 1)
    if len(body) > MAX_ANSWER_BYTES:
        raise BadAnswer(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return body


def _read_problem(body: bytes) -> _Problem:
    # A problem that is none is still a refusal: its status says enough.
    try:
        return msgspec.json.decode(body, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Problem()


def _only_of(body: bytes, server: str) -> bytes:
    """The body with the entries of one server, each as the node sent it."""
    whole = _decode(body, dict[str, Raw])
    entries = _decode(whole.get("entries", Raw(b"[]")), list[Raw])
    own = [entry for entry in entries if _decode(entry, _Owned).server == server]
    return msgspec.json.encode({**whole, "entries": own})


def _decode(body: bytes | Raw, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswer(
            f"the node's answer cannot be read: {error}; are its version and ours the same?"
        ) from None
