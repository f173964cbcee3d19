"""Ends a node that was started for its clients and has had none for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from loguru import logger

from mcpv_node.actors.kernel import LoopActor, Timer, handles


@dataclass(frozen=True, slots=True)
class Connected:
    """How many sessions a door has now: absolute, never a delta."""

    door: str
    sessions: int


@dataclass(frozen=True, slots=True)
class _LongEnough:
    pass


LingerMessage: TypeAlias = Connected | _LongEnough


class Linger(LoopActor[Mapping[str, int]]):
    """Asks for a stop when no door has had a session for `seconds`; a start counts as a client's last sign."""

    def __init__(self, seconds: float, request_stop: Callable[[], None]) -> None:
        super().__init__()
        self._seconds = seconds
        self._request_stop = request_stop
        self._timer: Timer | None = None

    def on_start(self, estate: Mapping[str, int] | None = None) -> None:
        self.estate = estate or MappingProxyType({})
        self._wait_if_alone()

    @handles(Connected)
    def _on_connected(self, message: Connected) -> None:
        self.estate = MappingProxyType({**(self.estate or {}), message.door: message.sessions})
        self._wait_if_alone()

    @handles(_LongEnough)
    def _on_long_enough(self, _message: _LongEnough) -> None:
        logger.info("nobody was connected for {:g} s: the node stops", self._seconds)
        self._request_stop()

    def _wait_if_alone(self) -> None:
        is_alone = not any((self.estate or {}).values())
        if is_alone and self._timer is None:
            self._timer = self.after(self._seconds, _LongEnough())
        elif not is_alone and self._timer is not None:
            self._timer.cancel()
            self._timer = None
