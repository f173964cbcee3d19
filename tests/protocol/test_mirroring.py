"""Which arguments are repeated in headers."""

from __future__ import annotations

import json

import pytest

from mcpv_node.protocol import MirroredParam, RemoteProtocolError, parse_mirrored


def mirrored(schema: object) -> tuple[MirroredParam, ...]:
    return parse_mirrored(json.dumps(schema).encode())


def prop(name: object = "Region", kind: object = "string") -> dict[str, object]:
    return {"type": kind, "x-mcp-header": name}


def test_annotated_properties_are_found_at_every_depth_in_their_order() -> None:
    nested = {"type": "object", "properties": {"b": prop("B", "integer"), "c": prop("C", "boolean")}}

    found = mirrored(
        {"type": "object", "properties": {"z": prop("A"), "a": nested, "plain": {"type": "number"}}}
    )

    assert found == (
        MirroredParam(("z",), "A"),
        MirroredParam(("a", "b"), "B"),
        MirroredParam(("a", "c"), "C"),
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {"type": "string"}}},
        {"properties": {"a": {"default": prop(), "examples": [prop()], "const": prop(), "enum": [prop()]}}},
        {"properties": {"a": {"$ref": "#/x-mcp-header"}}},
        {"properties": {"x-mcp-header": {"type": "string"}}},
    ],
)
def test_the_word_elsewhere_is_no_annotation(schema: object) -> None:
    assert mirrored(schema) == ()


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"properties": {"a": prop("")}}, 'property "a" is no name'),
        ({"properties": {"a": prop("a b")}}, "no name for a header"),
        ({"properties": {"a": prop("a:b")}}, "no name for a header"),
        ({"properties": {"a": prop("a\r\nb")}}, "no name for a header"),
        ({"properties": {"a": prop("a\n")}}, "no name for a header"),
        ({"properties": {"a": prop("é")}}, "no name for a header"),
        ({"properties": {"a": prop(1)}}, "is not a string"),
        ({"properties": {"a": prop(None)}}, "is not a string"),
        ({"properties": {"a": prop("A", "number")}}, "type is not string, integer or boolean"),
        ({"properties": {"a": prop("A", "object")}}, "type is not"),
        ({"properties": {"a": prop("A", ["string", "null"])}}, "type is not"),
        ({"properties": {"a": {"x-mcp-header": "A"}}}, "type is not"),
        (
            {"properties": {"a": prop("Same"), "b": prop("sAME")}},
            'property "b" and the property "a" have the same',
        ),
        ({"x-mcp-header": "A", "type": "string"}, "no plain property"),
        ({"properties": {"a": {"items": prop()}}}, "no plain property"),
        ({"properties": {"a": {"items": [prop()]}}}, "no plain property"),
        ({"properties": {"a": {"items": {"properties": {"b": prop()}}}}}, "no plain property"),
        ({"oneOf": [{"properties": {"a": prop()}}]}, "no plain property"),
        ({"anyOf": [prop()]}, "no plain property"),
        ({"allOf": [prop()]}, "no plain property"),
        ({"not": prop()}, "no plain property"),
        ({"if": prop()}, "no plain property"),
        ({"then": {"properties": {"a": prop()}}}, "no plain property"),
        ({"else": prop()}, "no plain property"),
        ({"additionalProperties": prop()}, "no plain property"),
        ({"patternProperties": {"a": prop()}}, "no plain property"),
        ({"$defs": {"a": prop()}}, "no plain property"),
        ({"prefixItems": [prop()]}, "no plain property"),
    ],
)
def test_an_annotation_that_breaks_a_rule_is_refused_with_the_reason(schema: object, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        mirrored(schema)


def test_a_schema_may_be_deep() -> None:
    schema: object = prop()
    for _ in range(400):
        schema = {"properties": {"a": schema}}

    assert mirrored(schema) == (MirroredParam(("a",) * 400, "Region"),)


def test_an_annotated_schema_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="cannot be read"):
        parse_mirrored(b'{"x-mcp-header":')
