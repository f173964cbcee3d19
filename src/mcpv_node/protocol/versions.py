"""The versions of MCP we speak, and which one a conversation is held in."""

from __future__ import annotations

from typing import Final, Literal

# Newest first: opened by `initialize`, held in a session.
LEGACY: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
LATEST_LEGACY: Final = LEGACY[0]
# Stateless: the version goes with every request.
MODERN: Final = ("2026-07-28",)
LATEST_MODERN: Final = MODERN[0]

Era = Literal["legacy", "modern"]


def negotiate(requested: str) -> str:
    """The version to answer an `initialize` with: the one asked for if we speak it, else our newest."""
    return requested if requested in LEGACY else LATEST_LEGACY


def era_of(version: str) -> Era | None:
    """The era a version belongs to; None when we do not speak it."""
    if version in MODERN:
        return "modern"
    return "legacy" if version in LEGACY else None
