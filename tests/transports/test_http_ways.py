"""How a server is reached: over TLS as the settings say, and through a proxy or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.certificates import Certificates, make_certificates
from support.children import run
from support.http_servers import HttpServer, json_reply, script, status
from support.http_sinks import RecordingHttpSink, streamable

from mcpv_node.settings import ServerTlsSettings
from mcpv_node.transports.http import HttpFailure, HttpLimits
from mcpv_node.transports.http.proxies import decide_proxy

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}'
REPLY = b'{"jsonrpc":"2.0","id":1,"result":{}}'

on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


async def ask_over_tls(
    certificates: Certificates, tls: ServerTlsSettings | None, *, asks_client: bool = False
) -> HttpFailure | None:
    sink = RecordingHttpSink()
    context = certificates.server_context(asks_client=asks_client)
    async with (
        HttpServer(script(json_reply(REPLY)), tls=context) as server,
        streamable(server.url, sink, tls=tls) as session,
    ):
        session.send_request(1, CALL)
        return await sink.until_over(1)


@on_both_loops
def test_server_is_believed_by_its_authority(certificates: Certificates, loop: str) -> None:
    async def main() -> None:
        assert await ask_over_tls(certificates, ServerTlsSettings(ca=certificates.ca)) is None

    run(main(), loop)


@pytest.mark.parametrize("tls", [None, ServerTlsSettings()])
def test_server_nobody_vouches_for_is_not_asked(
    certificates: Certificates, tls: ServerTlsSettings | None
) -> None:
    async def main() -> None:
        failure = await ask_over_tls(certificates, tls)

        assert failure is not None
        assert (failure.kind, failure.was_sent) == ("tls", False)
        assert failure.message.startswith("has a certificate that is not believed: ")

    run(main())


def test_unverified_server_is_asked_all_the_same_when_that_is_said(certificates: Certificates) -> None:
    async def main() -> None:
        assert await ask_over_tls(certificates, ServerTlsSettings(verify=False)) is None

    run(main())


def test_server_that_asks_who_we_are_is_shown_it(certificates: Certificates) -> None:
    async def main() -> None:
        tls = ServerTlsSettings(ca=certificates.ca, cert=certificates.client)
        assert await ask_over_tls(certificates, tls, asks_client=True) is None
        failure = await ask_over_tls(certificates, ServerTlsSettings(ca=certificates.ca), asks_client=True)
        assert failure is not None

    run(main())


def test_file_that_is_no_certificate_is_named(tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "bad.pem").write_text("no")

    async def main() -> None:
        for ca in ("bad.pem", "none.pem"):
            failure = await ask_over_tls(certificates, ServerTlsSettings(ca=str(tmp_path / ca)))
            assert failure is not None
            assert (failure.kind, failure.was_sent) == ("tls", False)

    run(main())


def test_proxy_of_the_settings_is_asked_for_the_whole_address() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script(json_reply(REPLY))) as proxy:
            way = f"http://127.0.0.1:{proxy.port}"
            async with streamable("http://mcp.invalid/x", sink, proxy=way) as session:
                session.send_request(1, CALL)

                assert await sink.until_over(1) is None
                assert proxy.requests[0].path == "http://mcp.invalid/x"

    run(main())


def test_proxy_of_the_environment_makes_a_tunnel_for_https() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script(status(407))) as proxy:
            environ = {"HTTPS_PROXY": f"127.0.0.1:{proxy.port}"}
            async with streamable("https://mcp.invalid/x", sink, environ=environ) as session:
                session.send_request(1, CALL)

                failure = await sink.until_failed(1)
                assert (failure.kind, failure.was_sent) == ("proxy", False)
                assert proxy.requests[0].method == "CONNECT"
                assert proxy.requests[0].path == "mcp.invalid:443"

    run(main())


def test_proxy_that_is_not_there_is_said_to_be_it() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script()) as gone:
            pass
        async with streamable("http://mcp.invalid/x", sink, proxy=f"http://127.0.0.1:{gone.port}") as session:
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert failure.message == "cannot be reached: its proxy took no connection: Connection refused"

    run(main())


def test_host_that_does_not_exist_cannot_be_found() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with streamable("http://mcp.invalid/x", sink) as session:
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert (failure.kind, failure.was_sent) == ("connect", False)
            assert failure.message.startswith("cannot be found: ")

    run(main())


def test_connection_that_is_not_taken_is_given_up_after_its_bound() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        limits = HttpLimits(message_bytes=1000, requests=8, connect_timeout=0.05)

        # TLS to a server that waits for a request: its half of the handshake never comes.
        async with (
            HttpServer(script()) as mute,
            streamable(mute.url.replace("http:", "https:"), sink, limits=limits) as session,
        ):
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert (failure.was_sent, failure.message) == (False, "took no connection within 0.05 s")

    run(main())


PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "environ", "way"),
    [
        ("http://a.example/", {}, None),
        ("http://a.example/", {"http_proxy": PROXY}, PROXY),
        ("http://a.example/", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://a.example/", {"http_proxy": "small:1", "HTTP_PROXY": PROXY}, "http://small:1"),
        ("https://a.example/", {"http_proxy": PROXY}, None),
        ("https://a.example/", {"ALL_PROXY": PROXY}, PROXY),
        ("http://localhost:9/", {"http_proxy": PROXY}, None),
        ("http://127.0.0.7/", {"http_proxy": PROXY}, None),
        ("http://[::1]:9/", {"http_proxy": PROXY}, None),
        ("http://a.example/", {"http_proxy": PROXY, "no_proxy": "b.example, a.example"}, None),
        ("http://a.example/", {"http_proxy": PROXY, "no_proxy": ".example"}, None),
        ("http://a.example/", {"http_proxy": PROXY, "no_proxy": "example"}, None),
        ("http://aexample/", {"http_proxy": PROXY, "no_proxy": "example"}, PROXY),
        ("http://a.example/", {"http_proxy": PROXY, "no_proxy": "*"}, None),
        ("http://a.example:81/", {"http_proxy": PROXY, "no_proxy": "a.example:80"}, PROXY),
        ("http://a.example:81/", {"http_proxy": PROXY, "no_proxy": "a.example:81"}, None),
        ("http://10.1.2.3/", {"http_proxy": PROXY, "no_proxy": "10.0.0.0/8"}, None),
        ("http://11.1.2.3/", {"http_proxy": PROXY, "no_proxy": "10.0.0.0/8,junk/x"}, PROXY),
        ("http://a.example/", {"http_proxy": PROXY, "no_proxy": ","}, PROXY),
    ],
)
def test_environment_says_the_way(url: str, environ: dict[str, str], way: str | None) -> None:
    assert decide_proxy(url, configured=None, environ=environ) == way


@pytest.mark.parametrize(("configured", "way"), [("none", None), ("http://mine:1", "http://mine:1")])
def test_settings_come_before_the_environment(configured: str, way: Any) -> None:
    assert decide_proxy("http://a.example/", configured=configured, environ={"http_proxy": PROXY}) == way
