"""The configuration as JSON Schema, for editors that complete and check while one types.

Made of the same types as the reader and shaped like it: unknown keys are refused, a single value may be a
`${VAR}` or a `${file:PATH}` in place of a number or a choice, and a text may be written as a number. Rules between
keys, and what variables hold, are the loader's alone: what the schema refuses the loader refuses, not the other
way round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, cast

import msgspec
from msgspec import inspect

from .meanings import CMD, MEANINGS
from .types import SPELLINGS, NodeSettings, ProfileSettings, ServerSpec

_DIALECT = "https://json-schema.org/draft/2020-12/schema"

# A value the loader looks up. Editors read YAML before variables: for them it is a text.
_VARIABLE = {"type": "string", "pattern": r"\$\{"}

# YAML has no way to tell 8080 from "8080" where a text is meant; the loader takes both as written.
_TEXT_TYPES = ["string", "number", "boolean"]


def runtime_schema() -> dict[str, Any]:
    """Give the schema of a configuration file, and of runtime.yaml in a folder."""
    root = _object(NodeSettings, hidden={"profiles"})
    return _document("mcpv-node configuration", root, set(parts_of(NodeSettings)))


def profile_schema() -> dict[str, Any]:
    """Give the schema of profiles/NAME.yaml."""
    root = _object(ProfileSettings, hidden={"name"})
    root["properties"]["servers"] = {
        "type": "array",
        "items": {"anyOf": [{"type": "string"}, _reference(ServerSpec)]},
        "description": MEANINGS[ProfileSettings]["servers"],
    }
    made_of: list[type[msgspec.Struct]] = [ServerSpec, *parts_of(ServerSpec), *parts_of(ProfileSettings)]
    return _document("mcpv-node profile", root, made_of)


def _document(title: str, root: dict[str, Any], made_of: Collection[type[msgspec.Struct]]) -> dict[str, Any]:
    definitions = {cls.__name__: _object(cls) for cls in made_of}
    return {"$schema": _DIALECT, "title": title, **root, "$defs": dict(sorted(definitions.items()))}


def parts_of(cls: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    """Give the types that `cls` is made of, in the order of its keys; profiles have files of their own."""
    for item in fields_of(cls):
        inner = _inner(item.type)
        if isinstance(inner, inspect.StructType) and inner.cls is not ProfileSettings:
            yield inner.cls
            yield from parts_of(inner.cls)


def _inner(kind: inspect.Type) -> inspect.Type:
    kind = without_none(kind)
    return kind.item_type if isinstance(kind, inspect.VarTupleType) else kind


def _object(cls: type[msgspec.Struct], hidden: Collection[str] = ()) -> dict[str, Any]:
    meanings = MEANINGS[cls]
    fields = [item for item in fields_of(cls) if item.encode_name not in hidden]
    properties = {item.encode_name: _property(item, meanings[item.encode_name]) for item in fields}
    if cls is ServerSpec:
        properties[CMD] = {"type": "array", "items": _text(None), "minItems": 1, "description": meanings[CMD]}
    described: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    required = [item.encode_name for item in fields if item.required]
    return {**described, "required": required} if required else described


def _property(item: inspect.Field, meaning: str) -> dict[str, Any]:
    schema = {**_schema(without_none(item.type)), "description": meaning}
    default = default_of(item)
    return schema if default is None else {**schema, "default": default}


def default_of(item: inspect.Field) -> object:
    """Give the default of a field as JSON; None where there is none, or where it is an empty text or a table."""
    value = item.default if item.default is not msgspec.NODEFAULT else None
    if item.default_factory is not msgspec.NODEFAULT:
        value = item.default_factory()
    if isinstance(value, msgspec.Struct) or value in ("", None):
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return cast("object", msgspec.to_builtins(value))


def _schema(kind: inspect.Type) -> dict[str, Any]:
    match kind:
        case inspect.StructType(cls=cls):
            return _reference(cls)
        case inspect.VarTupleType(item_type=item):
            return {"type": "array", "items": _schema(item)}
        case inspect.DictType(value_type=item):
            return {"type": "object", "additionalProperties": _schema(item)}
        case inspect.LiteralType(values=values):
            spellings = [other for other, meant in SPELLINGS.items() if meant in values]
            return {"anyOf": [{"enum": [*sorted(map(str, values)), *spellings]}, _VARIABLE]}
        case inspect.BoolType():
            return {"anyOf": [{"type": "boolean"}, _VARIABLE]}
        case inspect.IntType():
            return {"anyOf": [{"type": "integer", **_bounds(kind)}, _VARIABLE]}
        case inspect.FloatType():
            return {"anyOf": [{"type": "number", **_bounds(kind)}, _VARIABLE]}
        case inspect.StrType():
            return _text(kind)
        case _:
            raise TypeError(f"no schema for {kind!r}")


def _text(kind: inspect.StrType | None) -> dict[str, Any]:
    if kind is not None and kind.pattern:
        return {"anyOf": [{"type": "string", "pattern": kind.pattern}, _VARIABLE]}
    length = {"minLength": kind.min_length} if kind is not None and kind.min_length else {}
    return {"type": _TEXT_TYPES, **length}


def _bounds(kind: inspect.IntType | inspect.FloatType) -> dict[str, Any]:
    bounds = {"minimum": kind.ge, "exclusiveMinimum": kind.gt, "maximum": kind.le}
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _reference(cls: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{cls.__name__}"}


def fields_of(cls: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    """Give the fields of a settings type."""
    return cast("inspect.StructType", inspect.type_info(cls)).fields


def without_none(kind: inspect.Type) -> inspect.Type:
    """Give what a value is where there is one."""
    if isinstance(kind, inspect.UnionType):
        return next(one for one in kind.types if not isinstance(one, inspect.NoneType))
    return kind
