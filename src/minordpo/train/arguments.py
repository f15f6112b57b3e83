"""Which `transformers.TrainingArguments` mean what here; none is ignored in silence.

`HONOURED` fields are honoured by `transformers.Trainer` as documented there. `REDEFINED` ones keep their name but are
applied by us; `REFUSED` ones may only keep their default. A test finds every field in exactly one of the three.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.training_args import OptimizerNames, ParallelMode

from minordpo.errors import InputError

REDEFINED: dict[str, str] = {
    "output_dir": "where checkpoints are written; a run of the command line keeps them in <output>/checkpoints",
    "per_device_train_batch_size": "pairs per device and accumulation step",
    "gradient_accumulation_steps": "multiplies the pairs of an optimizer step; rows are cut by token_budget instead",
    "per_device_eval_batch_size": "unused as a size: held-out pairs are packed by token_budget too",
    "average_tokens_across_devices": "always the mean over the step's pairs on all devices",
    "logging_nan_inf_filter": "always off: a loss that is not finite is said and stops the run",
    "dataloader_drop_last": "drops the last, smaller step of an epoch",
    "data_seed": "seeds the order of the pairs (default: seed)",
    "train_sampling_strategy": "random or sequential",
    "dataloader_pin_memory": "rows are small and moved by us; nothing is pinned",
    "remove_unused_columns": "the data set's columns are read by minordpo.data",
    "ddp_find_unused_parameters": "off unless set: every trainable parameter takes part in each row",
}

_OWN_LOSS = "the objective computes its loss from sequence log-probs"
_OWN_EVALUATION = "evaluation here is on preference pairs, with the metrics of training"
_OWN_FOLDERS = (
    "checkpoints are written aside and renamed, which an upload cannot follow; upload the finished model"
)
_OWN_LOADER = "steps are sharded over ranks here, without repeated pairs"
REFUSED: dict[str, str] = {
    "label_smoothing_factor": _OWN_LOSS,
    "neftune_noise_alpha": "noisy embeddings would differ between policy and reference",
    "fp16": "float16 needs loss scaling that is not tested here; use bf16",
    "fp16_full_eval": "the policy must run in one precision; use bf16",
    "bf16_full_eval": "the policy must run in one precision",
    "torch_compile": "the prefix tree changes shape with every row",
    "torch_compile_backend": "the prefix tree changes shape with every row",
    "torch_compile_mode": "the prefix tree changes shape with every row",
    "use_liger_kernel": "its kernels would replace the engine's head",
    "liger_kernel_config": "its kernels would replace the engine's head",
    "auto_find_batch_size": "a step that runs out of memory is repeated with half the token budget by itself",
    "include_num_input_tokens_seen": "metrics.jsonl holds the tokens computed in each step",
    "prediction_loss_only": _OWN_EVALUATION,
    "eval_do_concat_batches": _OWN_EVALUATION,
    "eval_use_gather_object": _OWN_EVALUATION,
    "eval_accumulation_steps": _OWN_EVALUATION,
    "include_for_metrics": _OWN_EVALUATION,
    "batch_eval_metrics": _OWN_EVALUATION,
    "label_names": _OWN_LOSS,
    "length_column_name": "rows are packed by their token counts",
    "accelerator_config": _OWN_LOADER,
    "parallelism_config": "context and tensor parallelism would cut the prefix tree",
    "ignore_data_skip": "a resumed run meets the same steps as the uninterrupted one",
    "dataloader_persistent_workers": _OWN_LOADER,
    "dataloader_prefetch_factor": _OWN_LOADER,
    "dataloader_multiprocessing_context": _OWN_LOADER,
    "dataloader_in_order": _OWN_LOADER,
    "enable_jit_checkpoint": "it would bypass the checkpoints written aside and renamed",
    "use_cache": "a packed row has no cache",
    "do_train": "minordpo train trains; other commands do the rest",
    "do_eval": "set data.eval and training.eval_strategy instead",
    "do_predict": "use minordpo score",
    "local_rank": "torchrun sets it",
    "torch_empty_cache_steps": "a step that runs out of memory empties the cache by itself",
    "resume_from_checkpoint": "use --resume, or train(resume_from_checkpoint=...)",
    "push_to_hub": _OWN_FOLDERS,
    "hub_model_id": _OWN_FOLDERS,
    "hub_strategy": _OWN_FOLDERS,
    "hub_always_push": _OWN_FOLDERS,
    "hub_revision": _OWN_FOLDERS,
}

# fsdp was run in two processes on a CPU (tests/train/test_sharding.py), not on GPUs yet; deepspeed was never run, and
# its ZeRO-3 and bfloat16 are refused: train/sharding.py.
_HONOURED = """
num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps
optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm
bf16 tf32 activation_checkpointing activation_checkpointing_kwargs
gradient_checkpointing gradient_checkpointing_kwargs
logging_strategy logging_steps logging_first_step log_on_each_node log_level log_level_replica disable_tqdm
report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id hub_token hub_private_repo
eval_strategy eval_steps eval_delay eval_on_start
save_only_model save_strategy save_steps save_on_each_node save_total_limit
load_best_model_at_end metric_for_best_model greater_is_better restore_callback_states_from_checkpoint
full_determinism seed use_cpu dataloader_num_workers
ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
fsdp fsdp_config deepspeed debug skip_memory_metrics
"""
HONOURED = frozenset(_HONOURED.split())


def own_copy(args: TrainingArguments) -> tuple[TrainingArguments, int]:
    """The arguments as our trainer runs them, and the pairs of an optimizer step on one device.

    Raises:
        InputError: a refused field was set, or a redefined one to a value that has no meaning here.
    """
    names = {field.name for field in dataclasses.fields(args)}
    foreign = sorted(names - {field.name for field in dataclasses.fields(TrainingArguments)})
    if foreign:
        raise InputError(
            f"args is a {type(args).__name__}, whose {', '.join(foreign[:3])} … mean nothing here. Pass "
            "transformers.TrainingArguments, and the objective's hyper-parameters to the trainer"
        )
    for name, reason in REFUSED.items():
        if name == "do_eval" and args.eval_strategy != "no":
            continue  # TrainingArguments sets it by itself then
        if name in names and not _is_default(getattr(args, name), name):
            raise InputError(f"training.{name} is not supported: {reason}. Leave it out")
    if getattr(args, "train_sampling_strategy", "random") not in ("random", "sequential"):
        raise InputError(
            f"training.train_sampling_strategy is {args.train_sampling_strategy!r}; use random or sequential. "
            "Rows are packed by their tokens whatever the order"
        )
    pairs = args.per_device_train_batch_size * args.gradient_accumulation_steps
    if pairs < 1:
        raise InputError(
            f"a step of {pairs} pairs trains nothing; raise training.per_device_train_batch_size"
        )
    refuse_values(args)
    changes: dict[str, Any] = {
        "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": pairs,
        "logging_nan_inf_filter": False,
        "remove_unused_columns": False,
    }
    if args.ddp_find_unused_parameters is None:
        changes["ddp_find_unused_parameters"] = False
    own = copy.copy(args)
    for name, value in changes.items():
        setattr(own, name, value)
    return own, pairs


def refuse_values(args: TrainingArguments) -> None:
    """Values that `transformers.Trainer` or torch would refuse with a traceback, some of them at the first step only.

    Raises:
        InputError: one of them, by its key.
    """
    refuse_out_of_range(vars(args))
    if args.max_steps != -1 and args.max_steps < 1:
        raise InputError(
            f"training.max_steps is {args.max_steps}, but 1 or more is needed, or -1 for all of num_train_epochs"
        )
    if args.max_steps == -1 and not 0 < args.num_train_epochs < math.inf:
        raise InputError(
            f"training.num_train_epochs is {args.num_train_epochs}, which trains nothing. Set it above 0"
        )
    if args.metric_for_best_model is None and "best" in (
        args.save_strategy,
        args.load_best_model_at_end and "best",
    ):
        raise InputError(
            "training keeps the best checkpoint, but not by which metric. Set training.metric_for_best_model, such as "
            "rewards/accuracies, and training.greater_is_better"
        )
    trackers = sorted(
        set(args.report_to or ()) - set(get_available_reporting_integrations()) - _WITHOUT_A_PACKAGE
    )
    if trackers:
        raise InputError(
            f"training.report_to names {', '.join(trackers)}, which is not installed or not known to transformers. "
            "Install its package, or leave it out: metrics.jsonl holds every step"
        )
    if args.fsdp and args.parallel_mode != ParallelMode.DISTRIBUTED:
        raise InputError(
            "training.fsdp is set, but this is a single process. Start the run with torchrun --nproc_per_node N -m "
            "minordpo train …, or leave it out"
        )
    _refuse_optimizer(args)


def refuse_out_of_range(values: Mapping[str, Any]) -> None:
    """Numbers that no run takes, which can be told before anything is loaded.

    Raises:
        InputError: one of them, by its key.
    """
    for name, lowest, highest in (
        ("seed", 0, 2**32 - 1),
        ("data_seed", 0, math.inf),
        ("dataloader_num_workers", 0, math.inf),
        ("learning_rate", 0, sys.float_info.max),
    ):
        value = values.get(name)
        if value is not None and not lowest <= value <= highest:
            most = f" and {highest} at most" if highest < math.inf else ""
            raise InputError(f"training.{name} is {value}, but {lowest} or more{most} is needed. Correct it")


_WITHOUT_A_PACKAGE = frozenset({"none", "flyte"})  # transformers does not look for flyte's


def _refuse_optimizer(args: TrainingArguments) -> None:
    """Build optimizer and schedule on a single weight, where they do not ask for the model."""
    if args.deepspeed or args.optim_target_modules or "lomo" in str(args.optim):
        return
    schedule: Any = args.lr_scheduler_kwargs
    try:
        made, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = made([torch.nn.Parameter(torch.zeros(2, 2))], **settings)
        get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=args.get_warmup_steps(2),
            num_training_steps=2,
            scheduler_specific_kwargs=copy.copy(schedule),
        )
    except (ValueError, TypeError, KeyError, ImportError) as error:
        said = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"training.optim={OptimizerNames(args.optim).value} with the optimizer's and the schedule's other keys "
            f"cannot be built: {said}. Correct the key that it names, or install the package"
        ) from error


def _is_default(value: Any, name: str) -> bool:
    default = _defaults()[name]
    return value == default or (name == "accelerator_config" and str(value) == str(default))


@functools.cache
def _defaults() -> dict[str, Any]:
    made = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none")
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
