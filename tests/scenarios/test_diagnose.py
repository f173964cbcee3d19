"""What helps to find a fault, in one file: with a node, without one, with one that hangs; and never a secret."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from support.nodes import BadServer, environment, log_path, running_node

from mcpv_node.cli.diagnose import unused_path

# One for each way in which a secret comes into a node or out of a server.
SECRETS = {
    "env": "env-hunter2-and-more",
    "plain env": 'plain "quoted" \\ hunter3',
    "header": "header-hunter4-and-more",
    "argument": "argument-hunter5-and-more",
    "file": "file-hunter6-and-more",
    "password": "url-hunter7-and-more",
    "query": "query-hunter8-and-more",
    "token file": "ci-token-hunter9-and-more",
    "collector": "collector-hunter10-and-more",
    "grant": "grant-hunter11-and-more",
}

# Tells all it was given, on stderr and in its failures.
SERVER = """
import json, os, sys
said = " ".join([*sys.argv, os.environ["API_TOKEN"], os.environ["PLAIN"]])
print("I know", said, file=sys.stderr, flush=True)
print(json.dumps({"known": said}), file=sys.stderr, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        error = {"code": -32000, "message": "no luck with " + said}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}), flush=True)
"""


def bundle_of(path: Path) -> dict[str, str]:
    """Every file of a bundle, by its name."""
    with tarfile.open(path) as archive:
        files = {one.name: archive.extractfile(one) for one in archive.getmembers()}
        return {
            name.removeprefix("mcpv-node-diagnose/"): file.read().decode()
            for name, file in files.items()
            if file is not None
        }


def diagnose(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [
            *(sys.executable, "-P", "-m", "mcpv_node", "diagnose", "--json"),
            *("--state-dir", str(folder / "state"), *words),
        ],
        env={**environment(folder), **environ},
        cwd=folder,
        capture_output=True,
        timeout=60,
        check=False,
    )


def talkative(folder: Path) -> list[dict[str, Any]]:
    """Servers that are given every secret there is."""
    script = folder / "server.py"
    script.write_text(SERVER)
    (folder / "secret.txt").write_text(SECRETS["file"] + "\n")
    stdio = {
        "name": "leaky",
        "command": sys.executable,
        "args": [str(script), "--api-key", SECRETS["argument"], "${file:secret.txt}"],
        "env": {"API_TOKEN": SECRETS["env"], "PLAIN": SECRETS["plain env"]},
        "restart": {"maxRetries": 0},
    }
    http = {
        "name": "far",
        "transport": "streamable-http",
        "url": f"http://someone:{SECRETS['password']}@127.0.0.1:1/mcp?x={SECRETS['query']}",
        "headers": {"X-Any": SECRETS["header"]},
        "restart": {"maxRetries": 0},
    }
    return [stdio, http]


def test_no_secret_is_in_a_bundle_wherever_it_was_said(tmp_path: Path) -> None:
    (tmp_path / "ci.token").write_text(SECRETS["token file"])
    settings = {
        "auth": {"tokens": [{"name": "ci", "file": "ci.token"}]},
        "telemetry": {"otlp": {"endpoint": "http://127.0.0.1:1", "headers": {"k": SECRETS["collector"]}}},
        "log": {"file": "own.log", "level": "debug"},
    }
    path = tmp_path / "bundle.tar.gz"
    with running_node(tmp_path, talkative(tmp_path), **settings) as node:
        grants = node.state_dir / "oauth"
        grants.mkdir(exist_ok=True)
        (grants / "x.json").write_text(json.dumps({"tokens": {"access_token": SECRETS["grant"]}}))
        for name in ("leaky", "far"):
            node.rest("POST", f"servers/{name}/start?wait=20")
        # As a node in the background has it; with what no mask of the node has seen.
        raw = "\n".join([log_path(tmp_path).read_text(), *SECRETS.values(), node.token])
        (node.state_dir / "node.log").write_text(raw)

        done = diagnose(tmp_path, "--output", str(path))

        files = bundle_of(path)
        token = node.token
    assert done.returncode == 0, done.stderr
    for what, secret in {**SECRETS, "token": token}.items():
        for form in (secret, json.dumps(secret)[1:-1]):
            assert form not in done.stdout.decode(), what
            assert [name for name, text in files.items() if form in text] == [], what
    assert files["node.log"].count("***") >= len(SECRETS)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_bundle_has_what_the_node_says_and_what_lies_in_its_folder(tmp_path: Path) -> None:
    one = BadServer(tmp_path, "one")
    with running_node(tmp_path, [one.entry()]) as node, node.session() as session:
        node.until_learnt(["one"])
        session.text("one_echo", text="hello")

        done = diagnose(tmp_path)

    said = json.loads(done.stdout)
    files = bundle_of(Path(said["path"]))
    assert {part["name"] for part in said["parts"]} == files.keys() - {"manifest.json"}
    assert files.keys() >= {
        "versions.json",
        "config.json",
        "state-files.txt",
        "ledger.jsonl",
        "process.txt",
        "health.json",
        "node.json",
        "tree.json",
        "servers.json",
        "why/one.json",
        "clients.json",
        "catalog.json",
        "events.jsonl",
        "metrics.txt",
        "logs.jsonl",
    }
    assert said["leftOut"] == {}
    assert json.loads(files["versions.json"])["packages"]["pykka"]
    assert json.loads(files["why/one.json"])["name"] == "one"
    assert 'mcpv_calls_total{outcome="ok",server="one"} 1.0' in files["metrics.txt"]
    assert json.loads(files["health.json"])["/healthz"]["status"] == 200
    kinds = {json.loads(line)["kind"] for line in files["events.jsonl"].splitlines()}
    assert {"server_state", "instance_state", "session_opened"} <= kinds
    assert "state/token" not in files["state-files.txt"]
    assert " token" in files["state-files.txt"]
    manifest = json.loads(files["manifest.json"])
    assert (manifest["node"], manifest["leftOut"]) == (node.pid, [])


def test_without_a_node_there_is_less_and_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("servers: []")

    done = diagnose(tmp_path, "--config", "node.yaml", "--output", "b.tar.gz")
    again = diagnose(tmp_path, "--output", "b.tar.gz")

    said = json.loads(done.stdout)
    files = bundle_of(tmp_path / "b.tar.gz")
    assert done.returncode == 0, done.stderr
    assert {"versions.json", "config.json", "manifest.json"} <= files.keys()
    assert "no node runs" in said["leftOut"]["node"]
    assert json.loads(files["manifest.json"])["leftOut"]
    assert again.returncode == 1
    assert "is there already" in json.loads(again.stderr)["error"]


def test_two_bundles_of_one_second_are_two_files(tmp_path: Path) -> None:
    stem = str(tmp_path / "mcpv-node-diagnose-20261127-224926")
    (tmp_path / f"{stem}.tar.gz").touch()

    second = unused_path(stem)
    second.symlink_to("nowhere")
    third = unused_path(stem)

    assert (second.name, third.name) == (
        "mcpv-node-diagnose-20261127-224926-2.tar.gz",
        "mcpv-node-diagnose-20261127-224926-3.tar.gz",
    )


def test_a_configuration_that_cannot_be_read_is_said_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("servers: 7\n")

    done = diagnose(tmp_path, "--config", "node.yaml")

    assert "servers" in json.loads(done.stdout)["leftOut"]["config.json"]


def test_a_node_that_hangs_costs_one_wait_and_leaves_what_lies_on_disk(tmp_path: Path) -> None:
    with running_node(tmp_path, []) as node:
        os.kill(node.pid, signal.SIGSTOP)
        try:
            done = diagnose(tmp_path)
        finally:
            os.kill(node.pid, signal.SIGCONT)

    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert {"versions.json", "config.json", "process.txt"} <= {part["name"] for part in said["parts"]}
    assert "did not answer within" in said["leftOut"]["servers.json"]
