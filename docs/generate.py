"""Write what is made of the settings' types: the schemas in config/ and docs/configuration.md.

    .venv/bin/python docs/generate.py

A test holds that they are up to date.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mcpv_node.settings import NodeSettings, ProfileSettings, ServerSpec
from mcpv_node.settings.meanings import CMD, MEANINGS
from mcpv_node.settings.schema import default_of, fields_of, profile_schema, runtime_schema, without_none

ROOT = Path(__file__).resolve().parents[1]

INTRODUCTION = """\
# Configuration

<!-- Made by docs/generate.py from the types in src/mcpv_node/settings; change those. -->

One YAML file, or a folder with `runtime.yaml` and `profiles/*.yaml`. `start` takes the one named with `--config`, then
`$MCPV_CONFIG`, then `$XDG_CONFIG_HOME/mcpv-node/runtime.yaml` (`~/.config/mcpv-node/runtime.yaml`), else the packaged
one, [config/runtime.yaml](../config/runtime.yaml), which shows every key in its place.

| to | command |
|---|---|
| see all that is wrong with it, with file, line and key | `mcpv-node validate` |
| see every setting in effect, and where it comes from | `mcpv-node validate --explain` |
| take over the servers of a client | `mcpv-node import FILE` ([clients.md](clients.md)) |
| add, change or remove one server and keep the rest as it is | `mcpv-node server add`, `edit`, `remove`, `enable`, `disable` |

Editors that know YAML schemas complete and check it by the line
`# yaml-language-server: $schema=schema.json` with the path of [config/schema.json](../config/schema.json)
([profile-schema.json](../config/profile-schema.json) for profiles).

Unknown keys are refused. Durations are seconds. Paths are relative to the file they stand in.
In single values: `${VAR}`, `${VAR:-default}` (when it is unset or empty), `${file:PATH}` (a file's text without its last
line end), `$$` for a dollar; inside `[ ]` and `{ }` put them in quotes. `${MCPV_PYTHON}` is the interpreter the node runs with.
Values of `env` and `headers` are never shown, nor what came through `${file:}`.
"""

SECTIONS: tuple[tuple[str, type[msgspec.Struct], str], ...] = (
    ("The node", NodeSettings, "The keys at the top of the file."),
    ("A server", ServerSpec, "The keys of an entry of `servers`."),
    ("A profile", ProfileSettings, "The keys of `profiles/NAME.yaml`: a named set of servers, and what its clients may see."),
)  # fmt: skip

# Keys that are no keys of a file.
HIDDEN = {NodeSettings: {"profiles"}, ProfileSettings: {"name"}}


def outputs() -> dict[Path, str]:
    """Give every file that is made, with its text."""
    return {
        ROOT / "config" / "schema.json": _json(runtime_schema()),
        ROOT / "config" / "profile-schema.json": _json(profile_schema()),
        ROOT / "docs" / "configuration.md": reference(),
    }


def reference() -> str:
    """Write the reference of every key."""
    return "\n".join([INTRODUCTION, *(line for section in SECTIONS for line in _section(*section))])


def _section(title: str, cls: type[msgspec.Struct], about: str) -> Iterator[str]:
    yield from (
        f"## {title}",
        "",
        about,
        "",
        "| key | what may be written | default | meaning |",
        "|---|---|---|---|",
    )
    yield from _rows(cls, "")
    yield ""


def _rows(cls: type[msgspec.Struct], above: str) -> Iterator[str]:
    for item in fields_of(cls):
        if item.encode_name in HIDDEN.get(cls, ()):
            continue
        key = f"{above}{item.encode_name}"
        kind = without_none(item.type)
        default = default_of(item)
        shown = "required" if item.required else "" if default in (None, (), {}) else f"`{_plain(default)}`"
        yield f"| `{key}` | {_kind(kind)} | {shown} | {MEANINGS[cls][item.encode_name]} |"
        if cls is ServerSpec and item.encode_name == "args":
            yield f"| `{CMD}` | list of texts | | {MEANINGS[cls][CMD]} |"
        inner = kind.item_type if isinstance(kind, msgspec.inspect.VarTupleType) else kind
        if isinstance(inner, msgspec.inspect.StructType) and inner.cls not in (ServerSpec, ProfileSettings):
            yield from _rows(inner.cls, f"{key}[]." if inner is not kind else f"{key}.")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _kind(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.StructType(cls=cls):
            return "an entry, see below" if cls is ServerSpec else "keys"
        case msgspec.inspect.VarTupleType(item_type=item):
            of = {"text": "texts", "keys": "tables", "a name": "names"}.get(_kind(item), "entries")
            return f"list of {of}"
        case msgspec.inspect.DictType():
            return "names with texts"
        case msgspec.inspect.LiteralType(values=values):
            return " ".join(f"`{value}`" for value in values)
        case msgspec.inspect.BoolType():
            return "`true` `false`"
        case msgspec.inspect.IntType():
            return f"whole number{_range(kind)}"
        case msgspec.inspect.FloatType():
            return "number, 0 to 1" if kind.le == 1 else f"seconds{_range(kind)}"
        case msgspec.inspect.StrType(pattern=pattern):
            return "a name" if pattern else "text"
        case _:
            raise TypeError(f"no words for {kind!r}")


def _range(kind: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    if kind.gt is not None:
        return f" > {kind.gt:g}"
    least = f" >= {kind.ge:g}" if kind.ge is not None else ""
    # A year is the bound of every wait, and not worth a word.
    return f"{least}, <= {kind.le:g}" if isinstance(kind, msgspec.inspect.IntType) and kind.le else least


def _json(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path, text in outputs().items():
        path.write_text(text, encoding="utf-8")
