"""What the node gives a client to come back with is worth nothing to another principal, nor changed.

The rest of this list: sessions in test_http_door.py, event ids in test_resuming.py, registrations in
test_rest_clients.py, states of rounds in test_modern_rounds.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from support.doors import local, open_door
from support.fake_servers import MODERN_HELLO, fake_node, run
from support.modern_client import ModernClient, again, modern
from support.raw_http import RawClient, request

from mcpv_node.actors.instance.messages import Answer
from mcpv_node.actors.world import EVERYTHING
from mcpv_node.gateway import TokenTable
from mcpv_node.gateway.auth import Authority
from mcpv_node.gateway.routing import NoRoute
from mcpv_node.gateway.tasks import open_task
from mcpv_node.settings import NodeLimits

TOKENS = TokenTable([("a", Authority("ada", EVERYTHING)), ("b", Authority("bob", EVERYTHING))])
PAGES = local(limits=NodeLimits(list_page=4))


def test_a_cursor_of_a_session_goes_on_for_its_principal_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, settings=PAGES, tokens=TOKENS) as stage:
            ada = await RawClient.open(stage.url, token="a")
            bob = await RawClient.open(stage.url, token="b")
            cursor = (await ada.post(request(1, "tools/list"))).json()["result"]["nextCursor"]
            stolen = (await bob.post(request(1, "tools/list", cursor=cursor))).json()
            own = (await ada.post(request(2, "tools/list", cursor=cursor))).json()
            await ada.close()
            await bob.close()

        assert stolen["error"]["code"] == -32602
        assert own["result"]["tools"]

    run(main)


def test_a_cursor_of_the_modern_era_goes_on_for_its_principal_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, settings=PAGES, tokens=TOKENS) as stage:
            ada, bob = ModernClient(stage.url, token="a"), ModernClient(stage.url, token="b")
            cursor = (await ada.result(modern("tools/list")))["nextCursor"]
            stolen = await bob.error(modern("tools/list", cursor=cursor))
            own = await ada.result(modern("tools/list", cursor=cursor))
            await ada.close()
            await bob.close()

        assert stolen["code"] == -32602
        assert own["tools"]

    run(main)


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
def test_a_task_is_its_principals_alone(tmp_path: Path, method: str) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            services = node.services
            inner = msgspec.json.encode(["alpha", "alpha-1", "raw-7"])
            given = services.sealer.seal("task", inner, bound_to=("ada",), expires_at=None)
            params = Raw(msgspec.json.encode({"taskId": given}))

            def opened(principal: str) -> Any:
                return open_task(services, services.node.world.world, EVERYTHING, principal, method, params)

            own, stolen = opened("ada"), opened("bob")

            assert not isinstance(own, NoRoute)
            assert own[1].own == "raw-7"
            assert isinstance(stolen, NoRoute)
            assert stolen.code == -32602
            assert "raw-7" not in stolen.message

    run(main)


def test_a_sealed_handle_of_one_kind_is_none_of_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            services = node.services
            inner = msgspec.json.encode(["alpha", "alpha-1", "raw-7"])
            cursor = services.sealer.seal("cursor", inner, bound_to=("ada",), expires_at=None)
            params = Raw(msgspec.json.encode({"taskId": cursor}))

            found = open_task(services, services.node.world.world, EVERYTHING, "ada", "tasks/get", params)

            assert isinstance(found, NoRoute)

    run(main)


def test_nobody_ends_what_another_session_watches_or_calls(tmp_path: Path) -> None:
    """A subscription and a cancellation name what is the session's own; another's number is nothing there."""

    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            ada = await RawClient.open(stage.url, token="a")
            bob = await RawClient.open(stage.url, token="b")
            await ada.send(request(5, "tools/call", name="alpha_slow", arguments={}))
            while not stage.node.instances["alpha"].waiting:
                await bob.post(request(1, "ping"))
            cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
            assert (await bob.post(cancelled)).status == 202
            await bob.post(request(2, "ping"))
            await stage.finish_slow()
            answered = await ada.connection.read()
            assert not stage.node.instances["alpha"].cancelled
            await ada.close()
            await bob.close()

        assert answered.json()["result"]["slow"] is True

    run(main)


def test_a_state_that_a_modern_server_gave_out_goes_back_for_its_principal_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            stage.node.types["alpha"].hello = MODERN_HELLO
            instance = stage.node.instances["alpha"]
            result = {"resultType": "input_required", "requestState": "raw-state"}
            instance.next_answers = [Answer(result=Raw(msgspec.json.encode(result)))]
            ada, bob = ModernClient(stage.url, token="a"), ModernClient(stage.url, token="b")
            message = modern("tools/call", name="alpha_echo")
            first = await ada.result(message)
            stolen = await bob.error(again(message, first))
            before = len(instance.calls)
            own = await ada.result(again(message, first))
            await ada.close()
            await bob.close()

        assert (stolen["code"], before) == (-32602, 1)
        assert own["sent"]["requestState"] == "raw-state"

    run(main)
