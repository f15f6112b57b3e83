"""`minordpo train --dry-run`: everything a run checks, one row measured, and what the run would cost.

config, tokenizer, data, model, adapter, packing: as in a run, and refused as there; the output folder at the end
one row of the first step, forward and backward ─► seconds a token, bytes a token
every step's rows, by their sizes alone         ─► tokens, largest row
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from minordpo.config import RunConfig
from minordpo.data.packing import tree_size
from minordpo.data.stored import StoredExamples
from minordpo.engine.models import causal_model
from minordpo.errors import InputError
from minordpo.run_folder.ownership import existing_above, refuse_foreign, refuse_unwritable
from minordpo.train.dry_run.measure import RowCost, duration, measure_row
from minordpo.train.loader import mismatched
from minordpo.train.row_memory import ADAMW_STATE, optimizer_state_bytes
from minordpo.train.run import build_trainer, load_data, load_run_tokenizer, validate
from minordpo.train.trainer import PreferenceTrainer

HEAD = "Dry run: nothing was trained, and nothing written but tokens to the cache."


def dry_run(
    config: RunConfig,
    *,
    resume: bool = False,
    allow_code: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Say what the data are like and what a run of this config would cost; nothing is written but temporary
    files, and to the cache the tokens, which a run finds there.

    Times are one measured row's, scaled by tokens; memory is counted from the tensors. Both are estimates of the whole
    run, also where `resume` would go on with it. An output folder that cannot be used is refused after all else.

    Raises:
        InputError: what the run itself would refuse; or a single row does not fit in memory.
    """
    folder, refused = Path(config.output), None
    try:
        refuse_foreign(folder, config, resume)
        refuse_unwritable(folder)
    except InputError as error:
        refused = error
    try:
        say(_report(config, None if refused else folder, allow_code=allow_code))
    except InputError as error:
        if refused is None:
            raise
        raise InputError(f"{str(error).rstrip('.')}. Besides: {refused}") from error
    if refused is not None:
        raise refused


def _report(config: RunConfig, folder: Path | None, *, allow_code: bool) -> str:
    """The report; `folder` is the output that can be used."""
    validate(config, allow_code=allow_code)
    tokenizer = load_run_tokenizer(config)
    data = load_data(config, tokenizer)
    with tempfile.TemporaryDirectory(prefix="minordpo-dry-run-") as aside:
        trainer = build_trainer(config, tokenizer, data, Path(aside), allow_code=allow_code)
        plan = plan_steps(trainer)
        missing = missing_references(trainer)
        measured = measure_row(trainer, plan.typical_row)
        state = optimizer_state_bytes(trainer.args)
        lines = [
            *_run_lines(trainer, plan),
            *_time_lines(trainer, plan, measured, missing),
            (
                "",
                "measured on one row of the first step; loading, answers (samples, the monitor's looks), checkpoints "
                "and updates come on top",
            ),
            *_memory_lines(trainer, plan, measured, state),
            *_disk_lines(trainer, folder, state),
        ]
    table = "\n".join(f"{name.ljust(10)} {text}" for name, text in lines)
    return f"{data.report}\n\n{HEAD}\n{table}"


# ---- what the run would compute ----
@dataclass(frozen=True)
class Plan:
    """The rows of a run by their sizes, for this process; totals over its steps and all processes."""

    steps: int
    tokens: float
    own_tokens: float  # of this process, which sets the pace
    own_mismatched: float  # of them, in rows that are run forward only beside those
    largest_row: int
    typical_row: list[int]  # pairs of the first step's middle row


def plan_steps(trainer: PreferenceTrainer) -> Plan:
    """Deal every step of the first epoch as the run will; later epochs are taken to be alike."""
    examples, packer = trainer.examples, trainer.packer
    sizes = examples.sizes.tolist()
    steps = trainer.total_steps()
    first_epoch = min(steps, len(trainer.sampler))
    tokens = own = extra = largest = 0
    typical: list[int] = []

    def size(row: list[int]) -> int:
        return sum(sizes[i] for i in row)

    for drawn in trainer.sampler.run(first_epoch):
        members = sorted(drawn)  # in the packer's order, on which the deal depends
        tokens += size(members)
        dealt = packer.deal([sizes[i] for i in members])[packer.rank]
        rows = sorted(([members[i] for i in row] for row in dealt), key=size)
        own += sum(map(size, rows))
        largest = max([largest, *map(size, rows[-1:])])
        typical = typical or (rows[len(rows) // 2] if rows else members[:1])
        if packer.mismatch:
            others = mismatched([(i, examples[i]) for i in members], packer.longest)
            extra += sum(tree_size(example) for _, example in others) // packer.world
    scale = steps / first_epoch
    return Plan(steps, tokens * scale, own * scale, extra * scale, largest, typical)


def missing_references(trainer: PreferenceTrainer) -> StoredExamples | None:
    """What the cache has no reference log-probs of, each content once; None for a run without a reference."""
    if trainer.reference is None:
        return None
    return trainer.reference.missing(trainer.met().examples)


# ---- what it comes to ----
def _run_lines(trainer: PreferenceTrainer, plan: Plan) -> list[tuple[str, str]]:
    """The model, the steps, and the tokens of all of them."""
    model: Any = trainer.model
    weights, trained = sum(p.numel() for p in model.parameters()), _trained(trainer)
    share = "all trained" if trained == weights else f"{_count(trained)} of them trained"
    sampler = trainer.sampler
    epochs, count = plan.steps / len(sampler), sampler.examples
    what = "pairs" if (trainer.examples.counts == 2).all() else "prompts"
    steps = f"{plan.steps} of {min(sampler.per_step, count)} {what}: {epochs:.3g} epochs of {count} {what}"
    name = type(causal_model(model)).__name__
    return [
        ("model", f"{name}, {_count(weights)} weights, {share}; packed log-probs checked"),
        ("steps", steps),
        (
            "tokens",
            f"about {_count(plan.tokens)} to compute in all, {_count(plan.tokens / plan.steps)} a step",
        ),
    ]


def _trained(trainer: PreferenceTrainer) -> int:
    """How many weights are trained."""
    return sum(p.numel() for p in trainer.policy.parameters() if p.requires_grad)


def run_seconds(
    trainer: PreferenceTrainer, plan: Plan, measured: RowCost, missing: StoredExamples | None
) -> tuple[float, float, float]:
    """Seconds of a run by its plan and a measured row: of the reference, which it computes of `missing`, of training,
    and of all measurements on held-out examples.
    """
    processes = trainer.args.world_size
    # A forward pass costs what it costs the reference, or a third of a step's where there is none.
    forward = measured.reference_seconds or measured.training_seconds / 3
    times = evaluations(trainer.args, plan.steps, len(trainer.sampler))
    return (
        measured.reference_seconds * (0 if missing is None else int(missing.sizes.sum())) / processes,
        measured.training_seconds * plan.own_tokens + forward * plan.own_mismatched,
        forward * int(trainer.held_out.sizes.sum()) / processes * times,
    )


def _time_lines(
    trainer: PreferenceTrainer, plan: Plan, measured: RowCost, missing: StoredExamples | None
) -> list[tuple[str, str]]:
    referring, training, measuring = run_seconds(trainer, plan, measured, missing)
    reference = "none"
    if trainer.reference is not None:
        known = len(trainer.met().examples)
        reference = f"no time: all {known} prompts are in the cache"
        if missing:
            took = duration(referring)
            reference = f"{took} for the {len(missing)} of {known} prompts that are not in the cache"
    text = f"{duration(training)}, {duration(training / plan.steps)} a step"
    if held_out := len(trainer.held_out):
        times = evaluations(trainer.args, plan.steps, len(trainer.sampler))
        text += f"; {times} × {held_out} held-out pairs {duration(measuring)} more"
    return [("reference", reference), ("training", text)]


def evaluations(args: TrainingArguments, steps: int, steps_an_epoch: int) -> int:
    """How often the held-out pairs are measured: as `eval_strategy` says, and once after the last step."""
    strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
    if strategy == "no":
        return 1 + bool(args.eval_on_start)
    every = args.eval_steps or args.logging_steps
    every = max(1, int(-(-steps * every // 1))) if every < 1 else int(every)
    every = steps_an_epoch if strategy == "epoch" else every
    return -(-steps // every) + bool(args.eval_on_start)


def _memory_lines(
    trainer: PreferenceTrainer, plan: Plan, measured: RowCost, state: float | None
) -> list[tuple[str, str]]:
    args = trainer.args
    model: Any = trainer.model
    reference = trainer.reference
    models: list[Any] = [model] if reference is None or reference.is_policy else [model, reference.model]
    weights = sum(p.nbytes for each in models for p in each.parameters())
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    states = (ADAMW_STATE if state is None else state) * _trained(trainer)
    activations = measured.activation_bytes * plan.largest_row
    total = weights + gradients + states + activations
    there = _memory_there(args.device)
    lines = [
        (
            "memory",
            f"about {_size(total)} at its peak: weights {_size(weights)}, gradients {_size(gradients)}, "
            f"optimizer {_size(states)}, activations {_size(activations)} (a row of {plan.largest_row} tokens)"
            + (f"; there are {_size(there)}" if there else ""),
        )
    ]
    if state is None:
        optimizer = getattr(args.optim, "value", args.optim)
        lines.append(("", f"what {optimizer} keeps could not be tried; it is counted as AdamW's"))
    if args.device.type == "cpu":
        lines.append(("", "Python and its libraries take about 0.5 GB more"))
    if args.deepspeed or args.fsdp:
        lines.append(("", "sharding over processes is not counted"))
    if there and total > there:
        less = "lower training.token_budget, or set training.gradient_checkpointing=true"
        less = less if activations > total / 2 else "train an adapter (lora) instead of every weight"
        lines.append(("", f"that is more than there is: {less}"))
    return lines


def _memory_there(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if device.type == "cpu" and "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _disk_lines(
    trainer: PreferenceTrainer, folder: Path | None, state: float | None
) -> list[tuple[str, str]]:
    """Against what is left on the disk of the output folder; without one that can be used, the size alone."""
    args = trainer.args
    model: Any = trainer.model
    saved = [p for p in model.parameters() if p.requires_grad or not trainer.initial_weights.new_adapter]
    final = sum(p.nbytes for p in saved)
    checkpoint = final + (ADAMW_STATE if state is None else state) * _trained(trainer)
    saves = getattr(args.save_strategy, "value", args.save_strategy) != "no"
    kept = (args.save_total_limit or 1) + 1 if saves else 0  # one more is written before the oldest goes
    needed = final + kept * checkpoint
    unlimited = kept and not args.save_total_limit
    further = f", and {_size(checkpoint)} for each further checkpoint" if unlimited else ""
    if folder is None:
        return [("output", f"it would take about {_size(needed)}{further}")]
    free = shutil.disk_usage(existing_above(folder)).free
    text = f"{folder} can be used; it would take about {_size(needed)} of {_size(free)} left on the disk{further}"
    lines = [("output", text)]
    if needed > free:
        lines.append(
            ("", "that is more than is left: name another output, or set training.save_total_limit=1")
        )
    return lines


def _count(number: float | int) -> str:
    """A count to three digits: 134 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _size(number: float | int) -> str:
    if number < 1e8:
        return f"{number / 1e6:.2g} MB"
    return f"{number / 1e9:.2g} GB" if number < 1e10 else f"{number / 1e9:.0f} GB"
