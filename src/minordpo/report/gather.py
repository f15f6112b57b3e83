"""Run folders → one dict of plain values that page and figures are drawn from. Only files are read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from minordpo.report.answers import gather_answers
from minordpo.report.curves import POINTS, WORDS, curves_of, thin
from minordpo.report.evaluations import VERIFIED, gather_evaluations, refuse_shared
from minordpo.report.find import Found, FoundRun
from minordpo.report.groups import DASHES, RunSetting, group_runs
from minordpo.report.pairs import gather_pairs, read_pairs
from minordpo.run_folder import names
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.sweep.results import HEALTHS, in_our_form, run_row
from minordpo.version import __version__

# The coefficient of these on the chosen response is β σ(−β margin), each of its own margin (of dpop times 1 + λ where
# the chosen response is below the reference).
_MARGINS: dict[str, str] = WORDS["margins"]
_REACH = 60.0  # nats that Figure 1 goes each way, if no run went further

# Their heads, units and how they are written, in the table's order.
COLUMNS: dict[str, list[str]] = WORDS["columns"]
_INTERVALS = ("strict_accuracy", "flexible_accuracy", "retention_accuracy", *VERIFIED)


def gather(found: Found) -> dict[str, Any]:
    """What the report shows, as plain values that JSON holds; raise InputError if a file of a run cannot be read."""
    rows, curves, pairs = [], [], []
    for run in found.runs:
        refuse_shared(run.folder)
        with in_our_form(run.folder):
            rows.append(run_row(run.folder))
            curves.append(curves_of(MetricsFile(run.folder / names.METRICS).rows()))
            pairs.append(read_pairs(run.folder))
    settings = [RunSetting(r.get("objective_name", ""), r.get("beta"), r["learning_rate"]) for r in rows]
    groups, numbers = group_runs(found.runs, settings)
    runs = [_run(*each) for each in zip(found.runs, rows, curves, settings, numbers, strict=True)]
    evaluations = gather_evaluations(found, runs)
    answers, said = gather_answers(found)
    shown = [name for name in COLUMNS if any(run["cells"].get(name) is not None for run in runs)]
    if any(len(curve["x"]) >= POINTS for run in runs for curve in run["curves"]["train"].values()):
        said.append(f"Curves are thinned to {POINTS} points.")
    probed = {name for run in runs for name in run["curves"]["looks"]}
    said += unread_lines(found.runs)
    return {
        "minordpo": __version__,
        "title": _title(found),
        "runs": runs,
        "groups": [{**asdict(each), "dash": DASHES[each.dash]} for each in groups],
        "columns": [[name, *COLUMNS[name]] for name in shown],
        "healths": list(HEALTHS),
        "looks": {name: text for name, text in WORDS["probes"].items() if name in probed},
        "coefficients": _coefficients(runs),
        "evaluations": evaluations,
        "answers": answers,
        "pairs": gather_pairs(pairs),
        "said": said,
    }


def unread_lines(runs: Sequence[FoundRun]) -> list[str]:
    """What of their rows no run read, each said once with the runs that it is of."""
    of_runs: dict[str, list[str]] = {}
    for run in runs:
        file = run.folder / names.DATA_REPORT
        with in_our_form(run.folder):
            told = json.loads(file.read_text(encoding="utf-8"))["unread"] if file.exists() else []
            lines = [f"{each['what']} of {each['source']} ({each['rows']} rows)" for each in told]
        for line in lines:
            of_runs.setdefault(line, []).append(run.label)
    return [
        f"Not read by {'any run' if len(labels) == len(runs) > 1 else ', '.join(labels)}: {line}."
        for line, labels in of_runs.items()
    ]


def _title(found: Found) -> str:
    if len(found.runs) == 1:
        return found.runs[0].label
    parents = {run.folder.resolve().parent for run in found.runs}
    where = f" in {parents.pop().name}" if len(parents) == 1 else ""
    return f"{len(found.runs)} runs{where}"


def _run(
    run: FoundRun, row: dict[str, Any], curves: dict[str, Any], setting: RunSetting, group: int
) -> dict[str, Any]:
    ends = [f"{name}{end}" for name in _INTERVALS for end in ("_low", "_high")]
    ends += ["kl_per_sequence_error", "kl_per_token_error"]
    found = {name: row.get(name) for name in (*COLUMNS, *ends)}
    cells = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in found.items()}
    if "monitor" not in run.config:  # older than the monitor, so that nothing watched it
        cells |= {"health": None, "worst_health": None}
    cells |= {"run": run.label, "beta": setting.beta, "learning_rate": setting.rate}
    cells["objective"] = setting.objective or None
    return {
        "label": run.label,
        "group": group,
        "status": row["status"],
        "error": row["error"],
        "objective": setting.objective,
        "settings": row["objective"],
        "beta": setting.beta,
        "rate": setting.rate,
        "seed": row["seed"],
        "cells": cells,
        "curves": curves,
    }


def _coefficients(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """f(β, margin) = β σ(−β margin) of every β that a run of those objectives has; nothing where there is none."""
    ours = [run for run in runs if run["objective"] in _MARGINS and run["beta"]]
    held_out = [curves["margin"] for run in ours if "margin" in (curves := run["curves"]["eval"])]
    reach = max([_REACH, *(1.1 * abs(margin["y"][-1]) for margin in held_out)])
    margins = np.linspace(-reach, reach, 121)
    curves = []
    for beta in sorted({run["beta"] for run in ours}):
        # σ(−x) as (1 − tanh(x/2)) / 2, which does not overflow.
        push = (beta * 0.5 * (1 - np.tanh(beta * margins / 2))).tolist()
        curves.append({"beta": beta, **thin({"x": [round(float(m), 3) for m in margins], "y": push})})
    named = {run["objective"] for run in ours}
    return {"curves": curves, "margins": {name: text for name, text in _MARGINS.items() if name in named}}
