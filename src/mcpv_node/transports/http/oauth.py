"""A server's OAuth, with the official SDK's client as the one that knows how: tokens on disk, nobody asked.

The SDK's flow runs only when the server has refused a token; calls with a good one pay nothing for it. Its own
requests (metadata, registration, tokens) go through our connections, with our bounds. Machine-to-machine grants,
registered clients and refresh need no person; what does need one is a failure whose sentence holds the address to open.

The SDK costs a second to import, so that happens on a thread, when the first such server is asked.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mcpv_node.settings import OAuthSettings

from .exchange import Answer, ExchangeError
from .types import HttpFailure

if TYPE_CHECKING:
    import httpx2
    from mcp.client.auth import OAuthClientProvider

_UNAUTHORIZED, _FORBIDDEN = 401, 403

# Where a person's browser would come back to; nobody listens there.
_REDIRECT: Final = "http://127.0.0.1/callback"

# Metadata in two or three places, a registration, a token, a redirect each; more is a circle.
_MAX_STEPS = 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer to one of the flow's own requests, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Fetch = Callable[[str, str, Mapping[str, str], bytes], Awaitable[Fetched]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server said to a token, or to none."""

    status: int
    challenge: str


class OAuthCredentials:
    """The token of one server: kept in `file`, got and renewed as its settings say."""

    def __init__(self, oauth: OAuthSettings, *, url: str, file: Path, fetch: Fetch) -> None:
        self._oauth = oauth
        self._url = url
        self._file = file
        self._fetch = fetch
        self._store = _Store(file, oauth)
        self._provider: OAuthClientProvider | None = None

    def header(self) -> str | None:
        """What goes with a message now; None as long as there is no token."""
        token = self._store.access_token
        return None if token is None else f"Bearer {token}"

    def find_refusal(self, answer: Answer) -> Refusal | None:
        """Tell whether an answer says that another token is wanted."""
        challenge = answer.header("WWW-Authenticate") or ""
        wants_more = answer.status == _FORBIDDEN and "insufficient_scope" in challenge
        return Refusal(answer.status, challenge) if answer.status == _UNAUTHORIZED or wants_more else None

    async def renew(self, refused: Refusal, used: str | None) -> str:
        """Get another token than the one `used`; raises ExchangeError."""
        provider = self._provider or await self._load()
        import httpx2
        from mcp.client.auth import OAuthFlowError

        request = httpx2.Request("POST", self._url)
        headers = {"WWW-Authenticate": refused.challenge}
        refusal = httpx2.Response(refused.status, headers=headers, request=request)
        if used == self.header() and refused.status == _UNAUTHORIZED:
            # After a restart nobody knows when it expired, and only an expired one is refreshed.
            provider.context.token_expiry_time = 1.0
        flow = provider.async_auth_flow(request)
        try:
            return await self._follow(flow, request, refusal, used)
        except (OAuthFlowError, httpx2.HTTPError, ValueError) as error:
            # A ValueError is what the SDK lets through of an answer that it cannot read.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ExchangeError(HttpFailure("auth", f"gives no token: {reason}")) from error
        finally:
            await flow.aclose()
            self._store.remember(provider)

    async def _follow(
        self,
        flow: AsyncGenerator[httpx2.Request, httpx2.Response],
        request: httpx2.Request,
        refusal: httpx2.Response,
        used: str | None,
    ) -> str:
        """Answer what the flow asks until it has a token that was not tried."""
        wanted = await anext(flow)
        for _ in range(_MAX_STEPS):
            if wanted is request:
                header = request.headers.get("Authorization")
                if header is not None and header != used:
                    return header
                response = refusal
            else:
                response = await self._ask(wanted)
            try:
                wanted = await flow.asend(response)
            except StopAsyncIteration:
                break
        raise ExchangeError(HttpFailure("auth", "gives no other token than the one it refused"))

    async def _ask(self, wanted: httpx2.Request) -> httpx2.Response:
        import httpx2

        url = str(wanted.url)
        kept = {name: wanted.headers[name] for name in wanted.headers if name not in _FLOW_OWN}
        fetched = await self._fetch(wanted.method, url, kept, wanted.content)
        return httpx2.Response(fetched.status, headers=fetched.headers, content=fetched.body, request=wanted)

    async def _load(self) -> OAuthClientProvider:
        try:
            await asyncio.to_thread(importlib.import_module, "mcp.client.auth.extensions.client_credentials")
        except ImportError as error:
            message = "needs OAuth, and that is not installed: pip install 'mcpv-node[oauth]'"
            raise ExchangeError(HttpFailure("auth", message)) from error
        if self._provider is None:
            # Another request may have been here meanwhile; two providers would get two tokens.
            self._provider = _make_provider(self._oauth, self._url, self._store)
            self._store.restore(self._provider)
        return self._provider


# What our own client writes.
_FLOW_OWN = frozenset({"host", "content-length", "connection", "accept-encoding", "user-agent"})


class _Store:
    """What is kept of one server's OAuth: the SDK's `TokenStorage`, and the metadata without which none is refreshed."""

    def __init__(self, file: Path, oauth: OAuthSettings) -> None:
        self._file = file
        self._oauth = oauth
        self.kept: dict[str, Any] = _read(file)

    @property
    def access_token(self) -> str | None:
        """The token, if there is one."""
        tokens: dict[str, Any] | None = self.kept.get("tokens")
        return None if tokens is None else tokens.get("access_token")

    async def get_tokens(self) -> Any:
        from mcp.shared.auth import OAuthToken

        kept = self.kept.get("tokens")
        return OAuthToken.model_validate(kept) if kept else None

    async def set_tokens(self, tokens: Any) -> None:
        self._keep("tokens", tokens)

    async def get_client_info(self) -> Any:
        from mcp.shared.auth import OAuthClientInformationFull

        if self._oauth.client_id is not None:
            return OAuthClientInformationFull.model_validate(
                {
                    "client_id": self._oauth.client_id,
                    "client_secret": self._oauth.client_secret,
                    "redirect_uris": [_REDIRECT],
                    "issuer": self._oauth.issuer,
                    "token_endpoint_auth_method": "client_secret_basic"
                    if self._oauth.client_secret
                    else "none",
                }
            )
        kept = self.kept.get("client")
        return OAuthClientInformationFull.model_validate(kept) if kept else None

    async def set_client_info(self, client_info: Any) -> None:
        self._keep("client", client_info)

    def remember(self, provider: OAuthClientProvider) -> None:
        """Keep where tokens are had, as far as that is known."""
        context = provider.context
        if context.oauth_metadata is not None and context.current_tokens is not None:
            self.kept["auth_server"] = context.auth_server_url
            self._keep("metadata", context.oauth_metadata)

    def restore(self, provider: OAuthClientProvider) -> None:
        """Give a new provider what an earlier one had found out."""
        from mcp.shared.auth import OAuthMetadata

        if metadata := self.kept.get("metadata"):
            provider.context.oauth_metadata = OAuthMetadata.model_validate(metadata)
            provider.context.auth_server_url = self.kept.get("auth_server")

    def _keep(self, key: str, value: Any) -> None:
        self.kept[key] = value.model_dump(mode="json", exclude_none=True)
        self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = self._file.with_suffix(".new")
        # Never readable by others, not for a moment.
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self.kept, file)
        beside.replace(self._file)


def _read(file: Path) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        # None yet, or cut short by a crash: it is got anew.
        return {}
    return kept


def _make_provider(oauth: OAuthSettings, url: str, store: _Store) -> OAuthClientProvider:
    from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
    from mcp.client.auth.extensions.client_credentials import ClientCredentialsOAuthProvider
    from mcp.shared.auth import OAuthClientMetadata

    async def nobody_comes_back() -> AuthorizationCodeResult:
        raise AssertionError("nobody was sent")

    if oauth.grant == "client-credentials":
        assert oauth.client_id is not None
        assert oauth.client_secret is not None
        return ClientCredentialsOAuthProvider(
            url, store, oauth.client_id, oauth.client_secret, issuer=oauth.issuer
        )
    metadata = OAuthClientMetadata.model_validate({"client_name": "mcpv-node", "redirect_uris": [_REDIRECT]})
    return OAuthClientProvider(url, metadata, store, _send_nobody, nobody_comes_back)


async def _send_nobody(address: str) -> None:
    message = f"wants a person's consent, which a node cannot give: open {address}"
    raise ExchangeError(HttpFailure("auth", message))
