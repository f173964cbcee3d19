"""From files to settings: one YAML file, or a folder with runtime.yaml and profiles/*.yaml.

Either all of it is good, or `SettingsError` says everything that is wrong with it, each with file, line and key.
The only module that knows YAML: its nodes, with their lines, become the nodes of `reading` and nothing else.
Paths in a file (`cwd`, `stateDir`, token files, certificates, the log) are relative to that file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import yaml

from .expand import Expander
from .marks import Marks, file_marks
from .problems import Problem, SettingsError, quoted
from .reading import Fields, Listing, Node, Origin, Reader, Scalar, Table, is_name, join
from .rules import (
    Finding,
    check_issuer,
    check_listen,
    check_otlp,
    check_server,
    check_token,
    normalise_tags,
    settle_server,
)
from .types import (
    ListenSettings,
    NodeSettings,
    ProfileSettings,
    ServerName,
    ServerSpec,
    TlsSettings,
    TokenSettings,
)

RUNTIME_FILE = "runtime.yaml"
PROFILES_FOLDER = "profiles"

# Our own interpreter: what the packaged servers run with. No variable of the environment overrides it.
PYTHON_VARIABLE = "MCPV_PYTHON"

# Thousands of servers fit; a log or a disk image given by mistake does not.
MAX_FILE_BYTES = 4 * 1024 * 1024

_MERGE_TAG = "tag:yaml.org,2002:merge"
_STANDARD_TAGS = "tag:yaml.org,2002:"
_PYTHON_TAGS = "tag:yaml.org,2002:python/"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Good settings, and where they came from."""

    settings: NodeSettings
    # Every file that was read, those of ${file:...} too.
    sources: tuple[Path, ...]
    warnings: tuple[Problem, ...]
    # Where each key that was written stands, by its path; entries as `servers.NAME`, profiles as `profiles.NAME`.
    origins: Mapping[str, Origin] = field(default_factory=dict[str, Origin])
    # Of all that was read, and of the folder of profiles: what changes with any change of the configuration.
    marks: Marks = ()


def load_settings(
    path: Path, *, environ: Mapping[str, str], instead: Mapping[Path, str] | None = None
) -> Loaded:
    """Read the configuration at `path`, a file or a folder, or raise SettingsError with all that is wrong.

    `instead` holds the text of files as they would be: what is to be saved is judged before it is.
    """
    variables = {**environ, PYTHON_VARIABLE: sys.executable}
    path = path.absolute()
    load = _Load(variables, {file.absolute(): text for file, text in (instead or {}).items()})
    load.read_runtime(path / RUNTIME_FILE if path.is_dir() else path)
    if not path.is_dir():
        return load.finish()
    folder = path / PROFILES_FOLDER
    for profile in sorted(folder.glob("*.yaml")):
        load.read_profile(profile)
    return load.finish([folder])


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of `servers:` that could be read, and where it is."""

    reader: Reader
    path: str
    spec: ServerSpec
    has_mode: bool


@dataclass(slots=True)
class _Load:
    """One load in progress: what was read, and what was wrong with it so far."""

    variables: Mapping[str, str]
    instead: Mapping[Path, str]
    readers: list[Reader] = field(default_factory=list[Reader])
    entries: list[_Entry] = field(default_factory=list[_Entry])
    # Every name written, also of entries that are otherwise wrong: who refers to one is not at fault.
    names: set[str] = field(default_factory=set[str])
    profiles: list[ProfileSettings] = field(default_factory=list[ProfileSettings])
    profile_names: set[str] = field(default_factory=set[str])
    # Names that profiles give, checked once all entries are known.
    references: list[tuple[Reader, str, str]] = field(default_factory=list[tuple[Reader, str, str]])
    runtime: Fields | None = None

    def read_runtime(self, file: Path) -> None:
        """Read the main file."""
        reader = self._reader(file)
        root = _compose(file, reader, self.instead)
        if root is None:
            return
        runtime = reader.fields(root, NodeSettings, "", apart=["servers"], hidden=["profiles"])
        self.runtime = runtime
        if not isinstance(root, Table):
            return
        servers = root.get("servers")
        if servers is None:
            reader.refuse("", "servers is missing (write `servers: []` for none)")
            return
        listing = reader.listing(servers, "servers")
        for index, node in enumerate(listing.items if listing else ()):
            self._read_server(reader, node, f"servers[{index}]")

    def read_profile(self, file: Path) -> None:
        """Read one file of profiles/; its name is the profile's."""
        reader = self._reader(file)
        if not is_name(file.stem):
            reader.problems.append(Problem(file, 0, "", f"{quoted(file.stem)} is no name for a profile"))
        self.profile_names.add(file.stem)
        root = _compose(file, reader, self.instead)
        if root is None:
            return
        fields = reader.fields(root, ProfileSettings, "", apart=["servers"], hidden=["name"])
        servers = root.get("servers") if isinstance(root, Table) else None
        chosen: list[ServerName] | None = None
        if servers is not None:
            listing = reader.listing(servers, "servers")
            chosen = []
            for index, node in enumerate(listing.items if listing else ()):
                name = self._read_member(reader, node, f"servers[{index}]")
                chosen += [ServerName(name)] if name else []
        profile = msgspec.structs.replace(
            Fields("", {**fields.values, "name": file.stem}, fields.given, fields.bad).build(ProfileSettings),
            servers=None if chosen is None else tuple(dict.fromkeys(chosen)),
        )
        self.profiles.append(msgspec.structs.replace(profile, tags=normalise_tags(profile.tags)))

    def finish(self, folders: Iterable[Path] = ()) -> Loaded:
        """Check what only all files together can show, and give the settings or refuse them."""
        for reader, path, name in self.references:
            if name not in self.names:
                reader.refuse(path, f"there is no server {quoted(name)}")
        settings = self._settings()
        problems = tuple(
            problem
            for reader in self.readers
            for problem in sorted(reader.problems, key=lambda problem: problem.line)
        )
        if settings is None or problems:
            raise SettingsError(problems)
        files = {file for reader in self.readers for file in reader.expander.files}
        sources = (*(reader.file for reader in self.readers), *sorted(files))
        warnings = tuple(warning for reader in self.readers for warning in reader.warnings)
        return Loaded(settings, sources, warnings, self._origins(), file_marks((*sources, *folders)))

    def _origins(self) -> Mapping[str, Origin]:
        origins: dict[str, Origin] = {}
        for reader in self.readers:
            # What a profile's file says of itself has no path of its own there.
            prefix = "" if reader is self.readers[0] else f"profiles.{reader.file.stem}."
            for path, origin in reader.origins().items():
                origins[path if path.startswith("servers.") else prefix + path] = origin
        return origins

    def _reader(self, file: Path) -> Reader:
        reader = Reader(file, Expander(self.variables, file.parent))
        self.readers.append(reader)
        return reader

    def _read_member(self, reader: Reader, node: Node, path: str) -> str | None:
        """Read one of a profile's servers: an entry of its own, or the name of another."""
        reader.mark(path, node.line)
        if isinstance(node, Table):
            return self._read_server(reader, node, path)
        name = reader.text(node, path)
        if name is not None:
            self.references.append((reader, path, name))
        return name

    def _read_server(self, reader: Reader, node: Node, path: str) -> str | None:
        """Read an entry of `servers:`; give its name if it has a good one."""
        reader.mark(path, node.line)
        if not isinstance(node, Table):
            reader.table(node, path)
            return None
        table = node
        name = _name_of(table)
        if name is not None and self._is_new(reader, name, path):
            path = f"servers.{name}"
            reader.mark(path, table.line)

        table = _with_command_spelt_out(reader, table, path)
        given = frozenset(key.text for key, _ in table.entries)
        fields = reader.fields(table, ServerSpec, path, apart=["cmd"])
        if "name" in fields.bad:
            return None
        spec = self._with_transport(reader, path, fields.build(ServerSpec), given)
        if name is None:
            self._is_new(reader, spec.name, path)
        spec = _with_absolute_paths(spec, reader.expander)
        bad = fields.bad
        if "cmd" in given:
            # What cmd stands for was not written; a cmd that is no list leaves no command, which was said already.
            given -= {"args", "command"}
            bad |= set[str]() if spec.command else {"cmd"}
        _note(reader, path, check_server(spec, given), bad)
        if not spec.args and " " in spec.command:
            reader.warn(join(path, "command"), "has a space, and is taken as the name of one program")
        self.entries.append(_Entry(reader, path, settle_server(spec), "activationMode" in fields.given))
        return spec.name

    def _is_new(self, reader: Reader, name: str, path: str) -> bool:
        """Note the name of an entry; refuse the second one of a name."""
        if name in self.names:
            reader.refuse(path, f'there is another server named "{name}"')
            return False
        self.names.add(name)
        return True

    def _with_transport(
        self, reader: Reader, path: str, spec: ServerSpec, given: frozenset[str]
    ) -> ServerSpec:
        """A URL without a transport means Streamable HTTP."""
        if "transport" in given or "url" not in given or given & {"command", "cmd"}:
            return spec
        reader.warn(join(path, "url"), "is given without transport: taken as streamable-http")
        return msgspec.structs.replace(spec, transport="streamable-http")

    def _settings(self) -> NodeSettings | None:
        if self.runtime is None:
            return None
        reader = self.readers[0]
        bad = self.runtime.bad
        values = {**self.runtime.values, "servers": ()}
        settings = Fields("", values, self.runtime.given, bad).build(NodeSettings)
        _note(reader, "listen", check_listen(settings.listen), _below(bad, "listen"))
        self._check_tokens(reader, settings.auth.tokens)
        if settings.auth.oauth is not None:
            findings = check_issuer(settings.auth.oauth, profiles=self.profile_names)
            _note(reader, "auth.oauth", findings, _below(bad, "auth.oauth"))
        if settings.telemetry.otlp is not None:
            findings = check_otlp(settings.telemetry.otlp)
            _note(reader, "telemetry.otlp", findings, _below(bad, "telemetry.otlp"))
        mode = settings.default_activation_mode
        servers = tuple(
            entry.spec if entry.has_mode else msgspec.structs.replace(entry.spec, activation_mode=mode)
            for entry in self.entries
        )
        return msgspec.structs.replace(
            _with_absolute_files(settings, reader.expander), servers=servers, profiles=tuple(self.profiles)
        )

    def _check_tokens(self, reader: Reader, tokens: tuple[TokenSettings, ...]) -> None:
        seen: set[str] = set()
        for index, token in enumerate(tokens):
            path = f"auth.tokens[{index}]"
            findings = check_token(token, servers=self.names, profiles=self.profile_names)
            _note(reader, path, findings, frozenset())
            if token.name in seen:
                reader.refuse(join(path, "name"), f"there is another token named {quoted(token.name)}")
            seen.add(token.name)


def _note(reader: Reader, path: str, findings: Iterable[Finding], bad: Set[str]) -> None:
    """Refuse what was found, except where it was judged by a value that could not be read."""
    for finding in findings:
        top = finding.key.partition(".")[0]
        if bad.isdisjoint((finding.key, top, *finding.because_of)):
            reader.refuse(join(path, finding.key), finding.message)


def _below(bad: Set[str], key: str) -> frozenset[str]:
    """Give what could not be read inside `key`, by its name there."""
    return frozenset(name.removeprefix(f"{key}.") for name in bad if name.startswith(f"{key}."))


def _name_of(table: Table) -> str | None:
    """Give the name an entry will have, if it is a good one; variables in names are seen only when it is read."""
    name = table.get("name")
    return name.text if isinstance(name, Scalar) and is_name(name.text) else None


def _with_command_spelt_out(reader: Reader, table: Table, path: str) -> Table:
    """Write `cmd: [program, argument, ...]` as `command` and `args`."""
    cmd = table.get("cmd")
    if cmd is None:
        return table
    where = join(path, "cmd")
    reader.mark(where, cmd.line)
    listing = reader.listing(cmd, where)
    if listing is None:
        return table
    if not listing.items:
        reader.refuse(where, "is empty: which program is the server?")
        return table
    written = {key.text for key, _ in table.entries}
    for key in ("command", "args"):
        if key in written:
            reader.refuse(join(path, key), "is already said by cmd")
            return table
    line = cmd.line
    spelt_out = (
        (Scalar("command", plain=True, line=line), listing.items[0]),
        (Scalar("args", plain=True, line=line), Listing(listing.items[1:], line)),
    )
    return Table((*table.entries, *spelt_out), table.line, table.doubles)


def _with_absolute_paths(spec: ServerSpec, expander: Expander) -> ServerSpec:
    if spec.cwd:
        spec = msgspec.structs.replace(spec, cwd=expander.absolute(spec.cwd))
    tls = spec.tls
    if tls is not None:
        files = {name: path for name in ("ca", "cert", "key") if (path := getattr(tls, name)) is not None}
        absolute = {name: expander.absolute(path) for name, path in files.items()}
        spec = msgspec.structs.replace(spec, tls=msgspec.structs.replace(tls, **absolute))
    return spec


def _with_absolute_files(settings: NodeSettings, expander: Expander) -> NodeSettings:
    def absolute(path: str | None) -> str | None:
        return None if path is None else expander.absolute(path)

    tls = settings.listen.tls
    if tls is not None:
        tls = TlsSettings(cert=expander.absolute(tls.cert), key=expander.absolute(tls.key))
    tokens = tuple(
        msgspec.structs.replace(
            token,
            file=expander.absolute(token.file),
            tags=None if token.tags is None else normalise_tags(token.tags),
        )
        for token in settings.auth.tokens
    )
    return msgspec.structs.replace(
        settings,
        state_dir=absolute(settings.state_dir),
        listen=ListenSettings(http=settings.listen.http, tls=tls),
        auth=msgspec.structs.replace(settings.auth, tokens=tokens),
        log=msgspec.structs.replace(
            settings.log, file=absolute(settings.log.file), audit=absolute(settings.log.audit)
        ),
    )


def _compose(file: Path, reader: Reader, instead: Mapping[Path, str]) -> Node | None:
    """Read a file into our nodes, or note why that cannot be."""
    text = instead[file] if file in instead else _read_text(file, reader)
    if text is None:
        return None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            return _Converter(reader).convert(root)
    except yaml.MarkedYAMLError as error:
        reader.problems.append(_syntax_problem(file, text, error))
    except yaml.YAMLError as error:
        # Its own text quotes the file; the reason alone does not.
        reason = getattr(error, "reason", "cannot be parsed")
        reader.problems.append(Problem(file, 0, "", f"is not YAML: {reason}"))
    except RecursionError:
        reader.problems.append(Problem(file, 0, "", "is nested too deeply"))
    else:
        reader.problems.append(Problem(file, 1, "", "is empty"))
    return None


def _read_text(file: Path, reader: Reader) -> str | None:
    try:
        with file.open("rb") as source:
            data = source.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            reader.problems.append(Problem(file, 0, "", f"is longer than {MAX_FILE_BYTES} bytes"))
            return None
        return data.decode("utf-8-sig")
    except OSError as error:
        reader.problems.append(Problem(file, 0, "", f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        reader.problems.append(Problem(file, line, "", "is not UTF-8"))
    return None


def _syntax_problem(file: Path, text: str, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    index = mark.line if mark is not None else 0
    said = "; ".join(part for part in (error.context, error.problem) if part)
    lines = text.splitlines()
    line = lines[index] if index < len(lines) else ""
    # { and } mean something else inside flow collections, a surprise worth a word.
    hint = " (inside [ ] and { }, put ${...} in quotes)" if "${" in line else ""
    return Problem(file, index + 1, "", f"is not YAML: {said}{hint}")


class _Converter:
    """Makes our nodes of one document's YAML nodes."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        # By the YAML node's id, so that what many aliases share is converted once.
        self._done: dict[int, Node] = {}
        self._open: set[int] = set()

    def convert(self, node: yaml.Node) -> Node:
        key = id(node)
        if key in self._done:
            return self._done[key]
        line = node.start_mark.line + 1
        if key in self._open:
            self._refuse(line, "an anchor refers to itself")
            return Scalar("", plain=False, line=line)
        self._open.add(key)
        if node.tag.startswith(_PYTHON_TAGS) or not node.tag.startswith(_STANDARD_TAGS):
            self._refuse(line, f"the tag {quoted(node.tag)} is not supported")
        converted = self._converted(node, line)
        self._open.discard(key)
        self._done[key] = converted
        return converted

    def _converted(self, node: yaml.Node, line: int) -> Node:
        if isinstance(node, yaml.SequenceNode):
            return Listing(tuple(self.convert(item) for item in node.value), line)
        if isinstance(node, yaml.MappingNode):
            return self._table(node, line)
        if isinstance(node, yaml.ScalarNode):
            return Scalar(str(node.value), plain=node.style is None, line=line)
        raise TypeError(f"YAML has no {type(node).__name__}")

    def _table(self, node: yaml.MappingNode, line: int) -> Table:
        own: dict[str, tuple[Scalar, Node]] = {}
        merged: dict[str, tuple[Scalar, Node]] = {}
        doubles: list[Scalar] = []
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if key_node.tag == _MERGE_TAG:
                for entry in self._merged(value_node, key_line):
                    merged.setdefault(entry[0].text, entry)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_line, "a key must be a single value")
                continue
            key = Scalar(str(key_node.value), plain=True, line=key_line)
            if key.text in own:
                doubles.append(key)
            own[key.text] = (key, self.convert(value_node))
        inherited = [entry for text, entry in merged.items() if text not in own]
        return Table((*inherited, *own.values()), line, tuple(doubles))

    def _merged(self, node: yaml.Node, line: int) -> Iterator[tuple[Scalar, Node]]:
        """Give the entries that `<<:` brings, those of the first table first."""
        converted = self.convert(node)
        tables = converted.items if isinstance(converted, Listing) else (converted,)
        for table in tables:
            if isinstance(table, Table):
                yield from table.entries
            else:
                self._refuse(line, "<< takes keys with values, or a list of such")

    def _refuse(self, line: int, message: str) -> None:
        self._reader.problems.append(Problem(self._reader.file, line, "", message))
