from __future__ import annotations

import stat
from pathlib import Path

import pytest

from mcpv_node.actors.world import Selector
from mcpv_node.gateway.auth import (
    DEFAULT_AUTHORITY,
    AuthError,
    Authority,
    TokenTable,
    bearer_of,
    check_exposure,
    is_host_allowed,
    is_loopback,
    is_origin_allowed,
    load_tokens,
    needs_token,
    read_or_create_token,
)
from mcpv_node.settings import AuthSettings, ServerName, TokenSettings

HOSTS = [
    # host header, what the door listens on, allowed names, whether it may pass
    ("127.0.0.1:8090", "127.0.0.1", (), True),
    ("127.0.0.1", "127.0.0.1", (), True),
    ("localhost:8090", "127.0.0.1", (), True),
    ("LOCALHOST:1", "127.0.0.1", (), True),
    ("[::1]:8090", "127.0.0.1", (), True),
    ("[::1]", "::1", (), True),
    ("evil.example", "127.0.0.1", (), False),
    ("evil.example:8090", "127.0.0.1", (), False),
    ("localhost.evil.example", "127.0.0.1", (), False),
    ("127.0.0.1.evil.example", "127.0.0.1", (), False),
    ("localhost:8090@evil.example", "127.0.0.1", (), False),
    ("localhost:port", "127.0.0.1", (), False),
    ("[::1", "127.0.0.1", (), False),
    ("[::1]x", "127.0.0.1", (), False),
    ("", "127.0.0.1", (), False),
    (None, "127.0.0.1", (), False),
    ("10.0.0.7", "127.0.0.1", (), False),
    ("box.lan:8090", "127.0.0.1", ("box.lan",), True),
    ("box.lan:8090", "127.0.0.1", ("box.lan:8090",), True),
    ("box.lan:9999", "127.0.0.1", ("box.lan:8090",), False),
    ("10.0.0.7:8090", "0.0.0.0", (), True),
    ("[fe80::1]:8090", "::", (), True),
    ("evil.example", "0.0.0.0", (), False),
    ("localhost", "0.0.0.0", (), True),
    ("10.0.0.7:1", "10.0.0.7", (), True),
    ("localhost", "10.0.0.7", (), False),
]


@pytest.mark.parametrize(("host", "bound", "allowed", "passes"), HOSTS)
def test_a_host_header_passes_only_when_it_names_this_node(
    host: str | None, bound: str, allowed: tuple[str, ...], passes: bool
) -> None:
    assert is_host_allowed(host, bound=bound, allowed=allowed) is passes


ORIGINS = [
    # origin, host, scheme, allowed, whether it may pass
    (None, "localhost:8090", "http", (), True),
    ("http://localhost:8090", "localhost:8090", "http", (), True),
    ("HTTP://LocalHost:8090", "localhost:8090", "http", (), True),
    ("http://localhost", "localhost:80", "http", (), True),
    ("https://localhost", "localhost", "https", (), True),
    ("https://localhost:8090", "localhost:8090", "http", (), False),
    ("http://localhost:3000", "localhost:8090", "http", (), False),
    ("http://[::1]:8090", "[::1]:8090", "http", (), True),
    ("http://[::1]", "[::1]", "http", (), True),
    ("null", "localhost:8090", "http", (), False),
    ("", "localhost:8090", "http", (), False),
    ("http://evil.example", "localhost:8090", "http", (), False),
    ("http://localhost:8090.evil.example", "localhost:8090", "http", (), False),
    ("https://app.example", "localhost:8090", "http", ("https://app.example",), True),
    ("https://app.example/", "localhost:8090", "http", ("https://app.example",), True),
    ("http://app.example", "localhost:8090", "http", ("https://app.example",), False),
]


@pytest.mark.parametrize(("origin", "host", "scheme", "allowed", "passes"), ORIGINS)
def test_an_origin_passes_only_when_it_is_the_nodes_own_or_configured(
    origin: str | None, host: str, scheme: str, allowed: tuple[str, ...], passes: bool
) -> None:
    assert is_origin_allowed(origin, host=host, scheme=scheme, allowed=allowed) is passes


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer abc", "abc"),
        ("Bearer  abc ", "abc"),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic abc", None),
        ("abc", None),
        ("", None),
        (None, None),
    ],
)
def test_a_token_is_read_from_a_bearer_header_only(header: str | None, token: str | None) -> None:
    assert bearer_of(header) == token


@pytest.mark.parametrize(
    ("path", "loopback", "needed"),
    [
        ("/healthz", True, False),
        ("/readyz", True, False),
        ("/healthz", False, True),
        ("/metrics", True, True),
        ("/mcp", True, True),
        ("/api/v1/node", True, True),
        ("/healthz/", True, True),
    ],
)
def test_only_the_health_routes_of_a_loopback_door_need_no_token(
    path: str, loopback: bool, needed: bool
) -> None:
    assert needs_token(path, loopback=loopback) is needed


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],
)
def test_loopback_is_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_door_that_others_reach_is_refused_without_a_token() -> None:
    check_exposure("0.0.0.0", has_tokens=True)
    check_exposure("127.0.0.1", has_tokens=False)
    with pytest.raises(AuthError, match=r"0\.0\.0\.0"):
        check_exposure("0.0.0.0", has_tokens=False)


def test_the_token_file_is_made_once_and_for_its_user_only(tmp_path: Path) -> None:
    path = tmp_path / "token"

    first, second = read_or_create_token(path), read_or_create_token(path)

    assert first == second
    assert len(first) >= 43
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_file_that_others_may_read_is_closed_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")
    path.chmod(0o644)

    assert read_or_create_token(path) == "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "\n", "two words", "tab\tbed", "sch\u00fctz"])
def test_a_token_file_without_one_token_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)

    with pytest.raises(AuthError, match="token file"):
        read_or_create_token(path)


def test_tokens_stand_for_their_names_and_selectors(tmp_path: Path) -> None:
    (tmp_path / "ci").write_text("ci-token\n")
    auth = AuthSettings(tokens=(TokenSettings(name="ci", file=str(tmp_path / "ci"), server="fs"),))

    table = load_tokens(auth, "mine")

    assert table.find("mine") == DEFAULT_AUTHORITY
    assert table.find("ci-token") == Authority("ci", Selector(server=ServerName("fs")))
    assert table.find("other") is None
    assert table.find("") is None
    assert table.find("\udcff") is None


def test_a_table_shows_no_token() -> None:
    table = TokenTable([("very-secret", DEFAULT_AUTHORITY)])

    assert b"very-secret" not in repr(table._entries).encode()
