"""The tree of actors in few lines."""

from __future__ import annotations

from mcpv_node.cli.tree import draw_tree
from mcpv_node.reports import TreePlace


def place(id: str, *children: TreePlace, state: str = "running", restarts: int = 0) -> TreePlace:
    return TreePlace(id=id, state=state, restarts=restarts, children=children)


def group(name: str, restarts: int = 0) -> TreePlace:
    return place(name, place("instances"), place("server-type", restarts=restarts))


def test_what_is_well_is_named_beside_its_parent() -> None:
    tree = place(
        "node", place("guard"), place("events"), place("catalog", place("a"), place("b")), place("x")
    )

    assert draw_tree(tree) == ["node", "├── guard, events", "├── catalog: a, b", "└── x"]


def test_many_are_counted() -> None:
    tree = place("node", place("init", *(group(f"s{number}") for number in range(100))))

    assert draw_tree(tree) == ["node", "└── init: 100, all running"]


def test_what_was_restarted_or_does_not_run_is_found_however_deep_it_is() -> None:
    groups = [group("a"), group("b", restarts=1), group("c"), place("d", state="suspended")]
    tree = place("node", place("guard", restarts=2), place("init", *groups), place("gateway"))

    assert draw_tree(tree) == [
        "node",
        "├── guard (2 restarts)",
        "├── init",
        "│   ├── b",
        "│   │   ├── server-type (1 restart)",
        "│   │   └── instances",
        "│   ├── d (suspended)",
        "│   └── a, c",
        "└── gateway",
    ]
