"""What holds for every test: it leaves no thread, process, file descriptor or actor behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from support.leaks import kill_leaked_processes, take_census, wait_until_settled

# A machine that is busy with something else is no fault of what is tested.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def _nothing_outlives_the_session() -> Iterator[None]:
    """See what fixtures of wider scope leave, which no single test is to blame for."""
    before = take_census()
    yield
    if leaks := wait_until_settled(before):
        kill_leaked_processes(before)
        pytest.fail("the session left behind:\n  " + "\n  ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def _nothing_outlives_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves something behind, unless `may_leak("reason")` says why it must."""
    excuse = request.node.get_closest_marker("may_leak")
    if excuse is not None and not excuse.args:
        pytest.fail('may_leak needs its reason: @pytest.mark.may_leak("...")', pytrace=False)
    before = take_census()
    yield
    if excuse is not None:
        return
    if leaks := wait_until_settled(before):
        kill_leaked_processes(before)
        pytest.fail("the test left behind:\n  " + "\n  ".join(leaks), pytrace=False)
