"""Values of somebody else's document, taken for what they should be: what is not becomes empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast


def as_table(value: object) -> Mapping[str, object]:
    """Take a value as keys with values."""
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def as_list(value: object) -> Sequence[object]:
    """Take a value as a list."""
    return cast("list[object]", value) if isinstance(value, list) else []


def as_strings(value: object) -> list[str]:
    """Take a value as a list of texts."""
    return [as_string(item) for item in as_list(value)]


def as_string(value: object) -> str:
    """Take a single value as the text a program would be given."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
