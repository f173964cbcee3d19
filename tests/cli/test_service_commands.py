"""`mcpv-node service`: what it writes, what it runs, and what it refuses; systemctl is a stand-in."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from support.commands import run_command
from support.fake_programs import FakeProgram

UNIT = Path(".config/systemd/user/mcpv-node.service")


@pytest.fixture
def systemctl(tmp_path: Path) -> FakeProgram:
    return FakeProgram(tmp_path, "systemctl")


def service(folder: Path, systemctl: FakeProgram, *words: str) -> tuple[int, str, str]:
    """Run `mcpv-node service WORDS --user`; exit code, stdout, stderr. `folder` is the home."""
    done = run_command("service", *words, "--user", state_dir=folder, PATH=systemctl.path)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_print_writes_to_stdout_and_touches_nothing(tmp_path: Path, systemctl: FakeProgram) -> None:
    code, out, err = service(tmp_path, systemctl, "print", "--http", "127.0.0.1:9999")

    assert (code, err) == (0, "")
    assert out.startswith("[Unit]\n")
    assert f"start --state-dir {tmp_path} --http 127.0.0.1:9999\n" in out
    assert not (tmp_path / UNIT).exists()
    assert systemctl.calls() == []


def test_print_needs_no_systemd(tmp_path: Path) -> None:
    done = run_command("service", "print", "--json", state_dir=tmp_path, PATH="/nowhere")

    said = json.loads(done.stdout)
    assert (said["kind"], said["scope"]) == ("systemd", "system")
    assert said["path"] == "/etc/systemd/system/mcpv-node.service"
    assert "DynamicUser=yes" in said["text"]


def test_a_machines_service_keeps_nothing_of_who_installs_it(tmp_path: Path) -> None:
    own = tmp_path / ".config" / "mcpv-node" / "runtime.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("servers: []\n")

    done = run_command("service", "print", state_dir=tmp_path)

    assert str(tmp_path) not in done.stdout.decode()
    assert "--state-dir /var/lib/mcpv-node" in done.stdout.decode()


def test_a_service_of_yours_names_your_configuration_and_your_path(
    tmp_path: Path, systemctl: FakeProgram
) -> None:
    own = tmp_path / ".config" / "mcpv-node" / "runtime.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("servers: [{name: slow, command: x, drainTimeoutSeconds: 500}]\n")

    _, out, _ = service(tmp_path, systemctl, "print")

    assert f"--config {own}" in out
    assert f"Environment=PATH={systemctl.folder}:" in out
    assert f"EnvironmentFile=-{own.parent / 'environment'}" in out
    # The drain, the grace, and what the parts of a stop may take beyond them.
    assert "TimeoutStopSec=523" in out


def test_a_configuration_that_needs_what_only_the_service_has_is_no_obstacle(
    tmp_path: Path, systemctl: FakeProgram
) -> None:
    config = tmp_path / "node.yaml"
    config.write_text("servers: [{name: s, command: x, env: {KEY: '${ONLY_THERE}'}}]\n")

    code, out, err = service(tmp_path, systemctl, "print", "--config", str(config))

    assert code == 0
    assert f"--config {config}" in out
    assert "warning" in err
    assert "ONLY_THERE" in err


def test_no_secret_is_in_the_unit(tmp_path: Path, systemctl: FakeProgram) -> None:
    done = run_command(
        "service",
        "print",
        "--user",
        state_dir=tmp_path,
        PATH=systemctl.path,
        API_KEY="hush-hush",
        MCPV_TOKEN="hush",
    )

    assert b"hush" not in done.stdout


def test_install_writes_the_file_and_says_what_to_run(tmp_path: Path, systemctl: FakeProgram) -> None:
    code, out, _ = service(tmp_path, systemctl, "install")

    assert code == 0
    assert out.splitlines() == [
        f"wrote {tmp_path / UNIT}",
        "to have it run, now and from the next start on:",
        "  systemctl --user daemon-reload",
        "  systemctl --user enable --now mcpv-node.service",
        "it ends with your last session, unless you once say: loginctl enable-linger",
    ]
    assert stat.S_IMODE((tmp_path / UNIT).stat().st_mode) == 0o644
    assert (tmp_path / UNIT).read_text() == service(tmp_path, systemctl, "print")[1]
    assert [path.name for path in (tmp_path / UNIT).parent.iterdir()] == ["mcpv-node.service"]
    assert systemctl.calls() == []


def test_install_now_runs_it(tmp_path: Path, systemctl: FakeProgram) -> None:
    code, out, _ = service(tmp_path, systemctl, "install", "--now", "--json")

    assert code == 0
    assert json.loads(out) == {
        "kind": "systemd",
        "scope": "user",
        "path": str(tmp_path / UNIT),
        "written": True,
        "commands": ["systemctl --user daemon-reload", "systemctl --user enable --now mcpv-node.service"],
        "ran": True,
    }
    assert systemctl.calls() == ["--user daemon-reload", "--user enable --now mcpv-node.service"]


def test_installing_the_same_again_changes_nothing(tmp_path: Path, systemctl: FakeProgram) -> None:
    service(tmp_path, systemctl, "install")
    before = (tmp_path / UNIT).stat()

    code, out, _ = service(tmp_path, systemctl, "install", "--json")

    assert (code, json.loads(out)["written"]) == (0, False)
    assert (tmp_path / UNIT).stat().st_ino == before.st_ino


def test_a_file_that_says_something_else_is_replaced_only_when_that_is_meant(
    tmp_path: Path, systemctl: FakeProgram
) -> None:
    service(tmp_path, systemctl, "install")
    (tmp_path / UNIT).write_text("[Service]\nExecStart=/bin/mine\n")

    code, _, err = service(tmp_path, systemctl, "install", "--now")

    assert code == 1
    assert "--force writes it" in err
    assert "/bin/mine" in (tmp_path / UNIT).read_text()
    assert systemctl.calls() == []

    assert service(tmp_path, systemctl, "install", "--now", "--force")[0] == 0
    assert "/bin/mine" not in (tmp_path / UNIT).read_text()
    # What runs is the old one: it has to be started again.
    assert systemctl.calls()[-1] == "--user restart mcpv-node.service"


def test_what_systemctl_refuses_is_said_in_its_own_words(tmp_path: Path, systemctl: FakeProgram) -> None:
    systemctl.fail("Failed to connect to bus: No medium found")

    code, _, err = service(tmp_path, systemctl, "install", "--now")

    assert code == 1
    assert f"{tmp_path / UNIT} is written, but `systemctl --user daemon-reload` ended with 1" in err
    assert "No medium found" in err


def test_without_systemctl_install_says_what_does_without(tmp_path: Path) -> None:
    done = run_command("service", "install", "--user", "--json", state_dir=tmp_path, PATH="/nowhere")

    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert "there is no systemctl here" in error
    assert "start --supervised --detach" in error
    assert not (tmp_path / UNIT).exists()


def test_uninstall_stops_it_and_removes_the_file(tmp_path: Path, systemctl: FakeProgram) -> None:
    service(tmp_path, systemctl, "install")

    code, out, _ = service(tmp_path, systemctl, "uninstall")

    assert (code, out) == (0, f"removed {tmp_path / UNIT}\n")
    assert not (tmp_path / UNIT).exists()
    assert systemctl.calls() == ["--user disable --now mcpv-node.service", "--user daemon-reload"]


def test_a_service_that_cannot_be_stopped_keeps_its_file(tmp_path: Path, systemctl: FakeProgram) -> None:
    service(tmp_path, systemctl, "install")
    systemctl.fail("it hangs")

    code, _, err = service(tmp_path, systemctl, "uninstall")

    assert code == 1
    assert "it hangs" in err
    assert (tmp_path / UNIT).exists()


def test_uninstalling_what_is_not_there_is_no_failure(tmp_path: Path, systemctl: FakeProgram) -> None:
    code, out, _ = service(tmp_path, systemctl, "uninstall", "--json")

    assert (code, json.loads(out)["removed"]) == (0, False)
    assert systemctl.calls() == []


def test_uninstall_without_systemctl_removes_the_file_and_says_so(
    tmp_path: Path, systemctl: FakeProgram
) -> None:
    service(tmp_path, systemctl, "install")

    done = run_command("service", "uninstall", "--user", state_dir=tmp_path, PATH="/nowhere")

    assert done.returncode == 0
    assert b"there is no systemctl here" in done.stdout
    assert not (tmp_path / UNIT).exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, systemctl: FakeProgram) -> None:
    (tmp_path / ".config").write_text("")

    code, _, err = service(tmp_path, systemctl, "install")

    assert code == 1
    assert str(tmp_path / UNIT) in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("print", "--user", "--run-as", "ada"), "--run-as does not go with --user"),
        (("print", "--http", "nowhere"), "this is not HOST:PORT"),
        (("print", "--state-dir", "/elsewhere"), "another folder needs --run-as USER"),
    ],
)
def test_what_does_not_go_together_is_a_mistake_of_usage(
    tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    done = run_command("service", *words, state_dir=tmp_path)

    assert done.returncode == 2
    assert sentence in done.stderr.decode()


def test_a_configuration_that_is_not_there_ends_it_with_3(tmp_path: Path, systemctl: FakeProgram) -> None:
    assert service(tmp_path, systemctl, "print", "--config", "/no/such/file")[0] == 3


def test_a_person_whose_service_it_is_may_say_where_its_state_is(tmp_path: Path) -> None:
    done = run_command("service", "print", "--run-as", "ada", "--state-dir", "/srv/mcpv", state_dir=tmp_path)

    assert "User=ada\n" in done.stdout.decode()
    assert "--state-dir /srv/mcpv\n" in done.stdout.decode()
