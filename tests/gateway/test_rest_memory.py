"""What the REST part brings into the node's memory."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
from unittest.mock import MagicMock
from mcpv_node.gateway.rest import create_rest_app

services = MagicMock()
services.version = "1"
create_rest_app(services, MagicMock(), MagicMock())
print(sorted({"pydantic", "attrs", "attr"} & set(sys.modules)))
"""


def test_the_rest_part_does_not_load_what_only_others_use_though_it_is_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stderr == ""
    assert done.stdout == "[]\n"
