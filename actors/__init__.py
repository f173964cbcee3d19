"""Everything that lives and answers messages; one owner per file.

# Layout

`kernel` is what actors are made of. `server_type` and `instance` own the servers; `index`, `subscribers` and `store`
the catalog, which `snapshot` merges and `world` shows; `probe` learns one server's lists, `status` says how far that and the starts are; `guard` makes sure that
nothing outlives the node; `clients` knows who is there, `events` remembers what happened. `callers`, `leases` and `context` are the words between.
"""

from .clients import Clients
from .context import NodeContext
from .events import Events
from .guard import Guard
from .index import Index
from .instance.actor import Instance
from .probe import Probe
from .server_type.actor import ServerType
from .store import Store
from .subscribers import Roster, Subscribers
from .world import Server, World, WorldCell

__all__ = [
    "Clients",
    "Events",
    "Guard",
    "Index",
    "Instance",
    "NodeContext",
    "Probe",
    "Server",
    "ServerType",
    "Store",
    "Roster",
    "Subscribers",
    "World",
    "WorldCell",
]
