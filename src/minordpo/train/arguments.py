"""Which `transformers.TrainingArguments` mean what here; none is ignored in silence.

`arguments.yaml` lists them: `HONOURED` fields are honoured by `transformers.Trainer` as documented there, `REDEFINED`
ones keep their name but are applied by us, `REFUSED` ones may only keep their default. A test finds every field in one.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import sys
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import torch
import yaml
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.training_args import OptimizerNames, ParallelMode

from minordpo.errors import InputError

_FIELDS = yaml.safe_load(files(__package__).joinpath("arguments.yaml").read_text(encoding="utf-8"))
REDEFINED: dict[str, str] = _FIELDS["redefined"]
REFUSED: dict[str, str] = _FIELDS["refused"]
HONOURED = frozenset(_FIELDS["honoured"].split())


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
