"""What a configuration file may say, what it means, and what is refused with which words."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mcpv_node.settings import (
    Loaded,
    NodeSettings,
    ServerSpec,
    ServerTlsSettings,
    SettingsError,
    load_settings,
)

STDIO = "servers: [{name: fs, command: fs-server}]\n"


def load(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> Loaded:
    file = folder / "runtime.yaml"
    file.write_text(text)
    return load_settings(file, environ=environ or {})


def settings(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> NodeSettings:
    return load(folder, text, environ).settings


def server(folder: Path, keys: str, environ: Mapping[str, str] | None = None) -> ServerSpec:
    """Load one stdio entry with some more keys, given as `key: value` lines."""
    lines = "\n    ".join(keys.splitlines())
    text = f"servers:\n  - name: fs\n    command: fs-server\n    {lines}\n"
    return settings(folder, text, environ).servers[0]


def refusals(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Give the problems as `line: key: message`."""
    with pytest.raises(SettingsError) as refused:
        load(folder, text, environ)
    prefix = f"{folder / 'runtime.yaml'}:"
    return [str(problem).removeprefix(prefix) for problem in refused.value.problems]


def test_entry_without_more_keys_has_the_defaults(tmp_path: Path) -> None:
    spec = settings(tmp_path, STDIO).servers[0]

    assert spec == ServerSpec(name=spec.name, command="fs-server")
    assert (spec.strategy, spec.max_concurrent, spec.min_ready, spec.max_instances) == ("stateless", 1, 0, 4)
    assert (spec.idle_seconds, spec.session_ttl_seconds, spec.call_timeout_seconds) == (60, 300, 60)
    assert (spec.restart.max_retries, spec.restart.base_seconds, spec.restart.max_seconds) == (5, 1, 30)


def test_all_problems_are_reported_together_each_with_its_line_and_key(tmp_path: Path) -> None:
    text = """\
servers:
  - name: fs
    command: fs-server
    restart: sometimes
    strategy: statless
    maxinstances: 3
    idleSeconds: -1
    minReady: "3"
  - name: fs
    command: x
startupStrategy: all
limits: {depth: 0}
"""

    assert refusals(tmp_path, text) == [
        "4: servers.fs.restart: is a single value, not keys with values",
        '5: servers.fs.strategy: "statless" is not exclusive, persistent, singleton, stateful or stateless '
        "(did you mean stateless?)",
        "6: servers.fs.maxinstances: is not a key here (did you mean maxInstances?)",
        '7: servers.fs.idleSeconds: "-1" is less than 0',
        '8: servers.fs.minReady: "3" is not a whole number (it is in quotes)',
        '9: servers[1]: there is another server named "fs"',
        "11: startupStrategy: is not a key here: use bootstrapMode (metadata or disabled) for what is learnt at the "
        "start, and activationMode or defaultActivationMode (on-demand or always-on) for what is kept running",
        '12: limits.depth: "0" is less than 1',
    ]


def test_message_of_the_error_has_one_line_per_problem(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, "servers: []\nfoo: 1\nbar: 2\n")

    file = tmp_path / "runtime.yaml"
    assert str(refused.value).splitlines() == [
        f"{file}:2: foo: is not a key here",
        f"{file}:3: bar: is not a key here",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: is empty"),
        ("listen: {}\n", "1: servers is missing (write `servers: []` for none)"),
        ("servers: {}\n", "1: servers: is keys with values, not a list"),
        ("servers:\n", "1: servers: is empty, not a list"),
        ("[]\n", "1: is a list, not keys with values"),
        ("servers: [x]\n", "1: servers[0]: is a single value, not keys with values"),
        ("servers: [{command: x}]\n", "1: servers[0]: name is missing"),
        ("servers: [{name: A, command: x}]\n", "1: servers[0].name: "),
        ("servers: []\nservers: []\n", "2: servers: is written twice"),
        ("servers: [{name: a, command: x, env: {K: a, K: b}}]\n", "1: servers.a.env.K: is written twice"),
        ("servers: []\nlog: {level: loud}\n", '2: log.level: "loud" is not '),
        ("servers: []\nlisten: {http: 8090}\n", "2: listen.http: is not HOST:PORT"),
        ("servers: []\nlisten: {http: 'h:70000'}\n", "2: listen.http: is not HOST:PORT"),
        ("servers: []\nlisten: {tls: {cert: c}}\n", "2: listen.tls: key is missing"),
        ("servers: []\nprofiles: []\n", "2: profiles: is not a key here"),
        ("servers: []\ncluster: {size: 3}\n", "2: cluster.size: is not a key here"),
        ("servers: !!python/name:os.system []\n", "1: the tag "),
        ("servers: !mine []\n", "1: the tag "),
        ("servers: &a [*a]\n", "1: an anchor refers to itself"),
        ("servers: [\n", "2: is not YAML: "),
        ("servers: [{name: a, command: ${X}}]\n", "1: is not YAML: "),
        ("? [a]\n: 1\nservers: []\n", "1: a key must be a single value"),
    ],
)
def test_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert refusals(tmp_path, text)[0].startswith(problem)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("url: http://h/", "url: is for streamable-http and sse; this server is stdio"),
        ("headers: {A: b}", "headers: is for streamable-http and sse; this server is stdio"),
        ("cmd: [x]", "command: is already said by cmd"),
        ("tls: {verify: false}", "tls: is for streamable-http and sse; this server is stdio"),
        ("proxy: none", "proxy: is for streamable-http and sse; this server is stdio"),
        ("env: {MCPV_INSTANCE: x}", "env.MCPV_INSTANCE: is set by the node itself"),
        ("env: {'A=B': x}", "env.A=B: is not a name of a variable"),
        ("env: {A: }", 'env.A: has no value: leave the key out, or write "" for an empty text'),
        ("env: {A: [b]}", "env.A: is a list, not a text"),
        ("args: one", "args: is a single value, not a list"),
        ("exposeTools: ['']", "exposeTools[0]: is empty"),
        ("disabled: yes", 'disabled: "yes" is not true or false'),
        ("disabled: 'true'", 'disabled: "true" is not true or false'),
        ("maxConcurrent: 1.5", 'maxConcurrent: "1.5" is not a whole number'),
        ("maxConcurrent: 010", 'maxConcurrent: "010" is not a whole number'),
        ("idleSeconds: .inf", 'idleSeconds: ".inf" is not a number of seconds'),
        ("startTimeoutSeconds: 0", 'startTimeoutSeconds: "0" is not more than 0'),
        ("idleSeconds: 1e99", 'idleSeconds: "1e99" is more than 31536000'),
        ("minReady: 5", "minReady: 5 is more than the 4 of maxInstances"),
        (
            "strategy: singleton\nmaxInstances: 2",
            "maxInstances: 2 is not 1, and a singleton has one instance",
        ),
        ("strategy: singleton\nminReady: 2", "minReady: 2 is more than the 1 of maxInstances"),
        (
            "restart: {baseSeconds: 5, maxSeconds: 2}",
            "restart.maxSeconds: 2 is less than baseSeconds, 5",
        ),
        ('cwd: "a\\0b"', "cwd: holds a NUL character"),
    ],
)
def test_stdio_entry_is_refused_for_one_bad_key(tmp_path: Path, keys: str, problem: str) -> None:
    lines = "\n    ".join(keys.splitlines())

    found = refusals(tmp_path, f"servers:\n  - name: fs\n    command: x\n    {lines}\n")

    assert [one.partition(": servers.fs.")[2] for one in found] == [problem]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("command: x", "command: is for stdio; this server is sse"),
        ("cmd: [x]", "cmd: is for stdio; this server is sse"),
        ("env: {A: b}", "env: is for stdio; this server is sse"),
        ("headers: {Content-Type: x}", "headers.Content-Type: is written by the node itself"),
        ("headers: {mcp-session-id: x}", "headers.mcp-session-id: is written by the node itself"),
        ("headers: {Accept-Encoding: br}", "headers.Accept-Encoding: is written by the node itself"),
        ("tls: {key: k.pem}", "tls.key: goes with a cert"),
        ("tls: {ca: c.pem, verify: false}", "tls.verify: is false: then nobody is asked what ca says"),
        ("tls: {verify: 1}", 'tls.verify: "1" is not true or false'),
        ("tls: {cret: c.pem}", "tls.cret: is not a key here (did you mean cert?)"),
        ("oauth: {clientId: a, clientSecret: b}", "oauth.issuer: is missing: client-credentials go with it"),
        (
            "oauth: {grant: authorization-code, clientSecret: b}",
            "oauth.clientSecret: goes with a clientId",
        ),
        (
            "oauth: {clientId: a, clientSecret: b, issuer: auth}",
            "oauth.issuer: is not an http or https URL with a host",
        ),
        (
            "oauth: {grant: authorization-code}\n    headers: {authorization: x}",
            "oauth: writes the header Authorization, which is in headers, too",
        ),
        ("proxy: proxy:3128", "proxy: is not an http URL with a host, and not none"),
        ("proxy: https://proxy/", "proxy: is not an http URL with a host, and not none"),
        ("headers: {'a b': x}", "headers.a b: is not a name of a header"),
        ("headers: {A: ''}", "headers.A: is empty"),
        ('headers: {A: "x\\r\\nB: y"}', "headers.A: holds a character that no header may hold"),
        (
            "headers: {A: x, a: y}",
            "headers.a: is written twice: the case of a header's name does not matter",
        ),
    ],
)
def test_remote_entry_is_refused_for_one_bad_key(tmp_path: Path, keys: str, problem: str) -> None:
    text = f"servers:\n  - name: web\n    transport: sse\n    url: https://h/mcp\n    {keys}\n"

    assert [one.partition(": servers.web.")[2] for one in refusals(tmp_path, text)] == [problem]


def test_tls_for_a_server_without_is_refused(tmp_path: Path) -> None:
    text = "servers: [{name: web, transport: sse, url: 'http://h/', tls: {verify: false}}]\n"

    assert refusals(tmp_path, text) == ["1: servers.web.tls: is for https; this url is http"]


@pytest.mark.parametrize("url", ["ftp://h/", "http://", "h/mcp", "http://h:99999/", "http://a b/", "''"])
def test_url_that_is_no_web_address_is_refused_without_showing_it(tmp_path: Path, url: str) -> None:
    found = refusals(tmp_path, f"servers: [{{name: web, transport: sse, url: '{url.strip(chr(39))}'}}]\n")

    assert len(found) == 1
    assert found[0].startswith("1: servers.web.url: is ")
    assert not url.strip("'") or url not in found[0]


def test_command_is_required(tmp_path: Path) -> None:
    assert refusals(tmp_path, "servers: [{name: a}]\n") == [
        "1: servers.a.command: is missing: which program is the server?"
    ]


def test_bad_key_brings_no_second_problem_about_what_depends_on_it(tmp_path: Path) -> None:
    text = (
        "servers: [{name: a, command: [x]}, {name: b, cmd: x}, {name: c, transport: tcp, url: 'http://h/'}]\n"
    )

    keys = [one.split(": ")[1] for one in refusals(tmp_path, text)]

    assert keys == ["servers.a.command", "servers.b.cmd", "servers.c.transport"]


def test_cmd_is_the_program_and_its_arguments(tmp_path: Path) -> None:
    spec = settings(tmp_path, "servers: [{name: a, cmd: [npx, -y, 5]}]\n").servers[0]

    assert (spec.command, spec.args) == ("npx", ("-y", "5"))


def test_url_without_transport_is_streamable_http_and_says_so(tmp_path: Path) -> None:
    loaded = load(tmp_path, "servers: [{name: a, url: 'http://h/mcp'}]\n")

    assert loaded.settings.servers[0].transport == "streamable-http"
    assert [(warning.key_path, warning.line) for warning in loaded.warnings] == [("servers.a.url", 1)]


def test_old_spelling_of_streamable_http_is_accepted(tmp_path: Path) -> None:
    text = "servers: [{name: a, transport: streamable_http, url: 'http://h/mcp'}]\n"

    assert settings(tmp_path, text).servers[0].transport == "streamable-http"


def test_environment_keeps_key_case_and_values_as_written(tmp_path: Path) -> None:
    spec = server(tmp_path, "env: {API_Key: 8080, A: 010, B: yes, C: 1.50, D: 2026-01-31, E: ''}")

    assert spec.env == {"API_Key": "8080", "A": "010", "B": "yes", "C": "1.50", "D": "2026-01-31", "E": ""}


def test_variables_are_replaced_in_values_only(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from file\n")
    keys = """\
env:
  A: ${HOST}
  B: x${NONE:-dflt}y
  C: ${file:secret}
  D: $$HOST $HOST $
  ${HOST}: key
  E: ${EMPTY}
  F: ${EMPTY:-full}
  G: ${TWICE}
minReady: ${N}"""
    environ = {"HOST": "h", "N": "2", "EMPTY": "", "TWICE": "${HOST}"}

    spec = server(tmp_path, keys, environ)

    assert spec.min_ready == 2
    assert spec.env == {
        "A": "h",
        "B": "xdflty",
        "C": "from file",
        "D": "$HOST $HOST $",
        "${HOST}": "key",
        "E": "",
        "F": "full",
        "G": "${HOST}",
    }


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("${NOPE}", "the variable NOPE is not set"),
        ("${NOPE", "a ${ has no }"),
        ("${A B}", "a ${...} is not ${VAR}"),
        ("${file:}", "${file:} names no file"),
        ("${file:gone}", "gone is not there, or is no plain file"),
        ("${file:/dev/null}", "/dev/null is not there, or is no plain file"),
    ],
)
def test_reference_to_nothing_is_refused(tmp_path: Path, value: str, problem: str) -> None:
    (found,) = refusals(tmp_path, f"servers:\n  - name: a\n    command: x\n    env: {{K: '{value}'}}\n")

    assert found.startswith("4: servers.a.env.K: ")
    assert problem in found


def test_no_message_holds_a_secret(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s3cret\xff")
    text = """\
servers:
  - name: a
    command: x
    minReady: ${KEY}
    strategy: ${KEY}
    env: {MCPV_INSTANCE: s3cret, B: "${file:secret}", C: [s3cret]}
  - name: b
    url: "s3cret://s3cret@h"
    headers: {Host: s3cret, C: "s3cret\\n"}
apiKey: s3cret
"""

    found = refusals(tmp_path, text, {"KEY": "s3cret"})

    assert len(found) == 9
    assert "s3cret" not in "".join(found)


def test_merge_keys_bring_defaults_that_an_entry_may_override(tmp_path: Path) -> None:
    text = """\
servers:
  - &base
    name: a
    command: x
    idleSeconds: 5
    maxInstances: 2
  - <<: *base
    name: b
    idleSeconds: 7
"""

    second = settings(tmp_path, text).servers[1]

    assert (second.name, second.command, second.idle_seconds, second.max_instances) == ("b", "x", 7, 2)


def test_tags_are_normalised(tmp_path: Path) -> None:
    assert server(tmp_path, "tags: [' B', a, b, A]").tags == ("a", "b")


def test_singleton_has_one_instance(tmp_path: Path) -> None:
    assert server(tmp_path, "strategy: singleton").max_instances == 1


def test_default_activation_mode_applies_where_an_entry_says_nothing(tmp_path: Path) -> None:
    text = """\
defaultActivationMode: always-on
servers: [{name: a, command: x}, {name: b, command: y, activationMode: on-demand}]
"""

    assert [spec.activation_mode for spec in settings(tmp_path, text).servers] == ["always-on", "on-demand"]


def test_words_that_yaml_takes_for_booleans_stay_words(tmp_path: Path) -> None:
    assert settings(tmp_path, "servers: []\npinTools: off\n").pin_tools == "off"


def test_interpreter_of_the_node_is_a_variable_nobody_overrides(tmp_path: Path) -> None:
    text = "servers: [{name: a, command: '${MCPV_PYTHON}'}]\n"

    assert settings(tmp_path, text, {"MCPV_PYTHON": "/else"}).servers[0].command == sys.executable


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = """\
servers: [{name: a, command: x, cwd: work}, {name: b, url: https://h/, tls: {ca: ca.pem, cert: /c.pem}}]
stateDir: ~/state
log: {file: /var/log/node.log}
auth: {tokens: [{name: t, file: t.token}]}
"""

    found = settings(tmp_path, text, {"HOME": "/home/u"})

    assert found.servers[0].cwd == str(tmp_path / "work")
    assert found.servers[1].tls == ServerTlsSettings(ca=str(tmp_path / "ca.pem"), cert="/c.pem")
    assert found.state_dir == "/home/u/state"
    assert found.log.file == "/var/log/node.log"
    assert found.auth.tokens[0].file == str(tmp_path / "t.token")


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("{name: t, file: f, server: gone}", 'server: there is no server "gone"'),
        ("{name: t, file: f, profile: gone}", 'profile: there is no profile "gone"'),
        ("{name: t, file: f, server: fs, tags: [a]}", "tags: goes without server: a token has one selector"),
        ("{name: t, file: f, tags: []}", "tags: is empty: leave it out for a token that sees everything"),
        ("{name: t, file: f, tags: }", "tags: is empty, not a list"),
        ("{name: t}", "file is missing"),
    ],
)
def test_token_with_a_bad_selector_is_refused(tmp_path: Path, token: str, problem: str) -> None:
    (found,) = refusals(tmp_path, f"{STDIO}auth: {{tokens: [{token}]}}\n")

    assert found.startswith("2: auth.tokens[0]")
    assert found.endswith(problem)


def test_second_token_of_a_name_is_refused(tmp_path: Path) -> None:
    tokens = "[{name: t, file: a}, {name: t, file: b}]"

    assert refusals(tmp_path, f"{STDIO}auth: {{tokens: {tokens}}}\n") == [
        '2: auth.tokens[1].name: there is another token named "t"'
    ]


def test_file_that_is_not_there_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file or directory"):
        load_settings(tmp_path / "gone.yaml", environ={})


def test_deep_nesting_is_refused_in_words(tmp_path: Path) -> None:
    assert refusals(tmp_path, "servers: " + "[" * 20_000 + "\n")[0].endswith("is nested too deeply")


def test_folder_has_profiles_with_entries_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "runtime.yaml").write_text(STDIO)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "work.yaml").write_text(
        "servers: [fs, {name: mine, command: y}]\ntags: [B, a]\ntools: {deny: [rm]}\n"
    )

    loaded = load_settings(tmp_path, environ={})

    (profile,) = loaded.settings.profiles
    assert (profile.name, profile.servers, profile.tags) == ("work", ("fs", "mine"), ("a", "b"))
    assert profile.tools.deny == ("rm",)
    assert [spec.name for spec in loaded.settings.servers] == ["fs", "mine"]
    assert loaded.sources == (tmp_path / "runtime.yaml", tmp_path / "profiles" / "work.yaml")


def test_problems_of_all_files_of_a_folder_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "runtime.yaml").write_text("servers: []\nfoo: 1\n")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "work.yaml").write_text("servers: [gone]\nname: x\n")

    with pytest.raises(SettingsError) as refused:
        load_settings(tmp_path, environ={})

    assert [(p.file.name, p.line, p.key_path) for p in refused.value.problems] == [
        ("runtime.yaml", 2, "foo"),
        ("work.yaml", 1, "servers[0]"),
        ("work.yaml", 2, "name"),
    ]


def test_files_that_values_came_from_are_among_the_sources(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("v")

    loaded = load(tmp_path, "servers: [{name: a, command: x, env: {K: '${file:k}'}}]\n")

    assert loaded.sources == (tmp_path / "runtime.yaml", tmp_path / "k")


def test_command_with_a_space_is_warned_about(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, "servers: [{name: a, command: npx server}]\n").warnings

    assert warning.key_path == "servers.a.command"
