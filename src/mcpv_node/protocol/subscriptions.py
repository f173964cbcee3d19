"""`subscriptions/listen`: one request that stays open, and the notifications a modern client asked for.

The first message is what was agreed to; each one carries the id of the request that opened the subscription, in the
text its client wrote; the last one is that request's result.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from .envelope import RawId
from .errors import RemoteProtocolError
from .meta import META, SERVER_INFO_KEY, SUBSCRIPTION_KEY, meta_in, read_meta
from .reading import is_there, read_object, read_scalar, read_text, read_texts
from .rounds import RESULT_TYPE, ResultType

LISTEN: Final = "subscriptions/listen"
ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
TOOLS_CHANGED: Final = "notifications/tools/list_changed"
PROMPTS_CHANGED: Final = "notifications/prompts/list_changed"
RESOURCES_CHANGED: Final = "notifications/resources/list_changed"
RESOURCE_UPDATED: Final = "notifications/resources/updated"
TASK_CHANGED: Final = "notifications/tasks"

_NOTIFICATIONS: Final = "notifications"


class ListenFilter(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Which notifications are wanted, offered or agreed to; a resource or task is named once."""

    tools_list_changed: bool = False
    prompts_list_changed: bool = False
    resources_list_changed: bool = False
    resource_subscriptions: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()

    def admits(self, method: str, params: bytes | Raw | None) -> bool:
        """Whether a notification belongs to the subscription."""
        if method == RESOURCE_UPDATED:
            return _member(params, "uri", method) in self.resource_subscriptions
        if method == TASK_CHANGED:
            return _member(params, "taskId", method) in self.task_ids
        return (
            (method == TOOLS_CHANGED and self.tools_list_changed)
            or (method == PROMPTS_CHANGED and self.prompts_list_changed)
            or (method == RESOURCES_CHANGED and self.resources_list_changed)
        )

    def within(self, other: ListenFilter) -> ListenFilter:
        """What this one and the other have in common, in the order of this one."""
        return ListenFilter(
            tools_list_changed=self.tools_list_changed and other.tools_list_changed,
            prompts_list_changed=self.prompts_list_changed and other.prompts_list_changed,
            resources_list_changed=self.resources_list_changed and other.resources_list_changed,
            resource_subscriptions=_common(self.resource_subscriptions, other.resource_subscriptions),
            task_ids=_common(self.task_ids, other.task_ids),
        )


def parse_listen(params: bytes | Raw | None) -> ListenFilter:
    """Read what a client wants to hear, or what a server has agreed to; kinds we do not know are left out."""
    found = {} if params is None else read_object(params, f"the params of {LISTEN}")
    if _NOTIFICATIONS not in found:
        raise RemoteProtocolError(f"the notifications of {LISTEN} are missing")
    wanted = read_object(found[_NOTIFICATIONS], _NOTIFICATIONS)
    return ListenFilter(
        tools_list_changed=_flag(wanted, "toolsListChanged"),
        prompts_list_changed=_flag(wanted, "promptsListChanged"),
        resources_list_changed=_flag(wanted, "resourcesListChanged"),
        resource_subscriptions=_texts(wanted, "resourceSubscriptions"),
        task_ids=_texts(wanted, "taskIds"),
    )


def listen_params(wanted: ListenFilter) -> bytes:
    """The params that ask a server for these notifications, without `_meta`."""
    return msgspec.json.encode({_NOTIFICATIONS: wanted})


def acknowledged_params(id: RawId, agreed: ListenFilter) -> bytes:
    """The params of the first notification of a subscription."""
    return msgspec.json.encode({META: {SUBSCRIPTION_KEY: Raw(id)}, _NOTIFICATIONS: agreed})


def tag_notification(params: bytes | Raw | None, id: RawId) -> bytes:
    """The same params under the subscription's id, whatever other subscription they came from."""
    found: dict[str, object] = {} if params is None else dict(read_object(params, "params"))
    meta: dict[str, object] = dict(meta_in(found))
    meta[SUBSCRIPTION_KEY] = Raw(id)
    found[META] = meta
    return msgspec.json.encode(found)


def untag_notification(params: bytes | Raw | None) -> bytes | None:
    """The same params without a subscription's id, for a legacy client."""
    if params is None:
        return None
    found: dict[str, object] = dict(read_object(params, "params"))
    meta = meta_in(found)
    if meta.pop(SUBSCRIPTION_KEY, None) is None:
        return bytes(params)
    if meta:
        found[META] = meta
    else:
        del found[META]
    return msgspec.json.encode(found)


def subscription_of(params: bytes | Raw | None) -> RawId | None:
    """Whose notification it is: the id of the request that opened its subscription, as its sender wrote it."""
    meta = read_meta(params)
    if SUBSCRIPTION_KEY not in meta:
        return None
    return RawId(bytes(read_scalar(meta[SUBSCRIPTION_KEY], SUBSCRIPTION_KEY)))


def listen_result(id: RawId, *, server_info: bytes) -> bytes:
    """The result that ends a subscription in good order."""
    return msgspec.json.encode(
        {
            RESULT_TYPE: ResultType.COMPLETE.value,
            META: {SUBSCRIPTION_KEY: Raw(id), SERVER_INFO_KEY: Raw(server_info)},
        }
    )


def _flag(wanted: dict[str, Raw], name: str) -> bool:
    if not is_there(wanted, name):
        return False
    said = bytes(wanted[name])
    if said not in (b"true", b"false"):
        raise RemoteProtocolError(f"the {name} of {LISTEN} is neither true nor false")
    return said == b"true"


def _texts(wanted: dict[str, Raw], name: str) -> tuple[str, ...]:
    return read_texts(wanted[name], f"the {name} of {LISTEN}") if is_there(wanted, name) else ()


def _common(mine: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    held = frozenset(others)
    return tuple(one for one in mine if one in held)


def _member(params: bytes | Raw | None, name: str, method: str) -> str:
    found = {} if params is None else read_object(params, f"the params of {method}")
    return read_text(found, name, f"the {name} of {method}")
