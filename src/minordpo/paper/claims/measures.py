"""Files of a run → the measures that claims are decided by, by name; measures.yaml says what each is."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minordpo.report.curves import evenly
from minordpo.report.evaluations import how_asked, model_named, own_first, owned, read_results
from minordpo.report.find import Found
from minordpo.run_folder import names, records
from minordpo.run_folder.records import is_number

# Where the text of a run is called broken: rises over step 0, over ALL its prompts, of shares and of nats a token under
# the reference; the latter also beyond the data's chosen answers. Set before any run was made.
BROKEN = {records.LOOPING: 0.25, records.REPEATED: 0.2, records.EMPTY: 0.25, records.REFERENCE_NLL: 0.6}
_SURPRISE = {records.REFERENCE_NLL, records.CHOSEN_NLL}
SIDES = ("chosen", "rejected", "margin")
FIFTH, FEWEST = 5, 10  # a part of the steps, and how many there must be for early and late to differ
_CHECKED = 32  # steps of responses.jsonl whose coefficients are compared with the formula
Answers = tuple[str, Any]  # the questions' name, and what a model came to


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers."""
    return {name: float(value) for name, value in values.items() if is_number(value)}


def is_broken(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a text is broken that was not before training; measures that one of both lacks say nothing."""
    known = {name for name in BROKEN if before.get(name) is not None and now.get(name) is not None}
    taught, unlikely = before.get(records.CHOSEN_NLL), now.get(records.REFERENCE_NLL)
    if taught is not None and unlikely is not None and unlikely <= taught:
        known.discard(records.REFERENCE_NLL)  # a new style, no less likely than what is taught
    return any(now[name] - before[name] >= BROKEN[name] for name in known)


def trained(rows: Sequence[records.StepRow]) -> dict[str, float]:
    """Of the steps' own batches: log-ratios of the last fifth, and the margin early and late."""
    found: dict[str, float] = {}
    for name in SIDES:
        key = f"{records.LOGRATIOS}/{name}"
        values = [row.values[key] for row in rows if key in row.values]
        if not values or not all(map(is_number, values)):
            continue
        part = max(1, len(values) // FIFTH)
        found[name] = statistics.fmean(values[-part:])
        if name == "margin" and len(values) >= FEWEST:
            found |= {"early_margin": statistics.fmean(values[:part]), "late_margin": found[name]}
    return found


def held_out_pairs(row: Mapping[str, Any]) -> dict[str, float]:
    """Of a run's row in results: the last measurement of held-out pairs."""
    keys = {name: f"{records.LOGRATIOS}/{name}" for name in SIDES} | {"ranked": records.ACCURACY}
    return finite({name: row.get(records.held_out(key)) for name, key in keys.items()})


def probed(metrics: Sequence[records.Row], steps: int) -> dict[str, float]:
    """Of the monitor's probes of the text; none without the one at step 0 and another."""
    seen = {
        row.step: finite({name: row.values.get(name) for name in (*BROKEN, records.CHOSEN_NLL)})
        for row in records.of_kind(metrics, records.ProbeRow)
    }
    if 0 not in seen or len(seen) < 2:
        return {}
    first, last = seen[0], seen[max(seen)]
    found = {"broken": float(is_broken(first, last))}
    if records.REFERENCE_NLL in first and records.REFERENCE_NLL in last:
        likely = ({name: probe[name] for name in probe.keys() & _SURPRISE} for probe in (first, last))
        found["garbled"] = float(is_broken(*likely))
    halfway = max((step for step in seen if 0 < step <= steps / 2), default=max(seen))
    if halfway < max(seen):
        found |= {"broken_at_half": float(is_broken(first, seen[halfway])), "broken_at_end": found["broken"]}
    if records.REPEATED in first and records.REPEATED in last:
        found["repeated"] = last[records.REPEATED] - first[records.REPEATED]
    return found


def answered(model: Mapping[str, Any], base: Mapping[str, Any] | None) -> dict[str, float]:
    """Of a model in results.json of an evaluation, and the untuned model there that answered the same questions."""
    found: dict[str, Any] = {
        "accuracy": model["flexible_accuracy"]["share"],
        "strict_accuracy": model["strict_accuracy"]["share"],
        "kl": ((model.get("samples") or {}).get("kl") or {}).get("per_token"),
    }
    if base is not None:
        ours, theirs = _text(model), _text(base)
        found |= {
            "base_accuracy": base["flexible_accuracy"]["share"],
            "base_strict_accuracy": base["strict_accuracy"]["share"],
            "broken": float(is_broken(theirs, ours)),
            "repeated": ours["repeated_4grams"] - theirs["repeated_4grams"],
        }
    return finite(found)


def _text(model: Mapping[str, Any]) -> dict[str, float]:
    shares = {name: model[name]["share"] for name in ("looping", "empty")}
    return {**shares, "repeated_4grams": model["repeated_4grams"]}


def evaluated_answers(found: Found) -> list[tuple[dict[str, float], str]]:
    """Of each run its measures and what they are of; of more evaluations than one, of that on other questions than
    those named validation, the first by name.
    """
    of_runs: list[dict[str, Answers]] = [{} for _ in found.runs]  # by what was asked
    of_bases: dict[tuple[str, str], Any] = {}
    for folder in own_first(found):
        results = read_results(folder)
        settings = results["settings"]
        asked = json.dumps([settings["questions_digest"], *how_asked(settings)])
        for owner, model in owned(found, folder, results):
            if "flexible_accuracy" not in model:  # of questions without right numbers no claim is decided
                continue
            if owner.run is None:
                of_bases.setdefault((str(model_named(str(model["path"]))), asked), model)
                continue
            name, first = of_runs[owner.run].setdefault(asked, (str(settings["questions"]), model))
            if not first.get("samples") and model.get("samples"):  # the same answers, and more of them
                of_runs[owner.run][asked] = name, {**first, "samples": model["samples"]}
    bases = [str(model_named(str((run.config.get("model") or {}).get("path")))) for run in found.runs]
    return [_measured(own, base, of_bases) for own, base in zip(of_runs, bases, strict=True)]


def _measured(
    own: dict[str, Answers], base: str, of_bases: dict[tuple[str, str], Any]
) -> tuple[dict[str, float], str]:
    ordered = sorted(own, key=lambda asked: ("validation" in own[asked][0], own[asked][0], asked))
    if not ordered:
        return {}, ""
    first, *others = ordered
    found = answered(own[first][1], of_bases.get((base, first)))
    validation = next((asked for asked in others if "validation" in own[asked][0]), None)
    if validation is not None and "validation" not in own[first][0]:
        found |= {"validation_accuracy": own[validation][1]["flexible_accuracy"]["share"]}
    return found, first


def formula(beta: float, margin: float) -> float:
    """f(β, margin) = β σ(−β margin), the paper's coefficient."""
    # Of both signs the form that neither overflows nor cancels.
    decay = math.exp(-abs(beta * margin))
    return beta * (decay if margin > 0 else 1.0) / (1 + decay)


def pushes(
    folder: Path, objective: str, beta: float | None, rows: Sequence[records.StepRow]
) -> dict[str, float]:
    """`push_error`: the largest relative difference between the coefficient on the chosen response that a step logged
    and β σ(−β margin) of the pairs it met, MinorDPO's margin being chosen − max(0, rejected). `push_raise`, of
    MinorDPO: by how much of β it is above DPO's, mean over pairs whose rejected log-ratio is 0 or below.
    """
    file = folder / names.RESPONSES
    if objective not in ("dpo", "minordpo") or beta is None or not file.exists():
        return {}
    logged = {row.step: row.values.get(records.CHOSEN_COEFFICIENT) for row in rows}
    errors, raised = [], []
    for row in _spread(file.read_text(encoding="utf-8").splitlines()):
        ratios = row.get("logratios") or []
        if row.get("split") != "train" or not ratios or any(len(each) != 2 for each in ratios):
            continue
        if not all(is_number(ratio) for each in ratios for ratio in each):
            continue  # as of a step whose loss was none
        minor = objective == "minordpo"
        ours = [formula(beta, c - (max(0.0, r) if minor else r)) for c, r in ratios]
        coefficient = logged.get(row["step"])
        if is_number(coefficient) and coefficient:
            errors.append(abs(statistics.fmean(ours) / -float(coefficient) - 1))
        if minor:
            raised += [
                (o - formula(beta, c - r)) / beta for o, (c, r) in zip(ours, ratios, strict=True) if r <= 0
            ]
    found = {"push_error": max(errors)} if errors else {}
    return found | ({"push_raise": statistics.fmean(raised)} if raised else {})


def _spread(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Lines evenly taken, parsed; the last one may have been cut short by a kill."""
    found = []
    for place in evenly(len(lines), _CHECKED):
        with contextlib.suppress(ValueError):
            found.append(dict(json.loads(lines[place])))
    return found
