"""The private methods that the trainer stands on are as they were when they were tested."""

from __future__ import annotations

import ast
import inspect

import pytest
from accelerate.state import GradientState
from transformers import Trainer

from helpers.places import ROOT
from minordpo.train import hooks
from minordpo.train.hooks import ACCELERATE_CALLED, CALLED, OVERRIDDEN

HOOKS = [(Trainer, name, expected) for name, expected in (OVERRIDDEN | CALLED).items()]
HOOKS += [(GradientState, name, expected) for name, expected in ACCELERATE_CALLED.items()]


@pytest.mark.parametrize(("owner", "name", "expected"), HOOKS, ids=[name for _, name, _ in HOOKS])
def test_a_private_hook_has_the_signature_that_was_tested(owner: type, name: str, expected: tuple[str, ...]):
    found = tuple(inspect.signature(getattr(owner, name)).parameters)[1:]
    assert found == expected, (
        f"{owner.__name__}.{name} takes {found} in this version, but {expected} was tested. Adapt the "
        "hook, then OVERRIDDEN or CALLED beside it and the bound in pyproject.toml"
    )


def test_no_other_file_of_the_trainer_names_a_private_method_of_transformers():
    private = {name for name in dir(Trainer) if name.startswith("_") and not name.startswith("__")}
    for file in (ROOT / "src" / "minordpo" / "train").rglob("*.py"):
        if file.name == "hooks.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", None) or getattr(node, "name", None)
            assert name not in private, (
                f"{file.relative_to(ROOT)} names Trainer.{name}. Move it to train/hooks.py"
            )


def test_every_override_is_written_down():
    overridden = {name for name in vars(hooks.HookedTrainer) if name in dir(Trainer) and name.startswith("_")}
    assert overridden - {"__module__", "__doc__", "__annotations__"} == set(OVERRIDDEN)
