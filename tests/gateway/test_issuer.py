"""A token of an authorization server counts when it is signed by it, for us, in its time; else it opens nothing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from support.doors import Stage, local, open_door
from support.fake_servers import fake_node, run, until
from support.fakes import FakeClock
from support.http_servers import HttpServer
from support.issuers import EC_KEY, RSA_KEY, IssuerSite, jwk, token
from support.raw_http import RawClient, RawConnection, RawResponse, call

from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.world import Selector
from mcpv_node.gateway import Issuer, IssuerKeys, TokenTable
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY, Authority
from mcpv_node.gateway.issuer import MAX_TOKEN, NotBelieved, judge_token, principal_of, read_head
from mcpv_node.gateway.issuer_keys import FETCH_PERIOD, KEYS_AGE, FindKey, NotReachable, metadata_urls
from mcpv_node.settings import AuthSettings, IssuerSettings

ISSUER = "https://auth.example"
AUDIENCE = "https://node.example/mcp"
NOW = 1_800_000_000.0
SETTINGS = IssuerSettings(issuer=ISSUER, required_scopes=("mcp",))
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "alice",
    "exp": NOW + 60,
    "scope": "openid mcp",
}


def judged(
    text: str, key: dict[str, Any] | None = None, settings: IssuerSettings = SETTINGS
) -> Authority | NotBelieved:
    return judge_token(text, key or jwk(RSA_KEY, "one"), settings=settings, audience=AUDIENCE, now=NOW)


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"aud": [AUDIENCE, "https://other.example"]},
        {"aud": f"{AUDIENCE}/"},
        {"exp": NOW - 10},
        {"nbf": NOW + 10},
        {"scope": None, "scp": ["mcp"]},
        {"scope": None, "scp": "mcp other"},
    ],
)
def test_a_token_as_it_should_be_stands_for_its_subject_and_operates_nothing(claims: dict[str, Any]) -> None:
    given = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}

    found = judged(token(given))

    assert found == Authority(principal_of(ISSUER, "alice"), may_operate=False)


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"iss": "https://auth.example.evil"}, "invalid_token"),
        ({"iss": None}, "invalid_token"),
        ({"aud": "https://node.example"}, "invalid_token"),
        ({"aud": "https://other.example/mcp"}, "invalid_token"),
        ({"aud": None}, "invalid_token"),
        ({"exp": NOW - 31}, "invalid_token"),
        ({"exp": None}, "invalid_token"),
        ({"exp": "soon"}, "invalid_token"),
        ({"exp": True}, "invalid_token"),
        ({"nbf": NOW + 31}, "invalid_token"),
        ({"sub": None}, "invalid_token"),
        ({"sub": ""}, "invalid_token"),
        ({"sub": "a" * 300}, "invalid_token"),
        ({"sub": "a\nb"}, "invalid_token"),
        ({"scope": "openid"}, "insufficient_scope"),
        ({"scope": "mcpx"}, "insufficient_scope"),
        ({"scope": None}, "insufficient_scope"),
    ],
)
def test_one_claim_that_is_not_right_is_enough(claims: dict[str, Any], error: str) -> None:
    given = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}

    found = judged(token(given))

    assert isinstance(found, NotBelieved)
    assert found.error == error


def _unsigned() -> str:
    head, body = ({"alg": "none", "kid": "one"}, CLAIMS)
    parts = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (head, body)
    )
    return ".".join((*parts, ""))


def _shared_secret() -> str:
    return token(CLAIMS, key="s" * 64, alg="HS256")


def _changed() -> str:
    head, _, signature = token(CLAIMS).split(".")
    other = base64.urlsafe_b64encode(json.dumps({**CLAIMS, "sub": "root"}).encode()).rstrip(b"=").decode()
    return ".".join((head, other, signature))


@pytest.mark.parametrize(
    "text",
    [
        _unsigned(),
        _shared_secret(),
        _changed(),
        token(CLAIMS, key=EC_KEY, alg="ES256"),
        "not-a-token",
        "a.b.c",
        "..",
        "",
        "é.é.é",
        "[" * 3000 + ".b.c",
        token({**CLAIMS, "pad": "x" * MAX_TOKEN}),
    ],
)
def test_what_this_key_has_not_signed_in_a_way_that_counts_is_refused(text: str) -> None:
    found = judged(text)

    assert isinstance(found, NotBelieved)
    assert found.error == "invalid_token"


@pytest.mark.parametrize(
    "more", [{"use": "enc"}, {"alg": "RS512"}, {"kty": "oct", "k": "c2VjcmV0"}, {"n": "!"}]
)
def test_a_key_that_is_not_for_this_signature_checks_none(more: dict[str, Any]) -> None:
    assert isinstance(judged(token(CLAIMS), jwk(RSA_KEY, "one", **more)), NotBelieved)


def test_a_curve_signs_as_well_and_a_profile_is_all_a_token_shows() -> None:
    settings = IssuerSettings(issuer=ISSUER, profile="guests", principal_claim="email")
    text = token({**CLAIMS, "email": "a@b"}, key=EC_KEY, alg="ES256")

    found = judged(text, jwk(EC_KEY, "one"), settings)

    assert found == Authority(principal_of(ISSUER, "a@b"), Selector(profile="guests"), may_operate=False)


def test_subjects_of_two_issuers_and_names_of_our_tokens_are_never_the_same() -> None:
    assert principal_of("https://a", "x") != principal_of("https://b", "x")
    assert principal_of("https://a", "x").startswith("oauth:")


def test_a_head_is_read_without_a_library() -> None:
    head = read_head(token(CLAIMS))

    assert head is not None
    assert (head.alg, head.kid) == ("RS256", "one")


@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        (
            "https://a.example",
            (
                "https://a.example/.well-known/oauth-authorization-server",
                "https://a.example/.well-known/openid-configuration",
            ),
        ),
        (
            "https://a.example/realms/x/",
            (
                "https://a.example/.well-known/oauth-authorization-server/realms/x",
                "https://a.example/.well-known/openid-configuration/realms/x",
                "https://a.example/realms/x/.well-known/openid-configuration",
            ),
        ),
    ],
)
def test_metadata_is_looked_for_where_both_specifications_put_it(issuer: str, urls: tuple[str, ...]) -> None:
    assert metadata_urls(issuer) == urls


# ---- the owner of the keys ------------------------------------------------------------------------------------------


async def find(keys: Handle[Any], kid: str | None) -> Any:
    return await keys.ask(FindKey(kid), 5.0)


def test_keys_are_fetched_once_and_an_unknown_one_has_them_fetched_again_once_in_a_while(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        site, clock = IssuerSite(), FakeClock()
        async with HttpServer(site) as server, fake_node(tmp_path, clock=clock) as node:
            origin = server.url.removesuffix("/mcp")
            keys = await node.start(IssuerKeys(node.services.node, IssuerSettings(issuer=origin)), "keys")
            assert (await find(keys, "one"))["kid"] == "one"
            assert (await find(keys, None))["kid"] == "one"
            assert [await find(keys, f"made-up-{number}") for number in range(20)] == [None] * 20
            before = site.asked.count("/keys")
            site.keys.append(jwk(EC_KEY, "two"))
            clock.advance(FETCH_PERIOD + 1)
            assert (await find(keys, "two"))["kid"] == "two"
            assert await find(keys, None) is None
            assert (before, site.asked.count("/keys")) == (1, 2)

            # One that the issuer has withdrawn does not count for ever.
            site.keys = site.keys[1:]
            clock.advance(KEYS_AGE + 1)
            assert (await find(keys, "one"))["kid"] == "one"
            await until(lambda: site.asked.count("/keys") == 3)
            await until(lambda: not keys.cell.actor._is_fetching)  # type: ignore[union-attr]
            assert await find(keys, "one") is None

    run(main)


@pytest.mark.parametrize("fault", ["broken", "another issuer's", "keys inside"])
def test_keys_that_cannot_be_had_are_said_to_be_it_and_asked_for_again(tmp_path: Path, fault: str) -> None:
    async def main() -> None:
        site, clock = IssuerSite(), FakeClock()
        if fault == "broken":
            site.is_broken = True
        elif fault == "another issuer's":
            site.issuer = "https://other.example"
        else:
            site.jwks_uri = "http://169.254.169.254/keys"
        async with HttpServer(site) as server, fake_node(tmp_path, clock=clock) as node:
            origin = server.url.removesuffix("/mcp")
            keys = await node.start(IssuerKeys(node.services.node, IssuerSettings(issuer=origin)), "keys")
            assert isinstance(await find(keys, "one"), NotReachable)
            asked = len(site.asked)
            assert isinstance(await find(keys, "one"), NotReachable)
            assert len(site.asked) == asked
            site.is_broken, site.issuer, site.jwks_uri = False, "", ""
            clock.advance(FETCH_PERIOD + 1)
            assert (await find(keys, "one"))["kid"] == "one"

    run(main)


# ---- at the door ----------------------------------------------------------------------------------------------------


async def ask(stage: Stage, path: str, bearer: str | None, method: str = "GET") -> RawResponse:
    connection = await RawConnection.open(stage.url)
    headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    try:
        return await connection.ask(method, path, headers)
    finally:
        await connection.close()


class Door:
    """A door that believes an issuer, and that issuer."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._folder = folder
        self._settings = settings
        self.site = IssuerSite()

    async def __aenter__(self) -> Door:
        self._server = HttpServer(self.site)
        await self._server.__aenter__()
        self.issuer = self._server.url.removesuffix("/mcp")
        oauth = IssuerSettings(issuer=self.issuer, audience=AUDIENCE, scopes=("mcp",), **self._settings)
        keys = Handle[Any](None)  # type: ignore[arg-type]
        self._context = open_door(
            self._folder,
            settings=local(auth=AuthSettings(oauth=oauth)),
            tokens=TokenTable([("good", DEFAULT_AUTHORITY)]),
            issuer=Issuer(oauth, keys),
        )
        self.stage = await self._context.__aenter__()
        owner = await self.stage.node.start(IssuerKeys(self.stage.node.services.node, oauth), "keys")
        keys.cell = owner.cell
        return self

    async def __aexit__(self, *exit: Any) -> None:
        await self._context.__aexit__(*exit)
        await self._server.__aexit__(*exit)

    def token(self, **claims: Any) -> str:
        now = self.stage.node.services.node.clock.wall().timestamp()
        given = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "alice",
            "exp": now + 60,
            "scope": "mcp",
            **claims,
        }
        return token(given)


def test_both_kinds_of_tokens_open_mcp_and_each_is_its_own_principal(tmp_path: Path) -> None:
    async def main() -> None:
        async with Door(tmp_path) as door:
            theirs = await RawClient.open(door.stage.url, token=door.token())
            ours = await RawClient.open(door.stage.url, token="good")
            assert (await theirs.post(call(1, "alpha_echo"))).json()["result"]["sent"]["name"] == "echo"
            caller = door.stage.node.instances["alpha"].calls[-1].caller
            ours.session = theirs.session
            stolen = await ours.post(call(2, "alpha_echo"))
            bob = RawClient(ours.connection, token=door.token(sub="bob"))
            bob.session = theirs.session
            also_stolen = await bob.post(call(2, "alpha_echo"))
            await theirs.close()
            await ours.close()

            assert caller.principal == principal_of(door.issuer, "alice")
            assert (stolen.status, also_stolen.status) == (404, 404)

    run(main)


def test_a_client_without_a_token_is_told_where_to_get_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with Door(tmp_path) as door:
            for path, below in (
                ("/mcp", "/mcp"),
                ("/mcp/server/alpha", "/mcp/server/alpha"),
                ("/metrics", "/mcp"),
            ):
                refused = await ask(door.stage, path, None)
                where = f"https://node.example/.well-known/oauth-protected-resource{below}"
                words = f'Bearer realm="mcpv-node", resource_metadata="{where}", scope="mcp"'
                assert (refused.status, refused.headers["www-authenticate"]) == (401, words)
            for path in ("", "/mcp", "/mcp/server/alpha"):
                about = await ask(door.stage, f"/.well-known/oauth-protected-resource{path}", None)
                assert about.status == 200
                assert about.json() == {
                    "resource": AUDIENCE,
                    "authorization_servers": [door.issuer],
                    "bearer_methods_supported": ["header"],
                    "scopes_supported": ["mcp"],
                }
            assert (
                await ask(door.stage, "/.well-known/oauth-protected-resource", None, "POST")
            ).status == 405

    run(main)


def test_a_token_that_is_not_believed_or_lacks_a_scope_is_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        async with Door(tmp_path, required_scopes=("mcp", "tools")) as door:
            now = door.stage.node.services.node.clock.wall().timestamp()
            old = await ask(door.stage, "/mcp", door.token(exp=now - 1000, scope="mcp tools"))
            poor = await ask(door.stage, "/mcp", door.token())
            unknown = await ask(door.stage, "/mcp", "nonsense")

            assert (old.status, poor.status, unknown.status) == (401, 403, 401)
            assert 'error="invalid_token"' in old.headers["www-authenticate"]
            assert 'error="insufficient_scope"' in poor.headers["www-authenticate"]
            assert 'scope="mcp tools"' in poor.headers["www-authenticate"]
            assert 'error="invalid_token"' in unknown.headers["www-authenticate"]

    run(main)


def test_a_token_of_an_issuer_never_operates_the_node(tmp_path: Path) -> None:
    async def main() -> None:
        async with Door(tmp_path) as door:
            theirs = [
                (await ask(door.stage, path, door.token(), method)).status
                for method, path in (
                    ("GET", "/metrics"),
                    ("GET", "/api/v1/servers"),
                    ("POST", "/api/v1/node/stop"),
                    ("POST", "/api/v1/servers/alpha/stop"),
                )
            ]

            assert theirs == [403] * 4
            assert (await ask(door.stage, "/metrics", "good")).status == 200

    run(main)


def test_a_token_in_the_address_is_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with Door(tmp_path) as door:
            query = await ask(door.stage, f"/mcp?access_token={door.token()}", None)
            ours = await ask(door.stage, "/metrics?access_token=good&token=good", None)

            assert (query.status, ours.status) == (401, 401)

    run(main)


def test_an_issuer_that_cannot_be_reached_closes_its_door_and_not_ours(tmp_path: Path) -> None:
    async def main() -> None:
        door = Door(tmp_path)
        door.site.is_broken = True
        async with door:
            theirs = await ask(door.stage, "/mcp", door.token())
            ours = await ask(door.stage, "/metrics", "good")

            assert (theirs.status, theirs.headers["retry-after"], ours.status) == (503, "1", 200)
            assert b"127.0.0.1" not in theirs.body

    run(main)
