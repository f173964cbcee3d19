"""How much memory an instance may use: the sentence that ends one which uses more.

What it uses is that of its whole group, because wrappers (npx, uv, a shell) keep the server in a child.
"""

from __future__ import annotations

from mcpv_node.settings import ServerSpec

MIB = 1024 * 1024

# Looked at with the pings; where there are none, as often as there would be by default.
INTERVAL_WITHOUT_PINGS = 30.0


def look_interval(spec: ServerSpec) -> float:
    """How many seconds lie between two looks."""
    return spec.ping_interval_seconds or INTERVAL_WITHOUT_PINGS


def complaint(used: int, *, allowed_mb: int) -> str | None:
    """Say that `used` bytes are too many, if they are."""
    if used <= allowed_mb * MIB:
        return None
    # Rounded up, so that the sentence never says "used 100 MB of 100 MB".
    return f"its processes use {-(-used // MIB)} MB of memory, and {allowed_mb} MB are allowed"
