"""Whatever happens in whatever order: each ask has one outcome, each told message one fate."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.actors import BOUND, Do, Note, Place, Stage, crash, perform

from mcpv_node.actors.kernel import ActorError, AskTimeout, Down, LoopActor, Shutdown

STEPS = st.lists(
    st.sampled_from(["tell", "ask", "pykka ask", "defer", "crash", "start", "stop", "kill", "watch", "turn"]),
    max_size=40,
)


@settings(max_examples=300)
@given(steps=STEPS)
def test_every_ask_ends_once_and_every_message_told_is_handled_or_a_dead_letter(steps: list[str]) -> None:
    async def scenario(stage: Stage) -> None:
        watcher = Place(stage, LoopActor, name="watcher").start()
        place = Place(stage, LoopActor, keeps_open=True)
        asks: list[asyncio.Future[Any]] = []
        told = watches = 0

        for step in steps:
            alive = place.cell.actor is not None
            match step:
                case "tell":
                    place.handle.tell(Note(told))
                    told += 1
                case "ask":
                    asks.append(asyncio.ensure_future(place.ask(lambda _: "reply")))
                case "pykka ask" if alive:
                    asks.append(_awaited(place.ref.ask(Do(lambda _: "reply"), block=False)))
                case "defer":
                    asks.append(asyncio.ensure_future(place.ask(lambda actor: actor.defer())))
                case "crash":
                    place.handle.tell(Do(crash))
                case "start" if not alive:
                    place.start()
                case "stop":
                    place.cell.stop()
                case "kill":
                    place.handle.kill()
                case "watch":
                    place.handle.watch(watcher.handle)
                    watches += 1
                case "turn":
                    await asyncio.sleep(0)
                case _:
                    pass
        await asyncio.sleep(0)
        place.handle.kill()
        place.cell.close(Shutdown())

        outcomes = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), BOUND)
        for outcome in outcomes:
            assert outcome == "reply" or isinstance(outcome, ActorError)
            assert not isinstance(outcome, AskTimeout)
        handled = [entry for entry in stage.journal.entries if isinstance(entry, int)]
        buried = Counter(letter.message for letter in stage.dead)["Note"]
        assert handled == sorted(set(handled))
        assert len(handled) + buried == told
        await watcher.ask(lambda _: None)
        downs = stage.journal.of(Down)
        assert len(downs) == len({down.monitor for down in downs}) == watches
        ends = [end.incarnation for end in place.ends]
        assert ends == list(range(1, place.cell.incarnation + 1))
        assert stage.system.live == 1  # the watcher

    perform(scenario)


def _awaited(future: Any) -> asyncio.Future[Any]:
    async def wait() -> Any:
        return await future

    return asyncio.ensure_future(wait())
