"""Known secrets are masked wherever they stand, and what looks like a credential whoever wrote it."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mcpv_node.telemetry import PLAIN_REDACTOR, Redactor
from mcpv_node.telemetry.redaction import MASK


@given(
    values=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=6, max_size=12),
        min_size=1,
        max_size=5,
    ),
    before=st.text(max_size=10),
    after=st.text(max_size=10),
)
def test_no_text_keeps_a_value_that_is_secret(values: list[str], before: str, after: str) -> None:
    masked = Redactor(values)(before + values[0] + after)

    assert values[0] not in masked or values[0] in before + after


def test_of_a_secret_inside_another_nothing_is_left() -> None:
    redact = Redactor(["abcdef", "abcdef-and-more"])

    assert redact("it is abcdef-and-more") == f"it is {MASK}"


def test_what_looks_like_a_credential_is_masked_without_being_known() -> None:
    assert PLAIN_REDACTOR("Authorization: Bearer abcdefghij") == f"Authorization: Bearer {MASK}"
    assert PLAIN_REDACTOR("nothing to hide") == "nothing to hide"
