"""`mcpv-node why SERVER`: why a server is as it is, in words, with the facts behind them."""

from __future__ import annotations

import signal

import click
import msgspec

from mcpv_node.reports import LastExit, LearningOutcome, ListsReport, ServerReport

from .common import common_options, connect, invocation
from .output import clean, counted, print_body, print_facts, print_lines
from .status import print_instances, print_problem


@click.command("why", short_help="Say why a server is as it is, and what to do.")
@click.argument("server")
@common_options
def command(server: str) -> None:
    """Say why SERVER is in the state it is in, and what to do about it.

    \b
      mcpv-node why clock
    """
    client = connect()
    answer = client.server(server)
    if invocation().as_json:
        print_body(answer.body)
        return
    _explain(answer.value)
    config = client.node_state().value.config
    if config is not None and config.problem is not None:
        click.echo()
        print_problem(config.problem)
    advice = advise(answer.value, client.node.config_path)
    if advice:
        click.echo()
        click.echo("what to do:")
        print_lines(advice)


def advise(report: ServerReport, config_path: str | None) -> list[str]:
    """Say what somebody who wants the server to run can do about how it is. Pure."""
    name = report.name
    match report.state:
        case "suspended":
            where = "" if config_path is None else f" in {config_path}"
            return [
                f"if its entry is wrong: correct it{where} (or with mcpv-node server edit {name}), then mcpv-node reload",
                f"if the cause is elsewhere: mend that, then mcpv-node server retry {name}",
                f"what led to it: mcpv-node logs --server {name}",
            ]
        case "backing_off":
            return [
                f"it is tried again by itself; at once: mcpv-node server retry {name}",
                f"what led to it: mcpv-node logs --server {name}",
            ]
        case "disabled":
            return [f"to have it again: mcpv-node server start {name}"]
        case _:
            return []


def _explain(report: ServerReport) -> None:
    headline = f"{report.name} is {report.state.replace('_', ' ')}"
    click.echo(clean(f"{headline}: {report.reason}" if report.reason else headline))
    calls = report.calls
    print_facts(
        (
            ("since", report.since),
            ("next try", report.next_try_at),
            ("last exit", describe_exit(report.last_exit)),
            ("started", f"{_times(report.starts)}, {counted(report.restarts, 'restart')}" + _cause(report)),
            ("instances", f"{len(report.instances)} of {report.desired} desired"),
            (
                "calls",
                f"{calls.ok} ok, {calls.failed} failed, {calls.refused} refused, {report.waiting} waiting",
            ),
            ("lists", _outcome(report)),
            ("shared with", ", ".join(report.shared_with) or None),
        ),
        indent="  ",
    )
    if report.instances:
        click.echo()
        print_instances(report.instances)
    if report.stderr:
        click.echo()
        click.echo("the last it wrote on stderr:")
        print_lines(report.stderr)
    _print_lists(report)


def _print_lists(report: ServerReport) -> None:
    """What is known of its lists, and what to do where something is wrong with them."""
    name, lists = report.name, report.lists or {}
    known = [(kind, one) for kind, one in lists.items() if one.learnt]
    # Why it does not run has been said.
    failures = {
        one.failure: None
        for one in lists.values()
        if one.failure is not None and not (report.reason and report.reason in one.failure)
    }
    if not known and not failures:
        return
    click.echo()
    for kind, one in known:
        click.echo(clean(f"{kind}: {_describe_lists(one)}"))
        print_lines(one.conflicts)
        print_lines([f"left out: {reason}" for reason in one.rejected])
        shown = [tool for tool in one.changed if tool not in one.withheld]
        if shown:
            print_lines([f"not as it was first seen: {', '.join(shown)}"])
        if one.withheld:
            print_lines([f"withheld, not as it was first seen: {', '.join(one.withheld)}"])
    for failure in failures:
        kinds = ", ".join(kind for kind, one in lists.items() if one.failure == failure)
        click.echo(clean(f"the last reading of its {kinds} failed: {failure}"))
    reports = list(lists.values())
    if any(one.changed for one in reports):
        click.echo(f"if the changed tools are as they should be: mcpv-node server approve {name}")
    if any(one.stale or one.failure is not None for one in reports):
        click.echo(f"to read its lists again: mcpv-node catalog refresh {name}")


def _describe_lists(lists: ListsReport) -> str:
    entries = f"{lists.entries} {'entry' if lists.entries == 1 else 'entries'}"
    facts = [fact for fact in (lists.source, "stale" if lists.stale else None) if fact]
    said = f"{entries} ({', '.join(facts)})" if facts else entries
    return said if lists.learnt_at is None else f"{said}, learnt at {lists.learnt_at}"


def _outcome(report: ServerReport) -> str | None:
    """What became of learning it; a reason that the headline has already is not said again."""
    said = report.learning
    if said is not None and said.reason and said.reason.removeprefix(f"{report.name}: ") in report.reason:
        said = msgspec.structs.replace(said, reason="")
    return describe_outcome(said)


def describe_outcome(outcome: LearningOutcome | None) -> str | None:
    """Say what became of learning a server, where there is something to say."""
    if outcome is None or outcome.state == "learnt":
        return None
    words = {"failed": "could not be learnt", "running": "being learnt", "pending": "not learnt yet"}
    said = words.get(outcome.state, outcome.state)
    tries = f" ({counted(outcome.attempts, 'attempt')})" if outcome.attempts else ""
    return f"{said}{tries}: {outcome.reason}" if outcome.reason else said + tries


def describe_exit(last: LastExit | None) -> str | None:
    """Say how a process ended: `code 1`, `SIGKILL`."""
    if last is None:
        return None
    if last.signal is not None:
        how = _signal_name(last.signal)
    elif last.code is not None:
        how = f"code {last.code}"
    else:
        how = "unknown"
    return how if last.at is None else f"{how} at {last.at}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _times(number: int) -> str:
    return "never" if number == 0 else "once" if number == 1 else f"{number} times"


def _cause(report: ServerReport) -> str:
    return f" (last cause: {report.start_cause})" if report.start_cause else ""
