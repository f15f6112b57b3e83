"""A step narrows each weight once, however many rows it has, and its gradients are those of narrowing in each row."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.tiny_runs import RENAMED, metric_rows, moved, tiny_model, token_pairs, trainer
from minordpo.train import trainer as trainers

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


class Narrowings(TorchDispatchMode):
    """Counts the casts to bfloat16 of the weights of the layers."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.matrices = {p.data_ptr() for name, p in model.named_parameters() if "proj" in name}
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.matrices:
            self.count += (kwargs or {}).get("dtype") is torch.bfloat16
        return func(*args, **(kwargs or {}))


def trained(folder: Any, *, rows: int, **settings: Any) -> tuple[Any, Narrowings]:
    """Two steps of eight pairs in bfloat16, each cut into about so many rows."""
    options = {"objective": "minordpo", "beta": 0.5, "learning_rate": 1e-2} | settings
    made = trainer(
        folder,
        model=moved(tiny_model(), by=0.1),
        pairs=token_pairs(16),
        per_device_train_batch_size=8,
        max_steps=2,
        bf16=True,
        token_budget={1: 4096, 8: 32}[rows],
        **options,
    )
    made.precompute_reference()
    with Narrowings(made.policy) as seen:
        made.train()
    return made, seen


CHECKPOINTED = {
    "gradient_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": True},
}


@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_checkpointing": True}, CHECKPOINTED, {"objective": "kto"}],
    ids=["plain", "recomputed", "reentrant", "mismatched"],
)
def test_kept_casts_change_no_bit_of_a_run(tmp_path, monkeypatch, settings):
    kept, _ = trained(tmp_path / "kept", rows=8, **settings)
    monkeypatch.setattr(trainers, "casts_kept", lambda args: contextlib.nullcontext())
    again, _ = trained(tmp_path / "again", rows=8, **settings)
    assert metric_rows(tmp_path / "kept") == metric_rows(tmp_path / "again")
    assert metric_rows(tmp_path / "kept")[0]["grad_norm"] > 0
    for one, other in zip(kept.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_more_rows_narrow_the_weights_of_the_layers_no_more_often(tmp_path, monkeypatch):
    _, one = trained(tmp_path / "one", rows=1)
    _, eight = trained(tmp_path / "eight", rows=8)
    monkeypatch.setattr(trainers, "casts_kept", lambda args: contextlib.nullcontext())
    _, each = trained(tmp_path / "each", rows=8)
    assert one.count > 0
    assert eight.count == one.count
    assert each.count > 2 * one.count
