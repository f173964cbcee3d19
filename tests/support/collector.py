"""A collector of traces in the test's own process: OTLP over HTTP, as a node's exporter speaks it.

with collector() as traces: ...
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from .processes import wait_until


@dataclass(frozen=True)
class Got:
    """One span that was exported; ids in hexadecimal, as W3C Trace Context writes them."""

    name: str
    trace: str
    id: str
    parent: str
    kind: str
    begin: int  # nanoseconds
    end: int
    attributes: dict[str, str]
    is_error: bool
    resource: dict[str, str]


class Collector:
    """Keeps what it was sent."""

    def __init__(self) -> None:
        self.spans: list[Got] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.url = ""

    def named(self, name: str) -> list[Got]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Got:
        """Wait for a span, the only one of its name."""
        assert wait_until(lambda: bool(self.named(name))), [span.name for span in self.spans]
        (span,) = self.named(name)
        return span

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.paths.append(path)
        self.headers.append(headers)
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _texts(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans += [_got(span, resource) for span in of_scope.spans]


@contextmanager
def collector() -> Iterator[Collector]:
    """Have one that listens on a free port."""
    kept = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.take(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    kept.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _got(span: trace_pb2.Span, resource: dict[str, str]) -> Got:
    return Got(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        begin=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_texts(span.attributes),
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        resource=resource,
    )


def _texts(attributes: list[KeyValue]) -> dict[str, str]:
    return {one.key: one.value.string_value for one in attributes}
