"""The two commands of a fresh checkout: they make `.venv` once, and then get out of the way.

The real thing runs in small copies whose package builds itself without a network.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import pytest
from support.house import ROOT

from mcpv_node.version import VERSION

# An empty environment with pip takes seconds; two at once on a busy machine take longer.
PREPARE_TIMEOUT = 110.0

SETUP_CFG = "[metadata]\nname = mcpv-node\nversion = 0\n"

PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'

# What setuptools does for an editable install, as small as it gets: a wheel with one .pth file.
BACKEND = """
import os, zipfile

def build_editable(folder, settings=None, metadata=None):
    info = "mcpv_node-0.dist-info"
    extras = "Provides-Extra: test\\nProvides-Extra: check\\n"
    with zipfile.ZipFile(os.path.join(folder, "mcpv_node-0-py3-none-any.whl"), "w") as wheel:
        wheel.writestr("mcpv_node.pth", os.path.abspath("src"))
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: mcpv-node\\nVersion: 0\\n" + extras)
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", "")
    return "mcpv_node-0-py3-none-any.whl"
"""

# Says what it was given: arguments, the interpreter's folder, and what came on stdin.
PROGRAM = """
import sys
print(sys.argv[1:], sys.prefix, sys.stdin.read(), sep="|")
sys.exit(7)
"""


def load_venv_module() -> ModuleType:
    """Import bin/_venv.py, which is on nobody's path."""
    spec = importlib.util.spec_from_file_location("_venv_under_test", ROOT / "bin" / "_venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bin_venv = load_venv_module()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make a checkout with our bin/ and a package that is one small program."""
    root = tmp_path / "check out"
    (root / "bin").mkdir(parents=True)
    for name in ("mcpv-node", "test", "_venv.py"):
        (root / "bin" / name).write_bytes((ROOT / "bin" / name).read_bytes())
    (root / "src" / "mcpv_node").mkdir(parents=True)
    (root / "src" / "mcpv_node" / "__init__.py").touch()
    (root / "src" / "mcpv_node" / "__main__.py").write_text(PROGRAM)
    (root / "setup.cfg").write_text(SETUP_CFG)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "constraints.txt").write_text("")
    (root / "backend.py").write_text(BACKEND)
    return root


@pytest.fixture
def ready(checkout: Path) -> Path:
    """Give the checkout an environment that counts as ready, without pip."""
    venv.create(checkout / ".venv", symlinks=True)
    (site,) = (checkout / ".venv" / "lib").glob("python*/site-packages")
    (site / "mcpv_node.pth").write_text(str(checkout / "src"))
    bin_venv.write_ready(str(checkout), ("test",))
    return checkout


def start(
    checkout: Path, *arguments: str, command: str = "mcpv-node", **variables: str
) -> subprocess.Popen[str]:
    """Start one of the commands with a clean environment and "input" on its stdin."""
    environment = {name: value for name, value in os.environ.items() if name != "MCPV_NO_SETUP"}
    process = subprocess.Popen(
        [sys.executable, str(checkout / "bin" / command), *arguments],
        env=environment | variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write("input")
    process.stdin.flush()
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for its end; return its code, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=PREPARE_TIMEOUT)
    finally:
        process.kill()
    return process.returncode, out, err


def test_a_ready_checkout_runs_its_program_and_says_nothing(ready: Path) -> None:
    code, out, err = finish(start(ready, "start", "--http", "127.0.0.1:0"))

    assert (code, err) == (7, "")
    assert out == f"['start', '--http', '127.0.0.1:0']|{ready / '.venv'}|input\n"


def test_a_module_in_the_callers_folder_does_not_replace_a_real_one(
    ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mcpv_node.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)

    code, _, err = finish(start(ready))

    assert (code, err) == (7, "")


def test_without_setup_the_current_interpreter_runs_the_source(checkout: Path) -> None:
    code, out, err = finish(start(checkout, "version", MCPV_NO_SETUP="1"))

    assert (code, err) == (7, "")
    assert out == f"['version']|{sys.prefix}|input\n"
    assert not (checkout / ".venv").exists()


def test_two_first_starts_at_once_prepare_once_and_both_run(checkout: Path) -> None:
    first, second = start(checkout, "a"), start(checkout, "b")

    ends = [finish(first), finish(second)]

    assert [code for code, _, _ in ends] == [7, 7]
    assert [out for _, out, _ in ends] == [f"['{name}']|{checkout / '.venv'}|input\n" for name in ("a", "b")]
    said = sorted((err.splitlines() for _, _, err in ends), key=len)
    assert len(said[0]) <= 1
    assert len([line for line in said[1] if "waiting" not in line]) == 3


def test_a_failing_installation_is_shown_and_leaves_nothing_that_counts_as_ready(checkout: Path) -> None:
    (checkout / "backend.py").write_text("raise RuntimeError('no wheel today')")

    code, out, err = finish(start(checkout))

    assert (code, out) == (1, "")
    assert "pip failed with exit code 1" in err
    assert "no wheel today" in err
    assert not bin_venv.is_ready(str(checkout))


def test_an_environment_is_ready_until_what_it_was_made_of_changes(ready: Path) -> None:
    assert bin_venv.is_ready(str(ready))

    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        before = (ready / name).read_text()
        (ready / name).write_text(before + "# edited\n")
        assert not bin_venv.is_ready(str(ready)), name
        (ready / name).write_text(before)

    assert bin_venv.is_ready(str(ready))


def test_an_environment_is_not_ready_without_an_extra_that_is_asked_for(ready: Path) -> None:
    assert bin_venv.is_ready(str(ready), ("test",))
    assert not bin_venv.is_ready(str(ready), ("test", "check"))


def test_an_environment_whose_interpreter_is_gone_is_not_ready(ready: Path) -> None:
    python = ready / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to(ready / "removed" / "python3.11")

    assert not bin_venv.is_ready(str(ready))


def test_an_environment_that_was_moved_is_not_ready(ready: Path) -> None:
    moved = ready.rename(ready.with_name("moved"))

    assert not bin_venv.is_ready(str(moved))


def test_an_unfinished_environment_is_not_ready(ready: Path) -> None:
    (ready / ".venv" / ".mcpv-ready").unlink()

    assert not bin_venv.is_ready(str(ready))


def test_a_changed_pin_keeps_the_environment_and_its_extras(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[tuple[str, ...]] = []
    made: list[str] = []
    monkeypatch.setattr(bin_venv, "_install", lambda _root, extras, _lock: installed.append(extras))
    monkeypatch.setattr(bin_venv, "_make_empty", lambda root, _lock: made.append(root))
    (ready / "constraints.txt").write_text("# another pin\n")

    bin_venv.prepare(str(ready), ("check",))

    assert (made, installed) == ([], [("check", "test")])
    assert bin_venv.is_ready(str(ready), ("check", "test"))


def test_an_unfinished_environment_is_made_anew(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(bin_venv, "_install", lambda _root, _extras, _lock: None)
    monkeypatch.setattr(bin_venv, "_make_empty", lambda root, _lock: made.append(root))
    (ready / ".venv" / ".mcpv-ready").unlink()

    bin_venv.prepare(str(ready))

    assert made == [str(ready)]


def test_a_python_without_venv_is_told_which_package_to_install(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    with pytest.raises(SystemExit, match=r"apt install python3\.\d+-venv"):
        bin_venv.prepare(str(checkout))


def test_whoever_waits_too_long_for_another_start_says_so(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    monkeypatch.setattr(bin_venv, "LOCK_TIMEOUT", 0.0)
    monkeypatch.setattr(bin_venv, "LOCK_POLL_INTERVAL", 0.0)
    (checkout / ".cache").mkdir()

    with (checkout / ".cache" / "venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="another start has been preparing"):
            bin_venv.prepare(str(checkout))

    assert capsys.readouterr().err == "mcpv-node: another start is preparing .venv; waiting for it\n"


@pytest.mark.parametrize("name", ["mcpv-node", "test"])
def test_a_command_is_executable_and_runs_with_python_3(name: str) -> None:
    path = ROOT / "bin" / name

    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env python3\n")


@pytest.mark.parametrize("name", ["mcpv-node", "test"])
def test_an_old_python_is_told_which_one_is_needed(name: str) -> None:
    source = (ROOT / "bin" / name).read_text()
    old = f"import sys; sys.version_info = (3, 9, 18); exec(compile({source!r}, 'bin', 'exec'))"

    done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith("mcpv-node needs Python 3.11 or newer")


def test_the_real_command_reaches_the_real_command_line() -> None:
    code, out, err = finish(start(ROOT, "version", MCPV_NO_SETUP="1"))

    assert (code, err) == (0, "")
    assert out.startswith(f"mcpv-node {VERSION} ")
