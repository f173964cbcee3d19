"""A clock as an MCP server: what time it is somewhere, and what a time here is there.

The time zones are those of the machine; a zone it does not know is an answer that names it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from mcpv_node.protocol import ServerSession, Tool, typed

from .pipe import serve

VERSION: Final = "1.0.0"

Now = Callable[[], datetime]


class NowArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `now` takes."""

    tz: str = "UTC"


class ConvertArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"source": "from"}):
    """What `convert` takes."""

    time: str
    source: str
    to: str


def clock_tools(now: Now) -> dict[str, Tool]:
    """The tools; `now` tells the time, in any zone but with one."""
    zone = {"type": "string", "description": "IANA time zone, such as Europe/Berlin"}
    return {
        "now": Tool(
            description="The current time in a time zone.",
            properties={"tz": zone | {"default": "UTC"}},
            handler=typed(NowArguments, lambda arguments: _show(now().astimezone(_zone(arguments.tz)))),
            read_only=True,
        ),
        "convert": Tool(
            description="What a time in one time zone is in another.",
            properties={
                "time": {
                    "type": "string",
                    "description": "ISO 8601: 14:30 (today in the first zone) or 2026-03-01T14:30",
                },
                "from": zone,
                "to": zone,
            },
            required=("time", "from", "to"),
            handler=typed(ConvertArguments, lambda arguments: _convert(arguments, now)),
            read_only=True,
        ),
    }


def _convert(arguments: ConvertArguments, now: Now) -> Mapping[str, object]:
    source = _zone(arguments.source)
    target = _zone(arguments.to)
    start = _read_time(arguments.time, source, now)
    return {"from": _show(start), "to": _show(start.astimezone(target))}


def _read_time(text: str, zone: ZoneInfo, now: Now) -> datetime:
    """A time of today in its zone, or a date and time; an offset of its own is respected."""
    try:
        moment = time.fromisoformat(text)
    except ValueError:
        try:
            read = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f'"{text}" is no time: write 14:30 or 2026-03-01T14:30') from None
    else:
        read = datetime.combine(now().astimezone(zone).date(), moment)
    return read.replace(tzinfo=zone) if read.tzinfo is None else read.astimezone(zone)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # A path out of the database is a ValueError, a folder inside it an OSError.
        raise ValueError(f'there is no time zone "{name}"') from None


def _show(moment: datetime) -> Mapping[str, object]:
    return {
        "timezone": str(moment.tzinfo),
        "datetime": moment.isoformat(timespec="seconds"),
        "weekday": moment.strftime("%A"),
        "dst": bool(moment.dst()),
    }


def main() -> int:
    """Serve until standard input ends."""
    tools = clock_tools(lambda: datetime.now(UTC))
    return serve(ServerSession(name="clock", version=VERSION, tools=tools))


if __name__ == "__main__":
    sys.exit(main())
