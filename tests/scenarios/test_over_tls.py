"""A node whose HTTP door has a certificate: its own commands reach it whoever issued that, clients believe the issuer."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from support.certificates import Certificates, make_certificates
from support.commands import type_command
from support.nodes import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

COMMAND_TIMEOUT = 60.0
CONVERSATION_TIMEOUT = 30.0

CONFIG = """
listen:
  http: 127.0.0.1:0
  tls:
    cert: {server}
    key: {server}
servers: []
"""


def types(folder: Path, *words: str, code: int = 0) -> str:
    """Run one command, which ends as expected, and give all that it said."""
    return type_command(
        *words,
        "--state-dir",
        str(folder / "state"),
        cwd=folder,
        env=environment(folder),
        code=code,
        timeout=COMMAND_TIMEOUT,
    )


@contextmanager
def node_over_tls(folder: Path) -> Iterator[Certificates]:
    """A node in the background, with a certificate of an authority that this machine does not believe."""
    certificates = make_certificates(folder)
    (folder / "node.yaml").write_text(CONFIG.format(server=certificates.server))
    types(folder, "start", "--config", "node.yaml", "--detach")
    try:
        yield certificates
    finally:
        types(folder, "stop")


def node_file(folder: Path) -> Path:
    return folder / "state" / "node.json"


def test_every_way_of_a_command_to_its_node_goes_over_tls(tmp_path: Path) -> None:
    with node_over_tls(tmp_path):
        assert json.loads(node_file(tmp_path).read_text())["http"].startswith("https://127.0.0.1:")
        assert "https://127.0.0.1:" in types(tmp_path, "status")
        assert json.loads(types(tmp_path, "servers", "--json"))["servers"] == []
        assert "ready" in types(tmp_path, "logs")
        types(tmp_path, "reload")


def test_a_command_believes_the_nodes_own_certificate_alone(tmp_path: Path) -> None:
    with node_over_tls(tmp_path):
        true = node_file(tmp_path).read_text()
        lie = json.loads(true)
        lie["certificate"] = "0" * 64
        node_file(tmp_path).write_text(json.dumps(lie))

        said = types(tmp_path, "status", code=4)
        del lie["certificate"]
        node_file(tmp_path).write_text(json.dumps(lie))
        unknown = types(tmp_path, "status", code=4)

        node_file(tmp_path).write_text(true)

    assert "its certificate is not the one that the node has written down" in said
    assert "CERTIFICATE_VERIFY_FAILED" in unknown


def test_the_official_client_believes_whom_the_issuer_vouches_for(tmp_path: Path) -> None:
    async def converse(certificates: Certificates, about: dict[str, str], token: str) -> str:
        async with (
            asyncio.timeout(CONVERSATION_TIMEOUT),
            httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {token}"},
                verify=ssl.create_default_context(cafile=certificates.ca),
            ) as http,
            Client(streamable_http_client(f"{about['http']}/mcp", http_client=http)) as client,
        ):
            assert (await client.list_tools()).tools == []
            return client.server_info.name

    with node_over_tls(tmp_path) as certificates:
        about = json.loads(node_file(tmp_path).read_text())
        token = Path(about["tokenFile"]).read_text().strip()
        assert asyncio.run(converse(certificates, about, token)) == "mcpv-node"


@pytest.mark.parametrize("verb", ["validate", "start"])
def test_a_certificate_that_is_not_there_is_said_before_anything_runs(tmp_path: Path, verb: str) -> None:
    (tmp_path / "node.yaml").write_text(CONFIG.format(server="missing.pem"))

    said = types(tmp_path, verb, "--config", "node.yaml", code=3 if verb == "validate" else 1)

    assert f"listen.tls.cert: {tmp_path}/missing.pem cannot be read: No such file or directory" in said
