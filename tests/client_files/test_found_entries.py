"""What stands in the files of real clients, as entries of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcpv_node.client_files import DocumentError, Translated, find_entries, translate

HOME = Path("/home/me")
KNOWN = {"HOME", "TOKEN", "API_KEY"}

CLAUDE_DESKTOP = """\
{
  // Settings, Developer, Edit Config
  "mcpServers": {
    "Memory Bank": {"command": "npx", "args": ["-y", "server-memory", "a$b"], "env": {"N": 1, "FLAG": true}},
  },
}
"""

CLAUDE_CODE: dict[str, Any] = {
    "numStartups": 7,
    "mcpServers": {
        "api": {
            "type": "http",
            "url": "${BASE:-https://x.example}/mcp",
            "headers": {"Authorization": "Bearer ${TOKEN}"},
        },
        "old": {"type": "sse", "url": "https://x.example/events"},
        "chat": {"type": "ws", "url": "wss://x.example"},
    },
    "projects": {
        "/src/app": {
            "mcpServers": {"db": {"command": "./db", "args": ["${CLAUDE_PROJECT_DIR}/x"]}},
            "history": [],
        }
    },
}

CURSOR: dict[str, Any] = {
    "mcpServers": {
        "k": {
            "command": "k",
            "args": ["${userHome}/x"],
            "env": {"KEY": "${env:API_KEY}", "M": "${env:MISSING}"},
        },
        "signs-in": {"url": "https://x.example/mcp", "auth": {"CLIENT_ID": "me"}},
    }
}

VSCODE = """\
{
  "inputs": [{"type": "promptString", "id": "gh-token", "password": true}],
  "servers": {
    "gh": {"type": "http", "url": "https://x.example/mcp", "headers": {"Authorization": "Bearer ${input:gh-token}"}},
    "local": {"type": "stdio", "command": "${workspaceFolder}/run", "cwd": "sub", "envFile": ".env"},
    "socket": {"type": "http", "url": "unix:///tmp/s#/mcp"}, // not HTTP
  }
}
"""

WINDSURF: dict[str, Any] = {
    "mcpServers": {
        "r": {"serverUrl": "https://x.example/sse", "disabled": True, "disabledTools": ["a"]},
        "s": {"serverUrl": "https://x.example/mcp", "headers": {"K": "${env:API_KEY}"}},
    }
}

CODEX = """\
model = "x"

[mcp_servers.docs]
command = "docs-server"
args = ["--port", "8080"]
env_vars = ["API_KEY", { name = "MISSING", source = "local" }]
startup_timeout_sec = 20
tool_timeout_sec = 120.5
enabled_tools = ["search"]

[mcp_servers.docs.env]
MODE = "fast"

[mcp_servers.remote]
url = "https://x.example/mcp"
bearer_token_env_var = "TOKEN"
http_headers = { "X-Team" = "a" }
env_http_headers = { "X-Key" = "API_KEY" }
enabled = false
"""

GEMINI: dict[str, Any] = {
    "theme": "dark",
    "mcp": {"excluded": ["out"]},
    "mcpServers": {
        "a": {"command": "a", "env": {"K": "$API_KEY", "L": "${TOKEN}"}, "timeout": 30000, "trust": True},
        "b": {"httpUrl": "https://x.example/mcp", "includeTools": ["t"]},
        "c": {"url": "https://x.example/stream"},
        "out": {"command": "out"},
    },
}


def read(text: str | dict[str, Any], file: str) -> dict[str, Translated]:
    """Find and translate everything in a file of this name."""
    text = text if isinstance(text, str) else json.dumps(text)
    found = find_entries(text, HOME / file)
    return {
        one.name: translate(one, known=KNOWN, own_addresses=["http://127.0.0.1:8090/mcp"]) for one in found
    }


def entry(text: str | dict[str, Any], file: str, name: str) -> dict[str, Any]:
    return dict(read(text, file)[name].entry or {})


def test_claude_desktop_with_comments_and_commas_at_the_end() -> None:
    one = read(CLAUDE_DESKTOP, "claude_desktop_config.json")["Memory Bank"]

    assert one.entry == {
        "name": "memory-bank",
        "command": "npx",
        # A dollar means nothing to this client.
        "args": ["-y", "server-memory", "a$$b"],
        "env": {"N": "1", "FLAG": "true"},
    }
    assert one.notes == ("named memory-bank (was Memory Bank)",)
    assert one.found.key_path == "mcpServers.Memory Bank"


def test_claude_code_keeps_its_variables_and_its_projects() -> None:
    all_of_it = read(CLAUDE_CODE, ".claude.json")

    assert all_of_it["api"].entry == {
        "name": "api",
        "transport": "streamable-http",
        "url": "${BASE:-https://x.example}/mcp",
        "headers": {"Authorization": "Bearer ${TOKEN}"},
    }
    assert all_of_it["old"].entry == {"name": "old", "transport": "sse", "url": "https://x.example/events"}
    assert all_of_it["db"].entry == {
        "name": "db",
        "command": "./db",
        "args": ["/src/app/x"],
        "cwd": "/src/app",
    }
    assert all_of_it["db"].found.key_path == "projects./src/app.mcpServers.db"
    assert (all_of_it["chat"].entry, all_of_it["chat"].problem) == (
        None,
        "its transport is ws; here are stdio, streamable-http and sse",
    )


def test_cursor_names_the_environment() -> None:
    one = read(CURSOR, ".cursor/mcp.json")["k"]

    assert one.entry is not None
    assert one.entry["args"] == ["${HOME}/x"]
    assert one.entry["env"] == {"KEY": "${API_KEY}", "M": "${MISSING:-}"}


def test_an_entry_that_lacks_something_is_disabled_and_says_what() -> None:
    cursor, vscode = read(CURSOR, ".cursor/mcp.json"), read(VSCODE, "p/.vscode/mcp.json")

    assert [one.entry and one.entry["disabled"] for one in (*cursor.values(), vscode["gh"])] == [
        True,
        True,
        True,
    ]
    assert cursor["k"].notes == (
        "set MISSING where the node starts",
        "made disabled; then `mcpv-node server enable k`",
    )
    assert "it signs in: see the key oauth" in cursor["signs-in"].notes
    assert "set GH_TOKEN where the node starts (the client asks its user for it)" in vscode["gh"].notes
    assert "its variables are in a file: put them into env" in vscode["local"].notes


def test_vs_code_runs_in_its_workspace() -> None:
    one = entry(VSCODE, "p/.vscode/mcp.json", "local")

    assert (one["command"], one["cwd"]) == ("/home/me/p/run", "/home/me/p/sub")
    assert (
        read(VSCODE, "p/.vscode/mcp.json")["socket"].problem
        == "its address is unix:, which is not spoken here"
    )


def test_windsurf_calls_its_address_otherwise_and_may_have_switched_it_off() -> None:
    all_of_it = read(WINDSURF, ".codeium/windsurf/mcp_config.json")

    assert all_of_it["r"].entry == {
        "name": "r",
        "transport": "sse",
        "url": "https://x.example/sse",
        "disabled": True,
    }
    assert all_of_it["r"].notes == (
        "it is switched off in the client, and stays so",
        "not taken over: disabledTools",
    )
    assert all_of_it["s"].entry is not None
    assert all_of_it["s"].entry["headers"] == {"K": "${API_KEY}"}


def test_codex_writes_toml_seconds_and_names_of_variables() -> None:
    assert entry(CODEX, ".codex/config.toml", "docs") == {
        "name": "docs",
        "command": "docs-server",
        "args": ["--port", "8080"],
        "env": {"MODE": "fast", "API_KEY": "${API_KEY}", "MISSING": "${MISSING:-}"},
        "exposeTools": ["search"],
        "startTimeoutSeconds": 20,
        "callTimeoutSeconds": 120.5,
        "disabled": True,
    }
    assert entry(CODEX, "pasted.txt", "remote") == {
        "name": "remote",
        "transport": "streamable-http",
        "url": "https://x.example/mcp",
        "headers": {"X-Team": "a", "X-Key": "${API_KEY}", "Authorization": "Bearer ${TOKEN}"},
        "disabled": True,
    }


def test_gemini_has_bare_variables_milliseconds_and_its_own_words_for_addresses() -> None:
    all_of_it = read(GEMINI, ".gemini/settings.json")
    entries = {name: dict(one.entry or {}) for name, one in all_of_it.items()}

    assert entries["a"]["env"] == {"K": "${API_KEY}", "L": "${TOKEN}"}
    assert entries["a"]["callTimeoutSeconds"] == 30
    assert (entries["b"]["transport"], entries["b"]["exposeTools"]) == ("streamable-http", ["t"])
    assert entries["c"]["transport"] == "sse"
    assert entries["out"]["disabled"] is True


@pytest.mark.parametrize(
    "said",
    [
        {"command": "/opt/mcpv-node/bin/mcpv-node", "args": ["stdio"]},
        {"command": "python3", "args": ["-P", "-m", "mcpv_node", "stdio"]},
        {"url": "http://127.0.0.1:8090/mcp"},
        {"type": "http", "url": "http://127.0.0.1:8090/mcp/server/x"},
    ],
)
def test_the_node_itself_is_left_out(said: dict[str, Any]) -> None:
    one = read({"mcpServers": {"mcpv": said}}, "mcp.json")["mcpv"]

    assert (one.entry, one.problem) == (None, "this is the node itself")


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("GitHub (prod)", "github-prod"),
        ("_x", "x"),
        ("Ü", "server"),
        ("a" * 40, "a" * 32),
        ("a.b/c", "a-b-c"),
    ],
)
def test_names_become_valid(name: str, clean: str) -> None:
    assert entry({"mcpServers": {name: {"command": "x"}}}, "mcp.json", name)["name"] == clean


@pytest.mark.parametrize(
    ("root", "text"),
    [
        ("settings of VS Code", {"mcp": {"servers": {"a": {"command": "x"}}}}),
        ("a dev container", {"customizations": {"vscode": {"mcp": {"servers": {"a": {"command": "x"}}}}}}),
        ("settings with dotted keys", {"mcp.servers": {"a": {"command": "x"}}}),
        ("an unknown client", {"mcpServers": {"a": {"command": "x"}}}),
    ],
)
def test_servers_are_found_inside_of(root: str, text: dict[str, Any]) -> None:
    assert entry(text, "settings.json", "a")["command"] == "x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ('{"a": 1,\n x y}', r"is not JSON \(line 2\)"),
        ("[]x", "is not TOML"),
        ('{"a": ["s3cret"]}', "has no servers"),
        ("[" * 500, "is not TOML"),
        ('{"a": ' + "[" * 500, "nested too deeply"),
    ],
)
def test_what_is_no_clients_file_is_refused_without_quoting_it(text: str, said: str) -> None:
    with pytest.raises(DocumentError, match=said) as refused:
        find_entries(text, Path("/x.json"))

    assert "s3cret" not in str(refused.value)


def test_a_server_that_is_not_one_says_what_it_lacks() -> None:
    assert read({"mcpServers": {"a": {}}}, "x.json")["a"].problem == "it has neither a command nor a url"
    assert read({"mcpServers": {"a": 5}}, "x.json")["a"].problem == "it has neither a command nor a url"
