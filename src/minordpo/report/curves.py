"""metrics.jsonl → what charts are drawn from: log-ratios, coefficients, looks at the text and health, by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minordpo.figures.training_curves import PANELS, SMOOTHED_ABOVE, smooth
from minordpo.run_folder.records import (
    ACCURACY,
    CHOSEN_COEFFICIENT,
    CHOSEN_LOGRATIO,
    CORRECT,
    DISTANCE,
    EMPTY,
    LOGPS,
    LOGRATIOS,
    LOOPING,
    REFERENCE_NLL,
    REJECTED_COEFFICIENT,
    REJECTED_LOGRATIO,
    REPEATED,
    STOPPED,
    TOKENS,
    EvaluationRow,
    HealthRow,
    ProbeRow,
    Row,
    StepRow,
    of_kind,
)

POINTS = 200  # of a curve; a chart is less than 200 points wide on most screens
LOOKS = {
    REPEATED: "4-grams that occurred before (share)",
    LOOPING: "answers that end in a loop (share)",
    STOPPED: "answers that end by themselves (share)",
    EMPTY: "answers without text (share)",
    CORRECT: "answers that are right (share)",
    DISTANCE: "distance from the answers at step 0 (0 to 1)",
    REFERENCE_NLL: "how unlikely the reference finds the answers (nats a token)",
    TOKENS: "length of the answers (tokens)",
}
_COEFFICIENTS = {"push_chosen": CHOSEN_COEFFICIENT, "push_rejected": REJECTED_COEFFICIENT}

Curve = dict[str, list[Any]]  # {"x": steps, "y": values}, as long as each other


def curves_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The curves of a run's rows; a name without any finite value has none.

    `kind` is "logratios", or "logps" of a run without a reference. `train` are the batches (of long runs the mean of
    `window` steps around each), `eval` the held-out examples, `looks` the monitor's measures; `health` tells from which
    step on it was called what.
    """
    steps, held_out = of_kind(rows, StepRow), of_kind(rows, EvaluationRow)
    names = {name for row in steps for name in row.values}
    kind = LOGRATIOS if {CHOSEN_LOGRATIO, REJECTED_LOGRATIO} & names else LOGPS
    wanted = {panel: f"{kind}/{panel}" for panel in PANELS}
    window, probes = window_of(len(steps)), of_kind(rows, ProbeRow)
    train = {name: _smoothed(_curve(steps, key), window) for name, key in wanted.items()}
    train |= {name: _averaged(_curve(steps, key), window) for name, key in _COEFFICIENTS.items()}
    evaluated = {name: _curve(held_out, key) for name, key in {**wanted, **_COEFFICIENTS}.items()}
    evaluated["ranked"] = _curve(held_out, ACCURACY)
    if kind == LOGPS:
        train["margin"], evaluated["margin"] = (_difference(each) for each in (train, evaluated))
    return {
        "kind": kind,
        "window": window,
        "last_step": max((row.step for row in rows), default=0),
        "train": {name: thin(curve) for name, curve in train.items() if curve["x"]},
        "eval": {name: thin(curve) for name, curve in evaluated.items() if curve["x"]},
        "looks": {name: thin(curve) for name in LOOKS if (curve := _curve(probes, name))["x"]},
        "health": [[row.step, row.health] for row in of_kind(rows, HealthRow)],
    }


def window_of(steps: int) -> int:
    """Steps that a smoothed point is the mean of, as in a run's own figure; 1 where a run is short."""
    return 1 if steps <= SMOOTHED_ABOVE else 2 * max(2, steps // 40) + 1


def _curve(rows: Sequence[Row], name: str) -> Curve:
    """The finite values; a row without one, or with a NaN, is a gap. Of a step measured twice the last counts."""
    points = {row.step: value for row in rows if (value := row.number(name)) is not None}
    return {"x": sorted(points), "y": [points[step] for step in sorted(points)]}


def _smoothed(curve: Curve, window: int) -> Curve:
    if window == 1 or len(curve["x"]) < window:
        return curve
    return {"x": curve["x"], "y": smooth(np.array(curve["y"]), window).tolist()}


def _averaged(curve: Curve, window: int) -> Curve:
    """Means of what there is of the window; of what is never below 0, a line fitted to an end could be."""
    values = np.array(curve["y"])
    if window == 1 or len(values) < window:
        return curve
    ones = np.ones(window)
    means = np.convolve(values, ones, mode="same") / np.convolve(np.ones(len(values)), ones, mode="same")
    return {"x": curve["x"], "y": means.tolist()}


def _difference(curves: Mapping[str, Curve]) -> Curve:
    chosen, rejected = (dict(zip(*curves[name].values(), strict=True)) for name in ("chosen", "rejected"))
    both = sorted(chosen.keys() & rejected.keys())
    return {"x": both, "y": [chosen[step] - rejected[step] for step in both]}


def thin(curve: Curve, points: int = POINTS) -> Curve:
    """At most so many of its points, evenly taken, both ends among them; five digits of each."""
    count = len(curve["x"])
    places = np.unique(np.linspace(0, count - 1, min(count, points)).round().astype(int)).tolist()
    return {
        "x": [curve["x"][place] for place in places],
        "y": [float(f"{curve['y'][place]:.5g}") for place in places],
    }
