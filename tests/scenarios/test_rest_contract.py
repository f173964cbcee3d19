"""The REST interface keeps to its own description, whatever is asked of it: requests made of the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CHECKS, load_all_checks
from support.nodes import BadServer, Node, running_node

# So many requests of each kind: enough to meet every rule of a parameter, in a second or two.
EXAMPLES = 20

# They have no end, or are one.
LEFT_OUT = {("GET", "/api/v1/events"), ("GET", "/api/v1/logs"), ("POST", "/api/v1/node/stop")}

# What is not promised: that whatever is well-formed is accepted (members that nobody knows are refused, and so are two
# selectors at once), and what takes a method, a token or a resource of its own to try.
NOT_CHECKED = {
    "ensure_resource_availability",
    "ignored_auth",
    "positive_data_acceptance",
    "unsupported_method",
    "use_after_free",
}

OPERATIONS = [
    ("GET", "/api/v1/node"),
    ("GET", "/api/v1/nodes"),
    ("GET", "/api/v1/tree"),
    ("GET", "/api/v1/servers"),
    ("GET", "/api/v1/servers/{name}"),
    ("POST", "/api/v1/servers/{name}/start"),
    ("POST", "/api/v1/servers/{name}/stop"),
    ("POST", "/api/v1/servers/{name}/retry"),
    ("POST", "/api/v1/servers/{name}/approve"),
    ("GET", "/api/v1/servers/{name}/entry"),
    ("POST", "/api/v1/servers"),
    ("PATCH", "/api/v1/servers/{name}"),
    ("DELETE", "/api/v1/servers/{name}"),
    ("POST", "/api/v1/servers/{name}/enable"),
    ("POST", "/api/v1/servers/{name}/disable"),
    ("GET", "/api/v1/catalog/{kind}"),
    ("POST", "/api/v1/catalog/refresh"),
    ("GET", "/api/v1/clients"),
    ("POST", "/api/v1/clients"),
    ("PUT", "/api/v1/clients/{id}"),
    ("DELETE", "/api/v1/clients/{id}"),
    ("POST", "/api/v1/reload"),
]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("contract")
    with running_node(folder, [BadServer(folder, "one").entry()]) as node:
        node.until_learnt(["one"])
        yield node


@pytest.fixture(scope="module")
def document(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.send("GET", "/api/openapi.json").body())
    return found


def test_every_route_is_tried_or_left_out_for_a_reason(document: dict[str, Any]) -> None:
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}

    assert described == {*OPERATIONS, *LEFT_OUT}


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_it_answers_as_it_says(node: Node, document: dict[str, Any], method: str, path: str) -> None:
    load_all_checks()
    schema = schemathesis.openapi.from_dict(document)
    checks = [CHECKS.get_one(name) for name in CHECKS.get_all_names() if name not in NOT_CHECKED]

    @given(case=schema[path][method].as_strategy())
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def asked(case: Any) -> None:
        case.query.pop("wait", None)  # nobody waits here
        case.call_and_validate(
            base_url=node.url, headers={"Authorization": f"Bearer {node.token}"}, checks=checks
        )

    asked()
