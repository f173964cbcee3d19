"""Specs say what is wrong with them before anything has started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.rehearsal import a_spec, make_nobody

from mcpv_node.actors.kernel import ActorSystem, Handle
from mcpv_node.supervisors import (
    AutoShutdown,
    Backoff,
    ChildKind,
    ChildSpec,
    DynamicSpec,
    Restart,
    RestartWindow,
    SpecError,
    SupervisorSpec,
)

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "empty id": (lambda: a_spec(""), "empty id"),
    "start not callable": (lambda: ChildSpec(id="fs", start=_any(3)), "child fs: start is not callable: 3"),
    "restart": (
        lambda: a_spec("fs", restart=_any("sometimes")),
        'child fs: restart "sometimes" is not permanent, transient or temporary',
    ),
    "kind": (lambda: a_spec("fs", kind=_any("x")), 'child fs: kind "x" is not worker or supervisor'),
    "grace": (lambda: a_spec("fs", grace=-1), "child fs: grace is -1"),
    "grace nan": (lambda: a_spec("fs", grace=float("nan")), "child fs: grace is nan"),
    "no grace": (lambda: a_spec("fs", grace=None), "only a supervisor may stop without a bound"),
    "start_timeout": (lambda: a_spec("fs", start_timeout=0), "child fs: start_timeout is 0"),
    "no start_timeout": (lambda: a_spec("fs", start_timeout=None), "only a supervisor may start without"),
    "max_restarts": (lambda: RestartWindow(max_restarts=-1), "window.max_restarts: -1"),
    "period": (lambda: RestartWindow(period=0), "window.period: 0"),
    "base": (lambda: Backoff(base=0), "backoff.base: 0"),
    "maximum": (lambda: Backoff(base=2, maximum=1), "backoff.maximum: 1 is less than base, 2"),
    "reset_after": (lambda: Backoff(reset_after=-1), "backoff.reset_after: -1"),
    "duplicate id": (
        lambda: SupervisorSpec(children=(a_spec("fs"), a_spec("git"), a_spec("fs"))),
        "child fs: there are two children with this id",
    ),
    "strategy": (
        lambda: SupervisorSpec(strategy=_any("all")),
        'supervisor: strategy "all" is not one_for_one, one_for_all or rest_for_one',
    ),
    "auto_shutdown": (lambda: SupervisorSpec(auto_shutdown=_any("x")), 'supervisor: auto_shutdown "x"'),
    "significant, never": (
        lambda: SupervisorSpec(children=(a_spec("fs", significant=True, restart=Restart.TRANSIENT),)),
        "child fs: significant, but its supervisor's auto_shutdown is never",
    ),
    "significant and permanent": (
        lambda: SupervisorSpec(
            children=(a_spec("fs", significant=True),), auto_shutdown=AutoShutdown.ANY_SIGNIFICANT
        ),
        "child fs: significant and permanent",
    ),
    "max_children": (lambda: DynamicSpec(max_children=0), "dynamic supervisor: max_children is 0"),
    "giving_up": (lambda: DynamicSpec(giving_up=_any("x")), 'giving_up "x" is not escalate or record'),
}


def _any(value: Any) -> Any:
    return value


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_spec_is_refused_by_naming_the_thing(name: str) -> None:
    make, message = WRONG[name]

    with pytest.raises(SpecError) as refusal:
        make()

    assert message in str(refusal.value)


def test_one_handle_cannot_be_that_of_two_children() -> None:
    handle: Handle[Any] = Handle.create(_system(), "shared")

    with pytest.raises(SpecError, match="child b: its handle is also that of child a"):
        SupervisorSpec(children=(a_spec("a", handle=handle), a_spec("b", handle=handle)))


def test_a_supervisor_may_be_without_bounds() -> None:
    spec = a_spec("tree", kind=ChildKind.SUPERVISOR, grace=None, start_timeout=None)

    assert spec.grace is None


def test_a_spec_has_otps_defaults() -> None:
    spec = ChildSpec(id="fs", start=make_nobody)

    assert (spec.grace, spec.restart, spec.kind, spec.significant) == (5.0, None, ChildKind.WORKER, False)


def _system() -> ActorSystem:
    class Clockless:
        def monotonic(self) -> float:
            return 0.0

    return ActorSystem(_any(None), clock=_any(Clockless()))
