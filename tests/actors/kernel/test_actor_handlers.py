"""What handlers can do: reply, defer, set timers, run slow work; what goes wrong in them stays theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pykka
import pytest
from support.actors import Do, Journal, Note, Place, Stage, Unknown, crash, perform

from mcpv_node.actors.kernel import (
    AskTimeout,
    Crashed,
    KernelActor,
    LoopActor,
    Request,
    UnhandledMessage,
    answers,
    handles,
)

Runtime = type[KernelActor[Any]]

FATAL = [
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    BaseExceptionGroup("several", [asyncio.CancelledError()]),
]


def _raise(error: BaseException) -> Callable[..., Any]:
    def raising(*_: object) -> None:
        raise error

    return raising


async def _result(value: object) -> object:
    return value


async def _raise_in_work(error: BaseException) -> None:
    raise error


async def _forever() -> None:
    await asyncio.Event().wait()


class _Outcome:
    """Told by `then`: what the work came to."""

    def __init__(self, value: object) -> None:
        self.value = value


# --- asks and tells -------------------------------------------------------------------------------


def test_a_handler_s_result_is_the_reply(
    runtime: Runtime, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        assert await place.ask(lambda _: "reply") == "reply"

    perform(scenario, new_loop=new_loop)


def test_messages_are_handled_in_the_order_they_were_sent(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        for number in range(200):  # more than one batch
            place.handle.tell(Note(number))

        await place.ask(lambda _: None)
        assert [entry for entry in stage.journal.entries if isinstance(entry, int)] == list(range(200))

    perform(scenario)


def test_an_ask_ends_at_its_deadline_and_the_actor_goes_on(
    runtime: Runtime, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        with pytest.raises(AskTimeout):
            await place.ask(lambda actor: actor.defer(), 0.01)

        assert await place.ask(lambda _: "alive") == "alive"

    perform(scenario, new_loop=new_loop)


def test_a_request_nobody_handles_is_refused_and_the_actor_lives(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        with pytest.raises(UnhandledMessage):
            await place.handle.ask(Unknown(), 5.0)

        assert await place.ask(lambda _: "alive") == "alive"

    perform(scenario)


def test_a_message_nobody_handles_is_a_dead_letter_and_the_actor_lives(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        place.handle.tell("what?")

        await stage.journal.until(lambda: stage.dead)
        assert [letter.message for letter in stage.dead] == ["str"]
        assert await place.ask(lambda _: "alive") == "alive"

    perform(scenario)


class _Ping(Request[str]):
    pass


def test_a_coroutine_function_is_refused_as_handler() -> None:
    with pytest.raises(TypeError, match="a handler is a plain function"):

        class Wrong(LoopActor[None]):
            @answers(_Ping)
            async def _on_ping(self, _: _Ping) -> str:
                return "pong"


def test_a_generator_function_is_refused_as_handler() -> None:
    with pytest.raises(TypeError, match="a handler is a plain function"):

        class Wrong(LoopActor[None]):
            @handles(Note)
            def _on_note(self, _: Note) -> Any:
                yield


def test_a_subclass_overrides_a_handler_by_its_name() -> None:
    class Parent(LoopActor[None]):
        @answers(_Ping)
        def _on_ping(self, _: _Ping) -> str:
            return "parent"

    class Child(Parent):
        def _on_ping(self, _: _Ping) -> str:
            return "child"

    async def scenario(stage: Stage) -> None:
        place = Place(stage, LoopActor)
        place.cell.start(Child())

        assert await place.handle.ask(_Ping(), 5.0) == "child"

    perform(scenario)


# --- deferred replies -----------------------------------------------------------------------------


def test_a_deferred_reply_comes_later_and_only_once(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        kept: list[Any] = []

        def later(actor: Any) -> Any:
            kept.append(actor.defer())
            return kept[0]

        asking = asyncio.ensure_future(place.ask(later))
        await stage.journal.until(lambda: place.handle.statistics().state == "running")
        await place.ask(lambda _: None)

        def reply(_: Any) -> None:
            kept[0].answer("later")
            kept[0].answer("again")

        await place.ask(reply)

        assert await asking == "later"
        assert place.handle.statistics().deferred == 0

    perform(scenario)


def test_a_deferred_reply_can_be_a_failure(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        def fail(actor: Any) -> Any:
            deferred = actor.defer()
            deferred.fail(LookupError("no such thing"))
            return deferred

        with pytest.raises(LookupError):
            await place.ask(fail)

    perform(scenario)


def test_a_deferred_answered_after_the_death_of_its_actor_does_nothing(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()
        kept: list[Any] = []

        def later(actor: Any) -> Any:
            if kept:
                return "from the second"
            kept.append(actor.defer())
            return kept[0]

        asking = asyncio.ensure_future(place.ask(later))
        await stage.journal.until(lambda: place.handle.statistics().state == "running")
        await place.ask(lambda _: None)
        place.handle.kill()

        kept[0].answer("from the dead")

        assert await asking == "from the second"

    perform(scenario)


def test_defer_outside_a_handler_is_refused() -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, LoopActor, beginning=lambda actor: actor.defer()).start()

        assert await place.ended() == Crashed("RuntimeError('defer() outside a handler')")

    perform(scenario)


# --- timers ---------------------------------------------------------------------------------------


def test_a_timer_brings_its_message(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        await place.ask(lambda actor: actor.after(0.001, Note("rang")) and None)

        await stage.journal.until(lambda: "rang" in stage.journal.entries)
        assert place.handle.statistics().timers == 0

    perform(scenario)


def test_a_cancelled_timer_never_rings(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        def set_two_and_cancel_one(actor: Any) -> None:
            actor.after(0.001, Note("cancelled")).cancel()
            actor.after(0.002, Note("rang"))

        await place.ask(set_two_and_cancel_one)

        await stage.journal.until(lambda: "rang" in stage.journal.entries)
        assert "cancelled" not in stage.journal.entries

    perform(scenario)


def test_a_timer_cancelled_when_its_message_is_in_the_mailbox_already_does_not_ring(
    runtime: Runtime,
) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        timer = await place.ask(lambda actor: actor.after(1000.0, Note("cancelled")))

        place.handle.tell(Do(lambda _: timer.cancel()))
        timer._ring()  # behind the cancellation in the mailbox

        await place.ask(lambda _: None)
        await place.ask(lambda _: None)
        assert "cancelled" not in stage.journal.entries

    perform(scenario)


def test_a_timer_dies_with_its_actor(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()
        await place.ask(lambda actor: actor.after(0.001, Note("of the first")) and None)
        place.handle.kill()

        await place.ask(lambda actor: actor.after(0.005, Note("of the second")) and None)

        await stage.journal.until(lambda: "of the second" in stage.journal.entries)
        assert "of the first" not in stage.journal.entries
        assert stage.dead == []

    perform(scenario)


def test_a_timer_that_rang_unread_is_not_heard_by_the_next_incarnation(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()
        timer = await place.ask(lambda actor: actor.after(1000.0, Note("of the first")))

        timer._ring()
        place.handle.kill()

        await place.ask(lambda _: None)
        assert "of the first" not in stage.journal.entries
        assert stage.dead == []

    perform(scenario)


# --- slow work ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: _result("done"), "'done'"),
        (lambda: _raise_in_work(LookupError("no")), "LookupError('no')"),
        (lambda: _raise_in_work(SystemExit(1)), "RuntimeError('the work raised SystemExit(1)')"),
        (lambda: _raise_in_work(asyncio.CancelledError()), "RuntimeError('the work was cancelled')"),
    ],
)
def test_the_end_of_slow_work_comes_back_as_a_message(runtime: Runtime, work: Any, expected: str) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        await place.ask(lambda actor: actor.run(work(), lambda outcome: Note(repr(outcome))))

        await stage.journal.until(lambda: expected in stage.journal.entries)
        assert place.handle.statistics().tasks == 0

    perform(scenario)


def test_slow_work_is_cancelled_at_death(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        async def work() -> None:
            stage.journal.write("works")
            try:
                await _forever()
            finally:
                stage.journal.write("cancelled")

        await place.ask(lambda actor: actor.run(work(), Note))
        await stage.journal.until(lambda: "works" in stage.journal.entries)

        place.handle.kill()

        await stage.journal.until(lambda: "cancelled" in stage.journal.entries)
        assert stage.dead == []

    perform(scenario)


def test_slow_work_cancelled_before_its_first_step_does_not_complain(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        place.handle.tell(Do(lambda actor: (actor.run(_forever(), Note), actor.exit())))

        await place.ended()
        await asyncio.sleep(0)

    perform(scenario)


def test_the_end_of_work_left_unread_is_not_heard_by_the_next_incarnation(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()

        def made(_: object) -> Note:
            asyncio.get_running_loop().call_soon(stage.journal.write, "made")
            place.handle.tell(Do(crash))  # read before the end of the work
            return Note("of the first")

        await place.ask(lambda actor: actor.run(_result(None), made))

        await place.ended()
        await place.ask(lambda _: None)
        assert "of the first" not in stage.journal.entries
        assert stage.dead == []

    perform(scenario)


@pytest.mark.parametrize("error", [ValueError("boom"), *FATAL], ids=repr)
def test_an_error_in_making_the_message_of_finished_work_is_a_crash(
    runtime: Runtime, error: BaseException
) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        await place.ask(lambda actor: actor.run(_result(None), _raise(error)))

        assert await place.ended() == Crashed(repr(error))

    perform(scenario)


# --- BaseException --------------------------------------------------------------------------------


def _in_a_handler(stage: Stage, runtime: Runtime, error: BaseException) -> Place:
    place = Place(stage, runtime).start()
    place.handle.tell(Do(_raise(error)))
    return place


def _in_an_asked_handler(stage: Stage, runtime: Runtime, error: BaseException) -> Place:
    place = Place(stage, runtime).start()
    place.ref.ask(Do(_raise(error)), block=False)
    return place


def _in_on_start(stage: Stage, runtime: Runtime, error: BaseException) -> Place:
    return Place(stage, runtime, beginning=_raise(error)).start()


def _in_a_timer_s_handler(stage: Stage, runtime: Runtime, error: BaseException) -> Place:
    return Place(stage, runtime, beginning=lambda actor: actor.after(0.0, Do(_raise(error)))).start()


def _in_on_shutdown(stage: Stage, runtime: Runtime, error: BaseException) -> Place:
    place = Place(stage, runtime, on_stop_asked=_raise(error)).start()
    place.cell.stop()
    return place


@pytest.mark.parametrize("error", FATAL, ids=repr)
@pytest.mark.parametrize(
    "happens", [_in_a_handler, _in_an_asked_handler, _in_on_start, _in_a_timer_s_handler, _in_on_shutdown]
)
def test_a_base_exception_ends_its_actor_and_nobody_else(
    runtime: Runtime, happens: Any, error: BaseException
) -> None:
    class Bystander(pykka.ThreadingActor):
        pass

    async def scenario(stage: Stage) -> None:
        neighbour = Place(stage, runtime, name="neighbour").start()

        place = happens(stage, runtime, error)

        assert await place.ended() == Crashed(repr(error))
        assert await neighbour.ask(lambda _: "alive") == "alive"

    bystander = Bystander.start()
    try:
        perform(scenario)
        assert bystander.is_alive()
    finally:
        bystander.stop()


@pytest.mark.parametrize("error", FATAL, ids=repr)
def test_a_base_exception_in_on_exit_is_contained(runtime: Runtime, error: BaseException) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, ending=_raise(error)).start()
        await place.ask(lambda _: None)

        place.cell.stop()

        assert str(await place.ended()) == "asked to stop"

    perform(scenario)


# --- statistics -----------------------------------------------------------------------------------


def test_statistics_say_what_an_actor_has_in_hand(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, name="busy").start()

        def occupy(actor: Any) -> Any:
            actor.after(1000.0, Note("never"))
            actor.run(_forever(), Note)
            return actor.defer()

        asking = asyncio.ensure_future(place.ask(occupy))
        await stage.journal.until(lambda: place.handle.statistics().state == "running")
        await place.ask(lambda _: None)
        place.handle.tell(Note("unread"))
        found = place.handle.statistics()

        assert (found.name, found.kind) == ("busy", place.cell.kind)
        assert (found.incarnation, found.crashes, found.since) == (1, 0, stage.clock.monotonic())
        assert (found.handled, found.mailbox) == (2, 1)
        assert (found.deferred, found.timers, found.tasks) == (1, 1, 1)
        asking.cancel()

    perform(scenario)


def test_statistics_of_a_place_without_an_actor_count_what_waits_and_the_crashes(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, keeps_open=True).start()
        place.handle.kill()
        place.handle.tell(Note("waits"))

        found = place.handle.statistics()

        assert (found.state, found.mailbox, found.crashes, found.handled) == ("restarting", 1, 1, 0)
        place.cell.close(Crashed("enough"))
        assert place.handle.statistics().state == "ended"

    perform(scenario)


def test_a_journal_wakes_who_waits_for_it() -> None:
    async def main() -> None:
        journal = Journal(asyncio.get_running_loop())
        asyncio.get_running_loop().call_soon(journal.write, "there")

        await journal.until(lambda: "there" in journal.entries)

    asyncio.run(main())


def test_what_a_callback_brings_is_read_at_once_after_what_was_sent_before_it(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        await place.ask(lambda _: None)
        actor = place.cell.actor
        assert actor is not None

        for number in range(3):
            place.handle.tell(Note(number))
        actor.note_now(Note(3))
        at_once = [entry for entry in stage.journal.entries if isinstance(entry, int)]

        await place.ask(lambda _: None)
        assert [entry for entry in stage.journal.entries if isinstance(entry, int)] == [0, 1, 2, 3]
        assert runtime is not LoopActor or at_once == [0, 1, 2, 3]

    perform(scenario)
