"""What a modern server says of itself, and how a server that is not known yet is spoken to."""

from __future__ import annotations

import json

import pytest
from mcp_types import methods
from msgspec import Raw

from mcpv_node.protocol import (
    LEGACY,
    AfterInitialize,
    AfterProbe,
    Capabilities,
    Failure,
    Message,
    ProbeAgain,
    ProbeFailed,
    RawId,
    RemoteProtocolError,
    Request,
    ServerHello,
    Silence,
    SpeakLegacy,
    SpeakModern,
    Success,
    TrySse,
    UseInitialize,
    after_initialize,
    after_probe,
    discover_result,
    era_of,
    initialize_result,
    parse_discover_result,
)

MODERN = "2026-07-28"
INFO = b'{"name":"fs","version":"2"}'
CAPABILITIES = b'{"tools":{"listChanged":true}}'
HELLO = ServerHello(
    version=MODERN,
    name="fs",
    server_version="2",
    capabilities=Capabilities(tools=True, tools_list_changed=True, raw=CAPABILITIES),
    instructions="Read me.",
)
DISCOVERY = discover_result(
    capabilities=CAPABILITIES, server_info=INFO, ttl_ms=5, cache_scope="private", instructions="Read me."
)
INITIALIZED = initialize_result("2025-06-18", name="fs", server_version="2", capabilities=CAPABILITIES)


def success(result: object) -> Success:
    raw = result if isinstance(result, bytes) else json.dumps(result).encode()
    return Success(RawId(b"1"), Raw(raw))


def failure(code: object, data: object = None) -> Failure:
    error = {"code": code, "message": "because"} | ({} if data is None else {"data": data})
    return Failure(RawId(b"1"), Raw(json.dumps(error).encode()))


def test_what_we_say_of_ourselves_is_read_and_is_of_the_schema() -> None:
    assert parse_discover_result(DISCOVERY) == HELLO
    assert HELLO.era == "modern"
    methods.validate_server_result("server/discover", MODERN, json.loads(DISCOVERY))


def test_only_modern_versions_are_said_to_be_supported() -> None:
    assert json.loads(DISCOVERY)["supportedVersions"] == [MODERN]


def test_a_server_need_not_say_who_it_is() -> None:
    hello = parse_discover_result(
        b'{"supportedVersions":["2099-01-01","2026-07-28"],"capabilities":{},"_meta":null}'
    )

    assert (hello.version, hello.name, hello.server_version, hello.instructions) == (MODERN, "", "", None)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ([], "answer to server/discover is not an object"),
        ({"capabilities": {}}, "has no supportedVersions"),
        ({"supportedVersions": "x", "capabilities": {}}, "supportedVersions is not an array of strings"),
        (
            {"supportedVersions": ["2099-01-01"], "capabilities": {}},
            "the server speaks 2099-01-01; we speak 2026-07-28",
        ),
        ({"supportedVersions": [], "capabilities": {}}, "the server speaks no version"),
        ({"supportedVersions": [MODERN]}, "has no capabilities"),
        (
            {"supportedVersions": [MODERN], "capabilities": {"tools": 1}},
            "capabilities.tools is not an object",
        ),
    ],
)
def test_a_discovery_that_cannot_be_read_says_why(result: object, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parse_discover_result(json.dumps(result).encode())


@pytest.mark.parametrize(
    ("version", "era"),
    [(MODERN, "modern"), *((version, "legacy") for version in LEGACY), ("2099-01-01", None), ("", None)],
)
def test_a_version_belongs_to_an_era(version: str, era: str | None) -> None:
    assert era_of(version) == era


INITIALIZE = UseInitialize("2025-11-25")
PROBES: list[tuple[Message | Silence | None, AfterProbe]] = [
    (success(DISCOVERY), SpeakModern(HELLO)),
    (
        success({"supportedVersions": ["2099-01-01", "2025-06-18"], "capabilities": {}}),
        UseInitialize("2025-06-18"),
    ),
    (success({}), INITIALIZE),
    (success([]), INITIALIZE),
    (success({"supportedVersions": 1}), INITIALIZE),
    (
        failure(-32022, {"supported": ["2025-03-26", "2025-11-25"], "requested": MODERN}),
        UseInitialize("2025-11-25"),
    ),
    (failure(-32022, {"supported": [MODERN, "2024-11-05"]}), UseInitialize("2024-11-05")),
    (failure(-32022, {"supported": "x"}), INITIALIZE),
    (failure(-32022), INITIALIZE),
    (failure(-32601), INITIALIZE),
    (failure(-32602), INITIALIZE),
    (failure(-32000), INITIALIZE),
    (failure(-32603), INITIALIZE),
    (failure(0), INITIALIZE),
    (failure("odd"), INITIALIZE),
    (Failure(None, Raw(b"{}")), INITIALIZE),
    ("silence", INITIALIZE),
    (None, INITIALIZE),
    (Request(RawId(b"1"), "ping"), INITIALIZE),
]


@pytest.mark.parametrize(("answer", "expected"), PROBES)
def test_what_comes_back_from_a_pipe_decides_how_the_server_is_spoken_to(
    answer: Message | Silence | None, expected: AfterProbe
) -> None:
    assert after_probe(answer, asked=MODERN) == expected


@pytest.mark.parametrize("status", [200, 202, 400, 404, 406, 415, 422])
@pytest.mark.parametrize(("answer", "expected"), PROBES)
def test_what_comes_back_over_http_decides_the_same(
    answer: Message | Silence | None, expected: AfterProbe, status: int
) -> None:
    assert after_probe(answer, asked=MODERN, status=status) == expected


@pytest.mark.parametrize("status", [None, 200, 400])
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (success({"supportedVersions": ["2099-01-01"], "capabilities": {}}), "the server speaks 2099-01-01"),
        (success({"supportedVersions": [MODERN]}), "has no capabilities"),
        (failure(-32022, {"supported": ["2099-01-01"]}), "the server speaks 2099-01-01"),
        (failure(-32022, {"supported": [MODERN]}), "the server speaks 2026-07-28"),
        (failure(-32020), "the server refused server/discover: because"),
        (failure(-32021, {"requiredCapabilities": {}}), "refused server/discover: because"),
    ],
)
def test_a_modern_server_that_refuses_us_is_not_taken_for_a_legacy_one(
    answer: Message, why: str, status: int | None
) -> None:
    outcome = after_probe(answer, asked=MODERN, status=status)

    assert isinstance(outcome, ProbeFailed)
    assert why in outcome.why


def test_a_modern_server_in_another_version_of_ours_is_probed_again() -> None:
    answer = failure(-32022, {"supported": [MODERN]})

    assert after_probe(answer, asked="2099-01-01") == ProbeAgain(MODERN)


@pytest.mark.parametrize("answer", [None, failure(-32000)])
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (405, TrySse()),
        (401, "401"),
        (403, "403"),
        (407, "407"),
        (408, "408"),
        (429, "429"),
        (301, "301"),
        (500, "500"),
        (502, "502"),
        (503, "503"),
    ],
)
def test_a_status_alone_says_whether_there_is_another_way(
    answer: Message | None, status: int, expected: TrySse | str
) -> None:
    outcome = after_probe(answer, asked=MODERN, status=status)

    if isinstance(expected, str):
        assert outcome == ProbeFailed(f"the server answered server/discover with the HTTP status {expected}")
    else:
        assert outcome == expected


def test_a_discovery_counts_whatever_its_status() -> None:
    assert after_probe(success(DISCOVERY), asked=MODERN, status=500) == SpeakModern(HELLO)


LEGACY_HELLO = ServerHello(
    version="2025-06-18",
    name="fs",
    server_version="2",
    capabilities=Capabilities(tools=True, tools_list_changed=True, raw=CAPABILITIES),
)


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        (success(INITIALIZED), None, SpeakLegacy(LEGACY_HELLO)),
        (success(INITIALIZED), 200, SpeakLegacy(LEGACY_HELLO)),
        (success({}), 200, ProbeFailed("the server's protocolVersion is missing")),
        (failure(-32602), None, ProbeFailed("the server refused initialize: because")),
        (failure(-32602), 400, ProbeFailed("the server refused initialize: because")),
        (Failure(None, Raw(b"{}")), None, ProbeFailed("the server refused initialize: it did not say why")),
        ("silence", None, ProbeFailed("the server did not answer initialize")),
        ("silence", 200, ProbeFailed("the server did not answer initialize")),
        (None, None, ProbeFailed("the server answered initialize with something that is no message")),
        (None, 400, TrySse()),
        (None, 404, TrySse()),
        (None, 405, TrySse()),
        (failure(-32000), 404, TrySse()),
        (failure(-32000), 405, TrySse()),
        (None, 401, ProbeFailed("the server answered initialize with the HTTP status 401")),
        (None, 500, ProbeFailed("the server answered initialize with the HTTP status 500")),
    ],
)
def test_what_comes_back_for_initialize_opens_a_session_or_says_why_not(
    answer: Message | Silence | None, status: int | None, expected: AfterInitialize
) -> None:
    assert after_initialize(answer, status=status) == expected


def test_a_server_that_opened_a_session_is_a_legacy_one() -> None:
    assert LEGACY_HELLO.era == "legacy"
