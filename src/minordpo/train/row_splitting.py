"""When a step cannot be taken: where memory runs out it is run again in rows of half the tokens, or training stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from minordpo.data.packing import tree_size
from minordpo.data.tokens import TokenExample
from minordpo.engine.device import out_of_memory
from minordpo.errors import TrainingStopped
from minordpo.train.loader import Packer
from minordpo.train.step import StepBatch

T = TypeVar("T")


def stop_unless_finite(name: str, value: float, step: int) -> None:
    """Nothing, for a number.

    Raises:
        TrainingStopped: it is infinite or NaN.
    """
    if not math.isfinite(value):
        raise TrainingStopped(
            f"the {name} of step {step} is {value}. Lower training.learning_rate, or go on from the last checkpoint"
        )


def within_memory(
    run: Callable[[StepBatch], T],
    step: StepBatch,
    packer: Packer,
    examples: Sequence[TokenExample],
    zero_grad: Callable[[], Any],
) -> tuple[T, StepBatch]:
    """What `run(step)` returns, and the step as it was run; `packer` keeps the budget that fitted.

    Raises:
        TrainingStopped: a single prompt does not fit, or there are several ranks, which cannot repeat a step.
    """
    numbers: list[Any] = [i for batch in step.batches for i in batch.indices]
    share = [(i, examples[i]) for i in numbers]
    # A loader's worker does not hear of a budget lowered here.
    rows = (*step.batches, *step.mismatched)
    if any(len(b.indices) > 1 and len(b.input_ids) > packer.token_budget for b in rows):
        step = packer(share)
    while True:
        try:
            return run(step), step
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            if packer.world > 1:
                raise TrainingStopped(
                    f"memory ran out on rank {packer.rank} at {packer.token_budget} tokens a row; "
                    "with several ranks the step cannot be repeated. Lower training.token_budget and use --resume"
                ) from error
            largest = max(tree_size(example) for _, example in share)
            if packer.token_budget <= largest:
                raise TrainingStopped(
                    f"memory ran out on a single prompt of {largest} tokens with its responses. Lower "
                    "data.max_length, set training.gradient_checkpointing=true, or train an adapter (lora)"
                ) from error
        packer.token_budget //= 2
        zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"memory ran out: the step is repeated with {packer.token_budget} tokens a row", flush=True)
        step = packer(share)
