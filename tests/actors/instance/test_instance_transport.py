"""An entry for a transport that is not served says so, instead of failing as a command that is not there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.owners import home

from mcpv_node.actors.instance.process import start_process
from mcpv_node.settings import ServerName, ServerSpec
from mcpv_node.transports import StartError


def test_a_server_behind_a_url_is_refused_by_its_transport(tmp_path: Path) -> None:
    spec = ServerSpec(name=ServerName("far"), transport="streamable-http", url="http://127.0.0.1:1/mcp")

    async def main() -> None:
        async with home(tmp_path) as at_home:
            with pytest.raises(StartError, match="transport streamable-http") as refused:
                start_process(
                    spec,
                    mark="n/far-1",
                    node=at_home.context,
                    tell=lambda _message: None,
                    tell_now=lambda _message: None,
                )
            assert refused.value.is_fatal

    asyncio.run(main())
