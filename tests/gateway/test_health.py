"""What /healthz says: who does not answer, by class; and how little it costs to ask often."""

from __future__ import annotations

import threading
from pathlib import Path

from loguru import logger
from support.doors import open_door
from support.fake_servers import BOUND, run
from support.fakes import FakeClock
from support.raw_http import RawConnection

from mcpv_node.actors.kernel import Health, ThreadActor, handles
from mcpv_node.gateway.health import FRESH, HealthView, describe_fault


class Hang:
    """Stay in the handler."""


class Diary(ThreadActor[None]):
    """Hangs when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    @handles(Hang)
    def _on_hang(self, _: Hang) -> None:
        self.goes_on.wait(BOUND)


def test_an_actor_that_hangs_is_told_by_its_class_and_not_by_its_name(tmp_path: Path) -> None:
    async def main() -> None:
        lines: list[str] = []
        sink = logger.add(lines.append, format="{message}", level="INFO")
        diary = Diary()
        async with open_door(tmp_path) as stage:
            connection = await RawConnection.open(stage.url)
            handle = await stage.node.start(diary, "secret-server")
            handle.tell(Hang())
            try:
                sick = await connection.ask("GET", "/healthz")
                refused = await connection.ask("POST", "/healthz")
            finally:
                diary.goes_on.set()
            await connection.close()
        logger.remove(sink)

        assert sick.status == 503
        assert sick.json()["detail"] == "these actors do not answer: Diary"
        assert "retry-after" in sick.headers
        assert b"secret-server" not in sick.body
        assert [line for line in lines if "not well" in line] == [
            "the node is not well: secret-server did not answer\n"
        ]
        assert refused.status == 405

    run(main)


def test_who_asks_more_often_than_once_a_second_gets_the_answer_of_before() -> None:
    async def main() -> None:
        answers = [Health(3), Health(2, ("store",), ("Store",)), Health(3)]
        asked: list[Health] = []
        clock = FakeClock()

        async def check() -> Health:
            asked.append(answers[len(asked)])
            return asked[-1]

        view = HealthView(check, clock)
        seen = [await view.look() for _ in range(5)]
        for _ in range(2):
            clock.advance(FRESH)
            seen.append(await view.look())

        assert seen == [Health(3)] * 5 + [Health(2, ("store",)), Health(3)]
        assert len(asked) == 3

    run(main)


def test_a_node_that_has_ended_says_so() -> None:
    assert describe_fault(Health(0, ("node",))) == "the node has ended"
