"""The official client in the modern era, over HTTP, in front of real servers of both eras."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent
from support.harness import FIXTURE
from support.nodes import Node, environment, running_node

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# The official client waits for ever by itself; this takes a second.
CONVERSATION_TIMEOUT = 30.0

# Several conversations at once share a server's only instance.
CALLS_AT_ONCE = 8


@pytest.fixture(scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node with the fixture server twice: as it is, and as a server that has never heard of the modern era."""
    command = {"command": sys.executable, "maxConcurrent": CALLS_AT_ONCE}
    servers = [
        {"name": "new", "args": [str(FIXTURE), "stdio"], **command},
        {"name": "old", "args": [str(FIXTURE), "stdio", "--legacy"], **command},
    ]
    with running_node(tmp_path_factory.mktemp("modern"), servers) as started:
        started.until_learnt(["new", "old"])
        yield started


@pytest.fixture
def node(_node: Node) -> Iterator[Node]:
    """The node with nothing running, before and after each test."""
    yield _node
    for server in ("new", "old"):
        _node.order(server, "stop")
        _node.order(server, "retry")


class Person:
    """Who answers what servers ask, and what was asked."""

    def __init__(self, *elicited: ElicitResult) -> None:
        self.elicited = [*elicited]
        self.asked: list[str] = []

    async def elicit(self, _context: object, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        return self.elicited.pop(0)

    async def sample(self, _context: object, params: Any) -> CreateMessageResult:
        self.asked.append(params.messages[0].content.text)
        return CreateMessageResult(
            role="assistant", content=TextContent(type="text", text="Paris"), model="m"
        )

    async def list_roots(self, _context: object) -> ListRootsResult:
        self.asked.append("roots")
        return ListRootsResult(roots=[Root(uri="file:///somewhere")])


def accept(**content: Any) -> ElicitResult:
    return ElicitResult(action="accept", content=content)


@asynccontextmanager
async def client_of(node: Node, server: str, person: Person) -> AsyncIterator[Client]:
    async with (
        asyncio.timeout(CONVERSATION_TIMEOUT),
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {node.token}"}, timeout=30) as http,
        Client(
            streamable_http_client(f"{node.url}/mcp/server/{server}", http_client=http),
            mode="2026-07-28",
            elicitation_callback=person.elicit,
            sampling_callback=person.sample,
            list_roots_callback=person.list_roots,
        ) as client,
    ):
        yield client


def call(node: Node, server: str, person: Person, tool: str, **arguments: Any) -> str:
    """Call a tool and return its text."""

    async def converse() -> str:
        async with client_of(node, server, person) as client:
            result = await client.call_tool(tool, arguments)
            return " ".join(block.text for block in result.content if isinstance(block, TextContent))

    return asyncio.run(converse())


both_eras = pytest.mark.parametrize("server", ["new", "old"])


def test_the_servers_behind_speak_an_era_each(node: Node) -> None:
    person = Person()
    for server in ("new", "old"):
        call(node, server, person, "test_simple_text")
    eras = {server: node.why(server)["instances"][0]["era"] for server in ("new", "old")}

    assert eras == {"new": "modern", "old": "legacy"}


@both_eras
def test_the_user_is_asked_over_several_rounds(node: Node, server: str) -> None:
    person = Person(accept(name="Ada"), accept(color="blue"))

    said = call(node, server, person, "test_input_required_result_multi_round")

    assert said == "Ada likes blue."
    assert [words[:6] for words in person.asked] == ["Step 1", "Step 2"]


@both_eras
def test_the_model_and_the_roots_are_asked_for(node: Node, server: str) -> None:
    person = Person()

    sampled = call(node, server, person, "test_input_required_result_sampling")
    roots = call(node, server, person, "test_input_required_result_list_roots")

    assert "Paris" in sampled
    assert "file:///somewhere" in roots
    assert person.asked[1:] == ["roots"]


@both_eras
def test_several_things_are_asked_for_by_one_call(node: Node, server: str) -> None:
    person = Person(accept(name="Ada"))

    call(node, server, person, "test_input_required_result_multiple_inputs")

    assert len(person.asked) == 3


@both_eras
@pytest.mark.parametrize("refuse", [False, True])
def test_the_user_is_sent_to_a_url(node: Node, server: str, refuse: bool) -> None:
    person = Person(ElicitResult(action="accept"))

    said = call(node, server, person, "test_visit", refuse=refuse)

    assert said == "visited"
    assert person.asked == ["Sign in, please."]


@both_eras
@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_the_user_may_say_no(node: Node, server: str, action: Any) -> None:
    person = Person(ElicitResult(action=action))

    said = call(node, server, person, "test_elicitation", message="please")

    assert person.asked == ["please"]
    assert action in said


@both_eras
def test_a_prompt_asks_too(node: Node, server: str) -> None:
    person = Person(accept(context="rain"))

    async def converse() -> str:
        async with client_of(node, server, person) as client:
            prompt = await client.get_prompt("test_input_required_result_prompt")
            content = prompt.messages[0].content
            assert isinstance(content, TextContent)
            return content.text

    assert "rain" in asyncio.run(converse())


@both_eras
def test_progress_and_logs_come_to_who_wants_them(node: Node, server: str) -> None:
    heard: list[float] = []

    async def on_progress(done: float, _total: float | None, _message: str | None) -> None:
        heard.append(done)

    async def converse() -> None:
        async with client_of(node, server, Person()) as client:
            await client.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)

    asyncio.run(converse())

    assert heard == [0, 50, 100]


@both_eras
def test_what_is_not_there_is_an_error_of_the_modern_era(node: Node, server: str) -> None:
    async def converse() -> list[int]:
        async with client_of(node, server, Person()) as client:
            codes: list[int] = []
            for attempt in (client.read_resource("test://nope"), client.call_tool("nope", {})):
                with pytest.raises(MCPError) as refused:
                    await attempt
                codes.append(refused.value.error.code)
            return codes

    assert asyncio.run(converse()) == [-32602, -32602]


@both_eras
def test_many_conversations_at_once_are_not_mixed_up(node: Node, server: str) -> None:
    async def one(name: str) -> str:
        person = Person(accept(name=name), accept(color="blue"))
        async with client_of(node, server, person) as client:
            result = await client.call_tool("test_input_required_result_multi_round", {})
            assert isinstance(result.content[0], TextContent)
            return result.content[0].text

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*map(one, "abcd"))

    # Which client a server on a pipe means when several call it cannot be told: it is one at a time for the old one.
    if server == "old":
        said = [asyncio.run(one(name)) for name in "abcd"]
    else:
        said = asyncio.run(all_of_them())

    assert said == [f"{name} likes blue." for name in "abcd"]


@both_eras
def test_the_same_is_said_on_lines(node: Node, server: str) -> None:
    person = Person(accept(name="Ada"), accept(color="blue"))
    command = StdioServerParameters(
        command=sys.executable,
        args=["-P", "-m", "mcpv_node", "stdio", "--server", server, "--state-dir", str(node.state_dir)],
        env=environment(node.folder),
    )

    async def converse() -> tuple[str, str]:
        async with (
            asyncio.timeout(CONVERSATION_TIMEOUT),
            Client(stdio_client(command), mode="auto", elicitation_callback=person.elicit) as client,
        ):
            result = await client.call_tool("test_input_required_result_multi_round", {})
            assert isinstance(result.content[0], TextContent)
            return client.protocol_version, result.content[0].text

    assert asyncio.run(converse()) == ("2026-07-28", "Ada likes blue.")
