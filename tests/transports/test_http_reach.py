"""A server cannot lead the node to places that the configuration does not name and that are not everybody's."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Certificates, make_certificates
from support.children import run
from support.http_servers import HttpServer, Request, status
from support.http_sinks import RecordingHttpSink, streamable

from mcpv_node.settings import OAuthSettings, ServerTlsSettings
from mcpv_node.transports.http import ExchangeError, HttpLimits, HttpRoute, fetch_object
from mcpv_node.transports.http import exchange as exchange_module
from mcpv_node.transports.http.exchange import SMALL_ANSWER, HttpClient
from mcpv_node.transports.http.reach import Reach, decide_reach, is_public

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}'


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    ("url", "named", "reach"),
    [
        ("https://server.example/x", "https://server.example/mcp", "named"),
        ("http://10.0.0.7:8000/x", "http://10.0.0.7:8000/mcp", "named"),
        ("http://10.0.0.7:8001/x", "http://10.0.0.7:8000/mcp", None),
        ("https://auth.example/token", "https://server.example/mcp", "public"),
        ("http://auth.example/token", "https://server.example/mcp", None),
        ("https://8.8.8.8/token", "https://server.example/mcp", "public"),
        ("http://localhost:9/x", "https://server.example/mcp", None),
        ("https://localhost:9/x", "https://server.example/mcp", None),
        ("http://127.0.0.1:9/x", "http://127.0.0.1:8/mcp", "named"),
        ("http://[::1]:9/x", "http://localhost:8/mcp", "named"),
        ("https://127.0.0.2/x", "http://127.0.0.1:8/mcp", None),
        ("https://10.1.2.3/x", "https://server.example/mcp", None),
        ("https://169.254.169.254/latest", "https://server.example/mcp", None),
        ("https://[fe80::1]/x", "https://server.example/mcp", None),
        ("https://[::ffff:10.0.0.1]/x", "https://server.example/mcp", None),
        ("https://[64:ff9b::a9fe:a9fe]/x", "https://server.example/mcp", None),
        ("https://0.0.0.0/x", "https://server.example/mcp", None),
        ("file:///etc/passwd", "https://server.example/mcp", None),
        ("gopher://auth.example/x", "https://server.example/mcp", None),
        ("https:///x", "https://server.example/mcp", None),
        ("https://[bad/x", "https://server.example/mcp", None),
        ("https://user@10.0.0.1/x", "https://server.example/mcp", None),
    ],
)
def test_what_a_server_names_is_asked_where_that_harms_nobody(
    url: str, named: str, reach: Reach | None
) -> None:
    assert decide_reach(url, (named, "")) == reach


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254",
        "ff02::1", "::ffff:127.0.0.1", "2002:0a00:0001::", "64:ff9b::7f00:1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_everybodys_is_known(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_an_address_of_everybodys_is_known(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_a_name_that_leads_inside_is_refused_when_the_connection_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is looked up once, and what comes of it is what is looked at: no second answer can differ."""
    asked: list[str] = []

    async def main() -> None:
        inside = HttpServer(status(200))

        async def lead_away(request: Request) -> None:
            where = f'Bearer resource_metadata="https://rebound.example:{inside.port}/metadata"'
            await request.reply(401, WWW_Authenticate=where)

        async with inside, HttpServer(lead_away) as server:
            real = socket.getaddrinfo

            def resolve(host: Any, port: Any, *more: Any, **others: Any) -> Any:
                if host != "rebound.example":
                    return real(host, port, *more, **others)
                asked.append(host)
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            sink = RecordingHttpSink()
            oauth = OAuthSettings(client_id="me", client_secret="s3cret", issuer="https://auth.example")
            async with streamable(server.url, sink, oauth=oauth, token_file=tmp_path / "t.json") as session:
                session.send_request(1, CALL)
                failure = await sink.until_failed(1)

            assert inside.connections == 0
            assert "not a public address" in failure.message or failure.kind in ("connect", "auth")

    run(main())
    assert asked == ["rebound.example"]


def test_a_redirect_of_metadata_is_not_followed(tmp_path: Path) -> None:
    async def main() -> None:
        elsewhere = HttpServer(status(200))

        async def redirect(request: Request) -> None:
            if request.path == "/mcp":
                origin = f"http://{request.headers['host']}"
                await request.reply(401, WWW_Authenticate=f'Bearer resource_metadata="{origin}/about"')
            else:
                await request.reply(302, Location=f"http://127.0.0.1:{elsewhere.port}/secret")

        async with elsewhere, HttpServer(redirect) as server:
            sink = RecordingHttpSink()
            oauth = OAuthSettings(client_id="me", client_secret="s3cret", issuer="https://auth.example")
            async with streamable(server.url, sink, oauth=oauth, token_file=tmp_path / "t.json") as session:
                session.send_request(1, CALL)
                await sink.until_failed(1)

            assert elsewhere.connections == 0

    run(main())


def test_metadata_that_is_too_large_is_not_read() -> None:
    async def flood(request: Request) -> None:
        await request.reply(body=b'{"x":"' + b"y" * SMALL_ANSWER + b'"}')

    async def main() -> None:
        async with HttpServer(flood) as server:
            # The session itself may read much more.
            client = HttpClient(HttpRoute(server.url), HttpLimits(100 * SMALL_ANSWER, 1))
            with pytest.raises(ExchangeError, match=f"more than {SMALL_ANSWER} bytes"):
                await client.fetch("GET", server.url, {})
            await client.close()

    run(main())


def test_metadata_that_does_not_come_is_given_up() -> None:
    async def silent(request: Request) -> None:
        await request.go_on.wait()

    async def main() -> None:
        async with HttpServer(silent) as server:
            limits = HttpLimits(1000, 1, answer_timeout=0.05)
            client = HttpClient(HttpRoute(server.url), limits)
            with pytest.raises(ExchangeError, match="did not answer within"):
                await client.fetch("GET", server.url, {})
            await client.close()

    run(main())


def test_configured_credentials_and_certificates_go_to_whom_the_configuration_names_alone(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that a server names is believed by everybody's authorities, also where the settings believe anybody."""

    async def main() -> None:
        async with HttpServer(status(200), tls=certificates.server_context()) as other:
            monkeypatch.setattr(exchange_module, "decide_reach", lambda _url, _named: "public")
            monkeypatch.setattr(exchange_module, "check_public", lambda _host: None)
            route = HttpRoute(
                "https://server.example/mcp", {"authorization": "Bearer own"}, ServerTlsSettings(verify=False)
            )
            client = HttpClient(route, HttpLimits(1000, 1))
            with pytest.raises(ExchangeError, match="not believed"):
                await client.fetch("GET", f"https://127.0.0.1:{other.port}/", {})
            await client.close()

            assert other.requests == []

    run(main())


def test_only_an_object_is_taken_for_one() -> None:
    async def main() -> None:
        for body in (b"[]", b"not json", b"[" * 20_000):

            async def answer(request: Request, body: bytes = body) -> None:
                await request.reply(body=body)

            async with HttpServer(answer) as server:
                with pytest.raises(ExchangeError, match=r"no JSON|no object"):
                    await fetch_object(server.url, named=server.url, environ={})
        async with HttpServer(status(404)) as server:
            assert await fetch_object(server.url, named=server.url, environ={}) is None

    run(main())
