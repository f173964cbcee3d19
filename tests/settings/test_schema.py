"""What editors are told agrees with what the loader takes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from support.house import ROOT

from mcpv_node.settings import NodeSettings, ProfileSettings, ServerSpec, SettingsError, load_settings
from mcpv_node.settings.meanings import CMD, MEANINGS
from mcpv_node.settings.schema import fields_of, parts_of, profile_schema, runtime_schema

EXAMPLES = sorted((ROOT / "config").glob("*.yaml")) + sorted((ROOT / "config" / "examples").glob("*.yaml"))
RUNTIME = jsonschema.Draft202012Validator(runtime_schema())
PROFILE = jsonschema.Draft202012Validator(profile_schema())


def generated() -> dict[Path, str]:
    """Run the generator, which is a script beside the documents."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    outputs: dict[Path, str] = module.outputs()
    return outputs


def test_what_is_made_of_the_types_is_up_to_date() -> None:
    stale = [path.name for path, text in generated().items() if path.read_text(encoding="utf-8") != text]

    assert stale == [], "run .venv/bin/python docs/generate.py"


def test_every_key_has_a_meaning_and_no_meaning_is_left_over() -> None:
    types = {NodeSettings, ProfileSettings, *parts_of(NodeSettings), *parts_of(ProfileSettings)}

    assert set(MEANINGS) == types
    for cls in types:
        hidden = {NodeSettings: {"profiles"}, ProfileSettings: {"name"}}.get(cls, set())
        keys = {item.encode_name for item in fields_of(cls)} - hidden
        assert set(MEANINGS[cls]) - ({CMD} if cls is ServerSpec else set()) == keys


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_good_for_both(file: Path) -> None:
    load_settings(file, environ={"HOME": "/home"})

    assert list(RUNTIME.iter_errors(yaml.safe_load(file.read_text()))) == []


def test_the_packaged_file_leads_editors_to_the_schema() -> None:
    first = (ROOT / "config" / "runtime.yaml").read_text().splitlines()[0]

    assert first == "# yaml-language-server: $schema=schema.json"


GOOD = """\
servers:
  - {name: a, cmd: [x, 8080, true], env: {PORT: 80, "N": 'n'}, idleSeconds: "${IDLE}", tags: [1]}
  - {name: "${NAME}", url: https://x.example, transport: streamable_http, restart: {baseSeconds: 0.5}}
limits: {depth: 5}
log: {level: "${LEVEL:-info}"}
"""


def test_variables_and_texts_without_quotes_are_good_for_both(tmp_path: Path) -> None:
    (tmp_path / "runtime.yaml").write_text(GOOD.replace('"${IDLE}"', "5").replace('"${NAME}"', "b"))
    load_settings(tmp_path / "runtime.yaml", environ={})

    assert list(RUNTIME.iter_errors(yaml.safe_load(GOOD))) == []


@pytest.mark.parametrize(
    "text",
    [
        "log: {}\n",
        "servers: {}\n",
        "servers: []\nfoo: 1\n",
        "servers: [{name: A, command: x}]\n",
        "servers: [{command: x}]\n",
        "servers: [{name: a, command: x, idleSeconds: -1}]\n",
        "servers: [{name: a, command: x, idleSeconds: soon}]\n",
        "servers: [{name: a, command: x, minReady: 1.5}]\n",
        "servers: [{name: a, command: x, strategy: statless}]\n",
        "servers: [{name: a, command: x, limits: {memoryMb: 5}}]\n",
        "servers: [{name: a, command: x, limits: {nice: 20}}]\n",
        "servers: [{name: a, command: x, disabled: 1}]\n",
        "servers: [{name: a, cmd: []}]\n",
        "servers: []\nlisten: {http: ''}\n",
        "servers: []\nauth: {tokens: [{name: x}]}\n",
        "servers: []\nprofiles: []\n",
        "servers: []\ncluster: {size: 3}\n",
    ],
)
def test_what_the_schema_refuses_the_loader_refuses(tmp_path: Path, text: str) -> None:
    (tmp_path / "runtime.yaml").write_text(text)

    assert list(RUNTIME.iter_errors(yaml.safe_load(text))) != []
    with pytest.raises(SettingsError):
        load_settings(tmp_path / "runtime.yaml", environ={})


@pytest.mark.parametrize(
    ("said", "is_good"),
    [
        ({"servers": ["a", {"name": "b", "command": "x"}], "tools": {"deny": ["x"]}}, True),
        ({"tags": ["a"]}, True),
        ({"servers": [{"name": "b", "comand": "x"}]}, False),
        ({"name": "x"}, False),
    ],
)
def test_a_profile_has_a_schema_of_its_own(tmp_path: Path, said: dict[str, Any], is_good: bool) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "runtime.yaml").write_text("servers: [{name: a, command: x}]\n")
    (tmp_path / "profiles" / "p.yaml").write_bytes(msgspec.json.encode(said))

    assert PROFILE.is_valid(said) is is_good
    if is_good:
        load_settings(tmp_path, environ={})
    else:
        with pytest.raises(SettingsError):
            load_settings(tmp_path, environ={})
