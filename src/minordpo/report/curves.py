"""metrics.jsonl → what charts are drawn from: log-ratios, coefficients, probes of the text and health, by step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minordpo.figures.training_curves import Curve, curve_of, kind_of, panel_curves, smoothed, window_of
from minordpo.run_folder import records
from minordpo.run_folder.records import EvaluationRow, HealthRow, ProbeRow, Row, StepRow, of_kind

POINTS = 200  # of a curve; a chart is less than 200 points wide on most screens
# What the page calls columns of its table, measures of the monitor's probes, and sources of answers.
WORDS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("words.json").read_text("utf-8"))
_COEFFICIENTS = {"push_chosen": records.CHOSEN_COEFFICIENT, "push_rejected": records.REJECTED_COEFFICIENT}


def curves_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The curves of a run's rows; a name without any finite value has none.

    `kind` is "logratios", or "logps" of a run without a reference. `train` are the batches (of long runs the mean of
    `window` steps around each), `eval` the held-out examples, `looks` the monitor's probes; `health` tells from which
    step on it was called what.
    """
    steps, held_out, probes = (of_kind(rows, kind) for kind in (StepRow, EvaluationRow, ProbeRow))
    kind, window = kind_of(rows), window_of(len(steps))
    train = panel_curves(steps, kind, window=window)
    for name, key in _COEFFICIENTS.items():
        train[name] = smoothed(curve_of(steps, key), window)
    evaluated = panel_curves(held_out, kind)
    for name, key in {**_COEFFICIENTS, "ranked": records.ACCURACY}.items():
        evaluated[name] = curve_of(held_out, key)
    return {
        "kind": kind,
        "window": window,
        "last_step": max((row.step for row in rows), default=0),
        "train": _thinned(train),
        "eval": _thinned(evaluated),
        "looks": _thinned({name: curve_of(probes, name) for name in WORDS["probes"]}),
        "health": [[row.step, row.health] for row in of_kind(rows, HealthRow)],
    }


def _thinned(curves: dict[str, Curve]) -> dict[str, Curve]:
    return {name: thin(curve) for name, curve in curves.items() if curve["x"]}


def thin(curve: Curve) -> Curve:
    """At most `POINTS` of its points; five digits of each."""
    places = evenly(len(curve["x"]), POINTS)
    return {"x": [curve["x"][at] for at in places], "y": [float(f"{curve['y'][at]:.5g}") for at in places]}


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, evenly taken, both ends among them."""
    return list(np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist())
