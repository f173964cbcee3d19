"""Every behaviour of an actor holds on each runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.actors import LOOPS, RUNTIMES

from mcpv_node.actors.kernel import KernelActor


@pytest.fixture(params=sorted(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> type[KernelActor[Any]]:
    return RUNTIMES[request.param]


@pytest.fixture(params=sorted(LOOPS))
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return LOOPS[request.param]
