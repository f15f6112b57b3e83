"""A run folder → its pairs as they moved, in the coordinates of a plane. It reads files only."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minordpo.config.load import read_mapping
from minordpo.errors import InputError
from minordpo.lens.gradients import Kind
from minordpo.objectives.spec import Range
from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl

_COLUMNS = ("logratios", "logps", "tokens")
_INSIDE = 99  # per cent of the coordinates that a plane is drawn wide enough for


@dataclass(frozen=True, eq=False)
class Moves:
    """Where a run's pairs were: training pairs when a step met them, held-out ones measured again and again."""

    dots: np.ndarray  # of training pairs: rows of step, chosen, rejected
    paths: list[np.ndarray]  # of each held-out pair: such rows, steps ascending

    @property
    def last_step(self) -> int:
        """The last step of which anything is known."""
        return int(max(rows[:, 0].max(initial=1) for rows in (self.dots, *self.paths)))

    @property
    def coordinates(self) -> np.ndarray:
        """All of them, two columns."""
        return np.concatenate([self.dots, *self.paths])[:, 1:]

    def mean_path(self) -> np.ndarray | None:
        """Means over held-out pairs by step, of the steps at which all of them were measured."""
        if not self.paths:
            return None
        common = functools.reduce(np.intersect1d, (path[:, 0] for path in self.paths))
        kept = [path[np.isin(path[:, 0], common)] for path in self.paths]
        return np.mean(kept, axis=0) if len(common) > 1 else None

    def limits(self, kind: Kind, low: float, high: float) -> tuple[float, float]:
        """`low` and `high` of a plane that holds 99 of 100 coordinates, with round ends; as given without pairs."""
        values = self.coordinates.ravel()
        if not len(values):
            return low, high
        if kind == "means":
            return min(-1.0, float(math.floor(np.percentile(values, 100 - _INSIDE)))), 0.0
        middle = 0.0 if kind == "logratios" else float(np.median(values))
        reach = _round_up(max(1.0, 1.1 * float(np.percentile(np.abs(values - middle), _INSIDE))))
        return middle - reach, middle + reach


def _round_up(reach: float) -> float:
    power = 10.0 ** math.floor(math.log10(reach))
    return next(times * power for times in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if times * power >= reach)


@dataclass(frozen=True, eq=False)
class RunResponses:
    """responses.jsonl as it stands: a row is step, split, source row and, of each quantity, best and worst."""

    source: Path
    rows: list[dict[str, Any]]
    begins_at_reference: bool  # so that before training every log-ratio is 0

    def moves(self, kind: Kind) -> Moves:
        """The pairs in the coordinates of a plane.

        Raises:
            InputError: a plane of log-ratios, and the run measured none.
        """
        if kind == "logratios" and any("logratios" not in row for row in self.rows):
            raise InputError(
                f"{self.source} has no logratios, but the plane of an objective with a reference needs them. Name a "
                "run with metrics.reference on, or an objective without a reference."
            )
        train = [(row["step"], *_place(row, kind)) for row in self.rows if row["split"] == "train"]
        held_out: dict[Any, dict[int, tuple[float, float]]] = {}
        for row in self.rows:
            if row["split"] == "eval":
                path = held_out.setdefault(row["row"], {})
                if self.begins_at_reference and not path and "logratios" in row:
                    path[0] = _place(row, kind, start=True)
                path[row["step"]] = _place(row, kind)
        paths = [np.array([(step, *path[step]) for step in sorted(path)]) for path in held_out.values()]
        return Moves(np.array(train, dtype=np.float64).reshape(-1, 3), paths)


def _place(row: Mapping[str, Any], kind: Kind, *, start: bool = False) -> tuple[float, float]:
    """Where a row's pair is, or at the `start` was: with policy = reference, at logps − logratios."""

    def coordinate(end: int) -> float:
        if kind == "logratios":
            return 0.0 if start else row["logratios"][end]
        logp = row["logps"][end] - (row["logratios"][end] if start else 0.0)
        return logp / row["tokens"][end] if kind == "means" else logp

    return coordinate(0), coordinate(1)


def read_run_objective(run: Path) -> tuple[str, dict[str, Any]]:
    """Name and hyper-parameters of the objective that a run was trained with.

    Raises:
        InputError: config.yaml cannot be read or names no objective.
    """
    section = read_mapping(run / names.CONFIG).get("objective")
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        raise InputError(
            f"{run / names.CONFIG} has no objective.name, but --run needs one. Name a run folder that minordpo "
            "train wrote, or an objective with --objective."
        )
    return section["name"], {key: value for key, value in section.items() if key != "name"}


def read_run_responses(run: Path) -> RunResponses:
    """The pairs that a run trained on and measured; of more than two responses to a prompt the best and the worst.

    Raises:
        InputError: no responses.jsonl, a broken line, single responses, or nothing in it.
    """
    source = run / names.RESPONSES
    if not source.is_file():
        raise InputError(
            f"{run} has no responses.jsonl, but --run needs what training writes there. Name the output folder of a "
            "run."
        )
    rows = []
    for number, line in read_jsonl(source):
        rows += _rows_of(line, f"line {number} of {source}")
    if not rows:
        raise InputError(f"{source} is empty, but pairs of a run are needed. Name a run that has begun.")
    model = read_mapping(run / names.CONFIG).get("model") if (run / names.CONFIG).is_file() else None
    own_reference = not isinstance(model, dict) or model.get("reference") is None
    return RunResponses(source, rows, own_reference)


def _rows_of(line: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """A row for each prompt of a line, with the best and the worst response of each quantity."""
    columns = {name: line[name] for name in _COLUMNS if name in line}
    fault = next(_faults(line, columns), None)
    if fault is not None:
        repair = "" if "labelled" in fault else " Drop the line, or train the run again."
        raise InputError(f"{where} has {fault}.{repair}")
    return [
        {"step": line["step"], "split": line["split"], "row": each}
        | {name: (values[place][0], values[place][-1]) for name, values in columns.items()}
        for place, each in enumerate(line["rows"])
    ]


def _faults(line: Mapping[str, Any], columns: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a line and what is needed, in words; where it goes on, all before is right."""
    step, split, ids = line.get("step"), line.get("split"), line.get("rows")
    if not Range(0.0, kind=int).holds(step):
        yield f"step={step!r}, but a step from 0 is needed"
    if split not in ("train", "eval"):
        yield f"split={split!r}, but train or eval is needed"
    if not isinstance(ids, list) or not all(isinstance(each, int | str) for each in ids):
        yield "no list of rows, but the rows of the pairs are needed"
    for name in sorted({"logps", "tokens"} - columns.keys()):
        yield f"no {name}, but logps and tokens are needed"
    for name, column in columns.items():
        if not isinstance(column, list) or len(column) != len(ids or ()):
            yield f"{name} of another number of prompts than rows, but one each is needed"
        for values in column:
            if not isinstance(values, list) or not values or not all(map(Range().holds, values)):
                yield f"{name} that are not a list of finite numbers for each prompt, but these are needed"
            if len(values) == 1:
                yield (
                    "single, labelled responses, but the lens draws pairs. Name a run on pairs, or leave --run out to "
                    "see the objective alone"
                )
            if name == "tokens" and min(values) < 1:
                yield f"tokens={values}, but numbers from 1 are needed"
