"""The log of a node that the command line starts holds no secret of its configuration, whoever logs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Runs what `start` does before it makes a node: it changes the logging of its whole process.
PROGRAM = """
import sys
from pathlib import Path
from loguru import logger
from mcpv_node.cli.start import _configure_logging
from mcpv_node.settings import load_settings, secret_values
from mcpv_node.telemetry import Redactor

loaded = load_settings(Path(sys.argv[1]), environ={})
_configure_logging(loaded, Path(sys.argv[1]).parent, None, Redactor(secret_values(loaded.settings)))
logger.info("somebody says hunter2-and-more")
"""


def test_a_secret_of_the_configuration_is_masked_in_the_log(tmp_path: Path) -> None:
    config = tmp_path / "runtime.yaml"
    config.write_text("servers: [{name: a, command: b, env: {API_TOKEN: hunter2-and-more}}]\n")

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(config)], capture_output=True, text=True, timeout=60, check=True
    )

    assert "somebody says ***" in done.stderr
    assert "hunter2" not in done.stderr
