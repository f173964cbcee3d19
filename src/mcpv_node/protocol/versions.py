"""The versions of MCP we speak, and which one a conversation is held in."""

from __future__ import annotations

from typing import Final

# Newest first: opened by `initialize`, held in a session.
LEGACY: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
LATEST_LEGACY: Final = LEGACY[0]
# Stateless: the version goes with every request.
MODERN: Final = ("2026-07-28",)


def negotiate(requested: str) -> str:
    """The version to answer an `initialize` with: the one asked for if we speak it, else our newest."""
    return requested if requested in LEGACY else LATEST_LEGACY
