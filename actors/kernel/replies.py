"""Where an answer goes: to a coroutine on the loop, or to a pykka future that any thread may wait for.

Both are `Port`s. A port is answered once; later answers are ignored, because an asker that gave up
is not the answerer's fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import pykka
from loguru import logger
from msgspec import Struct

from .deadlines import Overdue
from .errors import WrongThread

R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)

ExcInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class Port(Protocol[R_contra]):
    """The asker's end of one ask."""

    def answer(self, value: R_contra) -> None: ...

    def fail(self, error: Exception) -> None: ...


class LoopPort(Struct, Generic[R], eq=False):
    """An ask from a coroutine on the node's own loop; a future is made only for who has to wait."""

    is_settled: bool = False
    error: Exception | None = None
    _value: R | None = None
    _future: asyncio.Future[R] | None = None

    def answer(self, value: R) -> None:
        if self.is_settled:
            return
        self.is_settled = True
        self._value = value
        if self._future is not None and not self._future.done():
            self._future.set_result(value)

    def fail(self, error: Exception) -> None:
        if self.is_settled:
            return
        self.is_settled = True
        self.error = error
        if self._future is not None and not self._future.done():
            self._future.set_exception(error)

    def overdue(self) -> None:
        """It has not come in time."""
        self.fail(Overdue())

    def result(self) -> R:
        """The answer that has come."""
        if self.error is not None:
            raise self.error
        return self._value  # type: ignore[return-value]

    def wait(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[R]:
        """What the answer that has not come yet will be set on."""
        self._future = loop.create_future()
        return self._future


class AnyThreadFuture(pykka.Future[Any]):
    """The pykka future of our actors: `get` from a thread, `await` on any loop.

    pykka's own `await` blocks the loop it runs on; this one suspends. It needs no lock: a waiter
    appends its callback before it looks at `_done`, the setter sets `_done` before it takes
    callbacks, and taking one from a deque or list is atomic.
    """

    def __init__(self) -> None:
        super().__init__()
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[], None]] = []
        self.loop_thread: int | None = None  # get() there would wait for itself

    def answer(self, value: Any) -> None:
        if not self._done:
            self._value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        if not self._done:
            self._error = error
            self._finish()

    def set(self, value: Any = None) -> None:
        self.answer(value)

    def set_exception(self, exc_info: ExcInfo | None = None) -> None:
        error = (exc_info or sys.exc_info())[1]
        self.fail(error if error is not None else RuntimeError("set_exception() outside an except block"))

    def get(self, *, timeout: float | None = None) -> Any:
        if self._get_hook is not None:
            return super().get(timeout=timeout)
        if not self._done:
            if threading.get_ident() == self.loop_thread:
                raise WrongThread("a blocking get() on the event loop's own thread; await the future instead")
            ended = threading.Event()
            self.add_done_callback(ended.set)
            if not ended.wait(timeout):
                raise pykka.Timeout(f"{timeout} seconds")
        return self._result()

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Run `callback` once, now if the answer is there, else on the answering thread."""
        self._callbacks.append(callback)
        if self._done:
            self._run_callbacks()

    def __await__(self) -> Generator[None, None, Any]:
        if self._get_hook is not None:
            # A mapped or joined future computes its value in a blocking hook: that is pykka's to run.
            return self.get()
        if not self._done:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()

            def wake() -> None:
                with contextlib.suppress(RuntimeError):  # the waiter's loop has closed: nobody waits
                    loop.call_soon_threadsafe(_resolve, waiter)

            self.add_done_callback(wake)
            yield from waiter.__await__()
        return self._result()

    def _finish(self) -> None:
        self._done = True
        self._run_callbacks()

    def _run_callbacks(self) -> None:
        while True:
            try:
                callback = self._callbacks.pop()
            except IndexError:
                return
            try:
                callback()
            except Exception:  # noqa: BLE001  (foreign code on the answering thread: the answerer goes on)
                logger.exception("a callback of a future failed")

    def _result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
