"""The run's device: whether its memory has run out, and the precision that policy and reference run in."""

from __future__ import annotations

import contextlib

import torch
from transformers import TrainingArguments


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or on a CPU."""
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "not enough memory" in said  # a CPU's allocator, and its words on Linux
        or "can't allocate memory" in said
    )


def autocast(args: TrainingArguments) -> contextlib.AbstractContextManager:
    """The autocast that `training.bf16` asks for, on the run's device."""
    return torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16)


def casts_kept(args: TrainingArguments) -> contextlib.AbstractContextManager:
    """Keep what autocast narrows of the weights until the context ends; the caller's own code runs without autocast.

    Autocast forgets its casts where the outermost context ends, which else is that of each row's forward.
    """
    return torch.autocast(args.device.type, enabled=False)
