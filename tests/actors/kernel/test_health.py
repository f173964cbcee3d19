"""Whether every actor answers: what a check finds, and what it does not take for a fault."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from support.actors import BOUND, Do, Note, Place, Stage, crash, perform

from mcpv_node.actors.kernel import (
    Health,
    HealthCheck,
    KernelActor,
    LoopActor,
    Pulse,
    ThreadActor,
)

Runtime = type[KernelActor[Any]]

# Where a test waits for the bound to pass, it is this short.
SHORT = 0.05


@contextmanager
def hanging(place: Place) -> Iterator[Callable[[], None]]:
    """Have the place's thread stay in a handler until the test ends, or the function is called."""
    goes_on = threading.Event()

    def hang(_: object) -> None:
        goes_on.wait(BOUND)

    place.handle.tell(Do(hang))
    try:
        yield goes_on.set
    finally:
        goes_on.set()


async def up(stage: Stage, *places: Place) -> None:
    """Wait until these are up, and what they were told before was read."""
    for place in places:
        await place.ask(lambda _: None)


def test_when_all_answer_it_is_good_and_says_how_many(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        places = [Place(stage, runtime, name=name).start() for name in ("a", "b")]
        await up(stage, *places)

        health = await HealthCheck(stage.system).check()

        assert (health, health.is_good) == (Health(2), True)
        assert str(health) == "all 2 actors answer"

    perform(scenario)


def test_a_handler_can_ask_for_a_pulse_like_for_anything(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        assert await place.handle.ask(Pulse(), BOUND) is None

    perform(scenario)


def test_an_actor_whose_thread_hangs_is_named_and_the_others_are_not() -> None:
    async def scenario(stage: Stage) -> None:
        stuck = Place(stage, ThreadActor, name="stuck").start()
        well = Place(stage, LoopActor, name="well").start()
        await up(stage, stuck, well)

        with hanging(stuck):
            health = await HealthCheck(stage.system, bound=SHORT).check()

        assert health == Health(1, ("stuck",))
        assert str(health) == "stuck did not answer"

    perform(scenario)


def test_an_actor_that_goes_on_is_good_again() -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, ThreadActor).start()
        await up(stage, place)
        check = HealthCheck(stage.system, bound=SHORT)
        with hanging(place) as go_on:
            assert not (await check.check()).is_good
            go_on()
            await up(stage, place)

        assert await check.check() == Health(1)

    perform(scenario)


def test_looking_often_puts_one_pulse_into_a_mailbox_that_nobody_reads() -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, ThreadActor).start()
        await up(stage, place)
        check = HealthCheck(stage.system, bound=SHORT)

        with hanging(place):
            for _ in range(3):
                assert not (await check.check()).is_good

            assert place.handle.statistics().mailbox == 1

    perform(scenario)


def test_who_asks_during_a_check_hears_of_that_one() -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, LoopActor).start()
        await up(stage, place)
        handled = place.handle.statistics().handled
        check = HealthCheck(stage.system)

        both = await asyncio.gather(check.check(), check.check())

        assert both == [Health(1), Health(1)]
        assert place.handle.statistics().handled == handled + 1

    perform(scenario)


def test_one_who_stops_waiting_ends_the_check_for_nobody_else() -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, ThreadActor).start()
        await up(stage, place)
        check = HealthCheck(stage.system)
        with hanging(place) as go_on:
            impatient = asyncio.ensure_future(check.check())
            patient = asyncio.ensure_future(check.check())
            await asyncio.sleep(0)
            impatient.cancel()
            go_on()

            assert await patient == Health(1)

    perform(scenario)


def test_an_actor_that_crashes_or_ends_before_it_answers_is_its_supervisors_affair() -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, ThreadActor, restarts=1).start()
        await up(stage, place)
        check = HealthCheck(stage.system)
        with hanging(place) as go_on:
            place.handle.tell(Do(crash))
            health = asyncio.ensure_future(check.check())
            await asyncio.sleep(0)
            go_on()

            assert await health == Health(1)
        await place.ended()

    perform(scenario)


def test_an_actor_that_is_still_starting_is_not_asked(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, beginning=lambda actor: actor.hold_start()).start()
        await stage.journal.until(lambda: stage.journal.entries)

        assert await HealthCheck(stage.system, bound=SHORT).check() == Health(0)

        place.cell.kill()

    perform(scenario)


def test_a_full_mailbox_is_read_and_so_answers(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime, capacity=2).start()
        await up(stage, place)
        for number in (1, 2):
            place.handle.tell(Note(number))

        assert (await HealthCheck(stage.system).check()).is_good
        assert stage.dead == []

    perform(scenario)


def test_a_loop_that_was_busy_for_longer_than_the_bound_is_no_fault_of_any_actor() -> None:
    async def scenario(stage: Stage) -> None:
        slow, other = (Place(stage, LoopActor, name=name).start() for name in ("slow", "other"))
        await up(stage, slow, other)
        never = threading.Event()
        slow.handle.tell(Do(lambda _: never.wait(2 * SHORT)))

        assert await HealthCheck(stage.system, bound=SHORT).check() == Health(2)

    perform(scenario)
