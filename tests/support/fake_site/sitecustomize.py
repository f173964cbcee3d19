"""Put on PYTHONPATH, this makes `mcpv_node.serving` the stand-in beside it, also in processes started by ours."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path


class _StandIn(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != "mcpv_node.serving":
            return None
        return spec_from_file_location(fullname, Path(__file__).with_name("fake_root.py"))


sys.meta_path.insert(0, _StandIn())
