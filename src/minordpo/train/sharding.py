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

from minordpo.engine.precision import autocast
from minordpo.errors import InputError


def refuse_sharding(args: TrainingArguments, *, own_optimizer: bool) -> None:
    """Refuse settings of several devices that the Trainer, or a run's start on whole weights, would fail on.

    Raises:
        InputError: one of them, by its key.
    """
    if args.n_gpu > 1:
        raise InputError(
            f"{args.n_gpu} GPUs are visible to one process. Start one process a GPU with torchrun, or show one "
            "with CUDA_VISIBLE_DEVICES"
        )
    _refuse_deepspeed(args)
    # `accelerate launch` turns FSDP on by environment variables, and leaves args.fsdp alone.
    if not (args.fsdp or _flag("ACCELERATE_USE_FSDP")):
        return
    config: dict[str, Any] = args.fsdp_config if isinstance(args.fsdp_config, dict) else {}
    sharded_files = "SHARDED" in str(config.get("state_dict_type", "")).upper()
    for wrong, said in (
        (
            _flag("FSDP_CPU_RAM_EFFICIENT_LOADING"),
            "training.fsdp_config has cpu_ram_efficient_loading, which leaves the weights of all ranks but one empty, "
            "but each rank checks the whole model before it is sharded. Set it to false, with accelerate launch by "
            "--fsdp_cpu_ram_efficient_loading false",
        ),
        (
            own_optimizer,
            "optimizers are passed, but under training.fsdp their weights would not be the sharded ones. Set "
            "training.optim instead",
        ),
        (
            args.save_only_model and args.load_best_model_at_end,
            "training.save_only_model keeps no weights that training.load_best_model_at_end could load under "
            "training.fsdp. Leave one of them out",
        ),
        (
            args.save_only_model and sharded_files,
            "training.save_only_model writes no weights where training.fsdp_config.state_dict_type is "
            "SHARDED_STATE_DICT. Leave one of them out",
        ),
        (
            config.get("activation_checkpointing")
            and getattr(args, "activation_checkpointing", args.gradient_checkpointing),
            "training.gradient_checkpointing and training.fsdp_config.activation_checkpointing are both set. Leave "
            "one of them out",
        ),
    ):
        if wrong:
            raise InputError(said)


def _refuse_deepspeed(args: TrainingArguments) -> None:
    """Refuse what DeepSpeed would do to the weights; what is left of it (ZeRO-1 and 2 in float32) was never run."""
    if not (args.deepspeed or _flag("ACCELERATE_USE_DEEPSPEED")):
        return
    if is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        raise InputError(
            "DeepSpeed is asked for ZeRO-3, but a run checks the whole model before its weights are sharded, and "
            "gathers none of DeepSpeed's. Shard by training.fsdp=true instead"
        )
    if args.bf16:
        raise InputError(
            "training.bf16 is set with DeepSpeed, which would turn the weights themselves into bfloat16, but policy "
            "and reference must run alike, under autocast. Shard by training.fsdp=true instead, or leave bf16 out"
        )


def set_up_sharding(args: TrainingArguments, accelerator: Accelerator) -> None:
    """Make sure that weights are sharded where that is asked for, and in no other precision than the reference's.

    Raises:
        InputError: they would not be, or by FSDP1.
    """
    sharded = accelerator.distributed_type == DistributedType.FSDP
    if args.fsdp and not sharded:
        raise InputError(
            f"training.fsdp is set, but accelerate shards no weights on the device {args.device.type}: each process "
            "would train them whole. Run on GPUs, or leave training.fsdp out"
        )
    if not sharded:
        return
    plugin: Any = accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise InputError(
            f"weights would be sharded by FSDP{plugin.fsdp_version}, but only FSDP2 is supported. Set "
            "training.fsdp_config={version: 2}, with accelerate launch by --fsdp_version 2"
        )
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
