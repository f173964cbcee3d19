"""The registry, the page for operators, the dashboard and the alert rules speak of the same metrics and labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Counter
from support.house import ROOT

from mcpv_node.telemetry import EventKind
from mcpv_node.telemetry.events import ERRORS, WARNINGS
from mcpv_node.telemetry.metrics import Family, Metrics, Timings

PAGE = (ROOT / "docs" / "operations.md").read_text()

# What Prometheus adds to every series, and to the buckets of a histogram.
ADDED = {"instance", "job", "le"}

# What Prometheus itself says of a target.
FOREIGN = {"up": {"instance", "job"}}


def registry() -> dict[str, tuple[str, set[str]]]:
    """The kind and the labels of every metric, by its name."""
    metrics = Metrics()
    labels: dict[str, set[str]] = {}
    for attribute, one in vars(metrics).items():
        if isinstance(one, Family | Timings):
            labels[f"mcpv_{attribute}"] = set(one._label_names)
        if isinstance(one, Timings) and one._counted_as is not None:
            labels[one._counted_as[0]] = set(one._label_names)
        elif isinstance(one, Counter):
            labels[f"mcpv_{attribute}"] = set()
    kinds = re.findall(r"^# TYPE (\w+) (\w+)", metrics.exposition()[0].decode(), re.MULTILINE)
    assert {name for name, _ in kinds} == labels.keys()
    return {name: (kind, labels[name]) for name, kind in kinds}


REGISTRY = registry()


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "config" / "prometheus-alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((ROOT / "config" / "grafana-dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Every query that is shipped, by where it stands."""
    found = {f"alert {rule['alert']}": str(rule["expr"]) for rule in rules()}
    for panel in panels():
        for target in panel["targets"]:
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    return found


def used(query: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics a query names, each with the labels it is chosen by."""
    for name, selector in re.findall(r"\b(mcpv_\w+|up)\b(?:\{([^}]*)\})?", query):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))


def of(name: str) -> set[str]:
    """The labels of a metric, or of a series of a histogram."""
    if name in FOREIGN:
        return FOREIGN[name]
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    kind, labels = REGISTRY[base]
    assert (base != name) == (kind == "histogram"), f"{name} is no series of the {kind} {base}"
    return labels | ADDED


@pytest.mark.parametrize("place", sorted(queries()))
def test_a_query_names_metrics_and_labels_that_there_are(place: str) -> None:
    query = queries()[place]
    found = list(used(query))

    assert found
    for name, chosen in found:
        assert chosen <= of(name), name
    grouped = {label for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(", ")}
    assert grouped <= set.union(*(of(name) for name, _ in found))


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for place, query in queries().items()
        if place.startswith("panel")
        for name, _ in used(query)
    }

    assert shown == REGISTRY.keys()


def test_every_panel_has_a_place_of_its_own() -> None:
    ids = [panel["id"] for panel in panels()]
    places = [tuple(panel["gridPos"].values()) for panel in panels()]

    assert len(set(ids)) == len(ids)
    assert len(set(places)) == len(places)


def test_the_page_says_of_every_metric_what_it_is() -> None:
    rows = re.findall(r"^\| `(mcpv_\w+)(?:\{([\w,]+)\})?` \| (\w+) \| .+ \|$", PAGE, re.MULTILINE)

    assert {name: (kind, set(labels.split(",")) - {""}) for name, labels, kind in rows} == REGISTRY


def test_the_page_says_at_every_alert_what_to_do() -> None:
    headings = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)

    assert headings == [rule["alert"] for rule in rules()]
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_the_page_says_of_every_kind_of_event_what_it_means_and_how_it_is_logged() -> None:
    section = PAGE.partition("## Events")[2].partition("## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| .+ \|$", section, re.MULTILINE)
    levels = {
        str(kind): "error" if kind in ERRORS else "warning" if kind in WARNINGS else "info"
        for kind in EventKind
    }

    assert dict(rows) == levels
    assert len(rows) == len(levels)


def test_links_within_the_page_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)
    }

    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors
    files = re.findall(r"\]\((\.\./[\w./-]+|[\w-]+\.md)\)", PAGE)
    assert [name for name in files if not Path(ROOT / "docs" / name).exists()] == []
