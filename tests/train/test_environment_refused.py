"""Environment variables of accelerate that would change a run behind its config's back."""

from __future__ import annotations

import pytest

from helpers.tiny_runs import RENAMED, trainer
from minordpo.errors import InputError

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "ACCELERATE_MIXED_PRECISION=bf16, but training.bf16 is false"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "ACCELERATE_MIXED_PRECISION=fp16"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "ACCELERATE_MIXED_PRECISION=fp8"),
        (
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
            "4",
            "ACCUMULATION_STEPS=4, but training.gradient_acc.* is 1",
        ),
        ("ACCELERATE_DYNAMO_BACKEND", "inductor", "ACCELERATE_DYNAMO_BACKEND=inductor, which would compile"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM is not supported"),
    ],
)
def test_a_variable_that_would_change_the_run_is_refused_by_name(tmp_path, monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        trainer(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "no"),
        ("ACCELERATE_DYNAMO_BACKEND", "no"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"),
    ],
)
def test_what_accelerate_launch_always_sets_is_fine(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    trainer(tmp_path).train()
