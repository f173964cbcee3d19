"""What the owner of watched resources hears, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mcpv_node.protocol import CallFailure
from mcpv_node.settings import ServerName

from .callers import Caller
from .index_messages import ConsumerId, ServersChanged
from .instance.messages import Answer, ResourceUpdated
from .kernel import Request

# Given the URI that the server named, and the params of its notification.
Notify = Callable[[str, bytes], None]


@dataclass(frozen=True, slots=True)
class Watching:
    """The server has agreed to tell."""


@dataclass(frozen=True, slots=True)
class NotWatching:
    """It has not: its own error, or why it could not be asked. The consumer is where it was before."""

    why: Answer | CallFailure


@dataclass(frozen=True, slots=True)
class Watch(Request[Watching | NotWatching]):
    """Have `notify` called, on the loop's thread, with every update of a resource of this server.

    It gets the URI that the server named, which may lie below the one that is watched, and the params of the server's
    notification; it must not block or raise. A resource watched twice has its `notify` replaced. Who asks has made
    sure that the caller may see the resource.
    """

    consumer: ConsumerId
    server: ServerName
    uri: str
    caller: Caller
    notify: Notify


@dataclass(frozen=True, slots=True)
class Unwatch:
    """The consumer does not want to hear of this resource any more, of this server's or of anybody's."""

    consumer: ConsumerId
    uri: str
    server: ServerName | None = None


@dataclass(frozen=True, slots=True)
class UnwatchAll:
    """The consumer is gone; nothing is sent to it any more."""

    consumer: ConsumerId


WatchesMessage: TypeAlias = Watch | Unwatch | UnwatchAll | ResourceUpdated | ServersChanged
