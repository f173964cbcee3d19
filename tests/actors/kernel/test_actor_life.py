"""How an actor begins, ends, is watched, and what outlives it."""

from __future__ import annotations

import asyncio
import threading
import traceback
from typing import Any

import pytest
from loguru import logger
from support.actors import Began, Do, LastRites, Note, Place, Stage, Started, crash, in_thread, perform

from mcpv_node.actors.kernel import (
    ESTATE_CRASH_WINDOW,
    ActorDead,
    ActorRestarted,
    Crashed,
    Down,
    Handle,
    KernelActor,
    Killed,
    LoopActor,
    MailboxFull,
    Normal,
    Shutdown,
    ThreadActor,
)

Runtime = type[KernelActor[Any]]


def _set_estate(value: object) -> Any:
    def handler(actor: Any) -> None:
        actor.estate = value

    return handler


def _set_estate_and_crash(value: object) -> Any:
    def handler(actor: Any) -> None:
        actor.estate = value
        raise ValueError("boom")

    return handler


# --- exit reasons ---------------------------------------------------------------------------------


def test_an_actor_that_exits_by_itself_ended_normally(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        await place.ask(lambda actor: actor.exit())

        assert await place.ended() == Normal()
        assert stage.journal.of(LastRites) == [LastRites("player", Normal())]

    perform(scenario)


def test_an_actor_asked_to_stop_reads_what_came_before_and_ends_with_shutdown(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        place.handle.tell(Note("first"))
        place.cell.stop()

        assert await place.ended() == Shutdown()
        assert "first" in stage.journal.entries

    perform(scenario)


def test_an_exception_in_a_handler_ends_the_actor_with_its_repr(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        place.handle.tell(Do(crash))

        assert await place.ended() == Crashed("ValueError('boom')")

    perform(scenario)


def test_an_exception_whose_repr_raises_still_ends_the_actor_and_answers_the_asker(runtime: Runtime) -> None:
    class Unprintable(Exception):
        def __repr__(self) -> str:
            raise ValueError("no")

        __str__ = __repr__

    def handler(_: Any) -> None:
        raise Unprintable

    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        with pytest.raises(ActorDead):
            await place.ask(handler)

        assert await place.ended() == Crashed("Unprintable (its repr raised ValueError)")

    perform(scenario)


def test_the_log_of_a_crash_has_the_traceback_and_names_the_actor(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        place.handle.tell(Do(crash))

        await place.ended()

    records: list[Any] = []
    sink = logger.add(lambda message: records.append(message.record), level="ERROR", format="{message}")
    try:
        perform(scenario)
    finally:
        logger.remove(sink)

    [record] = [it for it in records if it["message"].startswith("actor crashed")]
    lines = record["message"].splitlines()
    assert lines[1] == "Traceback (most recent call last):"
    assert any(line.endswith("in crash") for line in lines)
    assert lines[-1] == "ValueError: boom"
    assert record["extra"] == {"actor": "player", "incarnation": 1}


def test_a_crash_that_nobody_logs_is_not_put_into_words(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        place.handle.tell(Do(crash))

        assert await place.ended() == Crashed("ValueError('boom')")

    worded: list[BaseException] = []
    monkeypatch.setattr(
        traceback.TracebackException, "from_exception", lambda error, **_: worded.append(error)
    )
    logger.disable("mcpv_node.actors.kernel")
    try:
        perform(scenario)
    finally:
        logger.enable("mcpv_node.actors.kernel")

    assert worded == []


def test_an_exception_in_on_start_is_a_crash_that_never_started(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, beginning=crash).start()

        assert await place.ended() == Crashed("ValueError('boom')")
        assert stage.journal.of(Started) == []

    perform(scenario)


def test_an_exception_in_on_exit_does_not_hide_the_end(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, ending=crash).start()

        await place.ask(lambda actor: actor.exit())

        assert await place.ended() == Normal()

    perform(scenario)


def test_an_exit_in_on_start_reads_no_message(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, beginning=lambda actor: actor.exit())
        place.handle.tell(Note("too late"))

        place.start()

        assert await place.ended() == Normal()
        assert "too late" not in stage.journal.entries
        assert [letter.message for letter in stage.dead] == ["Note"]

    perform(scenario)


def test_an_actor_killed_before_it_began_has_no_last_rites(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        place.handle.kill()

        assert await place.ended() == Killed()
        assert stage.journal.of(Began) == []
        assert stage.journal.of(LastRites) == []

    perform(scenario)


def test_a_held_start_is_complete_when_the_actor_says_so(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, beginning=lambda actor: actor.hold_start()).start()
        assert await place.ask(lambda actor: actor.state) == "held"
        assert stage.journal.of(Started) == []

        await place.ask(lambda actor: actor.started())

        await stage.journal.until(lambda: stage.journal.of(Started))
        assert stage.journal.of(Started) == [Started("player", 1)]
        assert place.handle.statistics().state == "running"

    perform(scenario)


def test_an_exit_during_a_held_start_ends_it_unstarted(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, beginning=lambda actor: actor.hold_start()).start()

        await place.ask(lambda actor: actor.exit())

        assert await place.ended() == Normal()
        assert stage.journal.of(Started) == []

    perform(scenario)


def test_an_actor_that_kills_itself_in_a_handler_commits_and_answers_nothing() -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, LoopActor, keeps_open=True).start()

        def handler(actor: Any) -> str:
            actor.estate = "late"
            place.handle.kill("enough")
            assert stage.journal.of(LastRites) == []  # the handler is not cut short
            return "never heard"

        asking = asyncio.ensure_future(place.handle.ask(Do(handler), 5.0))

        assert await place.ended() == Killed("enough")
        assert place.cell.estate is None
        place.cell.close(Killed())
        with pytest.raises(ActorDead):
            await asking

    perform(scenario)


def test_a_cell_refuses_a_second_incarnation_beside_a_living_one(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        with pytest.raises(RuntimeError, match="has an incarnation already"):
            place.cell.start(place.make())

    perform(scenario)


def test_an_actor_lives_once(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, keeps_open=True).start()
        actor = place.cell.actor
        assert actor is not None
        place.handle.kill()

        with pytest.raises(RuntimeError, match="lives once"):
            place.cell.start(actor)
        place.cell.actor = None

    perform(scenario)


# --- monitors -------------------------------------------------------------------------------------


def _end_by_crash(place: Place) -> None:
    place.handle.tell(Do(crash))


def _end_by_kill(place: Place) -> None:
    place.handle.kill()


def _end_normally(place: Place) -> None:
    place.handle.tell(Do(lambda actor: actor.exit()))


def _end_by_stop(place: Place) -> None:
    place.cell.stop()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (_end_by_crash, Crashed("ValueError('boom')")),
        (_end_by_kill, Killed()),
        (_end_normally, Normal()),
        (_end_by_stop, Shutdown()),
    ],
)
def test_a_watcher_hears_of_each_kind_of_end_exactly_once(runtime: Runtime, end: Any, reason: object) -> None:
    async def scenario(stage: Stage) -> None:
        watcher = Place(stage, runtime, name="watcher").start()
        place = Place(stage, runtime, restarts=1).start()
        monitor = await watcher.ask(lambda actor: actor.watch(place.cell))
        await watcher.ask(lambda _: None)

        end(place)
        await place.ended()
        place.handle.kill()  # the next incarnation is another matter
        await place.ended(2)

        await stage.journal.until(lambda: stage.journal.of(Down))
        await watcher.ask(lambda _: None)
        assert stage.journal.of(Down) == [Down(monitor, "player", 1, reason)]

    perform(scenario)


def test_watching_an_actor_that_has_ended_is_answered_at_once_with_its_reason(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        watcher = Place(stage, runtime, name="watcher").start()
        place = Place(stage, runtime).start()
        place.handle.kill("gone")

        monitor = await watcher.ask(lambda actor: actor.watch(place.cell))

        await stage.journal.until(lambda: stage.journal.of(Down))
        assert stage.journal.of(Down) == [Down(monitor, "player", 1, Killed("gone"))]

    perform(scenario)


def test_who_has_unwatched_hears_nothing(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        watcher = Place(stage, runtime, name="watcher").start()
        place = Place(stage, runtime).start()

        def watch_and_unwatch(actor: Any) -> None:
            actor.unwatch(place.cell, actor.watch(place.cell))

        await watcher.ask(watch_and_unwatch)
        await watcher.ask(lambda _: None)
        place.handle.kill()

        await watcher.ask(lambda _: None)
        assert stage.journal.of(Down) == []

    perform(scenario)


def test_the_down_for_a_watcher_that_has_ended_is_a_dead_letter(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        watcher = Place(stage, runtime, name="watcher").start()
        place = Place(stage, runtime).start()
        place.handle.watch(watcher.handle)
        watcher.handle.kill()

        place.handle.kill()

        assert [(letter.name, letter.message) for letter in stage.dead] == [("watcher", "Down")]

    perform(scenario)


def test_a_watch_on_the_loop_counts_before_the_kill_that_follows_it(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        watcher = Place(stage, runtime, name="watcher").start()
        place = Place(stage, runtime).start()

        place.handle.watch(watcher.handle)
        place.handle.kill("now")

        await stage.journal.until(lambda: stage.journal.of(Down))
        assert [down.reason for down in stage.journal.of(Down)] == [Killed("now")]

    perform(scenario)


# --- control past the mailbox ---------------------------------------------------------------------


def test_a_kill_and_a_watch_do_not_wait_behind_a_full_mailbox(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        watcher = Place(stage, runtime, name="watcher").start()
        place = Place(stage, runtime, capacity=3).start()
        for number in range(3):
            place.handle.tell(Note(number))

        place.handle.watch(watcher.handle)
        place.handle.kill()

        assert not place.handle.is_alive()
        await stage.journal.until(lambda: stage.journal.of(Down))
        assert [entry for entry in stage.journal.entries if isinstance(entry, int)] == []

    perform(scenario)


def test_a_stop_is_taken_by_a_full_mailbox(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, capacity=1).start()
        place.handle.tell(Note("fills it"))

        place.cell.stop()

        assert await place.ended() == Shutdown()

    perform(scenario)


def test_a_pykka_stop_is_taken_by_a_full_mailbox(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, capacity=1).start()
        place.handle.tell(Note("fills it"))

        place.ref.stop(block=False)

        assert await place.ended() == Shutdown()

    perform(scenario)


# --- the bound ------------------------------------------------------------------------------------


def test_what_is_told_to_a_full_mailbox_is_a_counted_dead_letter(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, capacity=1).start()
        place.handle.tell(Note("fits"))

        place.handle.tell(Note("does not"))

        assert [letter.message for letter in stage.dead] == ["Note"]
        assert stage.system.dead_letters[place.cell.kind] == 1

    perform(scenario)


def test_an_ask_of_a_full_mailbox_is_refused_and_the_actor_lives(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, capacity=1).start()
        place.handle.tell(Note("fits"))

        with pytest.raises(MailboxFull):
            await place.ask(lambda _: None)

        await stage.journal.until(lambda: "fits" in stage.journal.entries)
        assert await place.ask(lambda _: "room again") == "room again"

    perform(scenario)


def test_a_pykka_tell_to_a_full_mailbox_raises_and_a_pykka_ask_is_refused(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, capacity=1).start()
        ref = place.ref
        ref.tell(Note("fits"))

        with pytest.raises(MailboxFull):
            ref.tell(Note("does not"))
        with pytest.raises(MailboxFull):
            await ref.ask(Do(lambda _: None), block=False)

    perform(scenario)


def test_what_waits_for_the_next_incarnation_is_bounded_too(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, capacity=2)
        for number in range(3):
            place.handle.tell(Note(number))

        with pytest.raises(MailboxFull):
            await place.ask(lambda _: None)

        assert [letter.message for letter in stage.dead] == ["Note"]
        place.start()
        await stage.journal.until(lambda: 1 in stage.journal.entries)
        await place.ask(lambda _: None)
        assert [entry for entry in stage.journal.entries if isinstance(entry, int)] == [0, 1]

    perform(scenario)


# --- asks and tells at a death --------------------------------------------------------------------


def test_a_caller_does_not_see_one_crash(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()

        def fails_in_the_first(actor: Any) -> int:
            if actor.incarnation == 1:
                raise ValueError("boom")
            return actor.incarnation

        assert await place.ask(fails_in_the_first) == 2

    perform(scenario)


def test_a_caller_sees_the_second_crash_of_one_request(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=5).start()

        with pytest.raises(ActorRestarted):
            await place.ask(crash)

        assert len(place.ends) == 2

    perform(scenario)


def test_queued_asks_reach_the_next_incarnation(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()
        place.handle.tell(Do(crash))

        replies = await asyncio.gather(*(place.ask(lambda actor: actor.incarnation) for _ in range(10)))

        assert replies == [2] * 10

    perform(scenario)


def test_a_deferred_ask_reaches_the_next_incarnation(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()
        asking = asyncio.ensure_future(
            place.ask(lambda actor: actor.defer() if actor.incarnation == 1 else "answered")
        )
        await stage.journal.until(lambda: stage.journal.of(Started))
        await place.ask(lambda _: None)
        assert place.handle.statistics().deferred == 1

        place.handle.kill()

        assert await asking == "answered"

    perform(scenario)


def test_messages_told_before_a_crash_survive_it_in_order_without_the_one_that_failed(
    runtime: Runtime,
) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()

        place.handle.tell(Note(0))
        place.handle.tell(Do(crash))
        for number in range(1, 6):
            place.handle.tell(Note(number))

        await place.ask(lambda _: None)
        assert [entry for entry in stage.journal.entries if isinstance(entry, int)] == [0, 1, 2, 3, 4, 5]
        assert len(place.ends) == 1

    perform(scenario)


def test_a_closed_cell_refuses_asks_and_buries_what_is_told(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        place.handle.kill()

        place.handle.tell(Note("nobody"))
        with pytest.raises(ActorDead):
            await place.ask(lambda _: None)

        assert [letter.message for letter in stage.dead] == ["Note"]

    perform(scenario)


def test_what_an_actor_left_unread_is_buried_when_its_cell_was_closed_before_it_ended(
    runtime: Runtime,
) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, keeps_open=True).start()
        place.handle.tell(Note("unread"))
        place.cell.close(Shutdown())

        place.handle.kill()

        assert [letter.message for letter in stage.dead] == ["Note"]
        assert not place.cell.stash

    perform(scenario)


def test_a_pykka_stop_is_answered_also_when_the_cell_restarts(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()

        assert await in_thread(lambda ref: ref.stop(timeout=10), place.ref) is True

        assert await place.ask(lambda actor: actor.incarnation) == 2

    perform(scenario)


def test_a_pykka_stop_queued_at_a_crash_is_answered_and_stops_only_that_incarnation(
    runtime: Runtime,
) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()
        ref = place.ref
        place.handle.tell(Do(crash))
        stopped = in_thread(lambda: ref.stop(timeout=10))

        assert await stopped in (True, False)

        assert await place.ask(lambda actor: actor.incarnation) == 2

    perform(scenario)


# --- the estate -----------------------------------------------------------------------------------


def test_the_next_incarnation_begins_with_what_was_committed(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=1).start()
        await place.ask(_set_estate("kept"))

        place.handle.tell(Do(_set_estate_and_crash("half done")))

        await place.ask(lambda _: None)
        assert [began.estate for began in stage.journal.of(Began)] == [None, "kept"]

    perform(scenario)


@pytest.mark.parametrize(
    ("apart", "estate"),
    [(ESTATE_CRASH_WINDOW, None), (ESTATE_CRASH_WINDOW + 0.1, "kept")],
)
def test_a_second_crash_within_the_window_drops_the_estate(
    runtime: Runtime, apart: float, estate: str | None
) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, restarts=2).start()
        await place.ask(_set_estate("kept"))
        place.handle.tell(Do(crash))
        await place.ask(lambda _: None)

        stage.clock.advance(apart)
        place.handle.tell(Do(crash))

        await place.ask(lambda _: None)
        assert [began.estate for began in stage.journal.of(Began)] == [None, "kept", estate]

    perform(scenario)


# --- threads of their own -------------------------------------------------------------------------


def test_a_kill_abandons_a_blocked_handler_and_nothing_it_does_later_counts() -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, ThreadActor, keeps_open=True).start()
        other = Place(stage, LoopActor, name="other").start()
        gate = _Gate()

        def blocked(actor: Any) -> str:
            gate.wait()
            actor.estate = "late"
            actor.after(0.0, Note("late timer"))
            actor.run(_nothing(), lambda _: Note("late work"))
            actor.watch(other.cell)
            actor.hold_start()
            actor.exit()
            return "late"

        asking = asyncio.ensure_future(place.handle.ask(Do(blocked), 5.0))
        await gate.reached()

        place.handle.kill()

        assert place.handle.statistics().state == "restarting"
        gate.open()
        await stage.journal.until(lambda: stage.journal.of(LastRites))
        other.handle.kill()
        place.start()
        assert await asking == "late"  # asked again of the next incarnation, whose gate is open
        await place.ended(2)  # that one's exit() counts
        assert [end.incarnation for end in place.ends] == [1, 2]
        begun = [began for began in stage.journal.of(Began) if began.name == "player"]
        assert [began.estate for began in begun] == [None, None]
        assert stage.journal.of(Down) == []
        assert stage.dead == []

    perform(scenario)


def test_an_asker_hears_at_once_that_the_blocked_handler_was_abandoned() -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, ThreadActor).start()
        gate = _Gate()
        future = place.ref.ask(Do(lambda _: gate.wait()), block=False)
        await gate.reached()

        place.handle.kill()

        with pytest.raises(ActorRestarted):
            await future
        gate.open()

    perform(scenario)


def test_a_thread_killed_in_on_start_ends_once_whatever_it_does_then() -> None:
    async def scenario(stage: Stage) -> None:
        gate = _Gate()

        def beginning(actor: Any) -> None:
            if actor.incarnation == 1:
                gate.wait()
                actor.hold_start()
                raise ValueError("late")

        place = Place(stage, ThreadActor, restarts=1, beginning=beginning).start()
        await gate.reached()
        place.handle.kill()

        gate.open()
        await stage.journal.until(lambda: stage.journal.of(LastRites))

        assert await place.ask(lambda actor: actor.incarnation) == 2
        assert len(place.ends) == 1
        assert stage.system.live == 1

    perform(scenario)


def test_an_orderly_stop_waits_for_on_exit_on_the_thread() -> None:
    async def scenario(stage: Stage) -> None:
        gate = _Gate()
        place = Place(stage, ThreadActor, ending=lambda _: gate.wait()).start()
        await place.ask(lambda _: None)

        place.cell.stop()
        await gate.reached()

        assert place.ends == []
        gate.open()
        assert await place.ended() == Shutdown()

    perform(scenario)


def test_a_kill_does_not_wait_for_an_on_exit_that_hangs() -> None:
    async def scenario(stage: Stage) -> None:
        gate = _Gate()
        place = Place(stage, ThreadActor, ending=lambda _: gate.wait()).start()
        place.cell.stop()
        await gate.reached()

        place.handle.kill("grace is over")

        assert await place.ended() == Killed("grace is over")
        gate.open()

    perform(scenario)


def test_no_more_threads_is_a_crash_and_not_a_start_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario(stage: Stage) -> None:
        place = Place(stage, ThreadActor)
        with monkeypatch.context() as patched:
            patched.setattr("threading.Thread.start", refuse)
            place.start()

            assert await place.ended() == Crashed('RuntimeError("can\'t start new thread")')

    perform(scenario)


def test_closing_the_system_ends_everybody_and_nobody_is_restarted(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> Handle[Any]:
        place = Place(stage, runtime, restarts=100).start()
        await place.ask(lambda _: None)

        stage.system.close()

        assert stage.system.live == 0
        with pytest.raises(ActorDead):
            await place.ask(lambda _: None)
        return place.handle

    perform(scenario)


async def _nothing() -> None:
    return None


class _Gate:
    """Holds a thread until the test opens it."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()

    def wait(self) -> None:
        self._loop.call_soon_threadsafe(self._reached.set)
        assert self._open.wait(20.0)

    async def reached(self) -> None:
        async with asyncio.timeout(20.0):
            await self._reached.wait()

    def open(self) -> None:
        self._open.set()
