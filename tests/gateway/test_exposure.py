"""What a page in a browser, or another machine, can make of the HTTP door: nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.doors import Stage, local, open_door
from support.fake_servers import run, until
from support.raw_http import RawConnection, RawResponse

from mcpv_node.gateway import TokenTable
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY, AuthError, read_or_create_token, read_token
from mcpv_node.settings import AuthSettings
from mcpv_node.state_dir import StateDirUnsafe, check_state_dir

TOKENS = TokenTable([("good", DEFAULT_AUTHORITY)])

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
PATHS = (
    "/",
    "/mcp",
    "/mcp/server/alpha",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api",
    "/api/openapi.json",
    "/api/v1/node",
    "/api/v1/node/stop",
    "/api/v1/servers/alpha/start",
    "/api/v1/events",
    "/console/",
    "/.well-known/oauth-protected-resource/mcp",
)

INSIDE = re.compile(rb"Traceback|File \"|\.py\b|site-packages|/tmp/|/home/|/root/")


async def ask(stage: Stage, method: str, path: str, **headers: str) -> RawResponse:
    connection = await RawConnection.open(stage.url)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        await connection.send(method, path, given)
        if method == "HEAD":
            status, found = await connection.read_head()
            return RawResponse(status, found, b"")
        return await connection.read()
    finally:
        await connection.close()


def test_another_host_or_origin_is_refused_with_every_method_on_every_path(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            for path in PATHS:
                for method in METHODS:
                    rebound = await ask(stage, method, path, Host="evil.example", Authorization="Bearer good")
                    foreign = await ask(
                        stage, method, path, Origin="https://evil.example", Authorization="Bearer good"
                    )
                    assert (rebound.status, foreign.status) == (421, 403), (method, path)

    run(main)


@pytest.mark.parametrize("origins", [(), ("https://friend.example",)])
def test_no_answer_lets_a_page_of_another_origin_read_it_and_none_is_let_in_by_asking_first(
    tmp_path: Path, origins: tuple[str, ...]
) -> None:
    async def main() -> None:
        settings = local(auth=AuthSettings(allowed_origins=origins))
        async with open_door(tmp_path, settings=settings, tokens=TOKENS) as stage:
            await until(lambda: stage.door.cell.actor._app._rest)  # type: ignore[union-attr]
            own = origins[0] if origins else stage.url
            for path in PATHS:
                asked_first = await ask(
                    stage, "OPTIONS", path, Origin=own, Access_Control_Request_Method="POST"
                )
                with_token = await ask(stage, "OPTIONS", path, Origin=own, Authorization="Bearer good")
                assert (asked_first.status, with_token.status) == (405, 405), path
                for answer in (asked_first, with_token, await ask(stage, "PUT", path, Origin=own)):
                    assert not [name for name in answer.headers if name.startswith("access-control-")]

    run(main)


def test_no_refusal_shows_how_the_node_is_made_or_where_it_lives(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            await until(lambda: stage.door.cell.actor._app._rest)  # type: ignore[union-attr]
            for path in (
                *PATHS,
                "/api/v1/nothing",
                "/api/v1/servers/x/start?wait=nan",
                "/api/v1/catalog/x?since=-",
            ):
                for method in METHODS:
                    if (method, path) in (
                        ("POST", "/api/v1/node/stop"),
                        ("GET", "/api/v1/events"),
                        ("GET", "/mcp"),
                    ):
                        continue
                    answer = await ask(stage, method, path, Authorization="Bearer good")
                    assert answer.status < 500, (method, path, answer)
                    if answer.status >= 400:
                        assert not INSIDE.search(answer.body), (method, path, answer)

    run(main)


# An operator's edits of the configuration: what the files may say, they may say.
EDITS = {("post", "/api/v1/servers"), ("patch", "/api/v1/servers/{name}")}


def test_only_an_operators_edit_of_the_configuration_can_say_what_is_run(tmp_path: Path) -> None:
    """No other body of the REST interface has a place for a command, and none takes what it does not describe."""

    def named(schema: Any) -> set[str]:
        if isinstance(schema, dict):
            return set(schema.get("properties", {})) | {
                name for part in schema.values() for name in named(part)
            }
        return {name for part in schema for name in named(part)} if isinstance(schema, list) else set()

    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            await until(lambda: stage.door.cell.actor._app._rest)  # type: ignore[union-attr]
            about = (await ask(stage, "GET", "/api/openapi.json", Authorization="Bearer good")).json()
        schemas = about["components"]["schemas"]
        taken: set[str] = set()
        operations = {
            (method, path): one for path, item in about["paths"].items() for method, one in item.items()
        }
        assert operations.keys() >= EDITS
        for operation in (one for key, one in operations.items() if key not in EDITS):
            for content in operation.get("requestBody", {}).get("content", {}).values():
                reference = json.dumps(content)
                assert '"$ref"' in reference
                taken |= {
                    part
                    for name, part in _parts(schemas, named)
                    if f'"#/components/schemas/{name}"' in reference
                }
        assert taken
        assert not taken & {"command", "args", "cmd", "env", "cwd", "url", "headers", "path", "file"}

    run(main)


def _parts(schemas: dict[str, Any], named: Any) -> list[tuple[str, str]]:
    return [(name, part) for name, schema in schemas.items() for part in named(schema)]


def test_a_token_file_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("abc\n")
    path.chmod(0o666)

    with pytest.raises(AuthError, match="can be written to by everybody"):
        read_token(path)
    assert read_or_create_token(path) == "abc"  # its owner's own is closed first
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_state_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    check_state_dir(tmp_path)
    tmp_path.chmod(0o777)

    with pytest.raises(StateDirUnsafe, match="can be written to by everybody"):
        check_state_dir(tmp_path)


def test_a_state_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr("os.getuid", lambda: owner + 1)

    with pytest.raises(StateDirUnsafe, match="belongs to another user"):
        check_state_dir(tmp_path)
