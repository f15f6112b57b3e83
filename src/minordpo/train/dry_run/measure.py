"""One packed row of a run, measured: seconds and bytes a token, and what the optimizer keeps for a weight."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minordpo.data.packing import pack
from minordpo.data.tokens import TokenExample
from minordpo.engine.device import autocast, out_of_memory
from minordpo.engine.logprobs import engine_attention
from minordpo.errors import InputError
from minordpo.train.row_memory import SavedBytes
from minordpo.train.step import Context, StepBatch, preference_step
from minordpo.train.trainer import PreferenceTrainer


class RowTooLarge(InputError):
    """Memory runs out on the row."""


@dataclass(frozen=True)
class RowCost:
    """What one row took, by the token."""

    reference_seconds: float  # a token, forward alone
    training_seconds: float  # a token, forward and backward
    activation_bytes: float  # a token, kept between forward and backward


def measure_row(trainer: PreferenceTrainer, members: list[int]) -> RowCost:
    """Run one row of pairs through the reference's forward, then through a training step without its update.

    Raises:
        RowTooLarge: memory runs out.
    """
    device = trainer.args.device
    examples = [trainer.examples[i] for i in members]
    batch = pack(examples).to(device)
    tokens = len(batch.input_ids)
    step = StepBatch((batch,), (1.0,), len(examples))
    try:
        _switch_on_checkpointing(trainer)
        for _ in range(2 if device.type == "cuda" else 1):  # a GPU's first row also loads its kernels
            reference, reference_seconds = _refer_once(trainer, examples)
            training_seconds, activations = _train_once(trainer, step, reference)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise RowTooLarge(
            f"memory runs out on a row of {tokens} tokens. Lower training.token_budget, set "
            "training.gradient_checkpointing=true, or train an adapter (lora)"
        ) from error
    return RowCost(reference_seconds / tokens, training_seconds / tokens, activations / tokens)


def _refer_once(
    trainer: PreferenceTrainer, examples: list[TokenExample]
) -> tuple[Sequence[np.ndarray] | None, float]:
    """The examples' reference log-probs, and the seconds they took; of a run without a reference none in no time."""
    if trainer.reference is None:
        return None, 0.0
    started = _now(trainer.args.device)
    found = trainer.reference.logps_alone(examples)
    return found, _now(trainer.args.device) - started


def _train_once(
    trainer: PreferenceTrainer, step: StepBatch, reference: Sequence[np.ndarray] | None
) -> tuple[float, int]:
    """Seconds of a forward and backward, and the bytes that they held beside weights and gradients."""
    device = trainer.args.device
    model: Any = trainer.model
    model.train()
    saved = SavedBytes(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    started = _now(device)
    with engine_attention(model), saved.counted():
        preference_step(
            model,
            step,
            Context(objective=trainer.objective, reference=reference),
            scale=1.0,
            backward=Tensor.backward,
            around_row=lambda last: autocast(trainer.args),
        )
    seconds = _now(device) - started
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    model.zero_grad()
    if device.type != "cuda":
        return seconds, saved.bytes
    return seconds, max(saved.bytes, torch.cuda.max_memory_allocated(device) - before - gradients)


def _switch_on_checkpointing(trainer: PreferenceTrainer) -> None:
    """As `Trainer.train` does at its start; transformers 5.23 renames it from gradient to activation checkpointing."""
    args = trainer.args
    name = "activation" if hasattr(args, "activation_checkpointing") else "gradient"
    if getattr(args, f"{name}_checkpointing"):
        options = dict(getattr(args, f"{name}_checkpointing_kwargs") or {})
        getattr(trainer.model, f"{name}_checkpointing_enable")(
            **{f"{name}_checkpointing_kwargs": options or None}
        )


def duration(seconds: float) -> str:
    """An estimated time in words."""
    if seconds < 100:
        return f"about {seconds:.2g} s"
    return f"about {seconds / 60:.2g} minutes" if seconds < 6000 else f"about {seconds / 3600:.3g} hours"


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
