"""What a server uses is looked at by its group; what it may use is set on its leader."""

from __future__ import annotations

import os
import resource

from support.children import RecordingSink, run, spawn_python, spawn_shell
from support.processes import wait_until

from mcpv_node.transports import apply_limits, apply_limits_to_each, group_rss_bytes, rss_by_group

MIB = 1024 * 1024


def test_memory_is_that_of_the_whole_group() -> None:
    async def main() -> None:
        sink, other_sink = RecordingSink(), RecordingSink()
        process = spawn_python(
            "import os\npid = os.fork(); block = bytearray(b'x') * (40 << 20)\n"
            "os.write(1, b'up'); os.read(0, 1); pid and os.wait()",
            sink,
        )
        other = spawn_shell("read line", other_sink)
        await sink.until(lambda: sink.stdout == b"upup")

        used = rss_by_group([process.pgid, other.pgid])

        assert 80 * MIB < used[process.pgid] < 200 * MIB
        assert 0 < used[other.pgid] < 32 * MIB
        for child, its_sink in ((process, sink), (other, other_sink)):
            child.close_stdin()
            await its_sink.until_exit()

    run(main())


def test_a_group_that_is_gone_uses_nothing() -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("exit 0", sink)
        await sink.until_exit()

        assert group_rss_bytes(process.pgid) == 0

    run(main())


def test_limits_are_set_on_a_running_process() -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("read line", sink)

        problems = apply_limits(process.pid, open_files=64, cpu_seconds=100, nice=5)

        assert problems == ()
        assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (64, 64)
        assert resource.prlimit(process.pid, resource.RLIMIT_CPU) == (100, 100)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 5
        process.close_stdin()
        await sink.until_exit()

    run(main())


def test_each_refused_limit_is_a_sentence_and_the_others_are_set() -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("read line", sink)
        too_many = 1 << 40

        problems = apply_limits(process.pid, open_files=too_many, cpu_seconds=100)

        assert len(problems) == 1
        assert problems[0].startswith(f"openFiles {too_many} was refused: ")
        assert resource.prlimit(process.pid, resource.RLIMIT_CPU) == (100, 100)
        process.close_stdin()
        await sink.until_exit()

    run(main())


def test_limits_are_set_on_every_process_of_a_running_group() -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("sleep 300 & read line; kill $!", sink)
        assert wait_until(lambda: len(process.remaining_members()) == 2)
        members = process.remaining_members()
        strangers = [members[0]._replace(start_time=0)]

        refused = apply_limits_to_each(members, open_files=64, nice=5)
        apply_limits_to_each(strangers, open_files=32)

        assert refused == ()
        for member in members:
            assert resource.prlimit(member.pid, resource.RLIMIT_NOFILE) == (64, 64)
            assert os.getpriority(os.PRIO_PROCESS, member.pid) == 5
        process.close_stdin()
        await sink.until_exit()
        assert apply_limits_to_each(members[:1], open_files=32) == ()

    run(main())
