"""Which lists an instance reads, when it reads them again, and what it makes of a server that does not know one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace
from support.owners import run, until
from support.sessions import Session, session

from mcpv_node.actors.instance import lists as list_reader
from mcpv_node.actors.instance.messages import Lists, ListsFailed, Respec
from mcpv_node.protocol import ListName, Page, parse_page
from mcpv_node.settings import ServerName, ServerSpec

# Counts what it is asked for; `announce` says that the lists of these kinds have changed, `asked` gives the counts.
SERVER = """
import json, sys
capabilities, pages, unknown, fails = json.loads(sys.argv[1])
asked = {}
def say(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
def changed(kind):
    say(method=f"notifications/{kind}/list_changed")
def entry(member, page):
    name = f"{member[:-1]}{page}"
    key = {"resources": "uri", "resourceTemplates": "uriTemplate"}.get(member)
    return {key: f"x:{name}", "name": name} if key else {"name": name, "inputSchema": {"type": "object"}}
for line in sys.stdin:
    message = json.loads(line)
    method, id, params = message.get("method", ""), message.get("id"), message.get("params", {})
    if method == "initialize":
        info = {"name": "s", "version": "1"}
        say(id=id, result={"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info})
    elif method in unknown:
        asked[method] = asked.get(method, 0) + 1
        say(id=id, error={"code": -32601, "message": "Method not found"})
    elif method.endswith("/list"):
        asked[method] = asked.get(method, 0) + 1
        if asked[method] <= fails.get(method, 0):
            changed(method.split("/")[0])
            say(id=id, error={"code": -32000, "message": "not yet"})
            continue
        member = {"resources/templates/list": "resourceTemplates"}.get(method, method.split("/")[0])
        page = int(params.get("cursor", 0))
        more = {"nextCursor": str(page + 1)} if page + 1 < pages else {}
        say(id=id, result={member: [entry(member, page)], **more})
    elif method == "tools/call":
        for kind in params["arguments"].get("kinds", []):
            changed(kind)
        say(id=id, result={"content": [{"type": "text", "text": json.dumps(asked)}]})
"""

METHODS = ("tools/list", "resources/list", "resources/templates/list", "prompts/list")
ALL = {kind: {"listChanged": True} for kind in ("tools", "resources", "prompts")}


def server(
    capabilities: Mapping[str, Any] = ALL,
    *,
    pages: int = 1,
    unknown: tuple[str, ...] = (),
    fails: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    knobs = json.dumps([capabilities, pages, unknown, fails or {}])
    return {"args": ("-S", "-c", SERVER, knobs)}


def told(one: Session, kind: str) -> list[Lists]:
    return [lists for lists in one.index.of(Lists) if lists.kind == kind]


async def all_read(one: Session) -> None:
    """Every kind has been read once."""
    await until(lambda: all(told(one, kind) for kind in ALL))


async def asked(one: Session, *announced: str) -> list[int]:
    """How often it was asked for each list, until it announced these kinds."""
    counts = json.loads(await one.text("announce", kinds=announced))
    return [counts.get(method, 0) for method in METHODS]


def test_all_pages_of_every_list_are_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, **server(pages=3)) as one:
            await all_read(one)

            names = {kind: [entry.name for entry in told(one, kind)[0].listed] for kind in ALL}
            assert names == {
                "tools": ["tool0", "tool1", "tool2"],
                "resources": [
                    *("x:resource0", "x:resource1", "x:resource2"),
                    *("x:resourceTemplate0", "x:resourceTemplate1", "x:resourceTemplate2"),
                ],
                "prompts": ["prompt0", "prompt1", "prompt2"],
            }
            assert await asked(one) == [3, 3, 3, 3]

    run(main())


def test_a_change_of_one_kind_is_read_again_and_of_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, **server()) as one:
            await all_read(one)
            await asked(one, "resources")
            await until(lambda: len(told(one, "resources")) == 2)

            assert told(one, "resources")[1].again
            assert await asked(one) == [1, 2, 2, 1]

    run(main())


def test_a_change_that_the_server_did_not_say_it_would_tell_is_not_listened_to(tmp_path: Path) -> None:
    async def main() -> None:
        shy = {"tools": {}, "resources": {"listChanged": False}, "prompts": {"listChanged": True}}
        async with session(tmp_path, **server(shy)) as one:
            await all_read(one)
            await asked(one, "tools", "resources", "prompts")
            await until(lambda: len(told(one, "prompts")) == 2)

            assert await asked(one) == [1, 1, 1, 2]

    run(main())


def test_a_list_that_the_server_does_not_know_is_empty_and_asked_for_once_in_a_reading(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        unknown = ("resources/templates/list", "prompts/list")
        async with session(tmp_path, **server(unknown=unknown, pages=2)) as one:
            await all_read(one)

            assert [entry.name for entry in told(one, "resources")[0].listed] == [
                "x:resource0",
                "x:resource1",
            ]
            assert told(one, "prompts")[0].listed == ()
            assert one.index.of(ListsFailed) == []
            assert await asked(one) == [2, 2, 1, 1]

    run(main())


def test_a_kind_that_the_server_does_not_offer_is_empty_and_never_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, **server({"prompts": {}})) as one:
            await all_read(one)

            assert [lists.offered for kind in ALL for lists in told(one, kind)] == [False, False, True]
            assert await asked(one) == [0, 0, 0, 1]

    run(main())


def test_a_server_that_runs_is_read_again_as_often_as_is_configured(tmp_path: Path) -> None:
    async def main() -> None:
        # It announces nothing.
        async with session(tmp_path, refresh_seconds=0.02, **server({"tools": {}, "prompts": {}})) as one:
            await until(lambda: len(told(one, "tools")) >= 3 and len(told(one, "prompts")) >= 3)

            assert [lists.again for lists in told(one, "tools")[:3]] == [False, True, True]
            # That it has no such list it has said once.
            assert len(told(one, "resources")) == 1

    run(main())


def test_a_page_that_is_what_it_was_is_not_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def counted(of: ListName, result: bytes | Raw) -> Page:
        parsed.append(bytes(result))
        return parse_page(of, result)

    monkeypatch.setattr(list_reader, "parse_page", counted)

    async def main() -> None:
        async with session(tmp_path, refresh_seconds=0.02, **server({"tools": {}}, pages=2)) as one:
            await until(lambda: len(told(one, "tools")) >= 3)

            assert len({lists.listed for lists in told(one, "tools")}) == 1
            assert len(told(one, "tools")[0].listed) == 2

    run(main())
    assert len(parsed) == 2


def test_how_often_it_is_read_again_changes_while_it_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, **server({"tools": {}})) as one:
            await until(lambda: told(one, "tools"))
            cell = one.home.context.world
            spec = ServerSpec(name=ServerName("bad"), command="none")

            cell.publish_servers({}, replace(cell.world.settings, refresh_seconds=0.01))
            one.instance.tell(Respec(spec))
            await until(lambda: len(told(one, "tools")) >= 4)
            cell.publish_servers({}, replace(cell.world.settings, refresh_seconds=0.0))
            one.instance.tell(Respec(spec))
            # The answer to a call comes after those to all that was asked before it.
            before = await asked(one)
            after = [await asked(one) for _ in range(500)]

            assert after == [before] * 500

    run(main())


def test_a_change_announced_during_a_reading_that_fails_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(tmp_path, **server(fails={"tools/list": 1})) as one:
            await until(lambda: told(one, "tools"))

            [failed] = one.index.of(ListsFailed)
            assert "not yet" in failed.message
            assert told(one, "tools")[0].began >= failed.began

    run(main())
