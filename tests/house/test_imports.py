"""Who may import whom, where each library enters, and the few things that are nowhere.

cli, embedding -> node.py -> gateway, supervisors -> actors -> transports, store, cluster
               -> protocol, settings, telemetry
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.house import PACKAGE, ROOT, Source, parse_source, read_sources

BOTTOM = frozenset({"protocol", "settings", "telemetry", "defaults"})
BORDERS = frozenset({"transports", "store", "cluster"})
ALIVE = frozenset({"actors", *BORDERS, *BOTTOM})

# Small modules of the standard library only, which say what the whole package shares.
SHARED = frozenset({"version", "secret_names"})

# What a folder (or a module directly in the package) may import of the package, itself apart.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "defaults": frozenset(),
    "protocol": frozenset(),
    "settings": frozenset({"defaults"}),
    # What MCP clients write into their configuration files, and what we write there.
    "client_files": frozenset({"settings"}),
    "telemetry": frozenset(),
    "transports": BOTTOM,
    "store": BOTTOM,
    "cluster": BOTTOM,
    "actors": BORDERS | BOTTOM,
    "supervisors": ALIVE,
    "gateway": ALIVE,
    "node": ALIVE | {"supervisors", "gateway", "node_file", "state_dir", "groups", "reload", "bounds"},
    # Parts of the composition root.
    "groups": ALIVE | {"supervisors", "bounds"},
    "reload": ALIVE | {"supervisors", "groups", "bounds"},
    "bounds": frozenset({"settings"}),
    # Who looks after a node from outside: its supervisor, and what service managers are to know.
    "service": frozenset({"supervisors", "transports", "node_file", "settings", "telemetry"}),
    "embedding": ALIVE | {"supervisors", "gateway", "node", "node_file"},
    "cli": ALIVE
    | {
        "supervisors",
        "gateway",
        "node",
        "serving",
        "node_file",
        "embedding",
        "client",
        "client_files",
        "reports",
        "service",
        "state_dir",
        "bounds",
    },
    # Small programs of their own: what the default config runs, and what talks to a node from outside.
    "servers": frozenset({"protocol"}),
    "client": BOTTOM | {"node_file", "reports"},
    "reports": frozenset(),
    # How to reach a node: written by it, read by what talks to it.
    "node_file": frozenset(),
    "serving": frozenset({"node", "node_file"}),
    "state_dir": frozenset(),
    "version": frozenset(),
    "secret_names": frozenset(),
    # The package's public names come from embedding; the program's from cli.
    "__init__": frozenset({"embedding"}),
    "__main__": frozenset({"cli"}),
}

# Time is everybody's; nobody else is imported by siblings.
FOR_EVERYBODY = "mcpv_node.telemetry.clock"

# Where a library enters: a module, or a folder where one module would be artificial.
ENTRANCES: dict[str, tuple[str, ...]] = {
    # The kernel is written on pykka's extension points, and a host's reference to a node is pykka's.
    "pykka": ("actors/kernel/", "embedding/"),
    # The door of a Thespian application, and the supervisor that outlives a node.
    "thespian": ("embedding/thespian.py", "service/supervised.py"),
    "yaml": ("settings/loader.py",),
    # Reads where things stand and writes what is new; what a file means is the loader's.
    "ruamel": ("settings/places.py",),
    # The configuration files of MCP clients.
    "pyjson5": ("client_files/documents.py",),
    "tomlkit": ("client_files/documents.py",),
    "redis": ("cluster/redis.py",),
    "sqlite3": ("store/journal.py",),
    # The guard ends processes alone; `--detach` starts the node that outlives the command, a supervisor the node that
    # it keeps running; a service manager is spoken to by its own program.
    "subprocess": (
        "transports/stdio.py",
        "transports/guard.py",
        "cli/detach.py",
        "service/node_process.py",
        "service/commands.py",
    ),
    "aiohttp": ("transports/http/exchange.py",),
    # OAuth to servers, and nothing else of the SDK.
    "mcp": ("transports/http/oauth.py",),
    "httpx2": ("transports/http/oauth.py",),
    "litestar": ("gateway/",),
    "uvicorn": ("gateway/",),
    "click": ("cli/",),
    "rich": ("cli/",),
    "prometheus_client": ("telemetry/metrics.py",),
    # Traces, where they are configured.
    "opentelemetry": ("telemetry/tracing.py",),
    "cryptography": ("protocol/sealed.py",),
    # Tokens of an authorization server, where one is configured.
    "jwt": ("gateway/issuer.py", "gateway/issuer_keys.py"),
}

# They start in milliseconds or outlive the node: nothing but the standard library when they are imported.
BARE = ("__init__.py", "__main__.py", "cli/__init__.py", "cli/stdio.py", "transports/__init__.py")

# Runs by its path, without the package.
ALONE = ("transports/guard.py",)

READS_THE_CLOCK = ("telemetry/clock.py", "transports/guard.py", "cli/stdio.py")

# Where handlers and hooks of actors run: a CancelledError in one actor must not stop a host's others.
CONTAINS_EVERYTHING = ("actors/kernel/actor.py", "actors/kernel/loop.py", "actors/kernel/thread.py")

LOCKS = frozenset({"Lock", "RLock", "Semaphore", "BoundedSemaphore"})

SOURCES = read_sources()


def wrong_directions(source: Source) -> list[str]:
    """Name each import of a part that is above or beside this one."""
    allowed = MAY_IMPORT.get(source.folder)
    if allowed is None:
        return [f"{source.path}: {source.folder} has no place in the order of imports"]
    wrong: list[str] = []
    for item in source.imports():
        for target in _targets(item.module, item.names):
            parts = target.split(".")
            if parts[0] != "mcpv_node" or len(parts) < 2 or parts[1] == source.folder or parts[1] in allowed:
                continue
            if (target.startswith(FOR_EVERYBODY) or parts[1] in SHARED) and source.folder != "protocol":
                continue
            wrong.append(f"{source.path}:{item.line}: {source.folder} imports {target}")
    return wrong


def wrong_spellings(source: Source) -> list[str]:
    """Name each absolute import of a neighbour file, relative one of another part, and private name from afar."""
    wrong: list[str] = []
    here = ["mcpv_node", *source.path.split("/")[:-1]]
    for item in source.imports():
        parts = item.module.split(".")
        if parts[0] != "mcpv_node" or "/" not in source.path:
            continue
        where = f"{source.path}:{item.line}"
        # A folder inside a folder is a part of its own: both spellings reach it.
        neighbour = parts == here or (parts[:-1] == here and not PACKAGE.joinpath(*parts[1:]).is_dir())
        if neighbour and item.level == 0:
            wrong.append(f"{where}: {item.module} is in the same folder; import it relatively")
        if parts[1:2] != [source.folder] and item.level > 0:
            wrong.append(f"{where}: {item.module} is in another folder; import it absolutely")
        if not neighbour:
            private = [name for name in (*parts, *item.names) if name.startswith("_")]
            wrong += [f"{where}: {name} is private to {item.module}" for name in private]
    return wrong


def wrong_entrances(source: Source) -> list[str]:
    """Name each import of a library outside the place where it enters."""
    return [
        f"{source.path}:{item.line}: {library} enters through {' and '.join(ENTRANCES[library])} only"
        for item in source.imports()
        if (library := item.module.split(".")[0]) in ENTRANCES
        and not any(_is_at(source.path, entrance) for entrance in ENTRANCES[library])
    ]


def foreign_imports(source: Source, *, allowed: frozenset[str], at_import_only: bool) -> list[str]:
    """Name each import from outside the standard library, the source's own folder and `allowed`."""
    own = f"mcpv_node.{source.folder}" if "/" in source.path else "mcpv_node"
    return [
        f"{source.path}:{item.line}: imports {item.module}"
        for item in source.imports()
        if (item.at_import or not at_import_only)
        and (root := item.module.split(".")[0]) not in sys.stdlib_module_names
        and root not in allowed
        and not (own in allowed and (item.module + ".").startswith(own + "."))
    ]


def bare_imports(source: Source) -> list[str]:
    """Name each import of the two folders under a name that makes a second set of classes."""
    return [
        f"{source.path}:{item.line}: imports {item.module} bare; it is mcpv_node.{item.module}"
        for item in source.imports()
        if item.level == 0 and item.module.split(".")[0] in {"actors", "supervisors"}
    ]


def clock_readings(source: Source) -> list[str]:
    """Name each use of `time.monotonic`."""
    return [
        f"{source.path}:{node.lineno}: reads the monotonic clock; take the time as a parameter"
        for node in ast.walk(source.tree)
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "time"
            and node.attr.startswith("monotonic")
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and any(alias.name.startswith("monotonic") for alias in node.names)
        )
    ]


def handlers_of_everything(source: Source) -> list[str]:
    """Name each bare `except:` and `except BaseException`."""
    return [
        f"{source.path}:{node.lineno}: catches what must pass, such as a cancellation"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or "BaseException" in ast.unparse(node.type))
    ]


def locks(source: Source) -> list[str]:
    """Name each lock made by `threading` or `asyncio`."""
    imported = [
        f"{source.path}:{item.line}: imports {name}; live state has one owner instead"
        for item in source.imports()
        if item.module in {"threading", "asyncio", "multiprocessing"}
        for name in item.names
        if name in LOCKS
    ]
    made = [
        f"{source.path}:{node.lineno}: uses {ast.unparse(node)}; live state has one owner instead"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
        and node.attr in LOCKS
        and isinstance(node.value, ast.Name)
        and node.value.id in {"threading", "asyncio", "multiprocessing"}
    ]
    return imported + made


def _targets(module: str, names: tuple[str, ...]) -> list[str]:
    # `from mcpv_node import protocol` imports a folder, too.
    if module == "mcpv_node":
        return [f"mcpv_node.{name}" for name in names if name in MAY_IMPORT]
    return [module]


def _is_at(path: str, place: str) -> bool:
    return path.startswith(place) if place.endswith("/") else path == place


def _everywhere(rule: Callable[[Source], list[str]]) -> list[str]:
    return [sentence for source in SOURCES for sentence in rule(source)]


def test_imports_go_down_only() -> None:
    assert _everywhere(wrong_directions) == []


def test_imports_are_relative_inside_a_folder_and_absolute_and_public_across() -> None:
    assert _everywhere(wrong_spellings) == []


def test_each_library_enters_through_its_own_place() -> None:
    assert _everywhere(wrong_entrances) == []


def test_protocol_needs_the_standard_library_and_msgspec_only() -> None:
    allowed = frozenset({"msgspec", "mcpv_node.protocol"})
    sources = [source for source in SOURCES if source.folder == "protocol"]

    assert sources
    for source in sources:
        # Handles are sealed by a library that enters through one module, when the first one is.
        assert foreign_imports(source, allowed=allowed, at_import_only=True) == []
        assert foreign_imports(source, allowed=allowed | {"cryptography"}, at_import_only=False) == []


def test_what_starts_often_imports_the_standard_library_only() -> None:
    sources = [source for source in SOURCES if source.path in BARE]

    assert {source.path for source in sources} >= {"__init__.py", "__main__.py"}
    for source in sources:
        allowed = frozenset({"mcpv_node.transports"}) if source.folder == "transports" else frozenset[str]()
        assert foreign_imports(source, allowed=allowed, at_import_only=True) == []


def test_what_runs_alone_imports_the_standard_library_only() -> None:
    for source in SOURCES:
        if source.path in ALONE:
            assert foreign_imports(source, allowed=frozenset(), at_import_only=False) == []


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "bin"])
def test_nobody_imports_actors_or_supervisors_bare(folder: str) -> None:
    sources = read_sources(ROOT / folder)

    assert [sentence for source in sources for sentence in bare_imports(source)] == []


def test_the_clock_is_read_in_its_own_module_only() -> None:
    sources = [source for source in SOURCES if source.path not in READS_THE_CLOCK]

    assert [sentence for source in sources for sentence in clock_readings(source)] == []


def test_everything_is_caught_only_where_actors_run() -> None:
    sources = [source for source in SOURCES if source.path not in CONTAINS_EVERYTHING]

    assert [sentence for source in sources for sentence in handlers_of_everything(source)] == []


def test_there_are_no_locks() -> None:
    assert _everywhere(locks) == []


@pytest.mark.parametrize(
    ("link", "target"),
    [("actors", "../../actors"), ("supervisors", "../../supervisors"), ("defaults", "../../config")],
)
def test_a_link_is_relative_and_leads_to_its_folder(link: str, target: str) -> None:
    path = PACKAGE / link

    assert os.readlink(path) == target
    assert path.resolve() == (ROOT / Path(target).name).resolve()
    assert path.is_dir()


def test_every_folder_of_the_package_has_a_place_in_the_order() -> None:
    folders = {source.folder for source in SOURCES}

    assert folders <= MAY_IMPORT.keys()


BROKEN = [
    (wrong_directions, "protocol/x.py", "from mcpv_node.settings import Settings"),
    (wrong_directions, "protocol/x.py", "from mcpv_node.telemetry.clock import Clock"),
    (wrong_directions, "store/x.py", "from mcpv_node.transports import spawn"),
    (wrong_directions, "gateway/x.py", "import mcpv_node.supervisors.init"),
    (wrong_directions, "gateway/x.py", "from mcpv_node import supervisors"),
    (wrong_directions, "actors/kernel/x.py", "def f():\n    from mcpv_node.gateway import Door"),
    (wrong_directions, "actors/kernel/x.py", "from ...gateway import Door"),
    (wrong_directions, "cellar/x.py", ""),
    (wrong_spellings, "protocol/x.py", "from mcpv_node.protocol.lines import LineFramer"),
    (wrong_spellings, "gateway/x.py", "from ..protocol import Request"),
    (wrong_spellings, "gateway/x.py", "from mcpv_node.protocol import _scan"),
    (wrong_spellings, "gateway/x.py", "from mcpv_node.protocol._scan import scan"),
    (wrong_entrances, "gateway/x.py", "import yaml"),
    (wrong_entrances, "store/x.py", "from subprocess import Popen"),
    (wrong_entrances, "actors/index.py", "import pykka.messages"),
    (bare_imports, "gateway/x.py", "from actors.kernel import Handle"),
    (bare_imports, "gateway/x.py", "import supervisors"),
    (clock_readings, "gateway/x.py", "import time\nnow = time.monotonic()"),
    (clock_readings, "gateway/x.py", "from time import monotonic"),
    (handlers_of_everything, "gateway/x.py", "try: f()\nexcept: pass"),
    (handlers_of_everything, "gateway/x.py", "try: f()\nexcept (OSError, BaseException): pass"),
    (locks, "gateway/x.py", "import threading\nguard = threading.Lock()"),
    (locks, "gateway/x.py", "from asyncio import Semaphore"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN)
def test_a_rule_sees_what_breaks_it(rule: Callable[[Source], list[str]], path: str, text: str) -> None:
    assert len(rule(parse_source(path, text))) == 1


KEPT = [
    (wrong_directions, "store/x.py", "from mcpv_node.telemetry.clock import Clock"),
    (wrong_directions, "settings/x.py", "from mcpv_node.telemetry.clock import Clock"),
    (wrong_directions, "cli/x.py", "from mcpv_node.node import build"),
    (wrong_directions, "actors/x.py", "from .kernel import Handle"),
    (wrong_spellings, "actors/kernel/x.py", "from ..world import World"),
    (wrong_spellings, "actors/x.py", "from __future__ import annotations"),
    (wrong_spellings, "actors/index.py", "from mcpv_node.actors.instance.messages import Call"),
    (wrong_spellings, "protocol/x.py", "from ._scan import scan"),
    (wrong_entrances, "settings/loader.py", "import yaml"),
    (wrong_entrances, "actors/kernel/loop.py", "import pykka"),
    (bare_imports, "cli/x.py", "from mcpv_node.actors import Handle"),
    (bare_imports, "supervisors/x.py", "from . import supervisors"),
    (handlers_of_everything, "gateway/x.py", "try: f()\nexcept Exception: pass"),
    (locks, "gateway/x.py", "import threading\ndone = threading.Event()"),
]


@pytest.mark.parametrize(("rule", "path", "text"), KEPT)
def test_a_rule_lets_pass_what_keeps_it(rule: Callable[[Source], list[str]], path: str, text: str) -> None:
    assert rule(parse_source(path, text)) == []


def test_an_import_for_a_type_checker_or_in_a_function_is_not_one_at_import() -> None:
    text = "if TYPE_CHECKING:\n    import rich\ndef f():\n    import click\nimport uvloop"
    source = parse_source("cli/stdio.py", text)

    foreign = foreign_imports(source, allowed=frozenset(), at_import_only=True)

    assert foreign == ["cli/stdio.py:5: imports uvloop"]
