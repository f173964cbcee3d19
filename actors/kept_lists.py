"""What an index keeps of one server in the store, and what it makes of that at the next start. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mcpv_node.protocol import Listed, RemoteProtocolError, ServerHello, list_result, parse_page
from mcpv_node.settings import PinTools, ServerName, SpecKey
from mcpv_node.store import CatalogRecord, ListedEntry, hello_of

from .callers import ClientProfile
from .pins import compare_with_pins
from .snapshot import LISTS_OF, AllLearnt, Kind, Learnt, Source

# So many spec keys that no server has any more: one that was disabled, or edited and edited back, has its lists at
# once, and its tools are compared with those that were agreed to.
KEPT_FORMER = 64


def record_of(kind: Kind, learnt: Learnt, hello: ServerHello, name: ServerName) -> CatalogRecord:
    """What is kept of one server's lists of a kind."""
    return CatalogRecord(
        spec_key=learnt.spec_key,
        profile=learnt.profile,
        server_name=name,
        lists={
            of: tuple(
                ListedEntry(one.name, one.definition)
                for one in learnt.listed
                if kind != "resources" or one.is_template is (of == "templates")
            )
            for of in LISTS_OF[kind]
        },
        learnt_at=learnt.learnt_at,
        era=hello.version,
        server_title=hello.name,
        server_version=hello.server_version,
        instructions=hello.instructions,
        capabilities=hello.capabilities.raw,
        pins=dict(learnt.pins),
    )


def learnt_of(kind: Kind, record: CatalogRecord, pin_tools: PinTools) -> Learnt | None:
    """What a record says of a kind; None where it says nothing, or nothing that can be read."""
    listed: list[Listed] = []
    for of in LISTS_OF[kind]:
        entries = record.lists.get(of)
        if entries is None:
            return None
        try:
            listed += parse_page(of, list_result(of, [entry.definition for entry in entries])).entries
        except RemoteProtocolError:
            return None
    learnt = Learnt(
        record.spec_key,
        ClientProfile(record.profile),
        tuple(listed),
        Source.CACHE,
        hello=hello_of(record),
        learnt_at=record.learnt_at,
        is_kept=True,
    )
    if kind != "tools":
        return learnt
    found = compare_with_pins(learnt.listed, record.pins, learnt.listed, keep=pin_tools != "off")
    withheld = found.changed if pin_tools == "block" else frozenset[str]()
    return replace(learnt, pins=found.pins, changed=found.changed, withheld=withheld)


def too_long_gone(learnt: AllLearnt, present: Iterable[SpecKey]) -> frozenset[SpecKey]:
    """The spec keys to forget: of those that no server has, all but the ones learnt last."""
    last_seen: dict[SpecKey, str] = {}
    for (key, _), known in learnt.items():
        last_seen[key] = max(last_seen.get(key, ""), known.learnt_at)
    gone = sorted(last_seen.keys() - frozenset(present), key=lambda key: (last_seen[key], key), reverse=True)
    return frozenset(gone[KEPT_FORMER:])
