"""Weights spread over ranks by FSDP2: what is refused at the start, and whole weights again at the end."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from minordpo.engine.device import autocast
from minordpo.train.refusals import refuse_first


def refuse_sharding(args: TrainingArguments, *, own_optimizer: bool) -> None:
    """Refuse settings of several devices that the Trainer, or a run's start on whole weights, would fail on.

    Raises:
        InputError: one of them, by its key.
    """
    deepspeed = args.deepspeed or _flag("ACCELERATE_USE_DEEPSPEED")
    zero_3 = is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    # What is left of DeepSpeed (ZeRO-1 and 2 in float32) was never run.
    refuse_first(
        {
            "several_gpus": args.n_gpu > 1,
            "zero_3": deepspeed and zero_3,
            "deepspeed_in_bfloat16": deepspeed and args.bf16,
        },
        gpus=args.n_gpu,
    )
    # `accelerate launch` turns FSDP on by environment variables, and leaves args.fsdp alone.
    if not (args.fsdp or _flag("ACCELERATE_USE_FSDP")):
        return
    config: dict[str, Any] = args.fsdp_config if isinstance(args.fsdp_config, dict) else {}
    sharded_files = "SHARDED" in str(config.get("state_dict_type", "")).upper()
    checkpointing = getattr(args, "activation_checkpointing", args.gradient_checkpointing)
    refuse_first(
        {
            "empty_ranks": _flag("FSDP_CPU_RAM_EFFICIENT_LOADING"),
            "own_optimizer": own_optimizer,
            "no_best_weights": args.save_only_model and args.load_best_model_at_end,
            "sharded_files": args.save_only_model and sharded_files,
            "checkpointed_twice": checkpointing and config.get("activation_checkpointing"),
        }
    )


def refuse_environment(args: TrainingArguments) -> None:
    """Refuse what environment variables of accelerate would change behind the arguments' back.

    Raises:
        InputError: one of them, by its name.
    """
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    compiled = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    refuse_first(
        {
            "precision_in_environment": precision != "no" and not (precision == "bf16" and args.bf16),
            "steps_in_environment": steps not in ("1", "auto", str(args.gradient_accumulation_steps)),
            "compiled_in_environment": compiled != "no" and not args.torch_compile,
            "megatron": _flag("ACCELERATE_USE_MEGATRON_LM"),
        },
        precision=precision,
        steps=steps,
        compiled=compiled,
        bf16=str(bool(args.bf16)).lower(),
        asked=args.gradient_accumulation_steps,
    )


def set_up_sharding(args: TrainingArguments, accelerator: Accelerator) -> None:
    """Make sure that weights are sharded where that is asked for, and in no other precision than the reference's.

    Raises:
        InputError: they would not be, or by FSDP1.
    """
    sharded = accelerator.distributed_type == DistributedType.FSDP
    refuse_first({"nothing_sharded": args.fsdp and not sharded}, device=args.device.type)
    if not sharded:
        return
    plugin: Any = accelerator.state.fsdp_plugin
    refuse_first({"fsdp_1": plugin.fsdp_version != 2}, version=plugin.fsdp_version)
    # It would be: weights, sums over ranks and the log-probs returned in bfloat16. The reference ran under autocast,
    # and policy and reference must run alike: `autocast_forward` does so here.
    plugin.mixed_precision_policy = None


@contextlib.contextmanager
def autocast_forward(model: Any, args: TrainingArguments, accelerator: Accelerator) -> Iterator[None]:
    """The model's forward under the run's autocast, as accelerate has it for models that FSDP2 does not shard."""
    if not (accelerator.is_fsdp2 and args.bf16):
        yield
        return
    stock = model.forward

    @functools.wraps(stock)
    def forward(*inputs: Any, **keywords: Any) -> Any:
        with autocast(args):
            return stock(*inputs, **keywords)

    model.forward = forward
    try:
        yield
    finally:
        model.forward = stock


def whole_weights(model: Any, accelerator: Accelerator) -> dict[str, Tensor] | None:
    """The weights of a sharded model, gathered on the first rank's CPU, empty on the others; None if it is whole.

    All ranks must call it.
    """
    return accelerator.get_state_dict(model) if isinstance(model, FSDPModule) else None


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true")
