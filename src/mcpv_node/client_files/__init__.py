"""The configuration files of MCP clients: what stands in them, as entries of ours, and what of ours goes into them.

# Layout

`clients` is the table of clients: where their files are and how they are written; `documents` reads their text and
changes one place in it; `entries` finds the servers in a text; `translate` makes our entries of them (`variables`
of their variables); `wrappers` finds the program behind `npx` and `uvx`; `pointers` writes the entry that points a
client at a node. Pure but for `wrappers`, which looks at what is installed; nothing found is ever run.
"""

from __future__ import annotations

from .clients import CLIENTS, Client, client_file
from .documents import DocumentError, put
from .entries import Found, find_entries
from .pointers import Pointer, over_http, over_stdio
from .translate import Translated, translate
from .wrappers import Installed, unwrap

__all__ = [
    "CLIENTS",
    "Client",
    "DocumentError",
    "Found",
    "Installed",
    "Pointer",
    "Translated",
    "client_file",
    "find_entries",
    "over_http",
    "over_stdio",
    "put",
    "translate",
    "unwrap",
]
