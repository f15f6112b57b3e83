"""The precision that policy and reference run in."""

from __future__ import annotations

import contextlib

import torch
from transformers import TrainingArguments


def autocast(args: TrainingArguments) -> contextlib.AbstractContextManager:
    """The autocast that `training.bf16` asks for, on the run's device."""
    return torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16)
