"""The checkout's own environment: `.venv`, made on first use and made again when what it was made of changes.

`.venv/.mcpv-ready` names what the environment was made of (checksums of setup.cfg, pyproject.toml and the pins;
the interpreter; the place, since an environment cannot be moved) and the extras it has. While that is still true,
a start costs four small reads. Otherwise one process prepares it under a file lock, and the others wait:

* nothing there, unfinished, or made with an interpreter that is gone: made anew;
* the pins or the metadata changed, or an extra is missing: pip is run over it, so that a node that runs from it
  keeps its files as long as they are still right.

The interpreter is the one the environment was made with, not the one that runs this script: a client with another
PATH must not tear down the environment a running node lives in.

Everything said here goes to stderr; stdin is left untouched: with `stdio` both carry MCP.
`python3 bin/_venv.py test check` prepares the environment with these extras and ends.
"""

from __future__ import annotations

import os
import sys
import zlib

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What pip installs from, in the order it is named in the ready file.
SOURCES = ("setup.cfg", "pyproject.toml", "constraints.txt")

# A slow network with a cold cache; pip has its own timeouts for each connection.
PIP_TIMEOUT = 900.0

# Making an empty environment copies pip and nothing else.
VENV_TIMEOUT = 120.0

# Whoever has the lock is making the environment and then running pip.
LOCK_TIMEOUT = VENV_TIMEOUT + PIP_TIMEOUT

LOCK_POLL_INTERVAL = 0.2


class SetupError(Exception):
    """The environment cannot be made; the message says why and what to do."""


def run(module: str, arguments: list[str], *, extras: tuple[str, ...] = ()) -> None:
    """Become `python -m module arguments` in the checkout's environment. Returns never."""
    if os.environ.get("MCPV_NO_SETUP") == "1":
        python = sys.executable
        inherited = os.environ.get("PYTHONPATH")
        source = os.path.join(ROOT, "src")
        os.environ["PYTHONPATH"] = source + os.pathsep + inherited if inherited else source
    else:
        python = prepare(ROOT, extras)
    sys.stderr.flush()
    # -P: a client starts us in any folder, and a select.py that lies there must not be imported.
    os.execv(python, [python, "-P", "-m", module, *arguments])


def prepare(root: str, extras: tuple[str, ...] = ()) -> str:
    """Return the environment's interpreter; make the environment first where it is not ready, or exit."""
    if not is_ready(root, extras):
        try:
            _prepare_alone(root, extras)
        except SetupError as error:
            sys.exit(f"mcpv-node: {error}")
        except OSError as error:
            sys.exit(f"mcpv-node: cannot prepare {root}/.venv: {error}")
        except KeyboardInterrupt:
            sys.exit("mcpv-node: interrupted; the next use starts over")
    return _python(root)


def is_ready(root: str, extras: tuple[str, ...] = ()) -> bool:
    """Tell whether the environment is complete, up to date and has these extras."""
    made_of, present = read_ready(root)
    return bool(made_of) and made_of == describe(root) and set(extras) <= set(present)


def describe(root: str) -> str:
    """Say in one line what an environment made now in this place would be made of."""
    parts = [f"{name}={_checksum(os.path.join(root, name))}" for name in SOURCES]
    # Its real path, which the package manager changes with the version.
    python = os.path.realpath(_python(root))
    parts.append(f"python={python if os.access(python, os.X_OK) else 'none'}")
    parts.append(f"place={root}")
    return " ".join(parts)


def read_ready(root: str) -> tuple[str, tuple[str, ...]]:
    """Return what the environment was made of and its extras; empty where it is not complete."""
    try:
        with open(_ready_file(root), encoding="utf-8") as file:
            made_of, _, extras = file.read().partition("\n")
    except OSError:
        return "", ()
    return made_of, tuple(extras.split())


def write_ready(root: str, extras: tuple[str, ...]) -> None:
    """Declare the environment complete, as it is now."""
    path = _ready_file(root)
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(f"{describe(root)}\n{' '.join(sorted(extras))}\n")
    os.replace(path + ".new", path)


def _prepare_alone(root: str, extras: tuple[str, ...]) -> None:
    import fcntl

    os.makedirs(os.path.join(root, ".cache"), exist_ok=True)
    with open(os.path.join(root, ".cache", "venv.lock"), "w") as lock:
        _wait_for(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever had the lock may have done it.
        if not is_ready(root, extras):
            _make(root, extras, lock.fileno())


def _wait_for(lock: int, operation: int) -> None:
    import fcntl
    import time

    deadline = time.monotonic() + LOCK_TIMEOUT
    told = False
    while True:
        try:
            fcntl.flock(lock, operation)
            return
        except BlockingIOError:
            pass
        if not told:
            _say("another start is preparing .venv; waiting for it")
            told = True
        if time.monotonic() > deadline:
            raise SetupError(f"another start has been preparing .venv for {LOCK_TIMEOUT:.0f} s")
        time.sleep(LOCK_POLL_INTERVAL)


def _make(root: str, extras: tuple[str, ...], lock: int) -> None:
    import time

    began = time.monotonic()
    made_of, present = read_ready(root)
    wanted = tuple(sorted({*extras, *present}))
    if made_of and _interpreter_of(made_of) == _interpreter_of(describe(root)):
        _say("what .venv was made of has changed, or it lacks a part: bringing it up to date")
        os.remove(_ready_file(root))
    else:
        _say("first use: making .venv with " + sys.executable)
        _make_empty(root, lock)
    _say(f"installing the pinned packages ({', '.join(['runtime', *wanted])}); this takes a moment, once")
    _install(root, wanted, lock)
    write_ready(root, wanted)
    _say(f"ready after {time.monotonic() - began:.0f} s")


def _make_empty(root: str, lock: int) -> None:
    import importlib.util

    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise SetupError(
            f"{sys.executable} has no venv module; on Debian and Ubuntu: sudo apt install python{version}-venv"
        )
    command = [sys.executable, "-m", "venv", "--clear", os.path.join(root, ".venv")]
    _call(command, root=root, lock=lock, timeout=VENV_TIMEOUT, what="making .venv")


def _install(root: str, extras: tuple[str, ...], lock: int) -> None:
    target = f"{root}[{','.join(extras)}]" if extras else root
    pins = os.path.join(root, "constraints.txt")
    options = [
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--constraint",
        pins,
        "--editable",
        target,
    ]
    command = [_python(root), "-m", "pip", "install", *options]
    _call(command, root=root, lock=lock, timeout=PIP_TIMEOUT, what="pip")


def _call(command: list[str], *, root: str, lock: int, timeout: float, what: str) -> None:
    import subprocess

    # The caller's Python settings are about another environment; a user-wide install would miss this one.
    foreign = ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_VIRTUALENV")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            # The lock lasts as long as anyone still works, also when this process is killed.
            pass_fds=(lock,),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SetupError(f"{what} took longer than {timeout:.0f} s") from None
    if done.returncode != 0:
        output = done.stdout.decode(errors="replace").strip()
        raise SetupError(f"{what} failed with exit code {done.returncode}:\n{output}")


def _interpreter_of(made_of: str) -> str:
    return made_of[made_of.find(" python=") :]


def _checksum(path: str) -> str:
    # Not a cryptographic one: it notices edits, and hashlib alone would double what this script costs.
    try:
        with open(path, "rb") as file:
            return f"{zlib.crc32(file.read()):08x}"
    except FileNotFoundError:
        return "none"


def _python(root: str) -> str:
    return os.path.join(root, ".venv", "bin", "python")


def _ready_file(root: str) -> str:
    return os.path.join(root, ".venv", ".mcpv-ready")


def _say(sentence: str) -> None:
    print(f"mcpv-node: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    prepare(ROOT, tuple(sys.argv[1:]))
