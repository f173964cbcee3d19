"""What the configuration may say of audit, rates and an authorization server, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpv_node.settings import IssuerSettings, NodeSettings, SettingsError, load_settings


def load(folder: Path, text: str) -> NodeSettings:
    file = folder / "runtime.yaml"
    file.write_text(f"servers: []\n{text}\n")
    return load_settings(file, environ={}).settings


def test_everything_is_off_unless_it_is_said(tmp_path: Path) -> None:
    settings = load(tmp_path, "")

    assert (settings.log.audit, settings.auth.oauth, settings.limits.requests_per_minute) == (None, None, 0)


def test_an_audit_is_relative_to_its_file_and_beside_what_else_is_said(tmp_path: Path) -> None:
    settings = load(tmp_path, "log: {audit: logs/audit.jsonl, file: node.log}")

    assert settings.log.audit == str(tmp_path / "logs/audit.jsonl")
    assert settings.log.file == str(tmp_path / "node.log")


def test_an_issuer_stands_beside_tokens_and_names(tmp_path: Path) -> None:
    text = """\
auth:
  allowedHosts: [node.example]
  oauth:
    issuer: https://auth.example
    audience: https://node.example/mcp
    requiredScopes: [mcp, "tools:call"]
    principalClaim: email
"""

    settings = load(tmp_path, text)

    assert settings.auth.allowed_hosts == ("node.example",)
    assert settings.auth.oauth == IssuerSettings(
        issuer="https://auth.example",
        audience="https://node.example/mcp",
        required_scopes=("mcp", "tools:call"),
        principal_claim="email",
    )


@pytest.mark.parametrize(
    ("oauth", "problem"),
    [
        ("{audience: https://a.example/mcp}", "issuer"),
        ("{issuer: http://auth.example}", "auth.oauth.issuer: is not an https URL"),
        ("{issuer: nowhere}", "auth.oauth.issuer: is not an https URL"),
        (
            "{issuer: https://a.example, jwksUri: http://10.0.0.1/k}",
            "auth.oauth.jwksUri: is not an https URL",
        ),
        ("{issuer: https://a.example, audience: mcp}", "auth.oauth.audience: is not an http or https URL"),
        (
            "{issuer: https://a.example, scopes: ['a b']}",
            "auth.oauth.scopes: holds what is no name of a scope",
        ),
        ("{issuer: https://a.example, requiredScopes: ['a\"']}", "auth.oauth.requiredScopes: holds"),
        ("{issuer: https://a.example, profile: nobody}", 'there is no profile "nobody"'),
        ("{issuer: https://a.example, clientSecret: x}", "auth.oauth.clientSecret: is not a key here"),
    ],
)
def test_an_issuer_that_cannot_be_believed_is_refused_by_its_key(
    tmp_path: Path, oauth: str, problem: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, f"auth: {{oauth: {oauth}}}")

    assert problem in "\n".join(map(str, refused.value.problems))


@pytest.mark.parametrize(
    "issuer", ["http://localhost:9000", "http://127.0.0.1:9000", "http://[::1]:9000/realm"]
)
def test_an_issuer_on_this_machine_needs_no_tls(tmp_path: Path, issuer: str) -> None:
    settings = load(tmp_path, f'auth: {{oauth: {{issuer: "{issuer}"}}}}')

    assert settings.auth.oauth is not None
