"""Silence: when a server is asked whether it is still there, and what follows if it says nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.owners import run, turns, until
from support.sessions import failure_of, session

from mcpv_node.actors.instance.messages import CancelCall, InstanceExited, InstanceRetiring
from mcpv_node.actors.instance.pings import Finding, Pings, Verdict, decide_after_ping, stagger
from mcpv_node.actors.leases import InstanceId, new_lease_id
from mcpv_node.protocol import Failure, Message, RawId, Success
from mcpv_node.settings import ServerName, ServerSpec

# --- the decision -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("misses", "heard", "awaited", "finding"),
    [
        (0, True, False, Finding(Verdict.FINE, 0)),
        (2, True, False, Finding(Verdict.FINE, 0)),
        (0, False, True, Finding(Verdict.FINE, 0)),
        (2, False, True, Finding(Verdict.FINE, 0)),
        (0, False, False, Finding(Verdict.AGAIN, 1)),
        (1, False, False, Finding(Verdict.AGAIN, 2)),
        (2, False, False, Finding(Verdict.GONE, 3)),
    ],
)
def test_only_silence_that_nobody_waits_in_counts(
    *, misses: int, heard: bool, awaited: bool, finding: Finding
) -> None:
    assert decide_after_ping(misses=misses, failures=3, heard=heard, awaited=awaited) == finding


@given(st.text(), st.floats(min_value=0.001, max_value=1e6))
def test_the_first_turn_comes_within_the_interval_and_is_the_instances_own(
    name: str, interval: float
) -> None:
    delay = stagger(InstanceId(name), interval)

    assert 0 <= delay < interval
    assert delay == stagger(InstanceId(name), interval)


def test_instances_started_together_are_not_pinged_in_step() -> None:
    delays = [stagger(InstanceId(f"fs-{number}"), 10.0) for number in range(1000)]

    per_second = [sum(int(delay) == second for delay in delays) for second in range(10)]

    assert min(per_second) > 50
    assert max(per_second) < 200


# --- the part, without a process ----------------------------------------------------------------


class FakeTimer:
    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Bench:
    """What an Instance is to its pings, moved by hand."""

    def __init__(self, *, interval: float = 30.0, failures: int = 3) -> None:
        self.idle = True
        self.awaited = False
        self.sent: list[Callable[[Message | None], None]] = []
        self.turns: list[FakeTimer] = []
        self.retired: list[str] = []
        spec = ServerSpec(name=ServerName("s"), ping_interval_seconds=interval, ping_failures=failures)
        turn_after: Any = self._turn_after
        self.pings = Pings(
            spec,
            ping=self.sent.append,
            turn_after=turn_after,
            is_idle=lambda: self.idle,
            is_awaited=lambda: self.awaited,
            retire=self.retired.append,
        )
        self.pings.begin(InstanceId("s-1"))

    def _turn_after(self, delay: float) -> FakeTimer:
        self.turns.append(FakeTimer(delay))
        return self.turns[-1]

    @property
    def armed(self) -> list[FakeTimer]:
        return [timer for timer in self.turns if not timer.cancelled]

    def turn(self) -> None:
        """The interval is over."""
        (timer,) = self.armed
        timer.cancelled = True
        self.pings.on_turn()

    def over(self, reply: Message | None = None) -> None:
        """The last ping is answered, or has had its time."""
        if reply is not None:
            self.pings.heard = True
        self.sent[-1](reply)


PONG = Success(RawId(b"1"), Any)  # type: ignore[arg-type]
REFUSED = Failure(RawId(b"1"), Any)  # type: ignore[arg-type]


@pytest.mark.parametrize("reply", [PONG, REFUSED])
def test_an_answer_of_any_kind_is_a_sign_of_life(reply: Message) -> None:
    bench = Bench(failures=1)
    bench.turn()

    bench.over(reply)

    assert bench.retired == []
    assert [timer.delay for timer in bench.armed] == [30.0]


def test_a_miss_is_followed_by_another_ping_at_once_and_enough_of_them_end_it() -> None:
    bench = Bench(failures=3)
    bench.turn()
    for count in (1, 2, 3):
        assert (len(bench.sent), bench.retired, bench.armed) == (count, [], [])
        bench.over()

    assert bench.retired == ["did not answer 3 pings"]
    assert len(bench.sent) == 3


def test_any_message_since_the_ping_counts_as_its_answer() -> None:
    bench = Bench(failures=1)
    bench.pings.heard = True  # before the ping, which says nothing
    bench.turn()
    bench.pings.heard = True

    bench.over()

    assert bench.retired == []


def test_a_message_before_the_ping_does_not_count() -> None:
    bench = Bench(failures=1)
    bench.pings.heard = True
    bench.turn()

    bench.over()

    assert bench.retired == ["did not answer 1 ping"]


def test_an_instance_that_works_is_not_pinged_and_has_its_turn_again() -> None:
    bench = Bench()
    bench.idle = False

    bench.turn()

    assert bench.sent == []
    assert [timer.delay for timer in bench.armed] == [30.0]


def test_a_call_that_arrives_meanwhile_makes_the_misses_forgotten() -> None:
    bench = Bench(failures=3)
    bench.turn()
    bench.over()
    bench.over()
    bench.awaited = True
    bench.over()
    bench.awaited = False
    bench.turn()
    bench.over()
    bench.over()

    assert bench.retired == []
    bench.over()
    assert bench.retired == ["did not answer 3 pings"]


def test_an_interval_of_zero_is_never() -> None:
    bench = Bench(interval=0.0)
    bench.pings.on_limit_passed()

    assert bench.turns == []
    assert bench.sent == []


def test_a_call_that_passed_its_limit_has_the_server_asked_at_once() -> None:
    bench = Bench(failures=2)
    bench.pings.heard = True
    bench.idle = False

    bench.pings.on_limit_passed()

    assert len(bench.sent) == 1
    assert bench.armed == []
    bench.over()
    bench.over()
    assert bench.retired == ["did not answer 2 pings after a call had passed its limit"]


def test_a_suspicion_waits_for_the_calls_that_somebody_waits_for() -> None:
    bench = Bench()
    bench.awaited = True
    bench.pings.on_limit_passed()
    assert bench.sent == []

    bench.awaited = False
    bench.pings.on_nobody_may_wait()

    assert len(bench.sent) == 1


def test_a_suspicion_is_over_once_the_server_was_heard() -> None:
    bench = Bench(failures=1)
    bench.awaited = True
    bench.pings.on_limit_passed()
    bench.awaited = False
    bench.pings.heard = True

    bench.pings.on_nobody_may_wait()

    assert bench.sent == []
    bench.turn()
    bench.over()
    assert bench.retired == ["did not answer 1 ping"]


def test_a_call_that_was_given_up_raises_no_suspicion_by_itself() -> None:
    bench = Bench()

    bench.pings.on_nobody_may_wait()

    assert bench.sent == []


def test_a_limit_that_passes_while_a_ping_is_under_way_sends_no_second_one() -> None:
    bench = Bench(failures=2)
    bench.turn()
    bench.over()
    bench.pings.on_limit_passed()

    assert len(bench.sent) == 2
    bench.over()
    assert bench.retired == [], "its misses were forgotten"
    bench.over()
    assert len(bench.retired) == 1


class PingMachine(RuleBasedStateMachine):
    """Whatever happens: one thing is awaited at a time, and exactly enough silence in a row is its end."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(failures=2)
        self.silences = 0
        self.ended = 0
        self.heard = False  # since the last ping

    def ping_may_have_gone(self, *, before: int) -> None:
        if len(self.bench.sent) > before:
            self.heard = False

    @property
    def is_under_way(self) -> bool:
        return len(self.bench.sent) > self.ended

    def is_alive(self) -> bool:
        return not self.bench.retired

    @rule(state=st.sampled_from(["idle", "somebody waits", "nobody waits"]))
    def work(self, state: str) -> None:
        if self.bench.awaited:
            self.hear()  # what somebody waited for has been answered
        self.bench.idle = state == "idle"
        self.bench.awaited = state == "somebody waits"

    @rule()
    def hear(self) -> None:
        self.bench.pings.heard = self.heard = True

    @precondition(is_alive)
    @rule()
    def pass_a_limit(self) -> None:
        self.bench.pings.on_limit_passed()
        self.heard = False
        self.silences = 0

    @precondition(is_alive)
    @rule()
    def give_up(self) -> None:
        before = len(self.bench.sent)
        self.bench.pings.on_nobody_may_wait()
        self.ping_may_have_gone(before=before)
        self.silences = 0

    @precondition(lambda self: self.is_alive() and self.bench.armed)
    @rule()
    def turn(self) -> None:
        before = len(self.bench.sent)
        self.bench.turn()
        self.ping_may_have_gone(before=before)

    @precondition(lambda self: self.is_under_way)
    @rule(answered=st.booleans())
    def end_a_ping(self, *, answered: bool) -> None:
        self.silences = 0 if answered or self.heard or self.bench.awaited else self.silences + 1
        self.ended += 1
        before = len(self.bench.sent)
        self.bench.over(PONG if answered else None)
        self.heard = self.heard or answered
        self.ping_may_have_gone(before=before)

        assert bool(self.bench.retired) == (self.silences == 2)

    @invariant()
    def one_thing_is_awaited(self) -> None:
        if self.is_alive():
            assert len(self.bench.armed) + self.is_under_way == 1
        else:
            assert self.bench.armed == []
            assert not self.is_under_way


TestPingMachine = PingMachine.TestCase


# --- real servers -------------------------------------------------------------------------------

ONE_THING_AT_A_TIME = """
import json, sys, time
pings = 0
def send(id, **rest):
    print(json.dumps({"jsonrpc": "2.0", "id": id, **rest}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method")
    if method == "initialize":
        send(message["id"], result={"protocolVersion": "2025-11-25", "capabilities": {},
                                    "serverInfo": {"name": "s", "version": "1"}})
    elif method == "ping":
        pings += 1
        send(message["id"], %s)
    elif method == "tools/call":
        time.sleep(message["params"]["arguments"].get("seconds", 0))
        send(message["id"], result={"content": [{"type": "text", "text": str(pings)}]})
"""


def one_thing_at_a_time(*, pong: str = "result={}") -> dict[str, Any]:
    """A server that hears nothing while it works, as many do."""
    return {"args": ("-S", "-c", ONE_THING_AT_A_TIME % pong)}


@pytest.mark.parametrize("pong", ["result={}", "error={'code': -32601, 'message': 'no such method'}"])
def test_a_server_that_answers_pings_lives_on(tmp_path: Path, pong: str) -> None:
    async def main() -> None:
        async with session(tmp_path, ping_interval_seconds=0.02, **one_thing_at_a_time(pong=pong)) as bad:
            await bad.is_ready()

            while int(await bad.text("pings")) < 5:
                pass

            assert bad.owner.of(InstanceRetiring) == []

    run(main())


def test_an_idle_server_that_does_not_answer_pings_is_replaced_as_at_fault(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(
            tmp_path, PING_BLOCK=1, ping_interval_seconds=0.05, ping_timeout_seconds=0.05, ping_failures=2
        ) as bad:
            retiring = await bad.heard(InstanceRetiring)

            assert (retiring.message, retiring.at_fault) == ("did not answer 2 pings", True)
            exited = await bad.heard(InstanceExited)
            assert (exited.asked, exited.message) == (False, "did not answer 2 pings")
            await bad.is_gone()

    run(main())


def test_a_call_in_hand_is_not_ended_for_silence(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(
            tmp_path,
            ping_interval_seconds=0.1,
            ping_timeout_seconds=0.4,
            ping_failures=2,
            **one_thing_at_a_time(),
        ) as bad:
            await bad.is_ready()

            await bad.text("work", seconds=1.5)

            assert bad.owner.of(InstanceRetiring) == []

    run(main())


def test_a_call_that_arrives_between_a_ping_and_its_answer_is_not_ended_for_silence(tmp_path: Path) -> None:
    log = str(tmp_path / "spawn.log")
    answers, notes = 'send(message["id"], result={})', f"print('ping', file=open({log!r}, 'a'), flush=True)"
    script = (ONE_THING_AT_A_TIME % "result={}").replace(answers, notes)

    async def main() -> None:
        async with session(
            tmp_path,
            ping_interval_seconds=0.05,
            ping_timeout_seconds=0.5,
            ping_failures=2,
            stop_grace_seconds=0.05,
            args=("-S", "-c", script),
        ) as bad:
            await bad.is_ready()
            await until(lambda: bad.said("ping"))

            await bad.text("work", seconds=1.5)

    run(main())


def test_a_server_that_is_wedged_by_a_call_is_replaced_before_the_drain_timeout(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(
            tmp_path,
            call_timeout_seconds=0.2,
            drain_timeout_seconds=300.0,
            ping_timeout_seconds=0.1,
            ping_failures=2,
            stop_grace_seconds=0.05,
            **one_thing_at_a_time(),
        ) as bad:
            await bad.is_ready()

            answer = await bad.call("work", seconds=300)
            retiring = await bad.heard(InstanceRetiring)

            assert failure_of(answer)[0] == "call_timeout"
            assert retiring.at_fault
            assert retiring.message == "did not answer 2 pings after a call had passed its limit"
            await bad.is_gone()

    run(main())


def test_a_server_that_may_be_wedged_is_asked_once_nobody_waits_for_its_other_calls(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(
            tmp_path,
            drain_timeout_seconds=300.0,
            ping_timeout_seconds=0.1,
            ping_failures=2,
            stop_grace_seconds=0.05,
            **one_thing_at_a_time(),
        ) as bad:
            await bad.is_ready()
            lease = new_lease_id()
            other = bad.call("work", lease=lease, seconds=300)
            await bad.call("work", seconds=300, within=0.2)
            assert bad.owner.of(InstanceRetiring) == []

            bad.instance.tell(CancelCall(lease))
            await other
            retiring = await bad.heard(InstanceRetiring)

            assert retiring.message == "did not answer 2 pings after a call had passed its limit"

    run(main())


def test_a_server_that_answers_pings_keeps_the_time_to_end_a_call_that_hangs(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(
            tmp_path,
            IGNORE_CANCEL=1,
            call_timeout_seconds=0.2,
            drain_timeout_seconds=1.5,
            ping_interval_seconds=0.1,
            ping_timeout_seconds=0.4,
            ping_failures=2,
        ) as bad:
            await bad.is_ready()

            await bad.call("sleep", seconds=300)
            retiring = await bad.heard(InstanceRetiring)

            assert retiring.message == "a call did not end within 1.5 s of its cancellation"
            assert not retiring.at_fault

    run(main())


def test_a_server_that_ends_a_cancelled_call_in_silence_is_not_blamed(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(
            tmp_path,
            drain_timeout_seconds=1.5,
            ping_interval_seconds=0.1,
            ping_timeout_seconds=0.4,
            ping_failures=2,
            stop_grace_seconds=0.05,
            **one_thing_at_a_time(),
        ) as bad:
            await bad.is_ready()
            lease = new_lease_id()
            call = bad.call("work", lease=lease, seconds=300)
            await turns()

            bad.instance.tell(CancelCall(lease))
            await call
            retiring = await bad.heard(InstanceRetiring)

            assert not retiring.at_fault

    run(main())
