"""The members of one JSON object, each value as the very bytes its sender wrote.

The parser underneath refuses half a surrogate pair (`"\\ud83d"` alone), which JSON's grammar allows and
JavaScript writes whenever it cuts a text in the middle of an emoji. Such a text is nobody's fault here and nothing
we look into, so it passes: a second reading over the same bytes with their surrogates masked finds the places.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from msgspec import Raw

# Two characters at a time, so that an escaped backslash never lends itself to the "u" behind it.
_ESCAPE: Final = re.compile(rb"\\(?:u[dD][89a-fA-F][0-9a-fA-F]{2}|.)", re.DOTALL)
_KEY: Final = re.compile(rb'[\s{,]*("[^"\\]*(?:\\.[^"\\]*)*")\s*:\s*', re.DOTALL)
_GAP: Final = re.compile(rb"[\s,]*")


class _Key:
    """A key that equals only itself, so that a repeated one stays visible."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def _key(_: type, name: object) -> _Key:
    return _Key(str(name))


_decode_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_pairs: Final = msgspec.json.Decoder(dict[_Key, Raw], dec_hook=_key).decode
_decode_items: Final = msgspec.json.Decoder(list[Raw]).decode


def members(data: bytes | Raw) -> dict[str, Raw]:
    """The object's members in order; of a repeated key the last value stands, at the first one's place.

    Raises `msgspec.DecodeError` when `data` is not JSON, `msgspec.ValidationError` when it is not an object.
    """
    try:
        return _decode_members(data)
    except msgspec.DecodeError:
        masked = _mask(data)
        if masked is None:
            raise
    return dict(_unmask_members(bytes(data), masked))


def member_pairs(data: bytes | Raw) -> list[tuple[str, Raw]]:
    """The object's members in order, repeated keys included."""
    try:
        return [(key.name, value) for key, value in _decode_pairs(data).items()]
    except msgspec.DecodeError:
        masked = _mask(data)
        if masked is None:
            raise
    return _unmask_members(bytes(data), masked)


def items(data: bytes | Raw) -> list[Raw]:
    """The elements of an array, each as the bytes its sender wrote."""
    try:
        return _decode_items(data)
    except msgspec.DecodeError:
        masked = _mask(data)
        if masked is None:
            raise
    return _unmask_items(bytes(data), masked)


def _mask(data: bytes | Raw) -> bytes | None:
    """The same bytes with each surrogate replaced by a character of the same length; None if there is none."""
    original = bytes(data)
    if b"\\u" not in original:
        return None
    masked = _ESCAPE.sub(lambda found: rb"\u0020" if len(found[0]) == 6 else found[0], original)
    return None if masked == original else masked


def _unmask_members(original: bytes, masked: bytes) -> list[tuple[str, Raw]]:
    found: list[tuple[str, Raw]] = []
    at = 0
    for value in _decode_pairs(masked).values():
        key = _KEY.match(masked, at)
        if key is None:
            raise msgspec.DecodeError(f"no key at byte {at}")
        # A key is ours to read and to write again, so half a pair is refused here.
        name = msgspec.json.decode(original[key.start(1) : key.end(1)], type=str)
        at = key.end() + len(memoryview(value))
        found.append((name, Raw(original[key.end() : at])))
    return found


def _unmask_items(original: bytes, masked: bytes) -> list[Raw]:
    values = _decode_items(masked)
    found: list[Raw] = []
    at = masked.index(b"[") + 1
    for value in values:
        gap = _GAP.match(masked, at)
        start = gap.end() if gap else at
        at = start + len(memoryview(value))
        found.append(Raw(original[start:at]))
    return found
