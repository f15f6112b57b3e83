"""An engine beside stock transformers, one sequence at a time in float64: values and gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from helpers import oracle
from minordpo.data.packing import PackedBatch, pack
from minordpo.engine.logprobs import Engine, engine_attention, install, packed_logps
from minordpo.engine.models import causal_model

# Largest difference in nats a token, and largest in a parameter's gradient relative to its largest entry. The
# stock float32 forward is itself up to 4e-5 away from float64 on these models.
TOLERANCE = 1e-4


@dataclasses.dataclass
class Errors:
    """How far packed is from plain."""

    values: float
    gradients: float


def compare(
    model: Any,
    items: Sequence[Any],
    *,
    batch: PackedBatch | None = None,
    train: bool = False,
    backward: Callable[[Tensor], None] = Tensor.backward,
    dtype: torch.dtype = torch.float64,
    engine: Engine = Engine.PACKED,
) -> Errors:
    """The engine against the oracle, every token weighted by its own random coefficient."""
    reference = oracle.stock_copy(model, dtype)
    expected = torch.cat(oracle.scored_logps(reference, items))
    coefficients = torch.randn(len(expected), generator=torch.Generator().manual_seed(5))
    (coefficients * expected).sum().backward()

    model.train(train)
    install(causal_model(model), engine)
    batch = pack(items) if batch is None else batch
    with engine_attention(model):
        found = packed_logps(model, batch)[batch.member_tokens]
        assert found.dtype == torch.promote_types(causal_model(model).dtype, torch.float32)
        backward((coefficients * found).sum())

    gradients = 0.0
    for mine, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert mine.requires_grad == theirs.requires_grad
        if not mine.requires_grad:
            assert mine.grad is None
        elif theirs.grad is not None and theirs.grad.any():
            gradient = torch.zeros_like(mine) if mine.grad is None else mine.grad
            difference = (gradient - theirs.grad).abs().max() / theirs.grad.abs().max()
            gradients = max(gradients, difference.item())
    return Errors((found - expected).abs().max().item(), gradients)


def assert_close(errors: Errors, tolerance: float = TOLERANCE) -> None:
    assert errors.values < tolerance
    assert errors.gradients < tolerance
