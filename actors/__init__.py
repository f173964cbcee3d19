"""Everything that lives and answers messages; one owner per file.

# Layout

`kernel` is what actors are made of. `server_type` and `instance` own the servers; `index`, `subscribers` and `store`
the catalog, which `snapshot` merges and `world` shows; `probe` learns one server's lists, `status` says how far that and the starts are; `guard` makes sure that
nothing outlives the node; `clients` knows who is there, `watches` who hears of which resource, `events` remembers what happened, `audit` writes down who asked for what, `herald` tells a service manager how it stands. `callers`, `leases` and `context` are the words between.
"""

from .audit import Audit
from .clients import Clients
from .context import NodeContext
from .events import Events
from .guard import Guard
from .herald import Herald
from .index import Index
from .instance.actor import Instance
from .instance.http import HttpInstance
from .instance.stdio import StdioInstance
from .probe import Probe
from .server_type.actor import ServerType
from .server_type.suspended import SuspendedServer
from .store import Store
from .subscribers import Roster, Subscribers
from .watches import Watches
from .world import Server, World, WorldCell

__all__ = [
    "Audit",
    "Clients",
    "Events",
    "Guard",
    "Herald",
    "HttpInstance",
    "Index",
    "Instance",
    "NodeContext",
    "Probe",
    "Server",
    "ServerType",
    "SuspendedServer",
    "StdioInstance",
    "Store",
    "Roster",
    "Subscribers",
    "Watches",
    "World",
    "WorldCell",
]
