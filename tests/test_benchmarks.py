"""Benchmarks are run rarely; what they import from the package is there all the same."""

from __future__ import annotations

import ast
import importlib

import pytest

from helpers.places import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_benchmark_imports_is_there(script):
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith(("minordpo", "helpers"))
        ):
            module = importlib.import_module(node.module)
            for name in node.names:
                found = hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}")
                assert found, f"{node.module}.{name.name}"
