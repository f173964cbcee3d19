"""Each setting in effect knows where it comes from, and no secret comes with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpv_node.settings import hide_secrets, load_settings
from mcpv_node.settings.explain import Explained, explain

RUNTIME = """\
servers:
  - name: a
    command: ${PROGRAM}
    args: [--port, "${PORT:-80}", "${API_TOKEN}"]
    env:
      KEY: s3cret
    restart: {maxRetries: 9}
    strategy: singleton
  - name: b
    url: https://me:s3cret@x.example/mcp?key=s3cret
    tags: ["${file:tag}"]
defaultActivationMode: always-on
"""


def explained(folder: Path) -> dict[str, Explained]:
    (folder / "profiles").mkdir()
    (folder / "runtime.yaml").write_text(RUNTIME)
    (folder / "profiles" / "p.yaml").write_text("\ntools: {deny: [x]}\nservers: [a, {name: c, command: c}]\n")
    (folder / "tag").write_text("s3cret\n")
    environ = {"PROGRAM": "/bin/a", "API_TOKEN": "s3cret"}
    return {one.key: one for one in explain(load_settings(folder, environ=environ))}


def test_a_setting_comes_from_a_line_or_is_a_default(tmp_path: Path) -> None:
    settings = explained(tmp_path)

    retries, base = settings["servers.a.restart.maxRetries"], settings["servers.a.restart.baseSeconds"]
    assert (retries.value, retries.kind, retries.file, retries.line) == (
        9,
        "file",
        tmp_path / "runtime.yaml",
        7,
    )
    assert (base.value, base.kind, base.line) == (1.0, "default", None)
    assert settings["log.level"].kind == "default"


def test_a_variable_or_file_it_came_through_is_named(tmp_path: Path) -> None:
    settings = explained(tmp_path)

    assert (settings["servers.a.command"].value, settings["servers.a.command"].through) == (
        "/bin/a",
        ("PROGRAM",),
    )
    assert settings["servers.a.args"].through == ("PORT", "API_TOKEN")
    assert settings["servers.b.tags"].through == ("file:tag",)


def test_what_follows_from_another_key_says_from_which(tmp_path: Path) -> None:
    settings = explained(tmp_path)

    mode, transport = settings["servers.a.activationMode"], settings["servers.b.transport"]
    assert (mode.value, mode.kind, mode.because_of, mode.line) == (
        "always-on",
        "implied",
        "defaultActivationMode",
        12,
    )
    assert (transport.value, transport.because_of) == ("streamable-http", "servers.b.url")
    assert settings["servers.a.maxInstances"].because_of == "servers.a.strategy"


def test_a_profile_and_the_entries_in_it_have_their_own_file(tmp_path: Path) -> None:
    settings = explained(tmp_path)

    file = tmp_path / "profiles" / "p.yaml"
    assert (settings["profiles.p.tools.deny"].file, settings["profiles.p.tools.deny"].line) == (file, 2)
    assert (settings["servers.c.command"].file, settings["servers.c.command"].line) == (file, 3)


def test_no_secret_is_shown(tmp_path: Path) -> None:
    settings = explained(tmp_path)

    assert "s3cret" not in repr(settings)
    assert settings["servers.a.env.KEY"].value == "***"


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ("--token s3cret x", "--token *** x"),
        ("--api-key=s3cret", "--api-key=***"),
        ("-e KEY=s3cret", "-e KEY=***"),
        ("-e HOME", "-e HOME"),
        ("GITHUB_TOKEN=s3cret", "GITHUB_TOKEN=***"),
        ("MODE=fast --path=/x", "MODE=fast --path=/x"),
        ("PATH=/bin --author me --max-tokens 4096 --token-file /run/t", None),
        ("--passphrase s3cret --cookie=s3cret", "--passphrase *** --cookie=***"),
        ("postgres://u:s3cret@db/x?p=s3cret", "postgres://***@db/x?***"),
        ("--dsn=redis://:s3cret@db", "--dsn=redis://***@db"),
        ("ghp_0123456789abcdefs3cret", "***"),
        ("-y @modelcontextprotocol/server-filesystem@2025.1.14 C:/a", None),
    ],
)
def test_what_looks_like_a_secret_in_a_command_is_hidden(args: str, shown: str | None) -> None:
    assert " ".join(hide_secrets(args.split())) == (shown or args)


@pytest.mark.parametrize("flag", ["--header", "-H"])
def test_the_value_of_a_header_is_hidden(flag: str) -> None:
    assert list(hide_secrets([flag, "X-Key: s3cret", "Authorization: Bearer s3cret"])) == [
        flag,
        "X-Key: ***",
        "Authorization: ***",
    ]
