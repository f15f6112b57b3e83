"""`minordpo sweep --dry-run`: what the runs that are left would cost.

Where runs of the sweep have ended, theirs is the best estimate of the others. Else one packed row is measured for every
kind of run (model, data, adapter), as `minordpo train --dry-run` does, and scaled by the pairs of each run.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minordpo.config import RunConfig
from minordpo.data.packing import tree_size
from minordpo.paper.worlds.world import World, base_seconds, is_made, make_world
from minordpo.sweep.folder import SweepFolder
from minordpo.sweep.plan import Cell, SweepPlan
from minordpo.sweep.results import run_seconds
from minordpo.train.dry_run.estimate import plan_steps
from minordpo.train.dry_run.measure import RowTooLarge, measure_row
from minordpo.train.run import build_trainer, load_data, load_run_tokenizer

_BASE_STEPS = 4  # of a world's base, on which one of its steps is timed


@dataclass(frozen=True)
class _Kind:
    """Seconds that runs of one kind take."""

    a_pair: float  # forward and backward
    reference: float  # once, for all that share it
    held_out: float  # measured once
    tokens_a_pair: float
    pairs: int  # of an epoch
    world: float  # to make it


def estimate(plan: SweepPlan, folder: SweepFolder, todo: Sequence[Cell], *, jobs: int) -> str:
    """What is left, in words; nothing is written but temporary files."""
    if not todo:
        return "Dry run: there is nothing left to do."
    done, made = seconds_before(plan, folder)
    head = "Dry run: nothing was trained and nothing written."
    if done:
        middle = statistics.median(done)
        return (
            f"{head}\nRuns that are done took {_duration(middle)} each (median of {len(done)}), so {len(todo)} more "
            f"take {_duration(middle * len(todo) / jobs)} with {_jobs(jobs)}{_worlds_before(plan, todo, made, jobs)}."
        )
    try:
        kinds = {key: _measured(cells[0], plan) for key, cells in _by_kind(todo).items()}
    except RowTooLarge:
        if plan.processes == 1:
            raise
        return (
            f"{head}\nModel and gradients of one row do not fit in one process, so no time can be told. Divided among "
            f"{plan.processes} they may fit; data and model are checked."
        )
    total = tokens = 0.0
    for key, cells in _by_kind(todo).items():
        kind = kinds[key]
        for cell in cells:
            pairs = _pairs(cell.config, kind.pairs, plan.processes)
            total += pairs * kind.a_pair + kind.held_out
            tokens += pairs * kind.tokens_a_pair
        sharing = {repr((cell.world, cell.config.model, cell.config.data)) for cell in cells}
        total += len(sharing) * kind.reference
        total += len(_unmade(plan, cells)) * kind.world
    worlds = len(_unmade(plan, todo))
    of_worlds = f"The making of {worlds} micro world{'s' * (worlds != 1)} is in it. " if worlds else ""
    return (
        f"{head}\nThe {len(todo)} runs train on about {tokens / 1e6:.3g} M tokens: {_duration(total / jobs)} with "
        f"{_jobs(jobs)}, measured on one packed row of each kind of run ({len(kinds)}){_by_one(plan.processes)}. "
        f"{of_worlds}Loading, answers (samples, the monitor's looks, questions) and checkpoints come on top."
    )


def seconds_before(plan: SweepPlan, folder: SweepFolder) -> tuple[list[float], list[float]]:
    """What each of the plan's runs that are done took, and each of its worlds that are made, where that is known."""
    runs = [run_seconds(cell.folder) for cell in plan.cells if folder.state(cell, plan) == "done"]
    worlds = [base_seconds(path) for path in plan.worlds if is_made(path)]
    return [each for each in runs if each], [each for each in worlds if each]


def _unmade(plan: SweepPlan, cells: Sequence[Cell]) -> set[World]:
    """The micro worlds that runs wait for."""
    worlds = {cell.world for cell in cells if cell.world is not None}
    return {each for each in worlds if not is_made(plan.world_folder(each))}


def _worlds_before(plan: SweepPlan, todo: Sequence[Cell], took: Sequence[float], jobs: int) -> str:
    """What making worlds adds to the time that runs take, by what those that are made took."""
    unmade = len(_unmade(plan, todo))
    if not unmade:
        return ""
    words = f"; before them {unmade} micro {'world is' if unmade == 1 else 'worlds are'} to be made"
    if not took:
        return f"{words}, whose time is not known"
    middle = statistics.median(took)
    return f"{words}, {_duration(middle * unmade / jobs)} more (median of {len(took)}: {_duration(middle)})"


def _by_kind(todo: Sequence[Cell]) -> dict[str, list[Cell]]:
    """Runs whose rows cost the same: worlds of different seeds do."""
    kinds: dict[str, list[Cell]] = {}
    for cell in todo:
        config, world = cell.config, cell.world
        on = (config.model, config.data) if world is None else dataclasses.replace(world, seed=0)
        arguments = config.training.arguments
        precision = (
            arguments.get("bf16"),
            arguments.get("gradient_checkpointing"),
            config.training.token_budget,
        )
        kinds.setdefault(repr((on, config.lora, config.model.dtype, precision)), []).append(cell)
    return kinds


def _measured(cell: Cell, plan: SweepPlan) -> _Kind:
    """One row of the run measured; a world that is not made is made aside, with a base of a few steps."""
    with tempfile.TemporaryDirectory(prefix="minordpo-dry-run-") as aside:
        config, seconds = cell.config if plan.processes == 1 else _alone(cell.config), 0.0
        if cell.world is not None and not is_made(plan.world_folder(cell.world)):
            config, seconds = _on_a_sketch(config, cell.world, Path(aside) / "world")
        tokenizer = load_run_tokenizer(config)
        data = load_data(config, tokenizer)
        trainer = build_trainer(config, tokenizer, data, Path(aside) / "run", allow_code=plan.allow_code)
        steps = plan_steps(trainer)
        found = measure_row(trainer, steps.typical_row)
        pairs = _pairs(config, len(trainer.examples), 1)
        missing = 0
        if trainer.reference is not None:
            met, held_out = trainer.met()
            missing = sum(
                tree_size(each) for each in trainer.reference.missing([*met.values(), *held_out.values()])
            )
        return _Kind(
            a_pair=found.training_seconds * steps.tokens / pairs,
            reference=found.reference_seconds * missing,
            held_out=found.training_seconds / 3 * sum(tree_size(each) for each in trainer.held_out),
            tokens_a_pair=steps.tokens / pairs,
            pairs=len(trainer.examples),
            world=seconds,
        )


def _on_a_sketch(config: RunConfig, world: World, folder: Path) -> tuple[RunConfig, float]:
    """The config on a world whose base has hardly been trained, and what the whole world would take to make."""
    # Twice, so that the questions, which are written once, and the first step's start are not counted a step.
    took = []
    for steps in (1, 1 + _BASE_STEPS):
        started = time.perf_counter()
        make_world(
            folder / str(steps), dataclasses.replace(world, base_steps=steps, base_accuracy=None), quiet=True
        )
        took.append(time.perf_counter() - started)
    seconds = took[0] + max(0.0, took[1] - took[0]) * (world.base_steps - 1) / _BASE_STEPS
    folder = folder / str(1 + _BASE_STEPS)
    base = str(folder / "base")
    own = config.model.reference == config.model.path  # the world's own base
    model = dataclasses.replace(config.model, path=base, reference=base if own else config.model.reference)
    data = dataclasses.replace(
        config.data, train=str(folder / "pairs.jsonl"), eval=str(folder / "held_out.jsonl")
    )
    return dataclasses.replace(config, model=model, data=data), seconds


def _alone(config: RunConfig) -> RunConfig:
    """The config as one process can run it: with whole weights."""
    arguments = {
        name: value
        for name, value in config.training.arguments.items()
        if name not in ("fsdp", "fsdp_config", "deepspeed")
    }
    return dataclasses.replace(config, training=dataclasses.replace(config.training, arguments=arguments))


def _by_one(processes: int) -> str:
    if processes == 1:
        return ""
    return (
        f" by one process with whole weights. Each run has {processes} processes: at best it takes 1/{processes} of "
        "that, and what they lose by waiting for each other and for the network is not measured"
    )


def _pairs(config: RunConfig, epoch: int, processes: int) -> float:
    """How many pairs the run trains on, over all its steps; `epoch` is how many there are."""
    arguments = config.training.arguments
    a_step = arguments.get("per_device_train_batch_size", 8) * arguments.get("gradient_accumulation_steps", 1)
    a_step *= processes
    steps = arguments.get("max_steps", -1)
    return float(steps * min(a_step, epoch) if steps > 0 else arguments.get("num_train_epochs", 3.0) * epoch)


def _jobs(jobs: int) -> str:
    return "one run at a time" if jobs == 1 else f"{jobs} runs at a time"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"about {seconds:.2g} s"
    return f"about {seconds / 60:.2g} minutes" if seconds < 6000 else f"about {seconds / 3600:.3g} hours"
