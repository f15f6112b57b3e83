"""The objectives in words."""

from __future__ import annotations

import re

import pytest

from helpers.places import ROOT
from minordpo.cli import main
from minordpo.objectives import OBJECTIVES
from minordpo.objectives.describe import describe_objectives, objectives_table

DOCS = ROOT / "docs" / "objectives.md"


def test_the_table_in_the_docs_is_the_one_that_is_printed():
    assert objectives_table() in DOCS.read_text(encoding="utf-8")


def test_every_objective_says_what_it_assumes_takes_and_needs():
    text = describe_objectives()
    parts = dict(
        zip(OBJECTIVES, re.split(rf"^(?:{'|'.join(OBJECTIVES)})  ", text, flags=re.M)[1:], strict=True)
    )
    for name, part in parts.items():
        for fact in ("assumes: ", "data: ", "hyper-parameters: ", "usual: "):
            assert fact in part, name
        for key in OBJECTIVES[name].defaults:
            assert f"{key} = " in part
    assert "needs a reference, and responses to other prompts" in parts["kto"]
    assert "no reference needed" in parts["simpo"]


def test_the_help_of_train_describes_the_objectives(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["minordpo", "train", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    said = capsys.readouterr().out
    assert describe_objectives() in said
    assert 'objective.name="minordpo + 0.1*sft"' in said
