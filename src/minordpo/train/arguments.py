"""Which `transformers.TrainingArguments` mean what here; none is ignored in silence.

Fields not listed are honoured by `transformers.Trainer` as documented there. `REDEFINED` ones keep their name but are
applied by us; `REFUSED` ones may only keep their default.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from transformers import TrainingArguments

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
    "do_eval": "set data.eval instead",
    "do_predict": "use minordpo score",
    "local_rank": "torchrun sets it",
}


def own_copy(args: TrainingArguments) -> tuple[TrainingArguments, int]:
    """The arguments as our trainer runs them, and the pairs of an optimizer step on one device.

    Raises:
        InputError: a refused field was set, or a redefined one to a value that has no meaning here.
    """
    for name, reason in REFUSED.items():
        field = next((f for f in dataclasses.fields(args) if f.name == name), None)
        if field is not None and not _is_default(getattr(args, name), name, args):
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


def _is_default(value: Any, name: str, args: TrainingArguments) -> bool:
    default = _defaults(type(args))[name]
    return value == default or (name == "accelerator_config" and str(value) == str(default))


def _defaults(kind: type[TrainingArguments]) -> dict[str, Any]:
    if kind not in _DEFAULTS:
        made = TrainingArguments(output_dir="unused", use_cpu=True, report_to="none")
        _DEFAULTS[kind] = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    return _DEFAULTS[kind]


_DEFAULTS: dict[type[TrainingArguments], dict[str, Any]] = {}
