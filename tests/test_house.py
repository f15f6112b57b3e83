"""The house as DESIGN says: one name for one thing, files that can be read in one go."""

from __future__ import annotations

import ast
from collections import defaultdict

from helpers.places import ROOT

SRC = ROOT / "src" / "minordpo"
MOST_LINES = 400


def test_no_two_classes_have_one_name():
    places = defaultdict(list)
    for file in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(file.relative_to(SRC)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_every_file_can_be_read_in_one_go():
    lines = {
        str(file.relative_to(SRC)): len(file.read_text(encoding="utf-8").splitlines())
        for file in SRC.rglob("*.py")
    }
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_every_public_thing_says_what_it_is():
    silent = []
    for file in sorted(SRC.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if file.stat().st_size and not ast.get_docstring(tree):
            silent.append(str(file.relative_to(SRC)))
        for node in ast.walk(tree):
            public = isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
            if public and node in tree.body and not ast.get_docstring(node):
                silent.append(f"{file.relative_to(SRC)}: {node.name}")
    assert silent == []
