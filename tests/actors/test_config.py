"""Config: one apply at a time, a burst of edits once, and what is wrong with the files is kept until they are good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.owners import Home, home, run, turns, until

from mcpv_node.actors.config import (
    Applied,
    Config,
    EditConfig,
    NotWritten,
    Rejected,
    Reload,
    ReloadFailed,
    ShowConfig,
)
from mcpv_node.actors.config_edits import Edit, NameTaken, RemoveEntry, Written
from mcpv_node.actors.kernel import Handle
from mcpv_node.settings import (
    Change,
    ChangeClass,
    Difference,
    Loaded,
    NodeSettings,
    Problem,
    SettingsError,
    file_marks,
)

CHANGED = (Change(ChangeClass.ADDED, "a"),)

# A look has to take no time of the test's.
SOON = 0.005


@dataclass
class Desk:
    """Config, its file, and the node behind it played by the test."""

    at_home: Home
    file: Path
    config: Handle[Any] = field(init=False)
    reads: int = 0
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    applies: list[NodeSettings] = field(default_factory=list[NodeSettings])
    outcomes: list[Difference | Exception] = field(default_factory=list[Difference | Exception])
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    ends: list[str] = field(default_factory=list[str])

    def read(self) -> Loaded:
        self.reads += 1
        if self.problems:
            raise SettingsError(self.problems)
        return Loaded(
            NodeSettings(servers=(), refresh_seconds=self.reads),
            (self.file,),
            self.warnings,
            file_marks([self.file]),
        )

    def write(self, edit: Edit) -> Written:
        if edit.name == "taken":
            raise NameTaken("it is taken")
        before = self.file.read_text()
        self.file.write_text(before + edit.name)
        return Written(self.file, before, before + edit.name)

    async def apply(self, settings: NodeSettings) -> Difference:
        self.applies.append(settings)
        await self.gate.wait()
        outcome = self.outcomes.pop(0) if self.outcomes else Difference(settings, changes=CHANGED)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def ask(self) -> asyncio.Task[Applied | Rejected]:
        """Ask for a reload, and let it be heard."""
        task = asyncio.get_running_loop().create_task(self.config.ask(Reload(), 10.0))
        await turns()
        return task

    async def problem(self) -> Rejected | None:
        return (await self.config.ask(ShowConfig(), 5.0)).problem


@asynccontextmanager
async def desk(
    tmp_path: Path, *, held: bool = False, restarts: int = 0, **settings: Any
) -> AsyncIterator[Desk]:
    file = tmp_path / "node.yaml"
    file.write_text("1")
    async with home(tmp_path, settings=NodeSettings(servers=(), **settings)) as at_home:
        it = Desk(at_home, file)
        if not held:
            it.gate.set()
        marks = file_marks([file])

        def make() -> Config:
            return Config(
                at_home.context,
                it.read,
                it.apply,
                it.ends.append,
                write=it.write,
                marks=marks,
                look_every=SOON,
            )

        it.config = await at_home.fill("config", make, restarts=restarts)
        yield it


def problem(text: str, file: Path) -> Problem:
    return Problem(file, 1, "servers", text)


def test_a_file_that_stays_as_it_is_is_not_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path) as it:
            it.file.touch()
            await until(lambda: it.applies)
            before = it.reads
            for _ in range(5):
                await it.problem()
                await asyncio.to_thread(file_marks, [it.file])

            assert it.reads == before == 1

    run(main())


def test_an_edit_is_applied_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path) as it:
            it.file.write_text("other")

            await until(lambda: it.applies)
            await until(lambda: it.at_home.event_texts("config_applied"))

            assert it.at_home.sample("mcpv_reloads_total", outcome="applied") == 1

    run(main())


def test_bad_files_are_a_problem_that_is_not_read_again_until_they_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path) as it:
            it.problems = (problem("is not a list", it.file), problem("is unknown", it.file))
            answer = await it.config.ask(Reload(), 5.0)
            read = it.reads
            for _ in range(5):
                await asyncio.to_thread(file_marks, [it.file])

            assert isinstance(answer, Rejected)
            assert len(answer.problems) == 2
            assert await it.problem() == answer
            assert it.reads == read
            assert it.applies == []

            it.problems = ()
            it.file.write_text("good again")
            await until(lambda: it.applies)
            await turns()
            assert await it.problem() is None

    run(main())


def test_what_cannot_be_brought_into_effect_is_a_problem(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path) as it:
            it.outcomes = [ReloadFailed("a: does not start")]

            assert await it.config.ask(Reload(), 5.0) == Rejected("a: does not start")
            assert await it.problem() == Rejected("a: does not start")
            assert it.at_home.sample("mcpv_reloads_total", outcome="rejected") == 1
            assert isinstance(await it.config.ask(Reload(), 5.0), Applied)
            assert await it.problem() is None

    run(main())


def test_who_asks_during_an_apply_gets_the_next_one_and_shares_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path, held=True) as it:
            first = await it.ask()
            await until(lambda: it.applies)
            others = [await it.ask() for _ in range(3)]
            it.outcomes = [
                Difference(NodeSettings(servers=()), changes=CHANGED),
                Difference(NodeSettings(servers=())),
            ]

            assert not first.done()
            it.gate.set()

            assert await first == Applied(CHANGED)
            assert [await other for other in others] == [Applied(())] * 3
            assert len(it.applies) == 2

    run(main())


def test_what_the_last_change_was_outlives_a_reload_that_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path) as it:
            await it.config.ask(Reload(), 5.0)
            it.outcomes = [Difference(NodeSettings(servers=()))]

            answer = await it.config.ask(Reload(), 5.0)

            assert answer == Applied(())
            assert (await it.config.ask(ShowConfig(), 5.0)).changes == CHANGED

    run(main())


def test_warnings_are_told_to_who_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path) as it:
            it.warnings = (problem("MISSING is not set", it.file),)

            answer = await it.config.ask(Reload(), 5.0)

            assert isinstance(answer, Applied)
            assert _only("MISSING is not set", answer.warnings)

    run(main())


def test_a_strict_node_ends_when_it_cannot_have_what_is_configured(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path, reload_mode="strict") as it:
            it.outcomes = [ReloadFailed("a: does not start")]

            await it.config.ask(Reload(), 5.0)

            assert it.ends == ["a: does not start"]

    run(main())


def test_a_crash_in_the_middle_of_an_apply_undoes_it_and_the_next_incarnation_does_it_anew(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with desk(tmp_path, held=True, restarts=1) as it:
            asked = await it.ask()
            await until(lambda: it.applies)

            it.config.kill("for a test")
            await until(lambda: len(it.applies) == 2)
            it.gate.set()

            assert await asked == Applied(CHANGED)

    run(main())


def test_a_node_without_files_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            applies: list[NodeSettings] = []

            async def apply(settings: NodeSettings) -> Difference:
                applies.append(settings)
                return Difference(settings)

            config = await at_home.fill("config", lambda: Config(at_home.context, None, apply, print))

            assert isinstance(await config.ask(Reload(), 5.0), Rejected)
            assert applies == []

    run(main())


def _only(text: str, said: Sequence[str]) -> bool:
    return len(said) == 1 and text in said[0]


def test_an_edit_is_written_and_applied_one_after_the_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with desk(tmp_path) as it:
            edits = [it.config.ask(EditConfig(RemoveEntry(name)), 10.0) for name in ("a", "taken", "b")]
            first, taken, second = await asyncio.gather(*edits)

            assert isinstance(first, Applied)
            assert isinstance(second, Applied)
            assert isinstance(taken, NotWritten)
            assert it.file.read_text() == "1ab"

    run(main())


def test_an_edit_that_cannot_be_applied_is_taken_back_and_ends_nothing_not_even_a_strict_node(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with desk(tmp_path, reload_mode="strict") as it:
            it.outcomes.append(ReloadFailed("it does not start"))

            answer = await it.config.ask(EditConfig(RemoveEntry("a")), 10.0)

            assert answer == Rejected("it does not start")
            assert it.file.read_text() == "1"
            assert await it.problem() is None
            assert it.ends == []

    run(main())
