"""What a server's own report means for its start: every state, with and without something to have running."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.fakes import BEGINNING

from mcpv_node.actors.leases import InstanceId
from mcpv_node.actors.server_type import CallCounts, InstanceReport, InstanceState, ServerState, WhyReport
from mcpv_node.actors.status import InitState, project_init
from mcpv_node.settings import ServerName, SpecKey


def report(state: ServerState, *instances: InstanceState, **fields: Any) -> WhyReport:
    given = WhyReport(
        name=ServerName("fs"),
        spec_key=SpecKey("key"),
        state=state,
        reason="because",
        since=BEGINNING,
        next_try_at=None,
        desired=0,
        waiting=0,
        start_cause=None,
        last_exit=None,
        stderr=(),
        starts=0,
        restarts=0,
        calls=CallCounts(),
        instances=tuple(
            InstanceReport(InstanceId(f"fs-{number}"), None, one, 0, BEGINNING, None, None)
            for number, one in enumerate(instances)
        ),
    )
    return replace(given, **fields)


@pytest.mark.parametrize(
    ("state", "failures", "on_demand", "always_on"),
    [
        (ServerState.COLD, 0, InitState.READY, InitState.PENDING),
        (ServerState.COLD, 1, InitState.FAILED, InitState.FAILED),
        (ServerState.STARTING, 0, InitState.STARTING, InitState.STARTING),
        (ServerState.STARTING, 2, InitState.STARTING, InitState.STARTING),
        (ServerState.READY, 0, InitState.READY, InitState.READY),
        (ServerState.READY, 1, InitState.READY, InitState.READY),
        (ServerState.DEGRADED, 0, InitState.DEGRADED, InitState.DEGRADED),
        (ServerState.BACKING_OFF, 2, InitState.FAILED, InitState.FAILED),
        (ServerState.SUSPENDED, 6, InitState.SUSPENDED, InitState.SUSPENDED),
        (ServerState.DRAINING, 0, InitState.PENDING, InitState.PENDING),
        (ServerState.DISABLED, 0, InitState.SUSPENDED, InitState.SUSPENDED),
    ],
)
def test_every_state_has_its_meaning(
    state: ServerState, failures: int, on_demand: InitState, always_on: InitState
) -> None:
    given = report(state, failures=failures)

    assert project_init(given, baseline=0).state is on_demand
    assert project_init(given, baseline=1).state is always_on


def test_all_states_are_in_the_table_and_all_outcomes_occur() -> None:
    states = {project_init(report(state), baseline=0).state for state in ServerState}

    assert states | {InitState.FAILED} == set(InitState)


def test_a_server_that_clients_want_is_pending_until_it_starts() -> None:
    assert project_init(report(ServerState.COLD, desired=2), baseline=0).state is InitState.PENDING


def test_it_says_how_many_are_ready_of_how_many_and_when_the_next_try_is() -> None:
    states = (InstanceState.READY, InstanceState.BUSY, InstanceState.STARTING, InstanceState.DRAINING)
    given = report(ServerState.DEGRADED, *states, desired=4, failures=2, next_try_at=BEGINNING)

    status = project_init(given, baseline=3)

    assert (status.name, status.reason) == ("fs", "because")
    assert (status.ready, status.target, status.retries) == (2, 4, 2)
    assert status.next_try_at == BEGINNING


def test_before_its_turn_a_server_has_its_target_already() -> None:
    assert project_init(report(ServerState.COLD), baseline=3).target == 3
