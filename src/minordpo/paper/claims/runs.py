"""Run folders → `ClaimRun`s with their measures, and those that can be compared together. Files are only read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from minordpo import objectives
from minordpo.config.build import flatten
from minordpo.errors import InputError
from minordpo.paper.claims import measures
from minordpo.paper.claims.claim import ClaimRun
from minordpo.paper.stopping_study import StudiedRun, is_stoppable, read_run
from minordpo.report import find
from minordpo.report.evaluations import refuse_shared
from minordpo.report.groups import MOST_NAMED, short_text, varied
from minordpo.run_folder import names
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.records import LOGRATIOS, StepRow, held_out, of_kind
from minordpo.sweep.results import in_our_form, run_row

T = TypeVar("T")
# What runs are compared by, and what only looks on: of the loader pin_memory and such, but not drop_last.
_APART = ("objective.", "samples.", "metrics.", "monitor.")
_LOOKS_ON = ("eval_", "save_", "logging_", "report_to", "disable_tqdm", "dataloader_num", "dataloader_p")
_SEEDS = ("training.seed", "training.data_seed", "world.seed")
_MADE_BY_WORLD = ("model.path", "data.train", "data.eval")


@dataclass(frozen=True)
class Gathered:
    """The finished runs, and what was left out, in words."""

    runs: tuple[ClaimRun, ...]
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparableRuns:
    """Runs that differ by objective, β, learning rate and seed alone."""

    label: str  # what tells them from other runs; empty where there are none
    runs: tuple[ClaimRun, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Ascending."""
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def redraws(self) -> bool:
        """Whether another seed is another model or other pairs, and not only another order of them."""
        return len(self.seeds) < 2 or len({run.source for run in self.runs}) > 1


def comparable(runs: Iterable[ClaimRun]) -> list[ComparableRuns]:
    """The runs by their other settings, those of most runs first."""
    groups = _grouped(runs, lambda run: run.others)
    keys = sorted(varied([own[0].others for own in groups]))
    found = [ComparableRuns(_label(own, keys), tuple(own)) for own in groups]
    return sorted(found, key=lambda each: (-len(each.runs), each.label))


def _grouped(values: Iterable[T], key: Callable[[T], Any]) -> list[list[T]]:
    """The values of the same key together."""
    groups: dict[str, list[T]] = {}
    for value in values:
        groups.setdefault(json.dumps(key(value), sort_keys=True, default=str), []).append(value)
    return list(groups.values())


def _label(runs: Sequence[ClaimRun], keys: Sequence[str]) -> str:
    """What tells the runs from others; where that is too much to say, one of them."""
    if len(keys) > MOST_NAMED:
        return f"as {runs[0].label}"
    told = {key: runs[0].others.get(key) for key in keys}
    return ", ".join(f"{key} {'none' if value is None else short_text(value)}" for key, value in told.items())


# ---- folders ----
class _Read(NamedTuple):
    """A finished run, and what only the runs beside it can make measures of."""

    run: ClaimRun  # without log-ratios
    asked: str  # what questions its answers are to
    drawn: dict[str, Any]  # seeds beside training.seed
    trained: dict[str, float]
    held_out: dict[str, float]
    measured: bool  # on held-out pairs


def gather_runs(found: find.Found) -> Gathered:
    """The finished runs with their measures.

    Raises:
        InputError: a file that cannot be read, or none of the runs has finished.
    """
    answers = measures.evaluated_answers(found)
    read, said = [], []
    for each, answered in zip(found.runs, answers, strict=True):
        refuse_shared(each.folder)
        row = run_row(each.folder)
        if row["status"] == "finished":
            read.append(_read(each, row, *answered))
        else:
            said.append(f"{each.label} is left out: {row['status']}")
    if not read:
        raise InputError(
            f"none of the {len(found.runs)} runs has finished ({said[0]}), but claims are decided from finished ones. "
            "Finish them by the same command, or name other folders"
        )
    said += _copies(read)
    unlike = _asked_otherwise(read)
    said += [
        f"the answers of {each.run.label} are left out: they are to other questions than those of most runs"
        for each in read
        if each.run.label in unlike
    ]
    # Of held-out pairs where every run that has any has these, else of the steps.
    use_held_out = all(each.measured for each in read if each.trained)
    if not use_held_out:
        said.append("log-ratios are of the last fifth of the steps, since not every run has held-out pairs")
    runs = [_whole(each, each.run.label in unlike, use_held_out=use_held_out) for each in read]
    return Gathered(tuple(runs), tuple(said))


def _asked_otherwise(read: Sequence[_Read]) -> set[str]:
    """The runs whose answers are to other questions than most of their settings and seed, by label."""
    found = set()
    for own in _grouped(read, lambda each: [each.run.others, each.run.seed]):
        counts = Counter(each.asked for each in own if each.asked)
        found |= {each.run.label for each in own if each.asked not in ("", *dict(counts.most_common(1)))}
    return found


def _read(each: find.FoundRun, row: Mapping[str, Any], answers: dict[str, float], asked: str) -> _Read:
    flat = flatten(each.config)
    hyper = {k: v for k, v in each.config["objective"].items() if k != "name"}
    name, beta = named(objectives.recorded(row["objective_name"], hyper)), row["beta"]
    with in_our_form(each.folder):
        rows = MetricsFile(each.folder / names.METRICS).rows()
        steps = of_kind(rows, StepRow)
        pushes = measures.pushes(each.folder, name, beta, steps)
    probed = measures.probed(rows, row.get("steps") or 0)
    own = probed | answers
    if "broken" in answers and probed.get("garbled"):
        # Answers are many and probes are few, but only probes know what the reference makes of a text, by which one
        # is seen that breaks without repeating itself.
        own["broken"] = 1.0
    own |= measures.finite({"steps": row.get("steps"), "retention": row.get("retention_accuracy")}) | pushes
    run = ClaimRun(
        label=each.label,
        objective=name,
        beta=beta,
        rate=float(row["learning_rate"]),
        seed=int(row["seed"]),
        others=_others(each, flat),
        measures=own,
        source=(row["model"], row["data"]),
        studied=_studied(each.folder),
    )
    order = flat.get("training.data_seed")
    drawn = {
        "training.data_seed": flat.get("training.seed") if order is None else order,
        "world.seed": None if each.world is None else each.world.get("seed"),
    }
    measured = any(held_out(f"{LOGRATIOS}/{side}") in row for side in measures.SIDES)
    return _Read(run, asked, drawn, measures.trained(steps), measures.held_out_pairs(row), measured)


def _whole(read: _Read, unlike: bool, *, use_held_out: bool) -> ClaimRun:
    """The run with its log-ratios, and without answers that are to other questions than those of other runs."""
    # One source for all: a measure that is no number there is none, whatever the other says.
    used, other = (read.held_out, read.trained) if use_held_out else (read.trained, read.held_out)
    rest = {name: value for name, value in other.items() if name not in measures.SIDES}
    answers = ("accuracy", "kl") if unlike else ()  # ends of the names of their measures
    own = {name: value for name, value in read.run.measures.items() if not name.endswith(answers)}
    return replace(read.run, measures=own | rest | used)


def _copies(read: Sequence[_Read]) -> list[str]:
    """Runs that are the same but for their folder, in words: one replicate, whose mean counts.

    Raises:
        InputError: runs of one training.seed differ in another seed; it is by that one that runs are paired.
    """
    replicates = _grouped(
        read,
        lambda each: [getattr(each.run, name) for name in ("objective", "beta", "rate", "seed", "others")],
    )
    same = [each for each in replicates if len(each) > 1]
    for first, *others in same:
        for other in others:
            key = next((name for name in first.drawn if first.drawn[name] != other.drawn[name]), None)
            if key is not None:
                raise InputError(
                    f"{first.run.label} and {other.run.label} differ in {key} ({first.drawn[key]}, "
                    f"{other.drawn[key]}) and not in training.seed, by which claims tell replicates. Vary `seed`, "
                    "which stands for all of them, or leave one out"
                )
    labels = [", ".join(each.run.label for each in group) for group in same]
    return [f"{each} have the same settings and seed, and count as one run" for each in labels]


def named(objective: objectives.Objective) -> str:
    """Its name; with the hyper-parameters beside β that are not the defaults."""
    others = [
        f"{key} {value}"
        for term in objective.terms
        for key, value in term.hyper.items()
        if key != "beta" and value != term.spec.defaults.get(key)
    ]
    return ", ".join([objective.name, *dict.fromkeys(others)])


def _studied(folder: Path) -> StudiedRun | None:
    """What the study of when training suffices sees of it, if it was probed so."""
    try:
        run = read_run(folder)
        return run if is_stoppable(run) else None
    except (InputError, KeyError):  # nothing to be checked, or of before probes were kept with their measures
        return None


def _others(run: find.FoundRun, flat: Mapping[str, Any]) -> dict[str, Any]:
    """All settings that matter but objective, β, learning rate and seed."""
    if run.world is not None:
        # The reference too where it is the world's base, which every seed has anew.
        on_base = flat.get("model.reference") == flat.get("model.path")
        made = (*_MADE_BY_WORLD, "model.reference") if on_base else _MADE_BY_WORLD
        flat = {k: v for k, v in flat.items() if k not in made} | flatten({"world": run.world})
    return {key: value for key, value in flat.items() if value is not None and _matters(key)}


def _matters(key: str) -> bool:
    # What stops a run or takes its weights back does more than look on.
    return key == "monitor.on_collapse" or not (
        key in ("output", "training.learning_rate", *_SEEDS)
        or key.startswith((*_APART, *(f"training.{name}" for name in _LOOKS_ON)))
    )
