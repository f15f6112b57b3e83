"""Old names of modules: an ImportError with the new name, and nothing else is changed by the table."""

from __future__ import annotations

import importlib
import re
from importlib.util import find_spec

import pytest

from minordpo.moved import DIVIDED, MOVED


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("data.formats", "data.read.examples"),
        ("data.files", "run_folder.files"),
        ("data.reading.fields", "data.read"),
        ("train.monitor", "monitor.health"),
        ("train.memory", "train.row_splitting (TrainingStopped is minordpo.errors.TrainingStopped)"),
        ("evaluate.answers", "generate.text_measures"),
        ("study.results", "sweep.results"),
        ("study.report.groups", "report"),
        ("study.claims", "paper.claims"),
        ("study.claims.tables", "paper.claims"),
        ("study.micro.world", "paper.worlds"),
        ("study.canvas", "figures.canvas"),
    ],
)
def test_a_name_that_was_shown_before_says_the_new_one(old: str, new: str):
    told = rf"^minordpo\.[a-z_.]+ is now minordpo\.{re.escape(new)}"
    with pytest.raises(ImportError, match=told):
        importlib.import_module(f"minordpo.{old}")


def test_every_way_to_import_an_old_name_says_the_new_one():
    with pytest.raises(ImportError, match=r"^minordpo\.data\.formats is now minordpo\.data\.read\.examples$"):
        from minordpo.data.formats import load_examples  # noqa: F401
    with pytest.raises(ImportError, match=r"^minordpo\.sections is now minordpo\.config\.build$"):
        from minordpo import sections  # noqa: F401
    with pytest.raises(
        ImportError, match=r"^minordpo\.study\.sweep is now minordpo\.sweep \(cell is minordpo\."
    ):
        from minordpo.study import sweep  # noqa: F401
    with pytest.raises(ImportError, match=r"^minordpo\.study\.claims is now minordpo\.paper\.claims"):
        import minordpo.study.claims  # noqa: F401


@pytest.mark.parametrize("name", ["nothing", "data.nothing", "study.nothing", "study.nothing.more"])
def test_a_name_that_never_was_is_not_found_as_ever(name: str):
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'minordpo"):
        importlib.import_module(f"minordpo.{name}")


def test_every_new_name_is_there_and_no_old_one():
    for old, new in MOVED.items():
        module, _, attribute = new.rpartition(".")
        found = importlib.import_module(f"minordpo.{module}") if module else None
        assert hasattr(found, attribute) or find_spec(f"minordpo.{new}") is not None, old
        assert old not in MOVED.values()
    assert DIVIDED not in MOVED
