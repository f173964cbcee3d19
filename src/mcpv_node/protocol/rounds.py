"""Requests that take several rounds: a modern server asks its client in a result, and is called again.

A legacy server asks in requests of its own, while the call waits. Both ask the same three things in the same words,
so one becomes the other: `input_request` and `legacy_params` turn what is asked, answers pass as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Raw

from .errors import URL_ELICITATION_REQUIRED, LocalProtocolError, RemoteProtocolError
from .members import items
from .meta import META, PROGRESS_TOKEN, SERVER_INFO_KEY, meta_in
from .profiles import ELICITATION, LIST_ROOTS, SAMPLING
from .reading import is_there, read_object, read_text

RESULT_TYPE: Final = "resultType"
INPUT_RESPONSES: Final = "inputResponses"
REQUEST_STATE: Final = "requestState"
_INPUT_REQUESTS: Final = "inputRequests"

# The specification allows no other request to be answered with a question.
ROUND_METHODS: Final = frozenset({"tools/call", "prompts/get", "resources/read"})
# All that can be asked.
INPUT_METHODS: Final = frozenset({ELICITATION, SAMPLING, LIST_ROOTS})

_ELICITATION_ID: Final = "elicitationId"
# Without these an answer is none.
_ANSWERED_WITH: Final = {
    ELICITATION: ("action",),
    SAMPLING: ("role", "content", "model"),
    LIST_ROOTS: ("roots",),
}
_ACTIONS: Final = ("accept", "decline", "cancel")
# The legacy leg's own business.
_LEGACY_ONLY: Final = (_ELICITATION_ID, "task")


class ResultType(StrEnum):
    """What kind of result it is."""

    COMPLETE = "complete"
    INPUT_REQUIRED = "input_required"
    # The tasks extension: the result comes later, under an id.
    TASK = "task"


_INPUT_REQUIRED: Final = ResultType.INPUT_REQUIRED.value.encode()


class InputRequest(msgspec.Struct, frozen=True):
    """One thing asked of the client, under the key its answer comes back with."""

    key: str
    method: str
    params: bytes | None = None


class InputRequired(msgspec.Struct, frozen=True):
    """What a server wants to know before it goes on, and what it wants back with the answers."""

    requests: tuple[InputRequest, ...] = ()
    state: str | None = None


class Retry(msgspec.Struct, frozen=True):
    """What a client brings to the next round; the answers are views into the received bytes."""

    responses: dict[str, Raw]
    state: str | None = None


def result_type(result: bytes | Raw) -> ResultType:
    """The kind of a result; servers of the legacy era say none, and mean it is complete."""
    return result_type_in(read_object(result, "the server's result"))


def result_type_in(found: Mapping[str, Raw]) -> ResultType:
    """The same, of a result that has been read."""
    if RESULT_TYPE not in found:
        return ResultType.COMPLETE
    said = read_text(found, RESULT_TYPE, "the resultType of the server's result")
    try:
        return ResultType(said)
    except ValueError:
        known = ", ".join(ResultType)
        raise RemoteProtocolError(
            f'the server\'s result has the resultType "{said}"; we know {known}'
        ) from None


def requires_input(result: bytes | Raw) -> bool:
    """Whether a server asks its client in this result."""
    data = bytes(result)
    # Most results do not even hold the word; a backslash may spell a letter of it.
    if _INPUT_REQUIRED not in data and b"\\" not in data:
        return False
    return result_type(data) is ResultType.INPUT_REQUIRED


def parse_input_required(result: bytes | Raw) -> InputRequired:
    """Read what the server wants to know."""
    found = read_object(result, "the server's result")
    asked = read_object(found[_INPUT_REQUESTS], "inputRequests") if is_there(found, _INPUT_REQUESTS) else {}
    state = read_text(found, REQUEST_STATE, REQUEST_STATE) if is_there(found, REQUEST_STATE) else None
    if not asked and state is None:
        raise RemoteProtocolError(
            "the server requires input, and names neither inputRequests nor requestState"
        )
    return InputRequired(tuple(_read_request(key, raw) for key, raw in asked.items()), state)


def input_required(
    requests: Iterable[InputRequest], state: str | None, *, server_info: bytes | None = None
) -> bytes:
    """The result that asks: at least one question or a state."""
    asked = {request.key: _encode_request(request) for request in requests}
    if not asked and state is None:
        raise LocalProtocolError("a result that requires input needs a request or a state")
    result: dict[str, object] = {RESULT_TYPE: ResultType.INPUT_REQUIRED.value}
    if asked:
        result[_INPUT_REQUESTS] = asked
    if state is not None:
        result[REQUEST_STATE] = state
    if server_info is not None:
        result[META] = {SERVER_INFO_KEY: Raw(server_info)}
    return msgspec.json.encode(result)


def with_state(result: bytes | Raw, state: str) -> bytes:
    """The same result that asks, with this state in the place of its own."""
    found: dict[str, object] = dict(read_object(result, "the server's result"))
    found[REQUEST_STATE] = state
    return msgspec.json.encode(found)


def input_request(key: str, method: str, params: bytes | Raw | None) -> InputRequest:
    """A legacy server's request as a question in a result, without what belongs to its own leg."""
    if method not in INPUT_METHODS:
        raise RemoteProtocolError(f'the server asks its client for "{method}", which no result can ask')
    if params is None:
        return InputRequest(key, method)
    found: dict[str, object] = dict(read_object(params, f"the params of {method}"))
    before = len(found)
    for name in _LEGACY_ONLY:
        found.pop(name, None)
    changed = len(found) != before
    meta = meta_in(found)
    if meta.pop(PROGRESS_TOKEN, None) is not None:
        changed = True
        found[META] = meta
    return InputRequest(key, method, msgspec.json.encode(found) if changed else bytes(params))


def legacy_params(request: InputRequest, *, elicitation_id: str) -> bytes | None:
    """The params with which a legacy client is asked; only a visit to a URL has an id there."""
    if request.params is None or request.method != ELICITATION:
        return request.params
    found: dict[str, object] = dict(read_object(request.params, f"the params of {ELICITATION}"))
    mode = found.get("mode")
    if not isinstance(mode, Raw) or bytes(mode) != b'"url"' or _ELICITATION_ID in found:
        return request.params
    found[_ELICITATION_ID] = elicitation_id
    return msgspec.json.encode(found)


def answer_for_failure(method: str) -> bytes | None:
    """What a client that failed to answer is taken to have said; None where only a result would do."""
    return b'{"action":"cancel"}' if method == ELICITATION else None


def url_elicitations(error: bytes | Raw) -> tuple[InputRequest, ...]:
    """The visits that a legacy server's -32042 requires, each under its id; empty for any other error."""
    found = read_object(error, "the server's error")
    if bytes(found.get("code", Raw(b""))) != b"%d" % URL_ELICITATION_REQUIRED:
        return ()
    data = read_object(found.get("data", Raw(b"{}")), "the data of the server's error")
    try:
        visits = items(data.get("elicitations", Raw(b"null")))
    except msgspec.DecodeError:
        raise RemoteProtocolError("the server requires visits to URLs, and its error names none") from None
    return tuple(_read_visit(index, visit) for index, visit in enumerate(visits))


def parse_retry(params: bytes | Raw | None) -> Retry | None:
    """Read what a client brings to the next round; None when this is a first one."""
    return retry_in({} if params is None else read_object(params, "params"))


def retry_in(found: Mapping[str, Raw]) -> Retry | None:
    """The same, of params that have been read."""
    if INPUT_RESPONSES not in found and REQUEST_STATE not in found:
        return None
    responses = read_object(found[INPUT_RESPONSES], INPUT_RESPONSES) if INPUT_RESPONSES in found else {}
    state = read_text(found, REQUEST_STATE, REQUEST_STATE) if REQUEST_STATE in found else None
    return Retry(responses, state)


def answer_to(request: InputRequest, retry: Retry) -> bytes | None:
    """The client's answer as the result a legacy server waits for; None when it has to be asked again."""
    if request.key not in retry.responses:
        return None
    raw = retry.responses[request.key]
    what = f'the inputResponse "{request.key}"'
    found = read_object(raw, what)
    for name in _ANSWERED_WITH[request.method]:
        if name not in found:
            raise RemoteProtocolError(f"{what} has no {name}")
    if request.method == ELICITATION and read_text(found, "action", f"the action of {what}") not in _ACTIONS:
        raise RemoteProtocolError(f"the action of {what} is none of {', '.join(_ACTIONS)}")
    return bytes(raw)


def round_digest(method: str, params: bytes | Raw | None) -> str:
    """What all rounds of one request have in common, whatever order its client writes members in."""
    found = {} if params is None else read_object(params, "params")
    same = {name: raw for name, raw in found.items() if name not in (META, INPUT_RESPONSES, REQUEST_STATE)}
    encoded = msgspec.json.encode(same)
    with suppress(msgspec.DecodeError):
        encoded = msgspec.json.encode(msgspec.json.decode(encoded), order="deterministic")
    return hashlib.sha256(method.encode() + b"\0" + encoded).hexdigest()


def retry_params(
    params: bytes | Raw | None, *, responses: Mapping[str, bytes | Raw], state: str | None
) -> bytes:
    """The same params for the next round, with these answers and this state and no others."""
    found: dict[str, object] = {} if params is None else dict(read_object(params, "params"))
    found.pop(INPUT_RESPONSES, None)
    found.pop(REQUEST_STATE, None)
    if responses:
        found[INPUT_RESPONSES] = {key: Raw(bytes(response)) for key, response in responses.items()}
    if state is not None:
        found[REQUEST_STATE] = state
    return msgspec.json.encode(found)


def _read_request(key: str, raw: Raw) -> InputRequest:
    found = read_object(raw, f'the inputRequest "{key}"')
    method = read_text(found, "method", f'the method of the inputRequest "{key}"')
    if method not in INPUT_METHODS:
        raise RemoteProtocolError(f'the inputRequest "{key}" asks for "{method}"')
    if not is_there(found, "params"):
        return InputRequest(key, method)
    read_object(found["params"], f'the params of the inputRequest "{key}"')
    return InputRequest(key, method, bytes(found["params"]))


def _encode_request(request: InputRequest) -> dict[str, object]:
    asked: dict[str, object] = {"method": request.method}
    if request.params is not None:
        asked["params"] = Raw(request.params)
    return asked


def _read_visit(index: int, raw: Raw) -> InputRequest:
    found = read_object(raw, "an elicitation of the server's error")
    known = is_there(found, _ELICITATION_ID)
    key = read_text(found, _ELICITATION_ID, _ELICITATION_ID) if known else f"url-{index}"
    visit: dict[str, object] = dict(found)
    visit.pop(_ELICITATION_ID, None)
    visit["mode"] = "url"
    return InputRequest(key, ELICITATION, msgspec.json.encode(visit))
