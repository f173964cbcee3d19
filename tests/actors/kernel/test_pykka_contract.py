"""The names of pykka that our actors are built on, and what a host application sees of them."""

from __future__ import annotations

import asyncio
import inspect
import weakref
from importlib.metadata import version
from typing import Any

import pykka
import pytest
from pykka import messages
from pykka._envelope import Envelope
from support.actors import Do, Note, Place, Stage, Unknown, in_thread, perform

from mcpv_node.actors.kernel import (
    AnyThreadFuture,
    KernelActor,
    Shutdown,
    UnhandledMessage,
    WrongThread,
)

Runtime = type[KernelActor[Any]]


class _Plain(pykka.ThreadingActor):
    pass


def _parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_pykka_is_of_the_range_we_were_written_for() -> None:
    release = tuple(int(part) for part in version("pykka").split(".")[:3])

    assert (4, 4, 2) <= release < (5,)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_create_actor_inbox", []),
        ("_create_future", []),
        ("_start_actor_loop", ["self"]),
        ("_actor_loop", ["self"]),
        ("_handle_receive", ["self", "message"]),
        ("on_start", ["self"]),
    ],
)
def test_the_extension_points_of_an_actor_are_where_they_were(name: str, parameters: list[str]) -> None:
    assert _parameters(getattr(pykka.ThreadingActor, name)) == parameters


def test_a_threading_actor_s_thread_runs_the_actor_loop_as_a_daemon_if_told() -> None:
    source = inspect.getsource(pykka.ThreadingActor._start_actor_loop)

    assert "target=self._actor_loop" in source
    assert "use_daemon_thread" in source


def test_a_ref_holds_its_actor_weakly_and_knows_its_inbox() -> None:
    actor = _Plain()
    ref = actor.actor_ref

    assert isinstance(ref._actor_weakref, weakref.ref)
    assert ref._actor_weakref() is actor
    assert ref.actor_inbox is actor.actor_inbox
    assert ref.actor_stopped is actor.actor_stopped
    assert ref.actor_class is _Plain
    assert ref.actor_urn == actor.actor_urn


def test_a_ref_asks_and_stops_with_the_arguments_we_promise() -> None:
    assert _parameters(pykka.ActorRef.ask) == ["self", "message", "block", "timeout"]
    assert _parameters(pykka.ActorRef.tell) == ["self", "message"]
    assert _parameters(pykka.ActorRef.stop) == ["self", "block", "timeout"]


def test_an_envelope_is_a_message_and_where_to_reply() -> None:
    assert list(Envelope.__slots__) == ["message", "reply_to"]
    assert _parameters(Envelope.__init__) == ["self", "message", "reply_to"]


def test_pykka_s_own_messages_have_the_fields_we_read() -> None:
    assert messages._ActorStop() == ()
    assert messages.ProxyCall._fields == ("attr_path", "args", "kwargs")
    assert messages.ProxyGetAttr._fields == ("attr_path",)
    assert messages.ProxySetAttr._fields == ("attr_path", "value")


def test_the_registry_registers_and_unregisters_by_ref() -> None:
    assert _parameters(pykka.ActorRegistry.register) == ["actor_ref"]
    assert _parameters(pykka.ActorRegistry.unregister) == ["actor_ref"]
    assert "timeout" in _parameters(pykka.ActorRegistry.stop_all)


def test_the_future_s_hooks_are_where_they_were() -> None:
    future = AnyThreadFuture()

    assert future._get_hook is None
    assert _parameters(pykka.Future.set) == ["self", "value"]
    assert _parameters(pykka.Future.set_exception) == ["self", "exc_info"]
    assert _parameters(pykka.Future.get) == ["self", "timeout"]


# --- what a host application sees -----------------------------------------------------------------


def test_a_pykka_proxy_calls_reads_and_writes(runtime: Runtime) -> None:
    def use(ref: Any) -> tuple[Any, Any]:
        proxy = ref.proxy()
        proxy.public_attribute = 5
        return proxy.double(21).get(timeout=10), proxy.public_attribute.get(timeout=10)

    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        await place.ask(lambda _: None)

        assert await in_thread(use, place.ref) == (42, 5)

    perform(scenario)


def test_only_who_is_registered_is_met_by_stop_all(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        root = Place(stage, runtime, name="root").start()
        inner = Place(stage, runtime, name="inner").start()
        actor = root.cell.actor
        assert actor is not None
        actor.registered = True
        pykka.ActorRegistry.register(actor.actor_ref)

        await in_thread(lambda: pykka.ActorRegistry.stop_all(timeout=10))

        assert root.ends[0].reason == Shutdown()
        assert inner.ends == []
        assert pykka.ActorRegistry.get_all() == []

    perform(scenario)


def test_a_registered_actor_that_crashes_leaves_the_registry(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        actor = place.cell.actor
        assert actor is not None
        actor.registered = True
        pykka.ActorRegistry.register(actor.actor_ref)

        place.handle.kill()

        assert pykka.ActorRegistry.get_all() == []

    perform(scenario)


def test_start_is_left_to_supervisors(runtime: Runtime) -> None:
    class Nobody(runtime):  # type: ignore[misc, valid-type]
        pass

    with pytest.raises(RuntimeError, match="started by a supervisor"):
        Nobody.start()
    pykka.ActorRegistry.unregister(pykka.ActorRegistry.get_all()[0])


def test_a_host_hears_pykka_s_own_error_of_an_actor_that_has_ended(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        ref = place.ref
        queued = ref.ask(Do(lambda _: None), block=False)
        place.handle.kill()

        with pytest.raises(pykka.ActorDeadError):
            await queued
        with pytest.raises(pykka.ActorDeadError):
            ref.tell(Note("too late"))

    perform(scenario)


def test_a_host_s_unhandled_ask_is_refused(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        with pytest.raises(UnhandledMessage):
            await in_thread(lambda: place.ref.ask(Unknown(), timeout=10))

    perform(scenario)


def test_awaiting_a_pykka_ask_blocks_no_loop(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()
        ref = place.ref

        async def elsewhere() -> tuple[Any, list[str]]:
            turns: list[str] = []
            future = ref.ask(Do(lambda actor: actor.defer()), block=False)

            async def turn() -> None:
                for _ in range(10):
                    turns.append("turn")
                    await asyncio.sleep(0)
                ref.tell(Do(lambda actor: [d.answer("late") for d in list(actor._deferred)]))

            task = asyncio.create_task(turn())
            return await future, [*turns, await task or "end"]

        reply, turns = await in_thread(lambda: asyncio.run(elsewhere()))
        assert (reply, len(turns)) == ("late", 11)
        assert await ref.ask(Do(lambda _: "same loop"), block=False) == "same loop"

    perform(scenario)


def test_a_blocking_get_on_the_loop_s_own_thread_is_refused(runtime: Runtime) -> None:
    async def scenario(stage: Stage) -> None:
        place = Place(stage, runtime).start()

        with pytest.raises(WrongThread):
            place.ref.ask(Do(lambda _: None))

    perform(scenario)


# --- the future by itself -------------------------------------------------------------------------


def test_a_future_is_answered_once() -> None:
    future = AnyThreadFuture()
    future.set(1)
    future.set(2)
    future.fail(ValueError())

    assert future.get() == 1


def test_a_future_s_get_ends_at_its_timeout() -> None:
    with pytest.raises(pykka.Timeout):
        AnyThreadFuture().get(timeout=0.001)


def test_a_failing_callback_harms_neither_the_answerer_nor_the_others() -> None:
    future = AnyThreadFuture()
    heard: list[str] = []

    def fail() -> None:
        raise ValueError("boom")

    future.add_done_callback(lambda: heard.append("first"))
    future.add_done_callback(fail)
    future.add_done_callback(lambda: heard.append("last"))

    future.set("answer")

    assert sorted(heard) == ["first", "last"]


def test_a_callback_added_after_the_answer_runs_at_once() -> None:
    future = AnyThreadFuture()
    future.set("answer")
    heard: list[str] = []

    future.add_done_callback(lambda: heard.append("now"))

    assert heard == ["now"]
