"""What a server was given as a secret, and writes to stderr or says as it fails, is shown to nobody."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from support.nodes import log_path, running_node

SECRET = "hunter2-and-more"

# Says its secret on stderr, then in the error of its handshake.
SERVER = """
import json, os, sys
secret = os.environ["API_TOKEN"]
print("my token is", secret, file=sys.stderr, flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "id" in asked:
        error = {"code": -32000, "message": "no luck with " + secret}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}), flush=True)
"""


def test_a_secret_on_stderr_and_in_a_failure_is_masked_in_reports_events_errors_and_logs(
    tmp_path: Path,
) -> None:
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    entry = {
        "name": "leaky",
        "command": sys.executable,
        "args": [str(script)],
        "env": {"API_TOKEN": SECRET},
        "restart": {"maxRetries": 0, "baseSeconds": 0.1, "maxSeconds": 0.1},
    }
    with running_node(tmp_path, [entry], "--log-level", "debug", bootstrapMode="disabled") as node:
        node.rest("POST", "servers/leaky/start?wait=20")
        report = node.why("leaky")
        everything = json.dumps([report, node.get("servers"), node.get("node"), node.get("tree")])
        with node.session("/mcp/server/leaky") as session:
            failure = session.request("resources/read", uri="x:1").failure()
        events = node.send("GET", "/api/v1/events", headers={"Last-Event-ID": "nothing-0"})
        first = events.response.readline()
        events.hang_up()
        log = log_path(tmp_path).read_text()

    assert first
    assert any("my token is ***" in line for line in report["stderr"]), report
    assert "no luck with ***" in report["reason"], report
    assert SECRET not in everything
    assert SECRET not in json.dumps(failure)
    assert "my token is ***" in log
    assert SECRET not in log
