"""The HTTP door with a certificate, over real sockets: what is served, what is refused, and what is renewed."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from loguru import logger
from msgspec import Raw
from msgspec.structs import replace
from support.certificates import Certificates, make_certificates
from support.doors import local, open_door
from support.fake_servers import run, until
from support.modern_client import modern
from support.raw_http import RawClient, RawConnection, call

from mcpv_node.actors.instance.messages import Answer
from mcpv_node.gateway import CertificateError, http_door, read_certificate, wire
from mcpv_node.protocol import MODERN
from mcpv_node.settings import ListenSettings, NodeSettings, TlsSettings


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


def over_tls(certificates: Certificates) -> NodeSettings:
    tls = TlsSettings(cert=certificates.server, key=certificates.server)
    return replace(local(), listen=ListenSettings(http="127.0.0.1:0", tls=tls))


def believing(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.ca)


def fingerprint(client: RawConnection) -> str:
    """Of the certificate that was shown on this connection."""
    shown = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return hashlib.sha256(shown).hexdigest()


# ---- what is served ----------------------------------------------------------------------------------------------


def test_clients_of_both_eras_are_served_and_known_again(tmp_path: Path, certificates: Certificates) -> None:
    async def main() -> None:
        async with open_door(tmp_path, settings=over_tls(certificates)) as stage:
            assert stage.url.startswith("https://127.0.0.1:")
            client = await RawClient.open(stage.url, tls=believing(certificates))
            legacy = [await client.post(call(id, "alpha_echo")) for id in range(3)]
            modern_client = RawClient(await RawConnection.open(stage.url, believing(certificates)))
            newer = [
                await modern_client.post(
                    modern("tools/call", id=id, name="alpha_echo", arguments={"a": 1}),
                    Mcp_Protocol_Version=MODERN[0],
                    Mcp_Method="tools/call",
                    Mcp_Name="alpha_echo",
                )
                for id in range(3)
            ]
            told = fingerprint(client.connection)
            for one in (client, modern_client):
                await one.close()

        assert [answer.json()["id"] for answer in (*legacy, *newer)] == [0, 1, 2, 0, 1, 2]
        assert all("result" in answer.json() for answer in (*legacy, *newer))
        assert stage.told == [(stage.url, told)]

    run(main)


def test_who_does_not_speak_tls_gets_nothing(tmp_path: Path, certificates: Certificates) -> None:
    async def main() -> bytes:
        async with open_door(tmp_path, settings=over_tls(certificates)) as stage:
            connection = await RawConnection.open(stage.url)
            await connection.send("GET", "/healthz")
            answer = await connection.reader.read()
            await connection.close()
            return answer

    assert run(main) == b""


def test_versions_of_tls_that_are_not_safe_any_more_are_refused(certificates: Certificates) -> None:
    tls = TlsSettings(cert=certificates.server, key=certificates.server)

    assert read_certificate(tls).context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_body_that_is_too_large_is_answered_over_tls_too(
    tmp_path: Path, certificates: Certificates
) -> None:
    async def main() -> int:
        async with open_door(tmp_path, settings=over_tls(certificates)) as stage:
            connection = await RawConnection.open(stage.url, believing(certificates))
            size = 8 * 1024 * 1024
            await connection.send(
                "POST",
                "/mcp",
                {
                    "Connection": "close",
                    "Content-Type": "application/json",
                    "Accept": "application/json, text/event-stream",
                },
                b"x" * size,
            )
            status, _ = await connection.read_head()
            await connection.close()
            return status

    assert run(main) == 413


# ---- what is refused ---------------------------------------------------------------------------------------------


def no_file(folder: Path, server: Path) -> None:
    server.unlink()


def no_certificate(folder: Path, server: Path) -> None:
    server.write_text("-----BEGIN NOTHING-----\n")


def another_key(folder: Path, server: Path) -> None:
    key = (folder / "client.pem").read_text().partition("-----END CERTIFICATE-----\n")[2]
    certificate, end, _ = server.read_text().partition("-----END CERTIFICATE-----\n")
    server.write_text(certificate + end + key)


def no_key(folder: Path, server: Path) -> None:
    certificate, end, _ = server.read_text().partition("-----END CERTIFICATE-----\n")
    server.write_text(certificate + end)


def a_passphrase(folder: Path, server: Path) -> None:
    certificate, end, key = server.read_text().partition("-----END CERTIFICATE-----\n")
    locked = load_pem_private_key(key.encode(), None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    server.write_text(certificate + end + locked.decode())


@pytest.mark.parametrize(
    ("spoil", "key", "words"),
    [
        (no_file, "listen.tls.cert", "cannot be read: No such file or directory"),
        (no_certificate, "listen.tls.cert", "holds no certificate in PEM"),
        (another_key, "listen.tls.key", "is not the key of the certificate"),
        (no_key, "listen.tls.key", "are no key and certificate in PEM"),
        (a_passphrase, "listen.tls.key", "has a passphrase"),
    ],
)
def test_files_that_are_no_good_are_named_with_what_is_wrong(
    tmp_path: Path, certificates: Certificates, spoil: Callable[[Path, Path], None], key: str, words: str
) -> None:
    spoil(tmp_path, Path(certificates.server))

    with pytest.raises(CertificateError) as caught:
        read_certificate(TlsSettings(cert=certificates.server, key=certificates.server))

    assert caught.value.key == key
    assert words in str(caught.value)
    assert certificates.server in str(caught.value)


# ---- what is renewed ---------------------------------------------------------------------------------------------


def renewed(folder: Path, certificates: Certificates) -> None:
    """Another certificate of another authority in the places of the ones that are there."""
    fresh = folder / "fresh"
    fresh.mkdir()
    made = make_certificates(fresh)
    shutil.copy(made.ca, certificates.ca)
    shutil.copy(made.server, certificates.server)


def test_a_certificate_that_is_renewed_is_shown_to_who_comes_next(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_door, "CERTIFICATE_LOOK", 0.01)

    async def main() -> None:
        async with open_door(tmp_path, settings=over_tls(certificates)) as stage:
            old = await RawClient.open(stage.url, tls=believing(certificates))
            before = fingerprint(old.connection)
            renewed(tmp_path, certificates)
            await until(lambda: len(stage.told) == 2)
            new = await RawClient.open(stage.url, tls=believing(certificates))
            after = fingerprint(new.connection)
            answers = [await one.post(call(1, "alpha_echo")) for one in (old, new)]
            for one in (old, new):
                await one.close()

        assert stage.told == [(stage.url, before), (stage.url, after)]
        assert before != after
        assert all("result" in answer.json() for answer in answers)

    run(main)


def cut_off(certificates: Certificates) -> None:
    path = Path(certificates.server)
    path.write_text(path.read_text()[:200])


def test_one_that_is_half_written_is_waited_for_and_said_once(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_door, "CERTIFICATE_LOOK", 0.01)
    looks: list[None] = []
    look = http_door.read_if_changed

    def counted(*given: object) -> object:
        looks.append(None)
        return look(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(http_door, "read_if_changed", counted)
    said: list[str] = []
    sink = logger.add(said.append, format="{message}", level="WARNING")

    async def main() -> None:
        async with open_door(tmp_path, settings=over_tls(certificates)) as stage:
            cut_off(certificates)
            seen = len(looks)
            await until(lambda: len(looks) > seen + 3)
            client = await RawClient.open(stage.url, tls=believing(certificates))
            await client.close()
            renewed(tmp_path, certificates)
            await until(lambda: len(stage.told) == 2)

    try:
        run(main)
    finally:
        logger.remove(sink)

    assert [line for line in said if "certificate" in line] == [
        f"the certificate of the HTTP door stays as it is: listen.tls.cert: {certificates.server} holds no certificate in PEM\n"
    ]


# ---- the end -----------------------------------------------------------------------------------------------------


def test_a_door_does_not_wait_for_the_goodbyes_of_clients_that_do_nothing(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loop would wait for them for half a minute: longer than this test may take.
    monkeypatch.setattr(wire, "GOODBYE", 0.05)

    async def main() -> None:
        async with open_door(tmp_path, settings=over_tls(certificates), drain_bound=600.0) as stage:
            idle = await RawClient.open(stage.url, tls=believing(certificates))
            listening = await RawClient.open(stage.url, tls=believing(certificates))
            await listening.connection.send("GET", "/mcp", listening.headers())
            assert (await listening.connection.read_head())[0] == 200
            for one in (idle, listening):
                one.connection.pause()
            await stage.node.stop(stage.door)
            for one in (idle, listening):
                await one.close()

    run(main)


def test_an_answer_that_is_still_read_is_not_cut_off_by_the_end_of_its_connection(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "GOODBYE", 0.01)
    looks: list[None] = []
    hang_up = wire.WholeAnswers._hang_up

    def counted(protocol: wire.WholeAnswers, transport: asyncio.Transport) -> None:
        looks.append(None)
        hang_up(protocol, transport)

    monkeypatch.setattr(wire.WholeAnswers, "_hang_up", counted)
    large = b'{"content":[],"text":"' + b"x" * (16 * 1024 * 1024) + b'"}'

    async def main() -> bytes:
        async with open_door(tmp_path, settings=over_tls(certificates)) as stage:
            client = await RawClient.open(stage.url, tls=believing(certificates))
            stage.node.instances["alpha"].next_answers.append(Answer(result=Raw(large)))
            client.connection.pause()
            await client.send(call(1, "alpha_echo"), Connection="close")
            await until(lambda: len(looks) > 3)
            client.connection.resume()
            answer = await client.connection.read()
            await client.close()
            return answer.body

    assert large in run(main)
