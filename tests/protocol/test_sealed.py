"""Handles that clients carry for us."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.protocol import KEY_BYTES, LocalProtocolError, RemoteProtocolError, Sealer, SealError

SEALER = Sealer(bytes(range(KEY_BYTES)))
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/ \n.é"
texts = st.text(max_size=20)


@given(texts, st.binary(max_size=200), st.lists(texts, max_size=4))
def test_what_was_sealed_opens_for_its_purpose_and_holder(
    purpose: str, payload: bytes, holder: list[str]
) -> None:
    text = SEALER.seal(purpose, payload, bound_to=tuple(holder), expires_at=None)

    assert SEALER.open(purpose, text, bound_to=tuple(holder), now=1e12) == payload


@given(st.binary(max_size=60), st.data())
def test_a_handle_with_any_character_changed_is_refused(payload: bytes, data: st.DataObject) -> None:
    text = SEALER.seal("cursor", payload, bound_to=("p",), expires_at=None)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from([char for char in ALPHABET if char != text[at]]))

    with pytest.raises(SealError):
        SEALER.open("cursor", text[:at] + other + text[at + 1 :], bound_to=("p",), now=0)


def test_every_single_change_of_every_place_is_refused() -> None:
    text = SEALER.seal("cursor", b"x", bound_to=(), expires_at=None)

    for at, char in enumerate(text):
        for other in ALPHABET.replace(char, ""):
            with pytest.raises(SealError):
                SEALER.open("cursor", text[:at] + other + text[at + 1 :], bound_to=(), now=0)


@given(st.text(max_size=100))
def test_text_that_was_never_sealed_is_refused(text: str) -> None:
    with pytest.raises(SealError, match="the cursor is not valid here"):
        SEALER.open("cursor", text, bound_to=(), now=0)


@pytest.mark.parametrize("cut", [0, 1, 4, 16, 40])
def test_a_handle_that_was_cut_or_continued_is_refused(cut: int) -> None:
    text = SEALER.seal("cursor", b"payload", bound_to=(), expires_at=None)

    for wrong in (text[:cut], text[cut + 1 :], text + "A" * (cut + 1), text + "=" * (cut + 1)):
        with pytest.raises(SealError):
            SEALER.open("cursor", wrong, bound_to=(), now=0)


@pytest.mark.parametrize(
    ("purpose", "holder"),
    [
        ("state", ("ab", "c")),
        ("cursor", ("a", "bc")),
        ("cursor", ("abc",)),
        ("cursor", ("ab", "c", "")),
        ("cursor", ("c", "ab")),
        ("cursor", ()),
        ("cursorab", ("c",)),
    ],
)
def test_a_handle_does_not_open_for_another_purpose_or_holder(purpose: str, holder: tuple[str, ...]) -> None:
    text = SEALER.seal("cursor", b"", bound_to=("ab", "c"), expires_at=None)

    with pytest.raises(SealError, match="not valid here"):
        SEALER.open(purpose, text, bound_to=holder, now=0)


@pytest.mark.parametrize(("now", "opens"), [(0.0, True), (9.99, True), (10.0, False), (11.0, False)])
def test_a_handle_opens_until_it_expires(now: float, *, opens: bool) -> None:
    text = SEALER.seal("state", b"x", bound_to=(), expires_at=10.0)

    if opens:
        assert SEALER.open("state", text, bound_to=(), now=now) == b"x"
    else:
        with pytest.raises(SealError, match="the state has expired"):
            SEALER.open("state", text, bound_to=(), now=now)


def test_a_handle_does_not_open_under_another_key() -> None:
    text = SEALER.seal("state", b"x", bound_to=(), expires_at=None)

    with pytest.raises(SealError):
        Sealer(bytes(KEY_BYTES)).open("state", text, bound_to=(), now=0)


def test_two_handles_of_one_payload_differ_and_fit_into_a_url() -> None:
    one, other = (SEALER.seal("state", b"\xff" * 50, bound_to=(), expires_at=None) for _ in range(2))

    assert one != other
    assert set(one + other) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_our_own_mistake(size: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"has {size} bytes"):
        Sealer(bytes(size))


def test_a_handle_that_does_not_open_is_the_clients_fault() -> None:
    assert issubclass(SealError, RemoteProtocolError)


def test_the_cipher_is_imported_with_the_first_handle_only() -> None:
    program = (
        "import sys; from mcpv_node.protocol import Sealer; s = Sealer(bytes(32));"
        "assert 'cryptography' not in sys.modules; s.seal('p', b'', bound_to=(), expires_at=None);"
        "assert 'cryptography' in sys.modules"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
