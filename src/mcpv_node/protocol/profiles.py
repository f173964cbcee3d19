"""What clients and servers say they can do: one text per client profile, one sum for many servers.

A server is told its front client's own capabilities, never a union: instances are shared by clients of one profile
only. A front is told the union of what its servers offer, and what the gateway delivers itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

import msgspec
from msgspec import Raw

from .errors import RemoteProtocolError
from .members import members
from .reading import is_there, read_object, read_text
from .versions import Era

TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"

SAMPLING: Final = "sampling/createMessage"
ELICITATION: Final = "elicitation/create"
LIST_ROOTS: Final = "roots/list"

# An empty object here declares nothing; elsewhere it declares the capability.
_COLLECTIONS: Final = ("experimental", "extensions")
# Their members are the specification's: one that is null or false says what leaving it out says.
_SPECIFIED: Final = ("elicitation", "roots", "sampling", "tasks")

_KNOWN: Final = frozenset(
    {"completions", "experimental", "extensions", "logging", "prompts", "resources", "tasks", "tools"}
)
_LISTS: Final = ("tools", "resources", "prompts")
# A server that receives these from a client asks of the client's own tasks.
_CLIENT_TASKS: Final = frozenset({"tasks/get", "tasks/result", "tasks/list", "tasks/cancel"})


def profile_of(capabilities: bytes | Raw) -> str:
    """The one text for all spellings of the same client capabilities; "" for a client that offers nothing."""
    try:
        said: object = msgspec.json.decode(capabilities)
    except msgspec.DecodeError:
        said = None
    if not isinstance(said, dict):
        raise RemoteProtocolError("the client's capabilities are not an object")
    named = cast("dict[str, object]", said)
    kept = {name: _normal(name, value) for name, value in named.items() if _says_something(name, value)}
    return msgspec.json.encode(kept, order="deterministic").decode() if kept else ""


def capabilities_of(profile: str) -> bytes:
    """The capabilities to tell a server on behalf of the clients of a profile."""
    return profile.encode() or b"{}"


def offers(capabilities: bytes | Raw, method: str, params: bytes | Raw | None) -> bool:
    """Whether a client can be asked this; what needs no capability, or is nobody's we know, may be asked."""
    said = read_object(capabilities, "the client's capabilities")
    if method == ELICITATION:
        return _offers_mode(said, _mode(params))
    if method == SAMPLING:
        return _has(said, "sampling") and (not _wants_tools(params) or _has(said, "sampling", "tools"))
    if method == LIST_ROOTS:
        return _has(said, "roots")
    return method not in _CLIENT_TASKS or _has(said, "tasks")


def answers_questions(capabilities: bytes | Raw) -> bool:
    """Whether there is anything at all that a server may ask this client."""
    if capabilities == b"{}":
        return False
    said = read_object(capabilities, "the client's capabilities")
    return any(_has(said, name) for name in ("sampling", "elicitation", "roots"))


def offers_extension(capabilities: bytes | Raw, name: str) -> bool:
    """Whether a client or a server declares the extension."""
    return _has(read_object(capabilities, "the capabilities"), "extensions", name)


def needed_capabilities(method: str, params: bytes | Raw | None) -> bytes:
    """What a client would have to offer to be asked this: the `requiredCapabilities` of a -32021."""
    if method == ELICITATION:
        return b'{"elicitation":{"url":{}}}' if _mode(params) == "url" else b'{"elicitation":{"form":{}}}'
    if method == SAMPLING:
        return b'{"sampling":{"tools":{}}}' if _wants_tools(params) else b'{"sampling":{}}'
    if method == LIST_ROOTS:
        return b'{"roots":{}}'
    return b'{"tasks":{}}' if method in _CLIENT_TASKS else b"{}"


def merge_capabilities(servers: Iterable[bytes | Raw], *, era: Era) -> bytes:
    """What to advertise for these servers together, in an era.

    Lists change whenever a server comes or goes, so `listChanged` is always true. What only one server could mean
    (a capability we do not know) passes when there is only one. Extensions and experimental ones are collected; of
    two settings for one of them the first server's stand.
    """
    said = [read_object(raw, "a server's capabilities") for raw in servers]
    merged: dict[str, object] = {}
    if len(said) == 1:
        merged |= {
            name: raw for name, raw in said[0].items() if name not in _KNOWN and is_there(said[0], name)
        }
    for name in ("logging", "completions"):
        if any(is_there(one, name) for one in said):
            merged[name] = Raw(b"{}")
    for name in _LISTS:
        offering = [one for one in said if is_there(one, name)]
        if offering:
            merged[name] = _merge_list(name, offering, alone=len(said) == 1)
    for name in _COLLECTIONS:
        collected = _collect(said, name)
        if era == "legacy":
            # Its methods are modern.
            collected.pop(TASKS_EXTENSION, None)
        if collected:
            merged[name] = collected
    if era == "legacy" and any(is_there(one, "tasks") for one in said):
        merged["tasks"] = _merge_tasks(said)
    return msgspec.json.encode(merged)


def _says_something(name: str, value: object) -> bool:
    return value is not None and value is not False and not (name in _COLLECTIONS and value == {})


def _normal(name: str, value: object) -> object:
    if name not in _SPECIFIED or not isinstance(value, dict):
        return value
    section = cast("dict[str, object]", value)
    kept = {key: inner for key, inner in section.items() if inner is not None and inner is not False}
    # The first clients that had forms had no modes.
    return {"form": {}} if name == "elicitation" and not kept else kept


def _mode(params: bytes | Raw | None) -> str:
    found = {} if params is None else read_object(params, f"the params of {ELICITATION}")
    return read_text(found, "mode", f"the mode of {ELICITATION}") if is_there(found, "mode") else "form"


def _wants_tools(params: bytes | Raw | None) -> bool:
    found = {} if params is None else read_object(params, f"the params of {SAMPLING}")
    return is_there(found, "tools") or is_there(found, "toolChoice")


def _offers_mode(said: dict[str, Raw], mode: str) -> bool:
    if not _has(said, "elicitation"):
        return False
    modes = _section(said, "elicitation")
    if mode == "form" and not _has(modes, "url"):
        return True
    return _has(modes, mode)


def _has(said: dict[str, Raw], *path: str) -> bool:
    """Whether a capability is declared: anything but null and false declares it."""
    here = said
    for depth, name in enumerate(path):
        if not is_there(here, name) or bytes(here[name]) == b"false":
            return False
        if depth < len(path) - 1:
            here = _section(here, name)
    return True


def _section(said: dict[str, Raw], name: str) -> dict[str, Raw]:
    """The members of a capability; none when it is declared as something else than an object."""
    try:
        return members(said[name]) if is_there(said, name) else {}
    except msgspec.DecodeError:
        return {}


def _merge_list(name: str, offering: list[dict[str, Raw]], *, alone: bool) -> dict[str, object]:
    sections = [_section(one, name) for one in offering]
    merged: dict[str, object] = dict(sections[0]) if alone else {}
    merged["listChanged"] = True
    merged.pop("subscribe", None)
    if any(bytes(section.get("subscribe", Raw(b"false"))) == b"true" for section in sections):
        merged["subscribe"] = True
    return merged


def _collect(said: list[dict[str, Raw]], name: str) -> dict[str, Raw]:
    collected: dict[str, Raw] = {}
    for one in said:
        for key, settings in _section(one, name).items():
            collected.setdefault(key, settings)
    return collected


def _merge_tasks(said: list[dict[str, Raw]]) -> dict[str, object]:
    """All that some server can do with tasks, but for listing them: an instance lists those of all its clients."""
    merged: dict[str, object] = {}
    for one in said:
        if section := _section(one, "tasks"):
            _add(merged, {name: msgspec.json.decode(raw) for name, raw in section.items() if name != "list"})
    return merged


def _add(merged: dict[str, object], more: dict[str, object]) -> None:
    for name, value in more.items():
        held = merged.get(name)
        if isinstance(held, dict) and isinstance(value, dict):
            _add(cast("dict[str, object]", held), cast("dict[str, object]", value))
        elif value is not None:
            merged.setdefault(name, value)
