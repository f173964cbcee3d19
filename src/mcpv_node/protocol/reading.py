"""Members of a peer's objects, read into values; what is not as it must be is a sentence that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from .errors import RemoteProtocolError
from .members import members

decode_text: Final = msgspec.json.Decoder(str).decode

_OBJECT: Final = ord("{")


def read_object(raw: bytes | Raw, what: str) -> dict[str, Raw]:
    """The members of an object."""
    try:
        return members(raw)
    except msgspec.DecodeError:
        raise RemoteProtocolError(f"{what} is not an object") from None


def read_text(found: Mapping[str, Raw], key: str, what: str) -> str:
    """A string that must be there."""
    if key not in found:
        raise RemoteProtocolError(f"{what} is missing")
    try:
        return decode_text(found[key])
    except msgspec.DecodeError:
        raise RemoteProtocolError(f"{what} is not a string") from None


def read_texts(raw: bytes | Raw, what: str) -> tuple[str, ...]:
    """An array of strings, each of them once."""
    try:
        return tuple(dict.fromkeys(msgspec.json.decode(raw, type=list[str])))
    except msgspec.DecodeError:
        raise RemoteProtocolError(f"{what} is not an array of strings") from None


def read_scalar(raw: Raw, what: str) -> Raw:
    """A string or an integer, as ids and tokens must be."""
    text = bytes(raw)
    if text[:1] == b'"' or text.removeprefix(b"-").isdigit():
        return raw
    raise RemoteProtocolError(f"{what} is neither a string nor an integer")


def check_object(raw: Raw, what: str) -> None:
    """The same check as `read_object` makes, for a member that is known to be JSON and is not looked into."""
    if memoryview(raw)[0] != _OBJECT:
        raise RemoteProtocolError(f"{what} is not an object")


def is_there(found: Mapping[str, Raw], key: str) -> bool:
    """Whether a member says anything: many senders write null for what they leave out."""
    raw = found.get(key)
    return raw is not None and bytes(raw) != b"null"
