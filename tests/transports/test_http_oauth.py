"""A token is had and renewed without a person; what needs one fails with the address to open."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from support.children import run
from support.http_servers import HttpServer, Request
from support.http_sinks import RecordingHttpSink, streamable

from mcpv_node.settings import OAuthSettings

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}'
REPLY = b'{"jsonrpc":"2.0","id":1,"result":{}}'


class Authority:
    """A server of MCP that is its own authorization server; the newest token alone is good."""

    def __init__(self, *, refresh: bool = False, metadata: bool = True) -> None:
        self.good = ""
        self.grants: list[dict[str, list[str]]] = []
        self.logins: list[str] = []
        self.registered = 0
        self._refresh = refresh
        self._metadata = metadata

    async def __call__(self, request: Request) -> None:
        origin = f"http://{request.headers['host']}"
        match request.path:
            case "/mcp" if self.good and request.headers.get("authorization") == f"Bearer {self.good}":
                await request.reply(body=REPLY)
            case "/mcp":
                where = f'Bearer resource_metadata="{origin}/.well-known/oauth-protected-resource/mcp"'
                await request.reply(401, WWW_Authenticate=where)
            case "/.well-known/oauth-protected-resource/mcp" if self._metadata:
                await _json(request, {"resource": f"{origin}/mcp", "authorization_servers": [origin]})
            case "/.well-known/oauth-authorization-server" if self._metadata:
                await _json(request, self._about(origin))
            case "/register":
                self.registered += 1
                await _json(request, {**request.json(), "client_id": "registered"}, 201)
            case "/token":
                self.grants.append(parse_qs(request.body.decode()))
                self.logins.append(request.headers.get("authorization", ""))
                self.good = f"token-{len(self.grants)}"
                refresh = {"refresh_token": f"refresh-{len(self.grants)}"} if self._refresh else {}
                await _json(
                    request,
                    {"access_token": self.good, "token_type": "Bearer", "expires_in": 3600, **refresh},
                )
            case _:
                await request.reply(404)

    def _about(self, origin: str) -> dict[str, Any]:
        return {
            "issuer": origin,
            "authorization_endpoint": f"{origin}/authorize",
            "token_endpoint": f"{origin}/token",
            "registration_endpoint": f"{origin}/register",
            "response_types_supported": ["code"],
            "grant_types_supported": ["client_credentials", "authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
        }


async def _json(request: Request, value: object, status: int = 200) -> None:
    await request.reply(status, json.dumps(value).encode())


def credentials_for(server: HttpServer) -> OAuthSettings:
    origin = server.url.removesuffix("/mcp")
    return OAuthSettings(client_id="me", client_secret="s3cret", issuer=origin)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_token_is_had_by_credentials_and_kept_for_the_next_session(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        authority = Authority()
        file = tmp_path / "oauth" / "key.json"
        async with HttpServer(authority) as server:
            for _ in range(2):
                sink = RecordingHttpSink()
                oauth = credentials_for(server)
                async with streamable(server.url, sink, oauth=oauth, token_file=file) as session:
                    session.send_request(1, CALL)
                    session.send_request(2, CALL)

                    assert await sink.until_over(1) is None
                    assert await sink.until_over(2) is None
                    assert sink.data == [REPLY, REPLY]

            assert len(authority.grants) == 1
            assert authority.grants[0]["grant_type"] == ["client_credentials"]
            assert base64.b64decode(authority.logins[0].removeprefix("Basic ")) == b"me:s3cret"
            assert file.stat().st_mode & 0o777 == 0o600
            assert file.parent.stat().st_mode & 0o777 == 0o700
            assert "s3cret" not in file.read_text()

    run(main(), loop)


def test_token_that_is_not_good_any_more_is_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        authority = Authority()
        sink = RecordingHttpSink()
        async with HttpServer(authority) as server:
            oauth = credentials_for(server)
            async with streamable(server.url, sink, oauth=oauth, token_file=tmp_path / "t.json") as session:
                for number in range(3):
                    session.send_request(number, CALL)
                    assert await sink.until_over(number) is None
                    authority.good = "another"

                assert len(authority.grants) == 3

    run(main())


def test_consent_given_before_is_refreshed_after_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        authority = Authority(refresh=True)
        sink = RecordingHttpSink()
        file = tmp_path / "t.json"
        async with HttpServer(authority) as server:
            origin = server.url.removesuffix("/mcp")
            tokens = {"access_token": "old", "token_type": "Bearer", "refresh_token": "refresh-0"}
            about = authority._about(origin)
            file.write_text(json.dumps({"tokens": tokens, "metadata": about, "auth_server": origin}))
            oauth = OAuthSettings(grant="authorization-code", client_id="me", issuer=origin)
            async with streamable(server.url, sink, oauth=oauth, token_file=file) as session:
                session.send_request(1, CALL)

                assert await sink.until_over(1) is None
                assert authority.grants[0]["grant_type"] == ["refresh_token"]
                assert authority.grants[0]["refresh_token"] == ["refresh-0"]
                assert json.loads(file.read_text())["tokens"]["refresh_token"] == "refresh-1"

    run(main())


def test_consent_that_is_needed_fails_with_the_address_to_open(tmp_path: Path) -> None:
    async def main() -> None:
        authority = Authority()
        sink = RecordingHttpSink()
        async with HttpServer(authority) as server:
            oauth = OAuthSettings(grant="authorization-code")
            async with streamable(server.url, sink, oauth=oauth, token_file=tmp_path / "t.json") as session:
                for number in (1, 2):
                    session.send_request(number, CALL)

                    failure = await sink.until_failed(number)
                    assert (failure.kind, failure.was_sent) == ("auth", False)
                    address = f"open {server.url.removesuffix('/mcp')}/authorize?response_type=code&client_id=registered"
                    assert address in failure.message
                assert authority.registered == 1

    run(main())


def test_secret_goes_to_its_issuer_only(tmp_path: Path) -> None:
    async def main() -> None:
        authority = Authority()
        sink = RecordingHttpSink()
        async with HttpServer(authority) as server:
            oauth = OAuthSettings(client_id="me", client_secret="s3cret", issuer="https://auth.example")
            async with streamable(server.url, sink, oauth=oauth, token_file=tmp_path / "t.json") as session:
                session.send_request(1, CALL)

                failure = await sink.until_failed(1)
                assert failure.kind == "auth"
                assert authority.grants == []

    run(main())


def test_refusal_that_no_token_cures_is_told_as_it_is(tmp_path: Path) -> None:
    class Stubborn(Authority):
        async def __call__(self, request: Request) -> None:
            await (request.reply(401) if request.path == "/mcp" else super().__call__(request))

    async def main() -> None:
        authority = Stubborn()
        sink = RecordingHttpSink()
        async with HttpServer(authority) as server:
            oauth = credentials_for(server)
            async with streamable(server.url, sink, oauth=oauth, token_file=tmp_path / "t.json") as session:
                session.send_request(1, CALL)

                failure = await sink.until_failed(1)
                assert (failure.kind, failure.status) == ("status", 401)
                assert len(authority.grants) == 1

    run(main())


def test_metadata_elsewhere_than_https_is_not_asked(tmp_path: Path) -> None:
    async def lead_away(request: Request) -> None:
        where = 'Bearer resource_metadata="http://169.254.169.254/latest/meta-data"'
        await request.reply(401, WWW_Authenticate=where)

    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(lead_away) as server:
            oauth = credentials_for(server)
            async with streamable(server.url, sink, oauth=oauth, token_file=tmp_path / "t.json") as session:
                session.send_request(1, CALL)

                failure = await sink.until_failed(1)
                assert "which is neither https nor this machine" in failure.message

    run(main())
