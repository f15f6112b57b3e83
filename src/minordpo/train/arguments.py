"""Which `transformers.TrainingArguments` mean what here; none is ignored in silence.

`arguments.yaml` lists them: `HONOURED` fields are honoured by `transformers.Trainer` as documented there, `REDEFINED`
ones keep their name but are applied by us, `REFUSED` ones may only keep their default. A test finds every field in one.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import torch
import yaml
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.training_args import OptimizerNames, ParallelMode

from minordpo.errors import InputError
from minordpo.train.refusals import refuse_first

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
    refuse_first({"foreign_arguments": foreign}, kind=type(args).__name__, names=", ".join(foreign[:3]))
    for name, reason in REFUSED.items():
        if name == "do_eval" and args.eval_strategy != "no":
            continue  # TrainingArguments sets it by itself then
        if name in names and not _is_default(getattr(args, name), name):
            raise InputError(f"training.{name} is not supported: {reason}. Leave it out")
    strategy = getattr(args, "train_sampling_strategy", "random")
    pairs = args.per_device_train_batch_size * args.gradient_accumulation_steps
    refuse_first(
        {"sampling_strategy": strategy not in ("random", "sequential"), "no_pairs": pairs < 1},
        strategy=strategy,
        pairs=pairs,
    )
    refuse_values(args)
    own = copy.copy(args)
    own.gradient_accumulation_steps, own.per_device_train_batch_size = 1, pairs
    own.logging_nan_inf_filter = own.remove_unused_columns = False
    if own.ddp_find_unused_parameters is None:
        own.ddp_find_unused_parameters = False
    return own, pairs


def refuse_values(args: TrainingArguments) -> None:
    """Values that `transformers.Trainer` or torch would refuse with a traceback, some of them at the first step only.

    Raises:
        InputError: one of them, by its key.
    """
    refuse_out_of_range(vars(args))
    known = {*get_available_reporting_integrations(), *_WITHOUT_A_PACKAGE}
    trackers = sorted(set(args.report_to or ()) - known)
    keeps_best = args.save_strategy == "best" or args.load_best_model_at_end
    refuse_first(
        {
            "max_steps": args.max_steps != -1 and args.max_steps < 1,
            "epochs": args.max_steps == -1 and not 0 < args.num_train_epochs < math.inf,
            "best_by_nothing": keeps_best and args.metric_for_best_model is None,
            "trackers": trackers,
            "fsdp_alone": args.fsdp and args.parallel_mode != ParallelMode.DISTRIBUTED,
        },
        max_steps=args.max_steps,
        epochs=args.num_train_epochs,
        trackers=", ".join(trackers),
    )
    _refuse_optimizer(args)


def refuse_out_of_range(values: Mapping[str, Any]) -> None:
    """Numbers that no run takes, which can be told before anything is loaded.

    Raises:
        InputError: one of them, by its key.
    """
    for name, (lowest, highest) in _FIELDS["ranges"].items():
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
