"""How the node names itself to its clients."""

from __future__ import annotations

from typing import Final

import msgspec

from mcpv_node.version import VERSION

SERVER_NAME: Final = "mcpv-node"

# The JSON of an Implementation.
SERVER_INFO: Final = msgspec.json.encode({"name": SERVER_NAME, "version": VERSION})
