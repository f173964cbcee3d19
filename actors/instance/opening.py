"""How a conversation with a server begins: in which era, and what the server says of itself.

A server that was spoken to before is spoken to as it was then, and as any other where that fails. One that was never
spoken to is probed; silence means a server of the older era, some of which say nothing to what they do not know. Or it
means one that is slow to start, so the answer that comes late still counts: a modern server refuses what was said after.
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
PROBE_PATIENCE = 2.0

# One that was modern when it was last spoken to most likely is: half of the time of the start is left for the rest.
REMEMBERED_SHARE = 0.5

# Sends one request of our own: method, params, what to do then, and the bound in seconds.
Ask = Callable[[str, bytes | None, Then, float], None]


def own_meta(version: str, profile: str) -> BackMeta:
    """What a modern server is told of us with our own requests."""
    return BackMeta(version=version, capabilities=capabilities_of(profile), client_info=CLIENT_INFO)


class Opening:
    """See the module. Part of an Instance, which runs its callbacks.

    `remembered` is the version that was spoken last; `may_probe`: the server has not been seen to fall over it.
    `bound` (seconds) is that of the whole start, which ends it all. `later` comes back with `on_silence` after so many
    seconds.
    """

    def __init__(
        self,
        *,
        profile: str,
        remembered: str | None,
        may_probe: bool,
        bound: float,
        ask: Ask,
        later: Callable[[float], object],
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
        self._later = later
        self._notify = notify
        self._ready = ready
        self._try_sse = try_sse
        self._fail = fail
        self._version = LATEST_MODERN
        self._has_probed_again = False
        self._is_over = False
        self.is_probing = False

    def begin(self) -> None:
        """Say the first word."""
        if self._remembered in MODERN:
            self._probe(self._remembered, max(PROBE_PATIENCE, self._bound * REMEMBERED_SHARE))
        elif self._may_probe and self._remembered is None:
            self._probe(LATEST_MODERN, PROBE_PATIENCE)
        else:
            self.initialize(LATEST_LEGACY)

    def initialize(self, version: str) -> None:
        """Open a session of the older era."""
        self.is_probing = False
        params = build_initialize(version, NAME, VERSION, capabilities_of(self._profile))
        self._ask(INITIALIZE, params, self._on_initialized, self._bound)

    def on_silence(self) -> None:
        """A probe has not been answered for so long as servers take that know it."""
        if self.is_probing:
            self.initialize(LATEST_LEGACY)

    def _probe(self, version: str, patience: float | None) -> None:
        self.is_probing = True
        self._version = version
        params = params_for_back(DISCOVER, None, meta=own_meta(version, self._profile))
        self._ask(DISCOVER, params, self._on_discovered, self._bound)
        if patience is not None and patience < self._bound:
            self._later(patience)

    def _on_discovered(self, reply: Message | None, status: int | None) -> None:
        if self._is_over or (reply is None and status is None):
            return  # the start as a whole has its own bound, and its own sentence
        is_first, is_late = not self._has_probed_again, not self.is_probing
        following = after_probe(reply, asked=self._version, status=status, is_first=is_first)
        if is_late and not isinstance(following, SpeakModern | ProbeAgain):
            return  # what is said to initialize decides
        self.is_probing = False
        match following:
            case SpeakModern(hello):
                self._is_over = True
                self._ready(hello)
            case ProbeAgain(version):
                self._has_probed_again = True
                self._probe(version, None)
            case UseInitialize(version):
                self.initialize(version)
            case TrySse():
                self._try_sse()
            case ProbeFailed(why):
                self._fail(why)

    def _on_initialized(self, reply: Message | None, status: int | None) -> None:
        if self._is_over or self.is_probing or (reply is None and status is None):
            return  # the probe was answered late, or nothing is said in time
        match after_initialize(reply, status=status):
            case SpeakLegacy(hello):
                self._is_over = True
                self._notify(INITIALIZED)
                self._ready(hello)
            case TrySse():
                self._try_sse()
            case ProbeFailed(why):
                self._fail(why)
