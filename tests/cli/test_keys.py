"""Keys from a terminal, and the signals that end whoever waits for them."""

from __future__ import annotations

import signal
from contextlib import suppress

import pytest

from mcpv_node.cli.keys import reading_keys


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_was_lost_is_seen_at_the_next_key(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    with reading_keys() as next_key:
        # As in a finalizer: whatever is raised there is swallowed.
        with suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            next_key(60)

    assert signal.getsignal(number) is before
