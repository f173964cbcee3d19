"""Every metric moves with what it counts: one story of a real node, looked at before and after each of its steps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.nodes import BadServer, Node, running_node

from mcpv_node.telemetry.metrics import Metrics

Samples = dict[str, float]


@dataclass
class Story:
    """What a node's metrics were before and after each step."""

    before: dict[str, Samples] = field(default_factory=dict[str, Samples])
    after: dict[str, Samples] = field(default_factory=dict[str, Samples])

    def step(self, name: str, node: Node, act: Callable[[], object]) -> None:
        self.before[name] = node.metrics()
        act()
        self.after[name] = node.metrics()

    def change(self, step: str, sample: str) -> float:
        return self.after[step].get(sample, 0) - self.before[step].get(sample, 0)


def entries(one: BadServer, narrow: BadServer, broken: BadServer) -> list[dict[str, object]]:
    return [
        one.entry(),
        narrow.entry(maxInstances=1, queueLimit=1),
        broken.entry(restart={"maxRetries": 0}),
    ]


def tell(folder: Path) -> Story:
    """Live the whole story."""
    one, narrow = BadServer(folder, "one"), BadServer(folder, "narrow")
    broken = BadServer(folder, "broken", EXIT_IN_HANDSHAKE=3)
    story = Story()
    config = folder / "node.yaml"
    with running_node(folder, entries(one, narrow, broken)) as node:
        node.until_learnt(["one", "narrow"])
        node.until_state(broken, "suspended")
        story.before["learn"], story.after["learn"] = {}, node.metrics()
        for name in ("one", "narrow"):
            node.order(name, "stop")
        node.order("one", "retry")
        node.order("narrow", "retry")
        session = node.session()
        story.step("open", node, session.open)
        story.step("call", node, lambda: session.text("one_echo", text="x"))
        story.step("error", node, lambda: session.call("one_error").reply())
        story.step("crash", node, lambda: session.call("one_crash", {"code": 3}).reply())
        story.step("again", node, lambda: session.text("one_echo", text="x"))

        def crowd() -> None:
            session.call("narrow_sleep", {"seconds": 600}, id="a")
            node.until(lambda: node.why(narrow)["instances"] != [] and _busy(node, narrow) == 1, "busy")
            session.call("narrow_sleep", {"seconds": 600}, id="b")
            node.until(lambda: node.why(narrow)["waiting"] == 1, "waiting")
            session.call("narrow_sleep", {"seconds": 600}, id="c").failure()

        story.step("crowd", node, crowd)
        session.cancel("a")
        session.cancel("b")

        def join() -> None:
            with node.line_session():
                story.after["line"] = node.metrics()

        story.step("lines", node, join)
        story.step("operator", node, lambda: node.order("one", "start"))
        story.step("stop", node, lambda: node.order("one", "stop"))

        def reload(text: str) -> Callable[[], object]:
            def act() -> None:
                config.write_text(text)
                node.rest("POST", "reload")

            return act

        more = BadServer(folder, "more")
        good = json.dumps({"servers": [*entries(one, narrow, broken), more.entry()]})
        story.step("reject", node, reload("servers: 7"))
        story.step("apply", node, reload(good))
        session.close()
    return story


def _busy(node: Node, server: BadServer) -> int:
    return sum(int(instance["busy"]) for instance in node.why(server)["instances"])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return tell(tmp_path_factory.mktemp("story"))


def series(name: str, **labels: str) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return f"{name}{{{inside}}}"


# A step, a sample, and by how much it changes; None: by more than nothing.
MOVES: list[tuple[str, str, float | None]] = [
    ("call", series("mcpv_calls_total", server="one", outcome="ok"), 1),
    ("error", series("mcpv_calls_total", server="one", outcome="error"), 1),
    ("crash", series("mcpv_calls_total", server="one", outcome="instance_died"), 1),
    ("crowd", series("mcpv_calls_total", server="narrow", outcome="overloaded"), 1),
    ("call", series("mcpv_call_seconds_count", server="one", outcome="ok"), 1),
    ("call", series("mcpv_call_seconds_sum", server="one", outcome="ok"), None),
    ("call", series("mcpv_queue_wait_seconds_count", server="one"), 1),
    ("call", series("mcpv_instance_starts_total", server="one", cause="tool_call", result="ok"), 1),
    ("learn", series("mcpv_instance_starts_total", server="one", cause="bootstrap", result="ok"), 1),
    (
        "learn",
        series("mcpv_instance_starts_total", server="broken", cause="bootstrap", result="failed"),
        None,
    ),
    ("call", series("mcpv_instance_start_seconds_count", server="one"), 1),
    ("call", series("mcpv_instance_start_seconds_sum", server="one"), None),
    ("crash", series("mcpv_instance_stops_total", server="one", reason="exited"), 1),
    ("stop", series("mcpv_instance_stops_total", server="one", reason="asked"), 1),
    ("again", series("mcpv_instance_restarts_total", server="one"), 1),
    ("call", series("mcpv_instances", server="one", state="ready"), 1),
    ("crowd", series("mcpv_instances", server="narrow", state="busy"), 1),
    ("crowd", series("mcpv_waiters", server="narrow"), 1),
    ("crowd", series("mcpv_acquire_refusals_total", server="narrow", reason="overloaded"), 1),
    ("learn", series("mcpv_catalog_version", kind="tools"), None),
    ("apply", series("mcpv_catalog_rebuild_seconds_count", kind="tools"), None),
    ("open", series("mcpv_subscribers", kind="tools"), 1),
    ("open", series("mcpv_sessions", door="http", era="legacy"), 1),
    ("reject", series("mcpv_reloads_total", outcome="rejected"), 1),
    ("apply", series("mcpv_reloads_total", outcome="applied"), 1),
]

# What it takes a fault inside the node to move has its test where that fault is.
ELSEWHERE = {
    "mcpv_actor_restarts_total": "tests/node/test_node_runtime.py",
    "mcpv_dead_letters_total": "tests/node/test_node_runtime.py",
    "mcpv_mailbox_depth": "tests/gateway/test_gauges.py",
    "mcpv_orphans_reaped_total": "tests/scenarios/test_deaths.py",
}


@pytest.mark.parametrize(("step", "sample", "by"), MOVES)
def test_it_moves_with_what_it_counts(story: Story, step: str, sample: str, by: float | None) -> None:
    change = story.change(step, sample)

    assert change > 0 if by is None else change == by


def test_a_session_on_lines_is_counted_while_it_lives(story: Story) -> None:
    sample = series("mcpv_sessions", door="lines", era="legacy")

    assert story.after["line"][sample] == story.before["lines"].get(sample, 0) + 1


def test_every_metric_is_moved_somewhere() -> None:
    names = set(re.findall(r"^# TYPE (\w+)", Metrics().exposition()[0].decode(), re.MULTILINE))
    moved = {re.sub(r"_(count|sum)$", "", sample.partition("{")[0]) for _, sample, _ in MOVES}

    assert names == moved | ELSEWHERE.keys()
    for name, place in ELSEWHERE.items():
        assert name in Path(place).read_text()
