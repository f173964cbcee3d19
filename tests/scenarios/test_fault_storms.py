"""Many things fail at once: whoever is not concerned does not notice, and every call has an end."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from support.embedded import run
from support.nodes import BadServer, Node, running_node
from support.processes import alive, wait_until
from support.raw_http import RawClient, RawConnection, request

LONG = 600

# Failures are replayed with it.
SEED = 20261120

# A restart that is at once, and never the last one.
EAGER = {"maxRetries": 1_000_000, "baseSeconds": 0.001, "maxSeconds": 0.002}

TYPES = 10

CALLS = 1000

# An instance is killed whenever so many more calls have been answered.
KILL_EVERY = 12

# DESIGN 7.6: how a call may end here. Nobody stops a server, and none writes what is no message.
REASONS = {"instance_died", "start_failed", "backing_off", "queue_timeout", "overloaded"}


def test_a_crash_storm_of_one_server_costs_the_others_no_call(tmp_path: Path) -> None:
    storm = BadServer(tmp_path, "storm")
    others = [BadServer(tmp_path, f"calm{number}") for number in range(3)]
    entries = [
        storm.entry(activationMode="always-on", minReady=3, maxInstances=3, restart=EAGER),
        *(other.entry(idleSeconds=LONG, maxInstances=2, maxConcurrent=4) for other in others),
    ]
    with running_node(tmp_path, entries) as node, node.session() as session:
        node.until_learnt(["storm", *(other.name for other in others)])
        for other in others:
            assert wait_until(lambda other=other: not any(map(alive, other.starts())))
            other.forget()
        # From its next start on it has no other.
        storm.behave(EXIT_IN_HANDSHAKE=1)
        for pid in storm.starts():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        storm.until_told("exit 1", times=10)
        before = len(storm.told("exit 1"))

        texts: list[str] = []
        expected: list[str] = []
        while len(storm.told("exit 1")) < before + 60 or len(texts) < 150:
            calls = [
                (one, session.call(other.tool("echo"), {"text": one})) for other in others for one in "ab"
            ]
            texts += [call.text() for _, call in calls]
            expected += [one for one, _ in calls]
        failed = [node.why(other)["calls"]["failed"] for other in others]
        storming = node.why("storm")

        assert texts == expected
        assert failed == [0, 0, 0]
        # They had no more processes than their own calls asked for.
        assert max(len(other.starts()) for other in others) <= 2
        assert storming["state"] in ("backing_off", "starting")
        assert storming["lastExit"]["code"] == 1


def test_a_storm_that_gives_up_is_suspended_and_comes_back_when_told_to(tmp_path: Path) -> None:
    storm = BadServer(tmp_path, "storm")
    restart = {"maxRetries": 3, "baseSeconds": 0.001, "maxSeconds": 0.002}
    with running_node(tmp_path, [storm.entry(activationMode="always-on", restart=restart)]) as node:
        node.until_learnt(["storm"])
        node.until_state("storm", "ready")
        storm.behave(EXIT_IN_HANDSHAKE=1)
        storm.forget()
        [pid] = node.pids("storm")
        os.kill(pid, signal.SIGKILL)

        node.until_state("storm", "suspended")
        tries = len(storm.starts())
        with node.session() as session:
            refused = session.call("storm_echo", {"text": "x"}).failure()["data"]["reason"]
        storm.behave()
        retried = node.order("storm", "retry")["state"]

        assert tries == 3
        assert refused == "suspended"
        assert retried == "ready"


# ---- a thousand calls -------------------------------------------------------------------------------------------


class Storm:
    """Ten servers, and somebody who kills their processes."""

    def __init__(self, folder: Path) -> None:
        self.servers = [BadServer(folder, f"type{number}") for number in range(TYPES)]
        self.entries = [
            server.entry(
                idleSeconds=LONG,
                maxInstances=2,
                maxConcurrent=4,
                queueLimit=CALLS,
                queueTimeoutSeconds=60,
                restart=EAGER,
            )
            for server in self.servers
        ]
        self.chance = random.Random(SEED)
        self.answered = 0
        self.killed: list[int] = []

    def note_answer(self) -> None:
        """Count an answer; every so often somebody has to go for it."""
        self.answered += 1
        if self.answered % KILL_EVERY == 0:
            self.kill_one()

    def kill_one(self) -> None:
        server = self.chance.choice(self.servers)
        victims = [pid for pid in server.starts() if alive(pid)]
        if victims:
            victim = self.chance.choice(victims)
            os.kill(victim, signal.SIGKILL)
            self.killed.append(victim)


@asynccontextmanager
async def clients_of(node: Node, count: int) -> AsyncIterator[list[RawClient]]:
    """Have so many sessions, each with one connection."""
    async with AsyncExitStack() as stack:
        clients: list[RawClient] = []
        for _ in range(count):
            client = await RawClient.open(node.url, token=node.token)
            stack.push_async_callback(client.close)
            clients.append(client)
        yield clients


async def call_once(
    node: Node, session: RawClient, id: int, tool: str, arguments: dict[str, object]
) -> dict[str, Any]:
    """Make one call on a connection of its own."""
    client = RawClient(await RawConnection.open(node.url), token=node.token)
    client.session = session.session
    try:
        answer = await client.post(request(id, "tools/call", name=tool, arguments=arguments))
        reply: dict[str, Any] = answer.last_message()
        return reply
    finally:
        await client.close()


def test_a_thousand_calls_all_end_though_instances_are_killed_at_random(tmp_path: Path) -> None:
    storm = Storm(tmp_path)
    limits = {"inFlightPerSession": CALLS, "inFlightPerPrincipal": CALLS}
    with running_node(tmp_path, storm.entries, limits=limits, bootstrapConcurrency=4) as node:
        node.until_learnt([server.name for server in storm.servers])
        for server in storm.servers:
            assert wait_until(lambda server=server: not any(map(alive, server.starts())))
            server.forget()
        before = node.metrics()
        replies: list[tuple[str, dict[str, Any]]] = []

        async def main() -> None:
            async with clients_of(node, TYPES) as sessions:

                async def one(number: int) -> None:
                    server = storm.servers[number % TYPES]
                    arguments = {"seconds": 0.05, "text": str(number)}
                    tool = server.tool(("sleep", "echo")[number // TYPES % 2])
                    reply = await call_once(node, sessions[number % TYPES], number, tool, arguments)
                    replies.append((tool, reply))
                    storm.note_answer()

                async with asyncio.TaskGroup() as calls:
                    for number in range(CALLS):
                        calls.create_task(one(number))

        run(main)
        results = [reply for _, reply in replies if "result" in reply]
        errors = [reply["error"] for _, reply in replies if "error" in reply]
        reasons = Counter(error["data"]["reason"] for error in errors)
        reports = [node.why(server) for server in storm.servers]
        after = node.metrics()

        assert len(results) + len(errors) == CALLS
        assert len(storm.killed) > CALLS // KILL_EVERY // 2
        assert set(reasons) <= REASONS, reasons
        assert reasons["instance_died"] > 0, reasons
        # A kill costs the calls of one instance; in a start, those that waited for it and were not executed.
        assert reasons["instance_died"] <= 4 * len(storm.killed), reasons
        executed = {(error["data"]["reason"], error["data"]["executed"]) for error in errors}
        assert executed <= {("instance_died", "unknown"), *((reason, "no") for reason in REASONS)}
        assert len(results) > CALLS // 10
        # Nobody and nothing waits any more.
        assert [
            (report["waiting"], sum(one["busy"] for one in report["instances"])) for report in reports
        ] == [(0, 0)] * TYPES
        assert counted(after, "mcpv_calls_total") - counted(before, "mcpv_calls_total") == CALLS
        for server, report in zip(storm.servers, reports, strict=True):
            living = {pid for pid in server.starts() if alive(pid)}
            assert living == {one["pid"] for one in report["instances"]}
            assert len(living) <= 2


def counted(samples: dict[str, float], name: str) -> float:
    """Add up a counter over all its labels."""
    return sum(value for sample, value in samples.items() if sample.partition("{")[0] == name)
