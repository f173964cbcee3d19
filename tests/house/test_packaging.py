"""A wheel built from this tree has everything that an installed node needs, links or not."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.house import ROOT

from mcpv_node.version import VERSION

# Copied aside first: building leaves build/ and *.egg-info in the tree it builds.
INGREDIENTS = (
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "src",
    "actors",
    "supervisors",
    "config",
)

# Building copies a few dozen files; a cold machine needs seconds.
BUILD_TIMEOUT = 100.0

INFO = f"mcpv_node-{VERSION}.dist-info"

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Build the wheel without network and without touching the tree."""
    folder = tmp_path_factory.mktemp("tree")
    for name in INGREDIENTS:
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("*.egg-info", "__pycache__")
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source, folder / name)
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(out)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return zipfile.Path(next(out.glob("*.whl")))


@pytest.mark.parametrize(
    "name",
    [
        "__init__.py",
        "__main__.py",
        "py.typed",
        "actors/__init__.py",
        "actors/kernel/__init__.py",
        "supervisors/__init__.py",
        "defaults/__init__.py",
        "defaults/runtime.yaml",
        "defaults/schema.json",
        "defaults/profile-schema.json",
        "defaults/grafana-dashboard.json",
        "defaults/prometheus-alerts.yml",
        "defaults/prometheus-scrape.yml",
        "protocol/__init__.py",
        "cli/__init__.py",
    ],
)
def test_a_wheel_contains(wheel: zipfile.Path, name: str) -> None:
    assert (wheel / "mcpv_node" / name).is_file()


def test_a_wheel_contains_every_module_of_the_tree(wheel: zipfile.Path) -> None:
    names = set(wheel.root.namelist())
    folders = {"actors": "actors", "supervisors": "supervisors", "config": "defaults"}

    expected = {
        f"mcpv_node/{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in folders.items()
        for path in (ROOT / folder).rglob("*.py")
    }

    assert expected
    assert expected - names == set()


def test_a_wheel_has_no_second_copy_under_a_bare_name(wheel: zipfile.Path) -> None:
    roots = {name.split("/")[0] for name in wheel.root.namelist()}

    assert roots == {"mcpv_node", INFO}


def test_the_console_script_is_the_module_that_runs_with_dash_m(wheel: zipfile.Path) -> None:
    entries = configparser.ConfigParser()
    entries.read_string((wheel / INFO / "entry_points.txt").read_text())

    assert entries["console_scripts"]["mcpv-node"] == "mcpv_node.__main__:main"


def test_the_version_is_the_one_of_setup_cfg() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")

    assert setup["metadata"]["version"] == VERSION


def test_every_direct_dependency_is_pinned_to_a_version_it_allows() -> None:
    pins = read_pins(ROOT / "constraints.txt")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    wanted = [Requirement(line) for text in lines for line in text.splitlines() if line and line[0] != "#"]

    assert wanted
    for requirement in wanted:
        name = canonicalize_name(requirement.name)
        assert name in pins, f"{name} has no pin"
        assert requirement.specifier.contains(pins[name]), f"{name} is pinned outside {requirement.specifier}"


def test_every_pin_is_exact_and_stands_once() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]

    assert len(lines) == len(read_pins(ROOT / "constraints.txt"))


def read_pins(path: Path) -> dict[str, str]:
    """Return name -> version of every pin; a line that is no exact pin is an error."""
    pins: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[canonicalize_name(name)] = version
    return pins
