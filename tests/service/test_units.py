"""What service managers are told of a node, as they read it themselves."""

from __future__ import annotations

import configparser
import os
import plistlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.commands import COMMAND_TIMEOUT
from support.house import ROOT

from mcpv_node.bounds import process_end_bound
from mcpv_node.cli.service import closed_folder, make_service
from mcpv_node.service import launchd, systemd
from mcpv_node.service.commands import forget_commands, start_commands, stop_commands
from mcpv_node.service.definition import (
    WATCHDOG_SECONDS,
    Definition,
    Kind,
    Scope,
    Unsupported,
    search_path,
    service_kind,
)
from mcpv_node.settings import PACKAGED_CONFIG, load_settings

USER = Definition(
    scope=Scope.USER,
    program=(sys.executable, "-P", "-m", "mcpv_node"),
    stop_seconds=53,
    state_dir=Path("/home/ada/.local/state/mcpv-node"),
    config=Path("/home/ada/.config/mcpv-node/runtime.yaml"),
    http="127.0.0.1:8090",
    log_level="info",
    path="/home/ada/bin:/usr/bin",
    environment_file=Path("/home/ada/.config/mcpv-node/environment"),
)
SYSTEM = replace(USER, scope=Scope.SYSTEM, state_dir=systemd.SYSTEM_STATE, path=None, http=None)
PERSON = replace(SYSTEM, run_as="root", state_dir=Path("/srv/mcpv"))
ODD = replace(
    USER,
    state_dir=Path('/home/a da/50%/$HOME/"quoted" \\n \'; # ä'),
    path="/a b/50%:/$x",
    environment_file=Path("/home/a da/50%/environment"),
)


def verify(folder: Path, definition: Definition) -> subprocess.CompletedProcess[str]:
    """Have systemd read the unit itself."""
    program = shutil.which("systemd-analyze")
    assert program is not None, "systemd-analyze is not here: apt-get install systemd"
    unit = folder / systemd.UNIT_NAME
    unit.write_text(systemd.write_unit(definition))
    scope = "--user" if definition.scope is Scope.USER else "--system"
    # Without a place of its own a user's manager does not begin to read.
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
    return subprocess.run(
        [program, scope, "verify", str(unit)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environ,
        timeout=COMMAND_TIMEOUT,
        check=False,
    )


def directives(definition: Definition) -> dict[str, dict[str, str]]:
    """Read a unit whose keys are all different, but for Environment."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment]  # as they are written
    parser.read_string(systemd.write_unit(definition))
    return {section: dict(parser[section]) for section in parser.sections()}


@pytest.mark.parametrize("definition", [USER, SYSTEM, PERSON, ODD], ids=["user", "system", "person", "odd"])
def test_systemd_finds_nothing_wrong_with_a_unit(tmp_path: Path, definition: Definition) -> None:
    done = verify(tmp_path, definition)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_say_what_is_wrong(tmp_path: Path) -> None:
    """The referee sees: a unit with a word that it does not know is not passed over in silence."""
    done = verify(tmp_path, replace(USER, program=("/no/such/program",)))

    assert "/no/such/program" in done.stderr


def test_a_unit_holds_the_contract_with_systemd() -> None:
    service = directives(USER)["Service"]

    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"
    assert service["WatchdogSec"] == str(WATCHDOG_SECONDS)
    assert service["ExecReload"] == "kill -HUP $MAINPID"
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "2 3"
    assert service["KillMode"] == "mixed"
    assert service["OOMPolicy"] == "continue"
    assert service["TimeoutStopSec"] == "53"
    assert directives(USER)["Install"]["WantedBy"] == "default.target"
    assert directives(SYSTEM)["Install"]["WantedBy"] == "multi-user.target"


def test_a_machines_service_has_a_user_of_its_own_unless_it_is_said_whose_it_is() -> None:
    own, person = directives(SYSTEM)["Service"], directives(PERSON)["Service"]

    assert (own["DynamicUser"], own["StateDirectory"], own["ProtectHome"]) == (
        "yes",
        "mcpv-node",
        "read-only",
    )
    assert own["Environment"] == f"HOME={systemd.SYSTEM_STATE}"
    assert person["User"] == "root"
    assert person["ProtectSystem"] == "full"
    assert "DynamicUser" not in person
    assert "StateDirectory" not in person


def test_nothing_keeps_a_server_from_compiling_at_run_time_or_making_namespaces() -> None:
    """Node.js compiles into memory, a browser's sandbox makes namespaces: both are what servers are made of."""
    for definition in (USER, SYSTEM, PERSON):
        text = systemd.write_unit(definition)

        assert "MemoryDenyWriteExecute" not in text
        assert "RestrictNamespaces" not in text
        assert "SystemCallFilter" not in text
        assert "PrivateNetwork" not in text


@pytest.mark.parametrize(
    ("word", "is_command", "written"),
    [
        ("plain", False, "plain"),
        ("/a/b-c_d.e", True, "/a/b-c_d.e"),
        ("", False, '""'),
        ("two words", False, '"two words"'),
        ('a"b', False, '"a\\"b"'),
        ("a\\b", False, '"a\\\\b"'),
        ("50%", False, '"50%%"'),
        ("$HOME", False, "$HOME"),
        ("$HOME", True, '"$$HOME"'),
        ("a;b", False, '"a;b"'),
        ("it's", False, '"it\'s"'),
    ],
)
def test_a_word_is_written_so_that_it_is_read_as_it_is(word: str, is_command: bool, written: str) -> None:
    assert systemd.quote_word(word, is_command=is_command) == written


@pytest.mark.parametrize("word", ["a\nExecStart=/bin/evil", "a\0b"])
def test_what_would_be_a_line_of_its_own_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in a unit"):
        systemd.quote_word(word)


def test_a_file_of_variables_cannot_be_a_line_of_its_own_either() -> None:
    with pytest.raises(ValueError, match="cannot stand in a unit"):
        systemd.write_unit(replace(USER, environment_file=Path("/a\nExecStart=/bin/evil")))


def test_the_bound_of_a_stop_comes_from_the_longest_drain() -> None:
    servers = load_settings(PACKAGED_CONFIG, environ={}).settings.servers

    assert process_end_bound(servers) > max(
        server.drain_timeout_seconds + server.stop_grace_seconds for server in servers
    )


# ---- launchd ----------------------------------------------------------------------------------------------------


def test_a_job_of_launchd_says_the_same() -> None:
    job = plistlib.loads(launchd.write_plist(ODD).encode())

    assert job["Label"] == "mcpv-node"
    assert job["ProgramArguments"] == list(ODD.command)
    assert job["RunAtLoad"] is True
    assert job["KeepAlive"] == {"SuccessfulExit": False}
    assert job["ExitTimeOut"] == 53
    assert job["EnvironmentVariables"] == {"PATH": ODD.path}
    assert job["StandardErrorPath"] == str(ODD.state_dir / "node.log")
    assert job["Umask"] == 0o077
    assert "UserName" not in job


def test_a_machines_job_runs_as_whom_it_is_said() -> None:
    job = plistlib.loads(launchd.write_plist(replace(PERSON, run_as="ada")).encode())

    assert job["UserName"] == "ada"


def test_a_machines_job_is_not_root_by_default() -> None:
    with pytest.raises(Exception, match="launchd would run it as root"):
        make_service(SYSTEM, Kind.LAUNCHD, Path("/x"))


def test_where_the_files_belong() -> None:
    home = Path("/home/ada")

    assert systemd.unit_path(Scope.SYSTEM, home / ".config") == Path("/etc/systemd/system/mcpv-node.service")
    assert systemd.unit_path(Scope.USER, home / ".config") == home / ".config/systemd/user/mcpv-node.service"
    assert launchd.plist_path(Scope.SYSTEM, home) == Path("/Library/LaunchDaemons/mcpv-node.plist")
    assert launchd.plist_path(Scope.USER, home) == home / "Library/LaunchAgents/mcpv-node.plist"


# ---- which, and how ---------------------------------------------------------------------------------------------


def test_the_platform_says_which_service_manager() -> None:
    assert service_kind("linux") is Kind.SYSTEMD
    assert service_kind("darwin") is Kind.LAUNCHD
    with pytest.raises(Unsupported, match="win32"):
        service_kind("win32")


def test_the_commands_of_systemd() -> None:
    def shown(scope: Scope, *, is_replaced: bool) -> list[str]:
        commands = start_commands(Kind.SYSTEMD, scope, Path("/p"), 7, is_replaced=is_replaced)
        return [" ".join(command) for command in commands]

    assert shown(Scope.SYSTEM, is_replaced=False) == [
        "systemctl daemon-reload",
        "systemctl enable --now mcpv-node.service",
    ]
    assert shown(Scope.USER, is_replaced=True) == [
        "systemctl --user daemon-reload",
        "systemctl --user enable mcpv-node.service",
        "systemctl --user restart mcpv-node.service",
    ]
    assert stop_commands(Kind.SYSTEMD, Scope.USER, 7) == (
        ("systemctl", "--user", "disable", "--now", "mcpv-node.service"),
    )
    assert forget_commands(Kind.SYSTEMD, Scope.SYSTEM) == (("systemctl", "daemon-reload"),)


def test_the_commands_of_launchd() -> None:
    out = ("launchctl", "bootout", "gui/7/mcpv-node")
    into = ("launchctl", "bootstrap", "gui/7", "/p")

    assert start_commands(Kind.LAUNCHD, Scope.USER, Path("/p"), 7, is_replaced=False) == (into,)
    assert start_commands(Kind.LAUNCHD, Scope.USER, Path("/p"), 7, is_replaced=True) == (out, into)
    assert stop_commands(Kind.LAUNCHD, Scope.USER, 7) == (out,)
    assert stop_commands(Kind.LAUNCHD, Scope.SYSTEM, 7) == (("launchctl", "bootout", "system/mcpv-node"),)
    assert forget_commands(Kind.LAUNCHD, Scope.USER) == ()


def test_programs_are_found_where_the_installing_shell_finds_them() -> None:
    assert search_path({"PATH": "/a:relative::/b:/a:/c\nEvil=1"}) == "/a:/b"
    assert search_path({"PATH": ""}) is None
    assert search_path({}) is None


def test_a_program_in_a_closed_folder_is_found_out(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    assert closed_folder(Path("/usr/bin/env")) is None
    assert closed_folder(closed / "bin" / "python") is not None


def test_the_proof_installs_the_referee() -> None:
    assert "systemd-analyze" in (ROOT / ".ci" / "run").read_text()
