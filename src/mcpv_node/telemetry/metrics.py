"""The node's metrics, in a registry of its own.

One `Metrics` per node: two nodes in one host, or a host with metrics of its own, never meet. Every metric is a
typed attribute that takes its labels in the order given here and remembers the series it made, so that counting
and timing a call costs less than a microsecond:

    metrics.call_seconds("fs", "ok").observe(0.012)
    metrics.instance_restarts_total("fs").inc()

Labels are bounded: names of configured servers, words of closed sets, names of actor classes. Whoever removes a
server calls `forget_server`, so that its series do not stay for ever.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

StartCause = Literal["tool_call", "bootstrap", "always_on", "min_ready", "client_activate", "operator"]

# The node adds fractions of a millisecond to a call; the longest a call may take is an hour.
CALL_BUCKETS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
    3600,
)

# Nobody waits longer for a slot than queueTimeoutSeconds and a start: a minute by default.
WAIT_BUCKETS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

# A small server is up in 20 ms; one that is downloaded first takes a minute.
START_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)

# A rebuild of 1,000 servers is to stay under 30 ms.
REBUILD_BUCKETS = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.5)

_Kind = TypeVar("_Kind", bound=MetricWrapperBase)


class Family(Generic[_Kind]):
    """One metric and its series, one for each combination of labels met so far."""

    __slots__ = ("_label_names", "_metric", "_series")

    def __init__(self, metric: _Kind, label_names: tuple[str, ...]) -> None:
        self._metric = metric
        self._label_names = label_names
        self._series: dict[tuple[str, ...], _Kind] = {}

    def __call__(self, *labels: str) -> _Kind:
        """Give the series with these labels, in the order of the metric's label names."""
        series = self._series.get(labels)
        if series is None:
            series = self._metric.labels(*labels)
            self._series[labels] = series
        return series

    def known(self) -> list[tuple[str, ...]]:
        """The labels of every series met so far."""
        return list(self._series)

    def forget(self, label_name: str, value: str) -> None:
        """Drop every series whose label `label_name` is `value`."""
        if label_name not in self._label_names:
            return
        position = self._label_names.index(label_name)
        for labels in [labels for labels in self._series if labels[position] == value]:
            del self._series[labels]
            self._metric.remove(*labels)


class Timing:
    """One series of times. The library's own takes a lock and looks at every bucket: most of what a call's metrics
    would cost. This one belongs to the loop's thread.
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one more."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum += seconds


class Timings(Collector):
    """A histogram and its series, one for each combination of labels met so far.

    `counted_as` is the name and the meaning of a counter of the same, which what is timed need not be told, too.
    """

    __slots__ = ("_bounds", "_counted_as", "_label_names", "_meaning", "_name", "_series")

    def __init__(
        self,
        name: str,
        meaning: str,
        bounds: tuple[float, ...],
        label_names: tuple[str, ...],
        counted_as: tuple[str, str] | None = None,
    ) -> None:
        self._name = name
        self._meaning = meaning
        self._bounds = bounds
        self._label_names = label_names
        self._counted_as = counted_as
        self._series: dict[tuple[str, ...], Timing] = {}

    def __call__(self, *labels: str) -> Timing:
        """Give the series with these labels, in the order of the metric's label names."""
        series = self._series.get(labels)
        if series is None:
            if len(labels) != len(self._label_names):
                raise ValueError(f"{self._name} has the labels {', '.join(self._label_names)}")
            series = self._series[labels] = Timing(self._bounds)
        return series

    def forget(self, label_name: str, value: str) -> None:
        """Drop every series whose label `label_name` is `value`."""
        if label_name in self._label_names:
            position = self._label_names.index(label_name)
            self._series = {labels: one for labels, one in self._series.items() if labels[position] != value}

    def collect(self) -> Iterable[Metric]:
        """What the registry asks for: all series as they are now."""
        if self._counted_as is not None:
            counter = CounterMetricFamily(*self._counted_as, labels=self._label_names)
            for labels, series in self._series.items():
                counter.add_metric(labels, sum(series.counts))
            yield counter
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._label_names)
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        for labels, series in self._series.items():
            buckets = list(zip(names, accumulate(series.counts), strict=True))
            family.add_metric(labels, buckets, series.sum)
        yield family


class Metrics:
    """All metrics of one node."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self.call_seconds = self._histogram(
            "mcpv_call_seconds",
            "From a call's arrival to its answer.",
            CALL_BUCKETS,
            "server",
            "outcome",
            counted_as=("mcpv_calls_total", "Calls, by how they ended."),
        )
        self.queue_wait_seconds = self._histogram(
            "mcpv_queue_wait_seconds", "How long calls waited for a slot.", WAIT_BUCKETS, "server"
        )
        self.instance_starts_total = self._counter(
            "mcpv_instance_starts_total", "Starts of instances.", "server", "cause", "result"
        )
        self.instance_start_seconds = self._histogram(
            "mcpv_instance_start_seconds", "From the start to ready.", START_BUCKETS, "server"
        )
        self.instance_stops_total = self._counter(
            "mcpv_instance_stops_total", "Ends of instances.", "server", "reason"
        )
        self.instance_restarts_total = self._counter(
            "mcpv_instance_restarts_total", "Starts that replace an instance that failed.", "server"
        )
        self.instances = self._gauge("mcpv_instances", "Instances, by state.", "server", "state")
        self.waiters = self._gauge("mcpv_waiters", "Calls that wait for a slot.", "server")
        self.acquire_refusals_total = self._counter(
            "mcpv_acquire_refusals_total", "Calls that got no slot.", "server", "reason"
        )
        self.catalog_version = self._gauge("mcpv_catalog_version", "Version of the catalog.", "kind")
        self.catalog_rebuild_seconds = self._histogram(
            "mcpv_catalog_rebuild_seconds", "One rebuild of the merged catalog.", REBUILD_BUCKETS, "kind"
        )
        self.subscribers = self._gauge("mcpv_subscribers", "Consumers of catalog changes.", "kind")
        self.sessions = self._gauge("mcpv_sessions", "Open sessions of clients.", "door", "era")
        self.orphans_reaped_total = self._plain_counter(
            "mcpv_orphans_reaped_total", "Processes of an earlier node that had to be ended."
        )
        self.mailbox_depth = self._gauge("mcpv_mailbox_depth", "Messages waiting, by class.", "actor")
        self.actor_restarts_total = self._counter("mcpv_actor_restarts_total", "Restarts of actors.", "actor")
        self.dead_letters_total = self._counter(
            "mcpv_dead_letters_total", "Messages to actors that had ended.", "actor"
        )
        self.reloads_total = self._counter(
            "mcpv_reloads_total", "Configurations that were applied, or rejected.", "outcome"
        )

    def forget_server(self, server: str) -> None:
        """Drop the series of a server that was removed."""
        for family in (self.instance_starts_total, self.instance_stops_total):
            family.forget("server", server)
        for family in (self.instance_restarts_total, self.acquire_refusals_total):
            family.forget("server", server)
        for timed in (self.call_seconds, self.queue_wait_seconds, self.instance_start_seconds):
            timed.forget("server", server)
        for level in (self.instances, self.waiters):
            level.forget("server", server)

    def exposition(self) -> tuple[bytes, str]:
        """Give the body and the content type of `GET /metrics`."""
        return generate_latest(_WithoutCreated(self._registry)), CONTENT_TYPE_PLAIN_0_0_4

    def _counter(self, name: str, meaning: str, *labels: str) -> Family[Counter]:
        return Family(Counter(name, meaning, labels, registry=self._registry), labels)

    def _plain_counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, registry=self._registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Family[Gauge]:
        return Family(Gauge(name, meaning, labels, registry=self._registry), labels)

    def _histogram(
        self,
        name: str,
        meaning: str,
        buckets: tuple[float, ...],
        *labels: str,
        counted_as: tuple[str, str] | None = None,
    ) -> Timings:
        timings = Timings(name, meaning, buckets, labels, counted_as)
        self._registry.register(timings)
        return timings


class _WithoutCreated(Collector):
    """The registry without `_created` samples.

    The library writes a second series with the time of birth beside every counter and histogram; its own switch
    for that is global and would change a host's metrics, too.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
