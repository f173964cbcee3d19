"""What an instance says of itself: when it is asked, and when a call is given up."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.owners import BOUND, run, until
from support.sessions import Session, failure_of, session

from mcpv_node.actors.instance.messages import (
    CallAbandoned,
    CancelCall,
    Describe,
    InstanceFacts,
    InstanceReady,
    InstanceRetiring,
    InstanceStarting,
    StopInstance,
)
from mcpv_node.actors.leases import Release, new_lease_id
from mcpv_node.protocol import ServerHello


async def facts_of(bad: Session) -> InstanceFacts:
    facts = await bad.instance.ask(Describe(), BOUND)
    assert isinstance(facts, InstanceFacts)
    return facts


def hello_of(bad: Session) -> ServerHello:
    """What its owner was told when it was ready."""
    return bad.owner.of(InstanceReady)[0].hello


def test_an_instance_tells_what_is_in_its_hands(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, IGNORE_CANCEL=1) as bad:
            await bad.is_ready()
            wanted, unwanted = new_lease_id(), new_lease_id()
            calls = [bad.call("sleep", lease=lease, seconds=300) for lease in (wanted, unwanted)]
            await until(lambda: len(bad.said("call")) == 2)
            bad.instance.tell(CancelCall(unwanted))

            assert await facts_of(bad) == InstanceFacts(
                pid=bad.pid, hello=hello_of(bad), stopping=False, busy=(wanted,), abandoned=(unwanted,)
            )
            for call in calls:
                call.cancel()

    run(main())


def test_an_instance_in_its_handshake_is_not_ready(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, HANG_HANDSHAKE=1) as bad:
            await bad.heard(InstanceStarting)

            assert await facts_of(bad) == InstanceFacts(bad.pid, None, False, (), ())

    run(main())


def test_an_instance_that_stops_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, IGNORE_STDIN_EOF=1, IGNORE_TERM=1) as bad:
            await bad.is_ready()
            bad.instance.tell(StopInstance("idle"))

            facts = await facts_of(bad)

            assert (facts.hello, facts.stopping) == (None, True)

    run(main())


def test_an_instance_that_only_ends_what_it_has_in_hand_takes_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, IGNORE_CANCEL=1, drain_timeout_seconds=0.5) as bad:
            await bad.is_ready()
            wanted, unwanted = new_lease_id(), new_lease_id()
            first = bad.call("sleep", lease=unwanted, seconds=300)
            await until(lambda: bad.said("call"))
            bad.instance.tell(CancelCall(unwanted))
            await first
            call = bad.call("sleep", lease=wanted, seconds=300)
            await bad.heard(InstanceRetiring)

            facts = await facts_of(bad)

            assert facts == InstanceFacts(bad.pid, hello_of(bad), True, (wanted,), ())
            call.cancel()

    run(main())


@pytest.mark.parametrize("how", ["cancel", "idle limit", "deadline"])
def test_the_owner_hears_of_a_call_nobody_waits_for_and_later_of_its_end(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        idle_limit = 0.2 if how == "idle limit" else 60.0
        async with session(tmp_path, IGNORE_CANCEL=1, call_timeout_seconds=idle_limit) as bad:
            await bad.is_ready()
            lease = new_lease_id()
            within = 0.2 if how == "deadline" else 1000.0
            call = bad.call("sleep", lease=lease, seconds=0.8, within=within)
            await until(lambda: bad.said("call"))
            if how == "cancel":
                bad.instance.tell(CancelCall(lease))

            assert failure_of(await call)[0] == "call_timeout"
            await bad.heard(Release)

            told = [m for m in bad.owner.heard if isinstance(m, CallAbandoned | Release)]
            assert told == [CallAbandoned(lease), Release(lease)]

    run(main())


def test_a_call_that_is_answered_in_time_is_nobodys_to_release_but_its_callers(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path) as bad:
            await bad.is_ready()
            await bad.text("echo", text="fine")
            await bad.stopped()

            assert bad.owner.of(CallAbandoned) == bad.owner.of(Release) == []

    run(main())
