"""Run folders → `ClaimRun`s with their measures, and those that can be compared together. Files are only read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from minordpo import objectives
from minordpo.config.build import flatten
from minordpo.errors import InputError
from minordpo.paper.claims import measures
from minordpo.paper.claims.claim import ClaimRun
from minordpo.paper.claims.evaluated_answers import EvaluatedAnswers, asked_otherwise
from minordpo.paper.stopping_study import read_stoppable_run
from minordpo.paper.studied_run import StudiedRun
from minordpo.report import find
from minordpo.report.evaluations import refuse_shared
from minordpo.run_folder import names
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.records import LOGRATIOS, StepRow, held_out, of_kind
from minordpo.sweep.results import in_our_form, run_row

# What runs are compared by, and what only looks on: of the loader pin_memory and such, but not drop_last.
_APART = ("objective.", "samples.", "metrics.", "monitor.")
_LOOKS_ON = ("eval_", "save_", "logging_", "report_to", "disable_tqdm", "dataloader_num", "dataloader_p")
_SEEDS = ("training.seed", "training.data_seed", "world.seed")
_MOST_NAMED = 4  # dials in a label
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
    groups: dict[str, list[ClaimRun]] = {}
    for run in runs:
        groups.setdefault(_text(run.others), []).append(run)
    flats = [own[0].others for own in groups.values()]
    keys = sorted({key for flat in flats for key in flat})
    varied = [key for key in keys if len({_text(flat.get(key)) for flat in flats}) > 1]
    found = [ComparableRuns(_label(own, varied), tuple(own)) for own in groups.values()]
    return sorted(found, key=lambda each: (-len(each.runs), each.label))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _label(runs: Sequence[ClaimRun], varied: Sequence[str]) -> str:
    """What tells the runs from others; where that is too much to say, one of them."""
    if len(varied) > _MOST_NAMED:
        return f"as {runs[0].label}"
    return ", ".join(f"{key} {_short(runs[0].others.get(key))}" for key in varied)


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    text = text.rstrip("/").rpartition("/")[2] if "/" in text else text
    return text if len(text) <= 24 else text[:23] + "…"


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
    answers = EvaluatedAnswers(found)
    read, said = [], []
    for place, each in enumerate(found.runs):
        refuse_shared(each.folder)
        row = run_row(each.folder)
        if row["status"] == "finished":
            read.append(_read(each, row, *answers.of(place)))
        else:
            said.append(f"{each.label} is left out: {row['status']}")
    if not read:
        raise InputError(
            f"none of the {len(found.runs)} runs has finished ({said[0]}), but claims are decided from finished ones. "
            "Finish them by the same command, or name other folders"
        )
    said += _copies(read)
    unlike = asked_otherwise([(_text([each.run.others, each.run.seed]), each.asked) for each in read])
    said += [
        f"the answers of {each.run.label} are left out: they are to other questions than those of most runs"
        for each in itertools.compress(read, unlike)
    ]
    # Of held-out pairs where every run that has any has these, else of the steps.
    use_held_out = all(each.measured for each in read if each.trained)
    if not use_held_out:
        said.append("log-ratios are of the last fifth of the steps, since not every run has held-out pairs")
    runs = [_whole(*each, use_held_out=use_held_out) for each in zip(read, unlike, strict=True)]
    return Gathered(tuple(runs), tuple(said))


def _read(each: find.FoundRun, row: Mapping[str, Any], answers: dict[str, float], asked: str) -> _Read:
    flat = flatten(each.config)
    hyper = {k: v for k, v in each.config["objective"].items() if k != "name"}
    objective = objectives.recorded(str(each.config["objective"].get("name")), hyper)
    name = named(objective)
    beta = objective.beta if any("beta" in term.hyper for term in objective.terms) else None
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
        studied=_studied(each.folder, f"{objective}, rate {row['learning_rate']}"),
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


def _by_replicate(read: Sequence[_Read]) -> list[list[_Read]]:
    """Runs of the same objective, settings and training.seed together."""
    groups: dict[str, list[_Read]] = {}
    for each in read:
        run = each.run
        what = _text([run.objective, run.beta, run.rate, run.seed, run.others])
        groups.setdefault(what, []).append(each)
    return list(groups.values())


def _copies(read: Sequence[_Read]) -> list[str]:
    """Runs that are the same but for their folder, in words: one replicate, whose mean counts.

    Raises:
        InputError: runs of one training.seed differ in another seed; it is by that one that runs are paired.
    """
    same = [each for each in _by_replicate(read) if len(each) > 1]
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


def _studied(folder: Path, setting: str) -> StudiedRun | None:
    """What the study of when training suffices sees of it, if it was probed so."""
    try:
        return read_stoppable_run(folder, setting)
    except (InputError, KeyError):  # nothing to be checked, or of before probes were kept with their measures
        return None


def _others(run: find.FoundRun, flat: Mapping[str, Any]) -> dict[str, Any]:
    """All settings that matter but objective, β, learning rate and seed."""
    if run.world is not None:
        made = [*_MADE_BY_WORLD]
        if flat.get("model.reference") == flat.get(
            "model.path"
        ):  # the world's base, which every seed has anew
            made.append("model.reference")
        flat = {k: v for k, v in flat.items() if k not in made} | flatten({"world": run.world})
    return {key: value for key, value in flat.items() if value is not None and _matters(key)}


def _matters(key: str) -> bool:
    # What stops a run or takes its weights back does more than look on.
    return key == "monitor.on_collapse" or not (
        key in ("output", "training.learning_rate", *_SEEDS)
        or key.startswith((*_APART, *(f"training.{name}" for name in _LOOKS_ON)))
    )
