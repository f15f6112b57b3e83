"""The sentences in refusals.yaml are those that the trainer refuses by."""

from __future__ import annotations

import ast

from helpers.places import ROOT
from minordpo.train.refusals import SENTENCES


def test_each_sentence_is_of_one_refusal_and_each_refusal_has_one():
    asked: list[str] = []
    for file in (ROOT / "src" / "minordpo" / "train").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "refuse_first":
                (wrong,) = node.args
                assert isinstance(wrong, ast.Dict)
                asked += [ast.literal_eval(key) for key in wrong.keys if key is not None]
    assert sorted(asked) == sorted(SENTENCES)
