"""A real Prometheus beside a real node: it reads the metrics, the rules hold, and the dashboard has something to show.

Needs Debian's package `prometheus`, which has `promtool`, too.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode, urlsplit

import pytest
import yaml
from support.house import ROOT
from support.nodes import BadServer, Node, running_node
from support.processes import wait_until

pytestmark = pytest.mark.slow

CONFIG = ROOT / "config"

# Prometheus opens its store, reads the node a few times at a second's distance, and has rates to tell.
PROMETHEUS_TIMEOUT = 60.0


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is missing: install the package `prometheus`"
    return found


def promtool(*words: str, stdin: bytes = b"", cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [program("promtool"), *words], input=stdin, capture_output=True, cwd=cwd, timeout=60, check=False
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def example_for(node: Node, folder: Path) -> Path:
    """The shipped scrape configuration, with this node's address and token, and no patience."""
    text = (CONFIG / "prometheus-scrape.yml").read_text()
    for ours, here in {
        "127.0.0.1:8090": urlsplit(node.url).netloc,
        "/etc/prometheus/mcpv-node.token": str(node.ready["tokenFile"]),
        "scrape_interval: 15s": "scrape_interval: 1s",
        "scrape_timeout: 10s": "scrape_timeout: 1s",
    }.items():
        assert text.count(ours) == 1, ours
        text = text.replace(ours, here)
    shutil.copy(CONFIG / "prometheus-alerts.yml", folder)
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


class Prometheus:
    """One that runs."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._url}{path}?{urlencode(query)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=10):
                return True
        except (URLError, ConnectionError):
            return False

    def has(self, expression: str) -> bool:
        """Whether a query finds something that is a number."""
        found = self.ask("/api/v1/query", query=expression)["result"]
        return any(one["value"][1] != "NaN" for one in found)


@contextmanager
def running_prometheus(config: Path) -> Iterator[Prometheus]:
    port = free_port()
    log = config.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={config.parent / 'series'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        one = Prometheus(f"http://127.0.0.1:{port}")
        assert wait_until(one.is_ready, PROMETHEUS_TIMEOUT), log.read_text()
        yield one
    finally:
        process.terminate()
        try:
            process.wait(PROMETHEUS_TIMEOUT)
        finally:
            process.kill()


def expressions() -> dict[str, str]:
    """Every query of the dashboard, by its panel and letter, for all nodes and servers."""
    dashboard = json.loads((CONFIG / "grafana-dashboard.json").read_text())
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace("$node", ".*")
        .replace("$server", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    }


def test_prometheus_reads_a_node_and_every_query_of_the_dashboard_has_data(tmp_path: Path) -> None:
    one = BadServer(tmp_path, "one")
    with running_node(tmp_path, [one.entry()]) as node, node.session() as session:
        node.until_learnt(["one"])
        session.call("one_crash", {"code": 3}).failure()
        config = example_for(node, tmp_path)
        promtool("check", "config", str(config))
        with running_prometheus(config) as prometheus:

            def is_shown() -> bool:
                session.text("one_echo", text="x")
                return not [name for name, query in expressions().items() if not prometheus.has(query)]

            shown = wait_until(is_shown, PROMETHEUS_TIMEOUT)
            missing = [name for name, query in expressions().items() if not prometheus.has(query)]
            targets = prometheus.ask("/api/v1/targets")["activeTargets"]
            groups = prometheus.ask("/api/v1/rules")["groups"]
        metrics = node.send("GET", "/metrics").body()

    assert shown, missing
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    assert promtool("check", "metrics", stdin=metrics) == ""


# What a node's metrics look like when something is wrong, a value a minute, and which alert it is. What is left out
# of a series is not there yet.
FAULTS: dict[str, dict[str, str]] = {
    "McpvNodeDown": {'up{job="mcpv-node",instance="n"}': "1x5 0x25"},
    "McpvStartsFail": {'mcpv_instance_starts_total{server="s",cause="tool_call",result="failed"}': "0+1x30"},
    "McpvServerRestarts": {'mcpv_instance_restarts_total{server="s"}': "0+1x30"},
    "McpvCallsFail": {
        'mcpv_calls_total{server="s",outcome="ok"}': "0+60x30",
        'mcpv_calls_total{server="s",outcome="instance_died"}': "0+6x30",
    },
    "McpvCallsSlow": {
        'mcpv_call_seconds_bucket{server="s",outcome="ok",le="30"}': "0x30",
        'mcpv_call_seconds_bucket{server="s",outcome="ok",le="60"}': "0+10x30",
        'mcpv_call_seconds_bucket{server="s",outcome="ok",le="+Inf"}': "0+10x30",
    },
    "McpvQueueLong": {
        'mcpv_queue_wait_seconds_bucket{server="s",le="5"}': "0x30",
        'mcpv_queue_wait_seconds_bucket{server="s",le="10"}': "0+10x30",
        'mcpv_queue_wait_seconds_bucket{server="s",le="+Inf"}': "0+10x30",
    },
    "McpvCallsRefused": {'mcpv_acquire_refusals_total{server="s",reason="overloaded"}': "0+1x30"},
    "McpvActorRestarts": {'mcpv_actor_restarts_total{actor="Index"}': "_x20 1x10"},
    "McpvMailboxDeep": {'mcpv_mailbox_depth{actor="Store"}': "2000x30"},
    "McpvDeadLetters": {'mcpv_dead_letters_total{actor="StdioInstance"}': "0+60x30"},
    "McpvOrphansReaped": {"mcpv_orphans_reaped_total": "0x20 2x10"},
    "McpvReloadRejected": {'mcpv_reloads_total{outcome="rejected"}': "_x20 1x10"},
}

# The same of a node that is well.
WELL: dict[str, str] = {
    'up{job="mcpv-node",instance="n"}': "1x30",
    'mcpv_instance_starts_total{server="s",cause="tool_call",result="ok"}': "0+1x30",
    'mcpv_instance_starts_total{server="s",cause="tool_call",result="failed"}': "1x30",
    'mcpv_instance_restarts_total{server="s"}': "2x30",
    'mcpv_calls_total{server="s",outcome="ok"}': "0+60x30",
    'mcpv_calls_total{server="s",outcome="error"}': "0+60x30",
    'mcpv_calls_total{server="s",outcome="cancelled"}': "0+60x30",
    'mcpv_call_seconds_bucket{server="s",outcome="ok",le="30"}': "0+10x30",
    'mcpv_call_seconds_bucket{server="s",outcome="ok",le="+Inf"}': "0+10x30",
    'mcpv_queue_wait_seconds_bucket{server="s",le="5"}': "0+10x30",
    'mcpv_queue_wait_seconds_bucket{server="s",le="+Inf"}': "0+10x30",
    'mcpv_acquire_refusals_total{server="s",reason="overloaded"}': "3x30",
    'mcpv_actor_restarts_total{actor="Index"}': "1x30",
    'mcpv_mailbox_depth{actor="Store"}': "2x30",
    'mcpv_dead_letters_total{actor="StdioInstance"}': "0+1x30",
    "mcpv_orphans_reaped_total": "2x30",
    'mcpv_reloads_total{outcome="rejected"}': "1x30",
}

LOOKED_AT = "25m"


def alerts() -> list[str]:
    rules = yaml.safe_load((CONFIG / "prometheus-alerts.yml").read_text())
    return [rule["alert"] for group in rules["groups"] for rule in group["rules"]]


def unit_test(series: dict[str, str], counted: str) -> dict[str, Any]:
    """One test of promtool: after these values the query `counted` gives this many."""
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f"count(ALERTS{{{counted}}}) or vector(0)",
                "eval_time": LOOKED_AT,
                "exp_samples": [{"labels": "{}", "value": 0 if counted == "" else 1}],
            }
        ],
    }


def check_rules(folder: Path, *tests: dict[str, Any]) -> None:
    path = folder / "rules-test.yml"
    rules = str(CONFIG / "prometheus-alerts.yml")
    path.write_text(yaml.safe_dump({"rule_files": [rules], "evaluation_interval": "1m", "tests": [*tests]}))
    promtool("test", "rules", str(path))


def test_the_rules_are_well_formed_and_each_has_a_fault_here() -> None:
    promtool("check", "rules", str(CONFIG / "prometheus-alerts.yml"))

    assert sorted(alerts()) == sorted(FAULTS)


def test_a_node_that_is_well_raises_no_alert(tmp_path: Path) -> None:
    check_rules(tmp_path, unit_test(WELL, ""))


@pytest.mark.parametrize("alert", sorted(FAULTS))
def test_each_fault_raises_its_alert(tmp_path: Path, alert: str) -> None:
    check_rules(tmp_path, unit_test(FAULTS[alert], f'alertname="{alert}",alertstate="firing"'))
