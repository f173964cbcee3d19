"""Which names are those of secrets, and which only look like it."""

from __future__ import annotations

import pytest

from mcpv_node.secret_names import is_secret_name


@pytest.mark.parametrize(
    "name",
    [
        *("TOKEN", "GITHUB_TOKEN", "githubToken", "--token", "authtoken", "API_TOKENS", "x-auth-token"),
        *(
            "API_KEY",
            "api-key",
            "apiKey",
            "APIKey",
            "apikey",
            "openaikey",
            "KEY",
            "X-Key",
            "AWS_ACCESS_KEY_ID",
        ),
        *("PRIVATE_KEY", "SSH_KEY_DATA", "signingKey", "secretAccessKey"),
        *("DB_PASSWORD", "passwd", "PGPASSWORD", "MYSQL_PWD", "DB_PASS", "passphrase", "GITHUB_PAT"),
        *("CLIENT_SECRET", "clientSecret", "SECRETS", "credentials", "AUTH", "Authorization", "OAUTH_CLIENT"),
        *("COOKIE", "SESSION_JWT", "SENTRY_DSN", "bearer"),
    ],
)
def test_it_is_a_secrets_name(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("tokenFile", "TOKEN_FILE", "--token-file", "maxTokens", "MAX_TOKENS", "max-tokens", "TOKEN_LIMIT"),
        *("TOKENIZER", "AUTHOR", "--author", "AUTH_URL", "TOKEN_ENDPOINT", "authMode", "tokenTtl"),
        *("specKey", "spec_key", "PUBLIC_KEY", "MONKEY", "KEYBOARD", "KEY_PREFIX", "keywords"),
        *("PATH", "PWD", "OLDPWD", "COMPATIBILITY", "PASSENGERS", "HOME_TOWN", "server", "instance", "", "-"),
    ],
)
def test_it_is_nothing_of_the_kind(name: str) -> None:
    assert not is_secret_name(name)
