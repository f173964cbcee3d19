"""A modern server asks its client in a result; a client of the older era is asked in requests of its own.

The call is made again with the answers, by the same instance, until its result is complete.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Raw

from mcpv_node.actors.instance.messages import Answer
from mcpv_node.actors.kernel import ActorError
from mcpv_node.actors.leases import Acquire, Lease, LeaseId, LeaseKind, Release, new_lease_id
from mcpv_node.protocol import (
    CallFailure,
    InputRequest,
    InputRequired,
    Reason,
    RemoteProtocolError,
    answer_for_failure,
    legacy_params,
    parse_input_required,
    requires_input,
    retry_params,
)

from .ports import ClientPort

if TYPE_CHECKING:
    from .calls import Trip

# A server that asks again and again does not come to an end.
MAX_ROUNDS = 32

# A server that gives out a state and asks nothing is busy with something (seconds): soon for what is nearly done, and
# never in a loop. The pause doubles with each such answer in a row.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0

# Keeping an instance from its idle stop takes a turn of the loop.
KEEP_BOUND = 5.0


async def finish_rounds(trip: Trip, port: ClientPort, answer: Answer | CallFailure) -> Answer | CallFailure:
    """Ask the client what the server wants to know, as often as it does."""
    name = trip.server.spec.name
    states_alone = 0  # in a row
    try:
        for _ in range(MAX_ROUNDS):
            required = _required(trip, answer)
            if required is None:
                return answer
            assert trip.served is not None  # somebody has answered
            states_alone = 0 if required.requests else states_alone + 1
            pause = pause_after(states_alone)
            responses = await _ask_in_time(trip, port, required, trip.served, pause)
            if not isinstance(responses, dict):
                return responses
            trip.params = retry_params(trip.route.call.params, responses=responses, state=required.state)
            trip.instance = trip.served.instance_id
            answer = await trip.go()
    except RemoteProtocolError as error:
        return CallFailure(
            reason=Reason.BAD_REPLY, message=f"{name}: {error}", server=name, executed="unknown"
        )
    return CallFailure(
        reason=Reason.BAD_REPLY,
        message=f"{name}: it has asked {MAX_ROUNDS} times and come to no result",
        server=name,
        executed="unknown",
    )


def pause_after(states_alone: int) -> float:
    """Seconds before a call is made again, after so many answers in a row that ask nothing."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (states_alone - 1)) if states_alone else 0.0


def _required(trip: Trip, answer: Answer | CallFailure) -> InputRequired | None:
    """What the server wants to know before it goes on, if that is its answer."""
    if isinstance(answer, CallFailure) or answer.result is None or trip.served is None:
        return None
    if trip.served.hello.era != "modern" or not requires_input(answer.result):
        return None
    return parse_input_required(answer.result)


async def _ask_in_time(
    trip: Trip, port: ClientPort, required: InputRequired, served: Lease, pause: float
) -> dict[str, bytes | Raw] | Answer | CallFailure:
    """Ask, or pause, as long as the whole call may take; meanwhile whoever cancels it cancels this."""
    name = trip.server.spec.name
    kept = new_lease_id()
    trip.control.wait(trip.node.system.loop)
    try:
        async with asyncio.timeout(max(0.0, trip.ends - trip.node.clock.monotonic())):
            await _keep(trip, kept, served)
            if not required.requests:
                await asyncio.sleep(pause)
            return await _ask_all(port, required)
    except TimeoutError:
        return CallFailure(
            reason=Reason.CALL_TIMEOUT,
            message=f"{name}: the client did not answer what it was asked before the end of the call"
            if required.requests
            else f"{name}: it had no result before the end of the call",
            server=name,
            executed="unknown",
        )
    finally:
        trip.server.handle.tell(Release(kept))


async def _keep(trip: Trip, lease: LeaseId, served: Lease) -> None:
    """Keep the instance from its idle stop while its client thinks: without it the server may have forgotten.

    Where that cannot be had, the next round goes to whoever serves then.
    """
    deadline = trip.node.clock.monotonic() + KEEP_BOUND
    request = Acquire(lease, trip.caller, deadline, kind=LeaseKind.TASK, instance=served.instance_id)
    with suppress(ActorError):
        await trip.server.handle.ask(request, KEEP_BOUND)


async def _ask_all(port: ClientPort, required: InputRequired) -> dict[str, bytes | Raw] | Answer:
    """The answers by their keys; an error where one of them was refused that nothing can stand in for."""
    asked = await asyncio.gather(*(_ask(port, request) for request in required.requests))
    responses: dict[str, bytes | Raw] = {}
    for request, answer in zip(required.requests, asked, strict=True):
        said = answer.result if answer.result is not None else answer_for_failure(request.method)
        if said is None:
            return answer
        responses[request.key] = said
    return responses


async def _ask(port: ClientPort, request: InputRequest) -> Answer:
    return await port.ask(request.method, legacy_params(request, elicitation_id=secrets.token_urlsafe(16)))
