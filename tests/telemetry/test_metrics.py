"""What /metrics says."""

from __future__ import annotations

import pytest

from mcpv_node.telemetry.metrics import Metrics, Timing

NAMES = {
    "mcpv_acquire_refusals_total": ("server", "reason"),
    "mcpv_actor_restarts_total": ("actor",),
    "mcpv_call_seconds": ("server", "outcome"),
    "mcpv_calls_total": ("server", "outcome"),
    "mcpv_catalog_rebuild_seconds": ("kind",),
    "mcpv_catalog_version": ("kind",),
    "mcpv_dead_letters_total": ("actor",),
    "mcpv_instance_restarts_total": ("server",),
    "mcpv_instance_start_seconds": ("server",),
    "mcpv_instance_starts_total": ("server", "cause", "result"),
    "mcpv_instance_stops_total": ("server", "reason"),
    "mcpv_instances": ("server", "state"),
    "mcpv_mailbox_depth": ("actor",),
    "mcpv_queue_wait_seconds": ("server",),
    "mcpv_sessions": ("door", "era"),
    "mcpv_subscribers": ("kind",),
    "mcpv_waiters": ("server",),
}
TIMED = {name for name in NAMES if name.endswith("_seconds")}
COUNTED_BY = {"mcpv_calls_total": "mcpv_call_seconds"}


def lines(metrics: Metrics) -> list[str]:
    body, _ = metrics.exposition()
    return [line for line in body.decode().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_metric_is_published_with_its_labels(name: str) -> None:
    metrics = Metrics()
    values = [f"v{index}" for index in range(len(NAMES[name]))]

    series = getattr(metrics, COUNTED_BY.get(name, name).removeprefix("mcpv_"))(*values)
    if name in COUNTED_BY:
        series.observe(0.1)
    series.observe(2) if isinstance(series, Timing) else series.inc(2)

    labels = ",".join(f'{label}="{value}"' for label, value in zip(NAMES[name], values, strict=True))
    sample = f"{name}_sum" if name in TIMED else name
    # The library sorts labels by their names.
    ordered = ",".join(sorted(labels.split(",")))
    assert f"{sample}{{{ordered}}} 2.0" in lines(metrics)


def test_counter_without_labels_starts_at_zero() -> None:
    metrics = Metrics()

    assert lines(metrics) == ["mcpv_orphans_reaped_total 0.0"]


def test_wrong_number_of_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        Metrics().call_seconds("fs")


def test_series_is_made_once() -> None:
    metrics = Metrics()

    assert metrics.call_seconds("fs", "ok") is metrics.call_seconds("fs", "ok")


def test_two_nodes_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()

    one.orphans_reaped_total.inc()

    assert lines(other) == ["mcpv_orphans_reaped_total 0.0"]


def test_forgotten_server_has_no_series_left_and_others_keep_theirs() -> None:
    metrics = Metrics()
    for server in ("gone", "stays"):
        metrics.call_seconds(server, "ok").observe(1)
        metrics.queue_wait_seconds(server).observe(1)
        metrics.instance_starts_total(server, "tool_call", "ok").inc()
        metrics.instance_start_seconds(server).observe(1)
        metrics.instance_stops_total(server, "idle").inc()
        metrics.instance_restarts_total(server).inc()
        metrics.instances(server, "ready").set(1)
        metrics.waiters(server).set(1)
        metrics.acquire_refusals_total(server, "overloaded").inc()
    before = sum("stays" in line for line in lines(metrics))

    metrics.forget_server("gone")

    assert not [line for line in lines(metrics) if "gone" in line]
    assert sum("stays" in line for line in lines(metrics)) == before


def test_forgotten_server_that_comes_back_counts_from_zero() -> None:
    metrics = Metrics()
    for _ in range(5):
        metrics.call_seconds("fs", "ok").observe(1)

    metrics.forget_server("fs")
    metrics.call_seconds("fs", "ok").observe(1)

    assert 'mcpv_calls_total{outcome="ok",server="fs"} 1.0' in lines(metrics)


def test_exposition_is_text_without_birth_times() -> None:
    metrics = Metrics()
    metrics.call_seconds("fs", "ok").observe(1)

    body, content_type = metrics.exposition()

    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"_created" not in body
