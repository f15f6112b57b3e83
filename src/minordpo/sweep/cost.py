"""`minordpo sweep --dry-run`: what the runs that are left would cost.

Where runs of the sweep have ended, theirs is the best estimate of the others. Else one packed row is measured for every
kind of run (model, data, adapter, arguments of training), as `minordpo train --dry-run` does.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minordpo.config import RunConfig
from minordpo.sweep.folder import SweepFolder
from minordpo.sweep.foundation import Foundation
from minordpo.sweep.plan import RunPlan, SweepPlan
from minordpo.sweep.results import known_cost
from minordpo.train.dry_run.estimate import HEAD, missing_references, plan_steps, run_seconds
from minordpo.train.dry_run.measure import RowTooLarge, duration, measure_row
from minordpo.train.run import build_trainer, load_data, load_run_tokenizer

_HEAD = "Dry run: nothing was trained and nothing written."
_WITHOUT_COST = ("learning_rate", "seed", "data_seed")  # arguments by which no run takes longer


def estimate(plan: SweepPlan, folder: SweepFolder, todo: Sequence[RunPlan], *, jobs: int) -> str:
    """What is left, in words; nothing is written but temporary files, and tokens to the cache."""
    if not todo:
        return "Dry run: there is nothing left to do."
    done, made = seconds_before(plan, folder)
    at_a_time = "one run at a time" if jobs == 1 else f"{jobs} runs at a time"
    missing = unmade(todo)
    if done:
        middle = statistics.median(done)
        return (
            f"{_HEAD}\nRuns that are done took {duration(middle)} each (median of {len(done)}), so {len(todo)} more "
            f"take {duration(middle * len(todo) / jobs)} with {at_a_time}{_before_them(missing, made, jobs)}."
        )
    kinds: dict[str, list[RunPlan]] = {}
    for run in todo:
        kinds.setdefault(_kind(run), []).append(run)
    try:
        costs = [_measured(runs, plan) for runs in kinds.values()]
    except RowTooLarge:
        if plan.processes == 1:
            raise
        return (
            f"{HEAD}\nModel and gradients of one row do not fit in one process, so no time can be told. Divided among "
            f"{plan.processes} they may fit; data and model are checked."
        )
    seconds, tokens = map(sum, zip(*costs, strict=True))
    making = f"The making of {_counted(missing)} is in it. " if missing else ""
    by_one = (
        f" by one process with whole weights. Each run has {plan.processes} processes: at best it takes "
        f"1/{plan.processes} of that, and what they lose by waiting for each other and for the network is not measured"
    )
    return (
        f"{HEAD}\nThe {len(todo)} runs train on about {tokens / 1e6:.3g} M tokens: {duration(seconds / jobs)} with "
        f"{at_a_time}, measured on one packed row of each kind of run ({len(kinds)}){by_one * (plan.processes > 1)}. "
        f"{making}Loading, answers (samples, the monitor's looks, questions) and checkpoints come on top."
    )


def seconds_before(plan: SweepPlan, folder: SweepFolder) -> tuple[list[float], list[float]]:
    """What each of the plan's runs that are done took, and each foundation that is made, where that is known."""
    done = [run.folder for run in plan.runs if folder.state(run, plan) == "done"]
    runs = [seconds for each in done if isinstance(seconds := known_cost(each).get("seconds"), int | float)]
    foundations = [each.seconds() for each in plan.foundations if each.made]
    return runs, [each for each in foundations if each]


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
    return (
        f"{words}, {duration(middle * len(missing) / jobs)} more (median of {len(took)}: {duration(middle)})"
    )


def _kind(run: RunPlan) -> str:
    """What runs have in common that take the same time: foundations of different seeds do."""
    config, foundation = run.config, run.foundation
    stands_on: Any = (config.model, config.data)
    if foundation is not None:
        stands_on = config.model.dtype, dataclasses.replace(foundation.values, seed=0)
    given = {key: each for key, each in config.training.arguments.items() if key not in _WITHOUT_COST}
    return repr((stands_on, config.lora, config.training.token_budget, given))


def _measured(runs: Sequence[RunPlan], plan: SweepPlan) -> tuple[float, float]:
    """Seconds and trained tokens of runs of one kind, by a row of the first; of a foundation not made by a sketch."""
    config, foundation, making = _alone(runs[0].config, plan.processes), runs[0].foundation, 0.0
    with tempfile.TemporaryDirectory(prefix="minordpo-dry-run-") as aside:
        if foundation is not None and not foundation.made:
            config, making = foundation.sketched(config, Path(aside) / "foundation")
        tokenizer = load_run_tokenizer(config)
        data = load_data(config, tokenizer)
        trainer = build_trainer(config, tokenizer, data, Path(aside) / "run", allow_code=plan.allow_code)
        steps = plan_steps(trainer)
        row = measure_row(trainer, steps.typical_row)
        reference, training, held_out = run_seconds(trainer, steps, row, missing_references(trainer))
    sharing = {repr((run.foundation, run.config.model, run.config.data)) for run in runs}
    seconds = len(runs) * (training + held_out) + len(sharing) * reference
    return seconds + len(unmade(runs)) * making, len(runs) * steps.tokens


def _alone(config: RunConfig, processes: int) -> RunConfig:
    """The config as one process can run it in place of several: with whole weights, and as many pairs a step."""
    if processes == 1:
        return config
    divided = ("fsdp", "fsdp_config", "deepspeed")
    arguments = {name: value for name, value in config.training.arguments.items() if name not in divided}
    arguments["gradient_accumulation_steps"] = arguments.get("gradient_accumulation_steps", 1) * processes
    return dataclasses.replace(config, training=dataclasses.replace(config.training, arguments=arguments))
