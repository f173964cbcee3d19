"""Asks from threads and from other loops; and that every ask ends, whoever wins the race with the end."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pykka
import pytest
from support.actors import BOUND, Do, Note, Place, Stage, crash, in_thread, perform

from mcpv_node.actors.kernel import (
    ActorDead,
    ActorError,
    AskTimeout,
    Handle,
    KernelActor,
    ThreadActor,
    WrongThread,
)
from mcpv_node.actors.kernel.cell import Letter

Runtime = type[KernelActor[Any]]
NewLoop = Callable[[], asyncio.AbstractEventLoop]

ASKERS = 4

# Enough that the race between an asker and the end is met in every way; each round takes a few milliseconds.
ROUNDS = 40


@pytest.fixture
def _threads_change_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


# --- one ask --------------------------------------------------------------------------------------


def test_a_thread_asks_a_handle(runtime: Runtime, new_loop: NewLoop) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        reply = await in_thread(lambda: place.handle.ask_blocking(Do(lambda _: "reply"), BOUND))

        assert reply == "reply"

    perform(scenario, new_loop=new_loop)


def test_a_thread_tells_a_handle(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        await in_thread(place.handle.tell, Note("told"))

        await stage.journal.until(lambda: "told" in stage.journal.entries)

    perform(scenario)


def test_another_loop_asks_a_handle(runtime: Runtime, new_loop: NewLoop) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        reply = await in_thread(lambda: asyncio.run(place.handle.ask(Do(lambda _: "reply"), BOUND)))

        assert reply == "reply"

    perform(scenario, new_loop=new_loop)


def test_an_ask_from_a_thread_ends_at_its_deadline(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        with pytest.raises(AskTimeout):
            await in_thread(lambda: place.handle.ask_blocking(Do(lambda actor: actor.defer()), 0.01))

    perform(scenario)


def test_an_ask_from_another_loop_ends_at_its_deadline(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        with pytest.raises(AskTimeout):
            await in_thread(lambda: asyncio.run(place.handle.ask(Do(lambda actor: actor.defer()), 0.01)))

    perform(scenario)


def test_a_thread_does_not_see_one_crash(runtime: Runtime) -> None:
    def fails_in_the_first(actor: Any) -> int:
        if actor.incarnation == 1:
            raise ValueError("boom")
        return actor.incarnation

    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()

        assert await in_thread(lambda: place.handle.ask_blocking(Do(fails_in_the_first), BOUND)) == 2

    perform(scenario)


def test_a_blocking_ask_on_the_loop_s_thread_is_refused_and_nothing_is_sent(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        with pytest.raises(WrongThread):
            place.handle.ask_blocking(Do(lambda actor: actor.journal.write("sent")), 5.0)

        await place.ask(lambda _: None)
        await place.ask(lambda _: None)
        assert "sent" not in stage.journal.entries

    perform(scenario)


def test_a_held_start_of_a_thread_completes_on_the_loop() -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, ThreadActor, beginning=lambda actor: actor.hold_start()).start()

        await place.ask(lambda actor: actor.started())  # Place asserts the thread of on_started

        await stage.journal.until(lambda: place.handle.statistics().state == "running")

    perform(scenario)


# --- after the loop -------------------------------------------------------------------------------


def test_an_ask_of_a_node_whose_loop_has_closed_is_refused(runtime: Runtime) -> None:
    handles: list[Handle[Any]] = []

    async def scenario(stage: Stage) -> None:
        handles.append(Place(stage, runtime).start().handle)

    perform(scenario)

    with pytest.raises(ActorDead):
        handles[0].ask_blocking(Do(lambda _: None), 5.0)


def test_a_tell_to_a_node_whose_loop_has_closed_is_counted(runtime: Runtime) -> None:
    stages: list[Stage] = []
    handles: list[Handle[Any]] = []

    async def scenario(stage: Stage) -> None:
        stages.append(stage)
        handles.append(Place(stage, runtime).start().handle)

    perform(scenario)
    teller = threading.Thread(target=handles[0].tell, args=(Note("nobody"),))
    teller.start()
    teller.join(BOUND)

    assert stages[0].system.dead_letters.total() == 1


# --- the race with the end ------------------------------------------------------------------------


class _Asker:
    """A thread that asks until it is refused; `refusal` is how its last ask ended."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._ask = ask
        self.replies = 0
        self.refusal: Exception | None = None
        self.thread = threading.Thread(target=self._body, daemon=True)
        self.thread.start()

    def _body(self) -> None:
        while self.refusal is None:
            try:
                self._ask()
            except Exception as error:  # noqa: BLE001  (any end will do; none will not)
                self.refusal = error
            else:
                self.replies += 1

    def has_ended(self) -> bool:
        self.thread.join(BOUND)
        return not self.thread.is_alive()


def _kill(place: Place) -> None:
    place.handle.kill()


def _stop(place: Place) -> None:
    place.cell.stop()


def _crash(place: Place) -> None:
    place.handle.tell(Do(crash))


@pytest.mark.usefixtures("_threads_change_often")
@pytest.mark.parametrize("end", [_kill, _stop, _crash])
def test_no_ask_through_a_pykka_ref_is_lost_when_its_actor_ends(runtime: Runtime, end: Any) -> None:
    async def scenario(stage: Stage) -> None:
        for number in range(ROUNDS):
            place = Place(stage, runtime, name=f"player {number}").start()
            ref = place.ref
            askers = [_Asker(lambda ref=ref: ref.ask(Do(lambda _: None))) for _ in range(ASKERS)]
            for _ in range(5):
                await place.ask(lambda _: None)

            end(place)

            await place.ended()
            for asker in askers:
                assert await in_thread(asker.has_ended), "an ask was lost"
                assert isinstance(asker.refusal, pykka.ActorDeadError)

    perform(scenario)


@pytest.mark.usefixtures("_threads_change_often")
@pytest.mark.parametrize("end", [_kill, _stop, _crash])
def test_no_blocking_ask_through_a_handle_is_lost_when_its_actor_ends(runtime: Runtime, end: Any) -> None:
    async def scenario(stage: Stage) -> None:
        for number in range(ROUNDS // 4):
            place = Place(stage, runtime, name=f"player {number}", restarts=2).start()
            handle = place.handle
            askers = [
                _Asker(lambda handle=handle: handle.ask_blocking(Do(lambda _: None), BOUND))
                for _ in range(ASKERS)
            ]
            for times in range(1, 4):
                await place.ask(lambda _: None)
                end(place)
                await place.ended(times)

            for asker in askers:
                assert await in_thread(asker.has_ended), "an ask was lost"
                assert isinstance(asker.refusal, ActorError)
                assert not isinstance(asker.refusal, AskTimeout)

    perform(scenario)


@pytest.mark.usefixtures("_threads_change_often")
def test_no_ask_is_lost_when_the_loop_closes(runtime: Runtime, new_loop: NewLoop) -> None:
    for _ in range(ROUNDS // 4):
        askers: list[_Asker] = []

        async def scenario(stage: Stage, askers: list[_Asker] = askers) -> None:
            place = Place(stage, runtime).start()
            ref = place.ref
            askers += [_Asker(lambda: ref.ask(Do(lambda _: None))) for _ in range(ASKERS)]
            for _ in range(5):
                await place.ask(lambda _: None)

        perform(scenario, new_loop=new_loop)

        assert all(asker.has_ended() for asker in askers), "an ask was lost"


def test_a_letter_appended_just_before_the_mailbox_closes_is_answered(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        future = place.ref.ask(Do(lambda _: None), block=False)

        place.handle.kill()

        with pytest.raises(ActorError):
            await future

    perform(scenario)


def test_a_letter_appended_just_after_the_mailbox_closed_is_answered_on_the_sender_s_thread(
    runtime: Runtime,
) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        ref = place.ref
        actor = place.cell.actor
        assert actor is not None
        place.handle.kill()
        ref.actor_stopped.clear()  # as the sender saw it, a moment before

        with pytest.raises(ActorDead):
            ref.ask(Do(lambda _: None))  # blocking is allowed: the answer is there
        ref.tell(Note("too late"))

        await stage.journal.until(lambda: stage.dead)
        assert [letter.message for letter in stage.dead] == ["Note"]

    perform(scenario)


def test_a_late_letter_takes_nobody_else_s_with_it(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, keeps_open=True).start()
        actor = place.cell.actor
        assert actor is not None
        ref = place.ref
        mailbox = actor.mailbox
        mailbox.put_letter(Letter(Note("earlier")), bounded=False)
        mailbox.closed = True  # closing has begun on the loop, nothing was taken yet

        ref.tell(Note("late"))

        assert [letter.message for letter in mailbox.close()] == [Note("earlier")]
        mailbox.closed = False

    perform(scenario)


def test_a_dead_letter_from_a_thread_is_heard_on_the_loop(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        ref = place.ref
        place.handle.kill()
        ref.actor_stopped.clear()

        await in_thread(ref.tell, Note("late"))

        await stage.journal.until(lambda: stage.dead)  # Stage asserts the thread

    perform(scenario)
