"""Lists of tools, page by page."""

from __future__ import annotations

import pytest

from mcpv_node.protocol import (
    Listed,
    Rejected,
    RemoteProtocolError,
    list_params,
    list_result,
    parse_page,
    rename_definition,
)

SCHEMA = b'"inputSchema":{"type":"object"}'


def page(*entries: bytes) -> bytes:
    return b'{"tools":[' + b" , ".join(entries) + b"]}"


def test_a_definition_is_its_servers_own_bytes() -> None:
    odd = b'{ "name" : "a", "x-unknown":1.0, "text":"\\u00e9\\ud83d", ' + SCHEMA + b"}"
    plain = b'{"name":"b",' + SCHEMA + b"}"

    found = parse_page("tools", page(odd, plain))

    assert found.entries == (Listed("a", odd), Listed("b", plain))
    assert found.rejected == ()
    assert found.next_cursor is None


@pytest.mark.parametrize(
    ("annotations", "hints"),
    [
        (b'{"readOnlyHint":true}', (True, False)),
        (b'{"idempotentHint":true,"readOnlyHint":false}', (False, True)),
        (b'{"readOnlyHint":"true","idempotentHint":1}', (False, False)),
        (b"null", (False, False)),
        (b"[true]", (False, False)),
    ],
)
def test_hints_count_only_when_they_are_plainly_true(annotations: bytes, hints: tuple[bool, bool]) -> None:
    [tool] = parse_page(
        "tools", page(b'{"name":"a","annotations":' + annotations + b"," + SCHEMA + b"}")
    ).entries

    assert (tool.read_only, tool.idempotent) == hints


@pytest.mark.parametrize(
    ("entry", "name", "why"),
    [
        (b"7", None, "it is not an object"),
        (b"{" + SCHEMA + b"}", None, "it has no name"),
        (b'{"name":7,' + SCHEMA + b"}", None, "its name is not a string"),
        (b'{"name":"",' + SCHEMA + b"}", "", "its name is empty"),
        (b'{"name":"x"}', "x", "it has no inputSchema"),
        (b'{"name":"x","inputSchema":null}', "x", "its inputSchema is not an object"),
        (b'{"name":"x","inputSchema":{}}', "x", 'the type of its inputSchema is not "object"'),
        (b'{"name":"x","inputSchema":{"type":"array"}}', "x", 'the type of its inputSchema is not "object"'),
        (
            b'{"name":"x","inputSchema":{"type":["object"]}}',
            "x",
            'the type of its inputSchema is not "object"',
        ),
        (b'{"name":"good",' + SCHEMA + b"}", "good", "another tool of this page has the same name"),
    ],
)
def test_a_malformed_entry_is_left_out_alone_with_the_reason(
    entry: bytes, name: str | None, why: str
) -> None:
    good = b'{"name":"good",' + SCHEMA + b"}"
    last = b'{"name":"last",' + SCHEMA + b"}"

    found = parse_page("tools", page(good, entry, last))

    assert [tool.name for tool in found.entries] == ["good", "last"]
    assert found.rejected == (Rejected(1, name, why),)


@pytest.mark.parametrize(("raw", "cursor"), [(b'""', ""), (b'"x\\n"', "x\n"), (b"null", None)])
def test_an_empty_cursor_is_a_cursor(raw: bytes, cursor: str | None) -> None:
    assert parse_page("tools", b'{"tools":[],"nextCursor":' + raw + b"}").next_cursor == cursor


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (b"[]", "is not an object"),
        (b"{}", "has no tools"),
        (b'{"tools":null}', "are not an array"),
        (b'{"tools":{"a":"\\ud83d"}}', "are not an array"),
        (b'{"tools":[],"nextCursor":7}', "nextCursor"),
    ],
)
def test_a_page_that_is_none_is_the_servers_fault(result: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parse_page("tools", result)


def test_a_joined_list_is_read_again_as_it_was() -> None:
    definitions = [b'{"name":"a",' + SCHEMA + b"}", b'{"name":"b",  ' + SCHEMA + b"}"]

    found = parse_page("tools", list_result("tools", definitions, next_cursor='c"'))

    assert [tool.definition for tool in found.entries] == definitions
    assert found.next_cursor == 'c"'
    assert list_result("tools", []) == b'{"tools":[]}'


def test_a_page_is_asked_for_by_its_cursor() -> None:
    assert list_params() == b"{}"
    assert list_params("") == b'{"cursor":""}'


def test_only_the_name_of_a_renamed_tool_changes() -> None:
    definition = (
        b'{"title":"T","name":"a","inputSchema":{ "type":"object","properties":{"name":{}} },"x":1.0}'
    )

    assert rename_definition(definition, "s_a") == (
        b'{"title":"T","name":"s_a","inputSchema":{ "type":"object","properties":{"name":{}} },"x":1.0}'
    )
