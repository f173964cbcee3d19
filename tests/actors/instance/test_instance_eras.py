"""A child process is asked for its era, whatever it does about that."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.asking import ASKSERVER
from support.harness import FIXTURE
from support.owners import run, until
from support.sessions import session, text_of

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.instance.messages import (
    Answer,
    AnswerAsk,
    Asked,
    CallEvent,
    InstanceAsked,
    InstanceFailed,
    InstanceReady,
    Lists,
)

# Ends as soon as it reads what it does not know.
TOUCHY = "import sys; line = sys.stdin.readline(); sys.exit(4 if 'server/discover' in line else 0)"


def of(script: Path, *words: str) -> dict[str, Any]:
    return {"command": sys.executable, "args": (str(script), *words)}


@pytest.mark.parametrize(
    ("settings", "era"),
    [
        (of(FIXTURE, "stdio"), "modern"),
        (of(ASKSERVER), "legacy"),
        (of(ASKSERVER, "SILENT_PROBE=1"), "legacy"),
    ],
)
def test_a_server_is_spoken_to_in_its_era(tmp_path: Path, settings: Any, era: str) -> None:
    async def main() -> None:
        async with session(tmp_path, may_probe=True, **settings) as one:
            await one.is_ready()

        assert one.owner.of(InstanceReady)[0].hello.era == era

    run(main())


@pytest.mark.parametrize("may_probe", [True, False])
def test_a_server_that_ends_over_the_question_says_that_it_was_that(tmp_path: Path, may_probe: bool) -> None:
    async def main() -> None:
        settings = {"command": sys.executable, "args": ("-c", TOUCHY)}
        async with session(tmp_path, may_probe=may_probe, **settings) as one:
            failed = await one.heard(InstanceFailed)

        assert failed.while_probing is may_probe

    run(main())


def test_all_kinds_of_lists_are_read_and_a_kind_without_its_method_is_empty(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, **of(ASKSERVER)) as one:
            await one.is_ready()
            await until(lambda: len(one.index.of(Lists)) == 3)

        names = {lists.kind: [listed.name for listed in lists.listed] for lists in one.index.of(Lists)}
        assert "ask" in names["tools"]
        assert names["resources"] == ["ask://note", "ask://page/{id}"]
        assert names["prompts"] == ["greeting"]

    run(main())


def test_what_a_child_asks_reaches_the_only_client_and_makes_the_instance_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        events: list[CallEvent] = []
        able = ClientProfile('{"roots":{}}')
        async with session(tmp_path, profile=able, **of(ASKSERVER)) as one:
            await one.is_ready()
            call = one.call("ask", on_event=events.append, method="roots/list")
            await until(lambda: events)
            (asked,) = events
            assert isinstance(asked, Asked)
            one.instance.tell(AnswerAsk(asked.number, Answer(result=b'{"roots":[]}')))
            text = text_of(await call)

        assert msgspec.json.decode(text) == [{"result": {"roots": []}}]
        assert [told.client for told in one.owner.of(InstanceAsked)] == ["session:1"]

    run(main())
