"""Whose template may have made a URI."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.protocol import MAX_URI, RemoteProtocolError, best_match, parse_template


@pytest.mark.parametrize(
    ("template", "uri", "matches"),
    [
        ("a://b", "a://b", True),
        ("a://b", "a://bc", False),
        ("a://b", "a://", False),
        ("", "", True),
        ("", "a", False),
        ("test://template/{id}/data", "test://template/123/data", True),
        ("test://template/{id}/data", "test://template//data", False),
        ("test://template/{id}/data", "test://template/1/2/data", False),
        ("test://template/{id}/data", "test://template/123/date", False),
        ("test://template/{id}/data", "test://template/123/data/", False),
        ("test://template/{id}/data", "test://template/data/data", True),
        ("a://{x}", "a://y", True),
        ("a://{x}", "a://", False),
        ("a://{x}", "a://y/z", False),
        ("a://{x}", "a://%2F", True),
        ("a://{x}", "a://é", True),
        ("a://{x,y}", "a://1,2", True),
        ("a://{x:3}", "a://123", True),
        ("a://{x*}", "a://1,2", True),
        ("a://{x}.json", "a://b.json.json", True),
        ("a://{x}.json", "a://.json", False),
        ("a://{x}-{y}", "a://1-2-3", True),
        ("a://{x}-{y}", "a://12", False),
        ("a://{x}{y}", "a://12", True),
        ("a://{x}{y}", "a://1", False),
        ("{x}", "plain", True),
        ("{x}", "a/b", False),
        ("file:///{+path}", "file:///a/b/c.txt", True),
        ("file:///{+path}", "file:///", False),
        ("file:///{+path}/end", "file:///a/end/b/end", True),
        ("file:///{+path}/end", "file:///end", False),
        ("{+uri}", "any://thing?at#all", True),
        ("a://b{#f}", "a://b#c/d", True),
        ("a://b{#f}", "a://b", False),
        ("a://b{/x}", "a://b/c", True),
        ("a://b{/x}", "a://bc", False),
        ("a://b{/x}", "a://b/c/d", False),
        ("a://b{/x,y}", "a://b/c/d", True),
        ("a://b{/x,y}", "a://b/c", False),
        ("a://b{/x*}", "a://b/c/d/e", True),
        ("a://b{.x}", "a://b.json", True),
        ("a://b{.x}", "a://bjson", False),
        ("a://b{?q}", "a://b", True),
        ("a://b{?q}", "a://b?q=1", True),
        ("a://b{?q,r}", "a://b?r=/&q=2", True),
        ("a://b{?q}", "a://b?", True),
        ("a://b{?q}", "a://bq", False),
        ("a://b?x=1{&q}", "a://b?x=1&q=2", True),
        ("a://b?x=1{&q}", "a://b?x=1", True),
        ("a://b{;p}/c", "a://b;p=1/c", True),
        ("a://b{;p}/c", "a://b;p=/x/c", False),
        ("a://{x}{?q}", "a://y?q=1", True),
        ("a://{x}/{+y}/z{?q}", "a://1/2/3/z?q=4", True),
        ("a://{x}/{+y}/z{?q}", "a://1/z", False),
        ("a://{user-id}", "a://7", True),
    ],
)
def test_a_template_matches_what_it_can_make(template: str, uri: str, *, matches: bool) -> None:
    assert parse_template(template).matches(uri) == matches


@pytest.mark.parametrize(
    "wrong",
    [
        "a{",
        "a}",
        "{a",
        "a{b}}",
        "{{a}}",
        "{}",
        "{,}",
        "{a,}",
        "{+}",
        "{a b}",
        "{=a}",
        "{!a}",
        "{|a}",
        "{@a}",
        "{a:}",
        "{a:x}",
        "{a**}",
    ],
)
def test_a_template_that_cannot_be_read_is_refused_by_its_text(wrong: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        parse_template(wrong)

    assert f'"{wrong}"' in str(refused.value)


@pytest.mark.parametrize(
    ("uri", "best"),
    [
        ("a://docs/readme", "a://docs/readme"),
        ("a://docs/other", "a://docs/{page}"),
        ("a://blog/other", "a://{kind}/{page}"),
        ("a://docs/deep/page", "a://docs/{+rest}"),
        ("a://x/y/z", "a://{+rest}"),
        ("b://x", "{+uri}"),
    ],
)
def test_the_template_that_spells_out_most_wins(uri: str, best: str) -> None:
    texts = [
        "{+uri}",
        "a://{+rest}",
        "a://docs/{+rest}",
        "a://{kind}/{page}",
        "a://docs/{page}",
        "a://docs/readme",
    ]

    for order in (texts, texts[::-1]):
        found = best_match(uri, map(parse_template, order))
        assert found is not None
        assert found.text == best


def test_no_template_wins_where_none_matches() -> None:
    assert best_match("c://x", [parse_template("a://{x}"), parse_template("b://{x}")]) is None


VALUES = st.text(st.characters(exclude_characters="/"), min_size=1, max_size=30)
LITERALS = st.text(st.characters(exclude_characters="{}"), max_size=10)


@given(st.lists(st.tuples(LITERALS, VALUES), max_size=6), LITERALS)
def test_what_a_template_expands_to_it_matches(parts: list[tuple[str, str]], last: str) -> None:
    template = "".join(literal + "{x}" for literal, _ in parts) + last
    uri = "".join(literal + value for literal, value in parts) + last

    assert parse_template(template).matches(uri)


def slow_match(parts: list[str], uri: str) -> bool:
    """The same question, answered by trying everything."""
    if not parts:
        return not uri
    first, *rest = parts
    if first not in ("{x}", "{+x}"):
        return uri.startswith(first) and slow_match(rest, uri[len(first) :])
    longest = len(uri) if first == "{+x}" else len(uri.partition("/")[0])
    return any(slow_match(rest, uri[size:]) for size in range(1, longest + 1))


@given(
    st.lists(st.sampled_from(["a", "b", "/", "ab", "{x}", "{+x}"]), max_size=6), st.text("ab/", max_size=10)
)
def test_the_fast_answer_is_the_one_that_trying_everything_gives(parts: list[str], uri: str) -> None:
    assert parse_template("".join(parts)).matches(uri) == slow_match(parts, uri)


@pytest.mark.parametrize(
    "template", ["{+x}" * 200 + "b", "{x}a" * 200 + "b", "a{?x}" * 200 + "b", "{+x}{x}" * 100]
)
@pytest.mark.parametrize("letter", ["a", "/", "?a"])
def test_no_template_makes_a_long_uri_take_forever(template: str, letter: str) -> None:
    # The test's own bound is the assertion: trying everything would outlive it by far.
    parse_template(template).matches((letter * MAX_URI)[:MAX_URI])


def test_a_uri_longer_than_any_real_one_is_nobodys() -> None:
    template = parse_template("a{+x}")

    assert template.matches("a" * MAX_URI)
    assert not template.matches("a" * (MAX_URI + 1))


def test_a_template_longer_than_any_real_uri_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="characters"):
        parse_template("a" * (MAX_URI + 1))
