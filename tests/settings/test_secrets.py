"""What of the settings is a secret is found wherever it stands."""

from __future__ import annotations

from typing import Any

import pytest

from mcpv_node.settings import NodeSettings, OAuthSettings, ServerName, ServerSpec, secret_values


def secrets_of(**given: Any) -> frozenset[str]:
    spec = ServerSpec(name=ServerName("one"), **given)
    return secret_values(NodeSettings(servers=(spec,)))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"env": {"GITHUB_TOKEN": "ghp_abcdef", "HOME_TOWN": "Springfield"}}, {"ghp_abcdef"}),
        ({"env": {"API_KEY": "k-123456", "MONKEY": "bananas"}}, {"k-123456"}),
        ({"env": {"DB_PASSWORD": "hunter2!"}}, {"hunter2!"}),
        ({"env": {"TOKEN": "short"}}, set()),
        ({"env": {"DATABASE_URL": "postgres://me:s3cr%40et@db/x"}}, {"s3cr%40et", "s3cr@et"}),
        ({"headers": {"Authorization": "Bearer abcdefgh"}}, {"Bearer abcdefgh", "abcdefgh"}),
        ({"headers": {"X-Anything": "opaque-value"}}, {"opaque-value"}),
        ({"url": "https://h/mcp?api_key=abcdef&x=visible1"}, {"abcdef"}),
        ({"oauth": OAuthSettings(client_id="me", client_secret="s3cret-s")}, {"s3cret-s"}),
        ({"args": ("--token", "abc-def", "--port", "123456")}, {"abc-def"}),
        ({"args": ("--api-key=abc-def", "plain-argument")}, {"abc-def"}),
        ({"proxy": "http://me:passw0rd@proxy:1"}, {"passw0rd"}),
    ],
)
def test_a_secret_is_known_by_where_it_stands(given: dict[str, Any], found: set[str]) -> None:
    assert secrets_of(**given) == found


def test_a_key_of_several_lines_is_known_by_each_of_its_long_ones() -> None:
    key = "-----BEGIN KEY-----\nMIIEvAIBADANBgkqhkiG\nshort\n"

    assert secrets_of(env={"PRIVATE_KEY": key}) >= {"MIIEvAIBADANBgkqhkiG"}
