"""How a conversation with a server begins: in which era, and what the server says of itself.

A server that was spoken to before is spoken to as it was then, and as any other where that fails. One that was never
spoken to is probed; silence means a server of the older era, some of which say nothing to what they do not know. A
modern one that only took long to start reads both questions and refuses the second: it is asked the first once more.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpv_node.protocol import (
    DISCOVER,
    INITIALIZE,
    INITIALIZED,
    LATEST_LEGACY,
    LATEST_MODERN,
    MODERN,
    BackMeta,
    Message,
    ProbeAgain,
    ProbeFailed,
    ServerHello,
    SpeakLegacy,
    SpeakModern,
    TrySse,
    UseInitialize,
    after_initialize,
    after_probe,
    build_initialize,
    capabilities_of,
    params_for_back,
)
from mcpv_node.version import VERSION

from .own_requests import Then

NAME = "mcpv-node"
CLIENT_INFO = b'{"name":"mcpv-node","version":"%s"}' % VERSION.encode()

# A server that knows the question answers within milliseconds of being up; servers take up to a second for that.
PROBE_BOUND = 2.0

# One that was modern when it was last spoken to most likely is: the other half of the time is for the case that it is not.
REMEMBERED_SHARE = 0.5

# Sends one request of our own: method, params, what to do then, and the bound in seconds.
Ask = Callable[[str, bytes | None, Then, float], None]


def own_meta(version: str, profile: str) -> BackMeta:
    """What a modern server is told of us with our own requests."""
    return BackMeta(version=version, capabilities=capabilities_of(profile), client_info=CLIENT_INFO)


class Opening:
    """See the module. Part of an Instance, which runs its callbacks.

    `remembered` is the version that was spoken last; `may_probe`: the server has not been seen to fall over it.
    `bound` (seconds) is that of the whole start, which ends it all.
    """

    def __init__(
        self,
        *,
        profile: str,
        remembered: str | None,
        may_probe: bool,
        bound: float,
        ask: Ask,
        notify: Callable[[str], None],
        ready: Callable[[ServerHello], None],
        try_sse: Callable[[], None],
        fail: Callable[[str], None],
    ) -> None:
        self._profile = profile
        self._remembered = remembered
        self._may_probe = may_probe
        self._bound = bound
        self._ask = ask
        self._notify = notify
        self._ready = ready
        self._try_sse = try_sse
        self._fail = fail
        self._version = LATEST_MODERN
        self._has_probed_again = False
        self._was_silent = False
        self.is_probing = False

    def begin(self) -> None:
        """Say the first word."""
        if self._remembered in MODERN:
            self._probe(self._remembered, max(PROBE_BOUND, self._bound * REMEMBERED_SHARE))
        elif self._may_probe and self._remembered is None:
            self._probe(LATEST_MODERN, PROBE_BOUND)
        else:
            self.initialize(LATEST_LEGACY)

    def initialize(self, version: str) -> None:
        """Open a session of the older era."""
        self.is_probing = False
        params = build_initialize(version, NAME, VERSION, capabilities_of(self._profile))
        self._ask(INITIALIZE, params, self._on_initialized, self._bound)

    def _probe(self, version: str, bound: float) -> None:
        self.is_probing = True
        self._version = version
        params = params_for_back(DISCOVER, None, meta=own_meta(version, self._profile))
        self._ask(DISCOVER, params, self._on_discovered, bound)

    def _on_discovered(self, reply: Message | None, status: int | None) -> None:
        if not self.is_probing:
            return
        is_silent = self._was_silent = reply is None and status is None
        is_first = not self._has_probed_again
        self.is_probing = False
        match after_probe(
            "silence" if is_silent else reply, asked=self._version, status=status, is_first=is_first
        ):
            case SpeakModern(hello):
                self._ready(hello)
            case ProbeAgain(version):
                self._has_probed_again = True
                self._probe(version, self._bound)
            case UseInitialize(version):
                self.initialize(version)
            case TrySse():
                self._try_sse()
            case ProbeFailed(why):
                self._fail(why)

    def _on_initialized(self, reply: Message | None, status: int | None) -> None:
        if reply is None and status is None:
            return  # the start as a whole has its own bound, and its own sentence
        match after_initialize(reply, status=status):
            case SpeakLegacy(hello):
                self._notify(INITIALIZED)
                self._ready(hello)
            case TrySse():
                self._try_sse()
            case ProbeFailed() if self._was_silent and not self._has_probed_again:
                self._has_probed_again = True
                self._probe(LATEST_MODERN, PROBE_BOUND)
            case ProbeFailed(why):
                self._fail(why)
