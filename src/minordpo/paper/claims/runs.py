"""Run folders → `Run`s with their measures, and those that belong to one situation together. Files are only read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minordpo import objectives
from minordpo.config.build import flatten
from minordpo.errors import InputError
from minordpo.paper.claims import measures
from minordpo.paper.claims.answers import Answers, of_the_same_questions
from minordpo.paper.claims.evidence import Run
from minordpo.paper.stopping_study import Trained, read_trained
from minordpo.report import find
from minordpo.report.evaluations import refuse_shared
from minordpo.run_folder import names
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.records import StepRow, of_kind
from minordpo.sweep.results import in_our_form, run_row

_APART = (
    "objective.",
    "samples.",
    "metrics.",
    "monitor.",
)  # what runs are compared by, and what only looks on
_LOOKS_ON = (
    "eval_",
    "save_",
    "logging_",
    "report_to",
    "disable_tqdm",
    "dataloader_num_workers",
    "dataloader_p",  # pin_memory, persistent_workers, prefetch_factor; drop_last changes the steps
)
_SEEDS = ("training.seed", "training.data_seed", "world.seed")
_MOST_NAMED = 4  # dials in a label
_MADE_BY_WORLD = ("model.path", "data.train", "data.eval")


@dataclass(frozen=True)
class Gathered:
    """The finished runs, and what was left out, in words."""

    runs: tuple[Run, ...]
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Situation:
    """Runs that differ by objective, β, learning rate and seed alone."""

    label: str  # what tells it from the others; empty where there is one
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Ascending."""
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def redraws(self) -> bool:
        """Whether another seed is another model or other pairs, and not only another order of them."""
        sources: dict[int, set[tuple[str, str]]] = {}
        for run in self.runs:
            sources.setdefault(run.seed, set()).add(run.source)
        return len(self.seeds) < 2 or len(set.union(*sources.values())) > 1


def situations(runs: Iterable[Run]) -> list[Situation]:
    """The runs by situation, that of most runs first."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(run.situation, sort_keys=True, default=str), []).append(run)
    flats = [own[0].situation for own in groups.values()]
    keys = sorted({key for flat in flats for key in flat})
    varied = [key for key in keys if len({json.dumps(flat.get(key), default=str) for flat in flats}) > 1]
    found = [Situation(_label(own, varied), tuple(own)) for own in groups.values()]
    return sorted(found, key=lambda each: (-len(each.runs), each.label))


def _label(runs: Sequence[Run], varied: Sequence[str]) -> str:
    """What tells the situation from others; where that is too much to say, one of its runs."""
    if len(varied) > _MOST_NAMED:
        return f"as {runs[0].label}"
    return ", ".join(f"{key} {_short(runs[0].situation.get(key))}" for key in varied)


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    text = text.rstrip("/").rpartition("/")[2] if "/" in text else text
    return text if len(text) <= 24 else text[:23] + "…"


def gather_runs(found: find.Found) -> Gathered:
    """The finished runs with their measures.

    Raises:
        InputError: a file that cannot be read, or none of the runs has finished.
    """
    answers = Answers(found)
    runs, ends, questions, drawn, said = [], [], [], [], []
    for place, each in enumerate(found.runs):
        refuse_shared(each.folder)
        row = run_row(each.folder)
        if row["status"] != "finished":
            said.append(f"{each.label} is left out: {row['status']}")
            continue
        hyper = {k: v for k, v in each.config["objective"].items() if k != "name"}
        objective = objectives.recorded(str(each.config["objective"].get("name")), hyper)
        name, beta = named(objective), _beta(objective)
        with in_our_form(each.folder):
            rows = MetricsFile(each.folder / names.METRICS).rows()
            steps = of_kind(rows, StepRow)
            pushes = measures.pushes(each.folder, name, beta, steps)
        answered, asked = answers.of(place)
        questions.append(asked)
        drawn.append(_drawn(each))
        own = measures.joined(measures.looks(rows, row.get("steps") or 0), answered)
        own |= measures.finite({"steps": row.get("steps"), "retention": row.get("retention_accuracy")})
        runs.append(
            Run(
                label=each.label,
                objective=name,
                beta=beta,
                rate=float(row["learning_rate"]),
                seed=int(row["seed"]),
                situation=_situation(each),
                measures=own | pushes,
                source=(row["model"], row["data"]),
                trained=_trained(each.folder, f"{objective}, rate {row['learning_rate']}"),
            )
        )
        measured = any(f"eval_logratios/{name}" in row for name in measures.SIDES)
        ends.append((measures.trained(steps), measures.held_out(row), measured))
    if not runs:
        raise InputError(
            f"none of the {len(found.runs)} runs has finished ({said[0]}), but claims are decided from finished ones. "
            "Finish them by the same command, or name other folders"
        )
    _refuse_other_seeds(runs, drawn)
    runs, unlike = of_the_same_questions(runs, questions)
    runs, why = _with_ends(runs, ends)
    return Gathered(tuple(runs), (*said, *_copies(runs), *unlike, *why))


def _drawn(run: find.FoundRun) -> dict[str, Any]:
    """What seeds beside training.seed the run has."""
    flat = flatten(run.config)
    order = flat.get("training.data_seed")
    return {
        "training.data_seed": flat.get("training.seed") if order is None else order,
        "world.seed": None if run.world is None else run.world.get("seed"),
    }


def _refuse_other_seeds(runs: Sequence[Run], drawn: Sequence[Mapping[str, Any]]) -> None:
    """Nothing, where runs of one training.seed have one of each: it is by that one that runs are paired."""
    first: dict[str, tuple[Run, Mapping[str, Any]]] = {}
    for run, seeds in zip(runs, drawn, strict=True):
        other, before = first.setdefault(_replicate(run), (run, seeds))
        key = next((name for name in seeds if seeds[name] != before[name]), None)
        if key is not None:
            raise InputError(
                f"{other.label} and {run.label} differ in {key} ({before[key]}, {seeds[key]}) and not in "
                "training.seed, by which claims tell replicates. Vary `seed`, which stands for all of them, or leave "
                "one out"
            )


def _replicate(run: Run) -> str:
    what = [run.objective, run.beta, run.rate, run.seed, run.situation]
    return json.dumps(what, sort_keys=True, default=str)


def _copies(runs: Sequence[Run]) -> list[str]:
    """Runs that are the same but for their folder, in words: one replicate, whose mean counts."""
    labels: dict[str, list[str]] = {}
    for run in runs:
        labels.setdefault(_replicate(run), []).append(run.label)
    return [
        f"{', '.join(each)} have the same settings and seed, and count as one run"
        for each in labels.values()
        if len(each) > 1
    ]


def _with_ends(
    runs: Sequence[Run], ends: Sequence[tuple[dict[str, float], dict[str, float], bool]]
) -> tuple[list[Run], list[str]]:
    """Log-ratios at the end: of held-out pairs where every run that has any has these, else of the steps."""
    use_held_out = all(measured for trained, _, measured in ends if trained)
    made = []
    for run, (trained, held_out, _) in zip(runs, ends, strict=True):
        # One source for all: a measure that is no number there is none, whatever the other says.
        other = trained if use_held_out else held_out
        taken = held_out if use_held_out else trained
        rest = {name: value for name, value in other.items() if name not in measures.SIDES}
        made.append(replace(run, measures={**run.measures, **rest, **taken}))
    if use_held_out:
        return made, []
    return made, ["log-ratios are of the last fifth of the steps, since not every run has held-out pairs"]


def named(objective: objectives.Objective) -> str:
    """Its name; with the hyper-parameters beside β that are not the defaults."""
    others = [
        f"{key} {value}"
        for term in objective.terms
        for key, value in term.hyper.items()
        if key != "beta" and value != term.spec.defaults.get(key)
    ]
    return ", ".join([objective.name, *dict.fromkeys(others)])


def _beta(objective: objectives.Objective) -> float | None:
    return objective.beta if any("beta" in term.hyper for term in objective.terms) else None


def _trained(folder: Path, configuration: str) -> Trained | None:
    """What the study of when training suffices sees of it, if it was watched so."""
    if not (folder / names.PROBES).exists():
        return None
    try:
        return read_trained(folder, configuration)
    except (InputError, KeyError):  # nothing to be checked, or of before looks were kept with their measures
        return None


# ---- the situation ----
def _situation(run: find.FoundRun) -> dict[str, Any]:
    flat = flatten(run.config)
    if run.world is not None:
        own = flat.get("model.reference") == flat.get(
            "model.path"
        )  # the world's base, which every seed has anew
        made = (*_MADE_BY_WORLD, "model.reference") if own else _MADE_BY_WORLD
        flat = {k: v for k, v in flat.items() if k not in made} | flatten({"world": run.world})
    return {key: value for key, value in flat.items() if value is not None and _matters(key)}


def _matters(key: str) -> bool:
    section, _, name = key.partition(".")
    if key == "monitor.on_collapse":
        return True  # what stops a run or takes its weights back does more than look on
    return not (
        key in ("output", "training.learning_rate", *_SEEDS)
        or key.startswith(_APART)
        or (section == "training" and name.startswith(_LOOKS_ON))
    )
