"""Only run_folder/ spells the names of files and the keys of metrics.jsonl."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.places import ROOT
from minordpo.run_folder import names, records

SRC = ROOT / "src" / "minordpo"
FILES = [
    file for file in sorted(SRC.rglob("*.py")) if "run_folder" not in file.parts and file.name != "moved.py"
]


def texts(module: object) -> set[str]:
    return {value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)}


NAMES = texts(names)
# Names that are also words of other contracts: a section of the run config, of results.json, the column of a table.
PLAIN_NAMES = {name for name in NAMES if "." not in name}
KEYS = texts(records)
# Keys that are words of no other contract. The others ("loss", "tokens", "seconds", …) stand in TrainingArguments,
# results.json and responses.jsonl too and are not looked for; with `eval_` or `probe/` before them they are.
OWN_KEYS = {key for key in KEYS if "/" in key} | {"no_rejected_gradient", "largest_logratio", "padded_tokens"}
OWN_KEYS |= {"chosen_below_reference", "rejected_at_or_below_reference", "reference_nll", "chosen_nll"}


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Text constants but docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def paths(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Text constants that a path is made of: `folder / "model"`."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Div)
            and isinstance(node.right, ast.Constant)
        ):
            yield node.lineno, str(node.right.value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SRC)))
def test_no_other_module_spells_a_name_or_a_key(file: Path):
    tree = parsed(file)
    spelled = [
        (line, text) for line, text in strings(tree) if text in NAMES - PLAIN_NAMES or text in OWN_KEYS
    ]
    spelled += [(line, text) for line, text in paths(tree) if text in PLAIN_NAMES]
    prefixes = (records.EvaluationRow.PREFIX, records.ProbeRow.PREFIX)
    held_out = {f"{prefix}{key}" for prefix in prefixes for key in KEYS}
    spelled += [(line, text) for line, text in strings(tree) if text in held_out]
    assert not spelled, (
        f"{file.relative_to(ROOT)} spells {spelled}. Take it from run_folder.names or run_folder.records"
    )


def test_a_kind_of_row_is_never_guessed_by_a_key():
    for file in FILES:
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
                word = node.left.value if isinstance(node.left, ast.Constant) else None
                assert word not in (records.LOSS, "eval_loss", "event"), (
                    f"{file.relative_to(ROOT)}:{node.lineno}"
                )
