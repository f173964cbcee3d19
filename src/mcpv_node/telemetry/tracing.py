"""Spans for an OpenTelemetry collector. The only module that knows the library; imported where traces are configured.

Spans are exported on a thread of the library's, in batches, from a queue that drops what does not fit: a collector
that is slow or away costs spans, never calls. Its `OTEL_*` variables hold where we are not told otherwise.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Final, Literal
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .clock import Clock

SERVICE_NAME: Final = "mcpv-node"

# Where OTLP over HTTP takes traces.
TRACES_PATH: Final = "/v1/traces"

# A collector that is there takes what is left in a fraction of this; one that is not must not hold up a stop (seconds).
FLUSH_BOUND: Final = 5.0

Role = Literal["serves", "waits", "asks"]

# What a span is, seen from us: somebody's request, something of our own, or our request to somebody.
_KINDS: Final[Mapping[Role, SpanKind]] = {
    "serves": SpanKind.SERVER,
    "waits": SpanKind.INTERNAL,
    "asks": SpanKind.CLIENT,
}

_CARRIER: Final = TraceContextTextMapPropagator()

Attributes = Mapping[str, str]


class Moments:
    """Tells the wall clock's nanoseconds of points on the monotonic clock, near `clock`'s present."""

    __slots__ = ("_monotonic", "_wall")

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic()
        self._wall = _nanoseconds(clock.wall())

    def at(self, monotonic: float) -> int:
        return self._wall + round((monotonic - self._monotonic) * 1e9)


class OpenSpan:
    """One span that has begun; times are points on the monotonic clock."""

    __slots__ = ("_moments", "_span", "_tracing")

    def __init__(self, tracing: Tracing, span: Span, moments: Moments) -> None:
        self._tracing = tracing
        self._span = span
        self._moments = moments

    def begin(self, name: str, role: Role, at: float, attributes: Attributes | None = None) -> OpenSpan:
        """Begin a part of it."""
        return self._tracing.begin_inside(self._span, self._moments, name, role, at, attributes)

    def end(self, at: float, attributes: Attributes | None = None, *, error: str | None = None) -> None:
        """It is over; `error` is the word for what went wrong."""
        if attributes:
            self._span.set_attributes(dict(attributes))
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(self._moments.at(at))

    def carry(self) -> dict[str, str]:
        """What tells others that their work belongs to this span, in the words of W3C Trace Context."""
        carrier: dict[str, str] = {}
        _CARRIER.inject(carrier, set_span_in_context(self._span))
        return carrier


class Tracing:
    """Makes spans; used on the loop's thread. `process` takes those that have ended."""

    def __init__(
        self,
        process: SpanProcessor,
        *,
        clock: Clock,
        attributes: Attributes,
        service_name: str | None = None,
        sample_ratio: float | None = None,
    ) -> None:
        said = OTELResourceDetector().detect().attributes
        name = service_name or str(said.get("service.name") or SERVICE_NAME)
        self._clock = clock
        self._provider = TracerProvider(
            resource=Resource.create({**attributes, **said, "service.name": name}),
            # Whoever brings a trace has decided whether it is kept.
            sampler=None if sample_ratio is None else ParentBased(TraceIdRatioBased(sample_ratio)),
            # The node stops when it stops, not when the process that hosts it ends.
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(process)
        self._tracer = self._provider.get_tracer("mcpv_node", attributes.get("service.version"))

    def begin(
        self, name: str, parent: Mapping[str, str], at: float, attributes: Attributes | None = None
    ) -> OpenSpan:
        """Begin the span of a request; `parent` is what its sender said of the trace it belongs to."""
        moments = Moments(self._clock)
        span = self._tracer.start_span(
            name,
            # Not what is current on this thread: that is a host's.
            context=_CARRIER.extract(parent, context={}),  # type: ignore[arg-type]
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=moments.at(at),
        )
        return OpenSpan(self, span, moments)

    def begin_inside(
        self, span: Span, moments: Moments, name: str, role: Role, at: float, attributes: Attributes | None
    ) -> OpenSpan:
        """Begin a part of a span."""
        part = self._tracer.start_span(
            name,
            context=set_span_in_context(span),
            kind=_KINDS[role],
            attributes=attributes,
            start_time=moments.at(at),
        )
        return OpenSpan(self, part, moments)

    async def close(self) -> bool:
        """Export what is left, for at most `FLUSH_BOUND`; tell whether that was enough."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(done.set)

        # A thread of its own and a daemon: nothing waits for it where the collector does not answer.
        threading.Thread(target=flush, name="mcpv-traces", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), FLUSH_BOUND)
        return done.is_set()


def to_collector(endpoint: str | None, headers: Mapping[str, str]) -> SpanProcessor:
    """Have spans sent to a collector; None is the one that `OTEL_EXPORTER_OTLP_ENDPOINT` names, or this machine's."""
    url = None if endpoint is None else traces_url(endpoint)
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=url, headers=dict(headers) or None))


def traces_url(endpoint: str) -> str:
    """Where a collector takes traces: `endpoint` itself where it has a path."""
    parts = urlsplit(endpoint)
    return endpoint if parts.path.strip("/") else parts._replace(path=TRACES_PATH).geturl()


def _nanoseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000) * 1000
