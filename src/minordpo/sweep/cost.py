"""`minordpo sweep --dry-run`: what the runs that are left would cost.

Where runs of the sweep have ended, theirs is the best estimate of the others. Else one packed row is measured for every
kind of run (model, data, adapter), as `minordpo train --dry-run` does, and scaled by the pairs of each run.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minordpo.config import RunConfig
from minordpo.data.packing import tree_size
from minordpo.sweep.folder import SweepFolder
from minordpo.sweep.foundation import Foundation
from minordpo.sweep.plan import RunPlan, SweepPlan
from minordpo.sweep.results import run_seconds
from minordpo.train.dry_run.estimate import plan_steps
from minordpo.train.dry_run.measure import RowTooLarge, measure_row
from minordpo.train.run import build_trainer, load_data, load_run_tokenizer


@dataclass(frozen=True)
class _Kind:
    """Seconds that runs of one kind take."""

    a_pair: float  # forward and backward
    reference: float  # once, for all that share it
    held_out: float  # measured once
    tokens_a_pair: float
    pairs: int  # of an epoch
    foundation: float  # to make it


def estimate(plan: SweepPlan, folder: SweepFolder, todo: Sequence[RunPlan], *, jobs: int) -> str:
    """What is left, in words; nothing is written but temporary files."""
    if not todo:
        return "Dry run: there is nothing left to do."
    done, made = seconds_before(plan, folder)
    head = "Dry run: nothing was trained and nothing written."
    at_a_time = "one run at a time" if jobs == 1 else f"{jobs} runs at a time"
    missing = unmade(todo)
    if done:
        middle = statistics.median(done)
        return (
            f"{head}\nRuns that are done took {_duration(middle)} each (median of {len(done)}), so {len(todo)} more "
            f"take {_duration(middle * len(todo) / jobs)} with {at_a_time}{_before_them(missing, made, jobs)}."
        )
    kinds: dict[str, list[RunPlan]] = {}
    for run in todo:
        kinds.setdefault(_kind(run), []).append(run)
    total = tokens = 0.0
    for runs in kinds.values():
        try:
            kind = _measured(runs[0], plan)
        except RowTooLarge:
            if plan.processes == 1:
                raise
            return (
                f"{head}\nModel and gradients of one row do not fit in one process, so no time can be told. Divided "
                f"among {plan.processes} they may fit; data and model are checked."
            )
        pairs = sum(_pairs(run.config, kind.pairs, plan.processes) for run in runs)
        tokens += pairs * kind.tokens_a_pair
        sharing = {repr((run.foundation, run.config.model, run.config.data)) for run in runs}
        total += pairs * kind.a_pair + len(runs) * kind.held_out + len(sharing) * kind.reference
        total += len(unmade(runs)) * kind.foundation
    making = f"The making of {_counted(missing)} is in it. " if missing else ""
    return (
        f"{head}\nThe {len(todo)} runs train on about {tokens / 1e6:.3g} M tokens: {_duration(total / jobs)} with "
        f"{at_a_time}, measured on one packed row of each kind of run ({len(kinds)}){_by_one(plan.processes)}. "
        f"{making}Loading, answers (samples, the monitor's looks, questions) and checkpoints come on top."
    )


def seconds_before(plan: SweepPlan, folder: SweepFolder) -> tuple[list[float], list[float]]:
    """What each of the plan's runs that are done took, and each foundation that is made, where that is known."""
    runs = [run_seconds(run.folder) for run in plan.runs if folder.state(run, plan) == "done"]
    foundations = [each.seconds() for each in plan.foundations if each.made]
    return [each for each in runs if each], [each for each in foundations if each]


def unmade(runs: Sequence[RunPlan]) -> list[Foundation]:
    """The foundations that runs wait for, each once."""
    waiting = dict.fromkeys(run.foundation for run in runs)
    return [each for each in waiting if each is not None and not each.made]


def _counted(foundations: Sequence[Foundation]) -> str:
    return f"{len(foundations)} {foundations[0].kind}{'s' * (len(foundations) != 1)}"


def _before_them(missing: Sequence[Foundation], took: Sequence[float], jobs: int) -> str:
    """What making foundations adds to the time that runs take, by what those that are made took."""
    if not missing:
        return ""
    words = f"; before them {_counted(missing)} {'is' if len(missing) == 1 else 'are'} to be made"
    if not took:
        return f"{words}, whose time is not known"
    middle = statistics.median(took)
    return f"{words}, {_duration(middle * len(missing) / jobs)} more (median of {len(took)}: {_duration(middle)})"


def _kind(run: RunPlan) -> str:
    """What runs have in common whose rows cost the same: foundations of different seeds do."""
    config, foundation, arguments = run.config, run.foundation, run.config.training.arguments
    stands_on: Any = (config.model, config.data)
    if foundation is not None:
        stands_on = dataclasses.replace(foundation.values, seed=0)
    precision = (config.model.dtype, arguments.get("bf16"), arguments.get("gradient_checkpointing"))
    return repr((stands_on, config.lora, precision, config.training.token_budget))


def _measured(run: RunPlan, plan: SweepPlan) -> _Kind:
    """One row of the run measured; of a foundation that is not made a sketch is made aside."""
    with tempfile.TemporaryDirectory(prefix="minordpo-dry-run-") as aside:
        config, seconds = run.config if plan.processes == 1 else _alone(run.config), 0.0
        if run.foundation is not None and not run.foundation.made:
            config, seconds = run.foundation.sketched(config, Path(aside) / "foundation")
        tokenizer = load_run_tokenizer(config)
        data = load_data(config, tokenizer)
        trainer = build_trainer(config, tokenizer, data, Path(aside) / "run", allow_code=plan.allow_code)
        steps = plan_steps(trainer)
        found = measure_row(trainer, steps.typical_row)
        pairs = _pairs(config, len(trainer.examples), 1)
        missing = 0
        if trainer.reference is not None:
            met, held_out = trainer.met()
            missing = sum(map(tree_size, trainer.reference.missing([*met.values(), *held_out.values()])))
        return _Kind(
            a_pair=found.training_seconds * steps.tokens / pairs,
            reference=found.reference_seconds * missing,
            held_out=found.training_seconds / 3 * sum(map(tree_size, trainer.held_out)),
            tokens_a_pair=steps.tokens / pairs,
            pairs=len(trainer.examples),
            foundation=seconds,
        )


def _alone(config: RunConfig) -> RunConfig:
    """The config as one process can run it: with whole weights."""
    divided = ("fsdp", "fsdp_config", "deepspeed")
    arguments = {name: value for name, value in config.training.arguments.items() if name not in divided}
    return dataclasses.replace(config, training=dataclasses.replace(config.training, arguments=arguments))


def _by_one(processes: int) -> str:
    said = (
        f" by one process with whole weights. Each run has {processes} processes: at best it takes 1/{processes} of "
        "that, and what they lose by waiting for each other and for the network is not measured"
    )
    return said if processes > 1 else ""


def _pairs(config: RunConfig, epoch: int, processes: int) -> float:
    """How many pairs the run trains on, over all its steps; `epoch` is how many there are."""
    given = config.training.arguments
    steps, epochs = given.get("max_steps", -1), given.get("num_train_epochs", 3.0)
    a_step = (
        given.get("per_device_train_batch_size", 8) * given.get("gradient_accumulation_steps", 1) * processes
    )
    return float(steps * min(a_step, epoch) if steps > 0 else epochs * epoch)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"about {seconds:.2g} s"
    return f"about {seconds / 60:.2g} minutes" if seconds < 6000 else f"about {seconds / 3600:.3g} hours"
