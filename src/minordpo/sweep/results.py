"""Run folder → one flat row, whatever there is of the run; rows → results.csv and a table.

Only files are read, so rows come from any run folder: of a sweep, of `minordpo train`, from another machine.
Held-out measures and looks keep their names in metrics.jsonl (`eval_*`, `probe/*`).
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import math
import statistics
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minordpo import objectives
from minordpo.config.yaml import parse_yaml
from minordpo.errors import InputError
from minordpo.evaluate.statistics import wilson
from minordpo.evaluate.tables import aligned
from minordpo.monitor.health import Health
from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl, readable, written_whole
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.ownership import finished
from minordpo.run_folder.records import (
    EvaluationRow,
    HealthRow,
    ProbeRow,
    RollbackRow,
    Row,
    StepRow,
    last_of,
    of_kind,
)

HEALTHS: tuple[str, ...] = typing.get_args(Health)  # from the best to the worst
_DEFAULT_SEED = 42  # transformers' own

# `objective` has all its hyper-parameters; health is that at the end and of the whole run, and the first step of each.
_HEAD = ("run", "status", "error", "objective", "learning_rate", "seed")
_HEALTH = ("health", "worst_health", *(f"{name}_step" for name in HEALTHS[1:]), "rolled_back_to")
INTERVAL = ("", "_low", "_high")
_KL = ("per_token", "per_token_error", "per_sequence", "per_sequence_error", "cut")
SHARES = ("flexible_accuracy", "strict_accuracy", "asked_format", "looping", "stopped", "empty")  # of answers
_EVALUATED = (
    "questions",
    *(f"{name}{end}" for name in ("strict_accuracy", "flexible_accuracy") for end in INTERVAL),
    *("asked_format", "repeated_4grams", "looping", "stopped", "empty", "mean_tokens"),
    *(f"kl_{name}" for name in _KL),
    *("retention_questions", *(f"retention_accuracy{end}" for end in INTERVAL)),
)
_COST = (
    *("steps", "tokens", "median_step_seconds", "training_seconds", "total_seconds"),
    *("peak_gpu_bytes", "peak_resident_bytes", "machine", "minordpo", "torch", "model", "data"),
)
COLUMNS = (*_HEAD, *_HEALTH, *_EVALUATED, *_COST)


def run_row(folder: Path) -> dict[str, Any]:
    """What a run was and what came out of it: every name of `COLUMNS`, None where it is not known, `eval_*` of the last
    measurement on held-out examples and `probe/*` of the last look, where there are any, and of a run that has begun
    `objective_name` and `beta`.

    Raises:
        InputError: the folder holds no run, or a file in it cannot be read.
    """
    with in_our_form(folder):
        return _row(folder)


def in_our_form(folder: Path) -> contextlib.AbstractContextManager[None]:
    """`readable`, for the files of a run."""
    form = "has a file in another form than minordpo writes"
    return readable(folder, "Put it back from a copy, or leave this run out", otherwise=form)


def _row(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row["run"], row["status"] = folder.name, "finished" if finished(folder) else "unfinished"
    failed = folder / names.FAILED
    if failed.exists():
        row |= {"status": "failed", "error": " ".join(failed.read_text(encoding="utf-8").split())}
    elif not (folder / names.CONFIG).is_file():
        raise InputError(f"{folder} holds no run (there is no config.yaml). Name a run folder")
    config = _config(folder / names.CONFIG)
    metrics = MetricsFile(folder / names.METRICS).rows()
    row |= _settings(config) | _measured(metrics)
    if (answered := folder / names.EVALUATION / names.RESULTS).exists():
        (model,) = _json(answered)["models"].values()
        row |= answers_row(model)
    if metrics and config.get("monitor", {}).get("enabled", True):
        row |= _health(metrics)
    row |= _retained(folder / names.RETENTION)
    facts = _json(folder / names.ENVIRONMENT)
    if row["status"] == "finished" and facts:
        held_out = bool(facts.get("held_out_pairs"))
        _refuse_cut(folder / names.METRICS, metrics, config, held_out=held_out)
    if facts:
        row["machine"] = f"{facts['processor']}, {facts['threads']} threads"
        row |= {name: facts[name] for name in ("minordpo", "torch")}
    cost = _json(folder / names.COST)
    if any(isinstance(value, bool) or not isinstance(value, int | float | None) for value in cost.values()):
        raise ValueError(f"{names.COST} has something else than numbers")
    own = {"total_seconds": "seconds"} | {name: name for name in ("peak_gpu_bytes", "peak_resident_bytes")}
    return row | {name: cost.get(key) for name, key in own.items()}


def _refuse_cut(file: Path, metrics: Sequence[Row], config: Mapping[str, Any], *, held_out: bool) -> None:
    """Nothing, where a finished run's rows are whole: every step's, and a last measurement if examples are held out."""
    steps = [row.step for row in of_kind(metrics, StepRow)]
    since = itertools.takewhile(lambda row: not isinstance(row, StepRow), reversed(metrics))
    missing = next((step for step, found in enumerate(steps, start=1) if found != step), None)
    wanted = (config.get("training") or {}).get("max_steps") or 0
    warned = (config.get("monitor") or {}).get("on_collapse", "warn") == "warn"  # and nothing stopped it
    if missing is not None:
        what = f"has no row of step {missing}"
    elif len(steps) < wanted and warned:
        what = f"ends at step {len(steps)} of {wanted}"
    elif held_out and not of_kind(since, EvaluationRow):
        what = f"ends at step {len(steps)} without the last measurement on held-out examples"
    else:
        return
    raise InputError(
        f"{file} is cut short: the run ended, and the file {what}. Put it back from a copy, or leave this run out"
    )


def known_cost(folder: Path) -> dict[str, Any]:
    """What starts of a run took; nothing where that is lost, which is no reason for the run to fail."""
    try:
        return _json(folder / names.COST)
    except InputError:
        return {}


def _config(file: Path) -> dict[str, Any]:
    """The sections as they stand; a run that failed before it began has none."""
    if not file.is_file():
        return {}
    config = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    if not config:
        raise InputError(f"{file} is empty. Put it back from a copy, or leave this run out")
    return config


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    if not config:
        return {}
    hyper, training = dict(config["objective"]), config.get("training") or {}
    name = str(hyper.pop("name"))
    objective = objectives.recorded(name, hyper)
    return {
        "objective": str(objective),
        "objective_name": name,
        "beta": objective.beta if any("beta" in term.hyper for term in objective.terms) else None,
        "learning_rate": training.get("learning_rate", 5e-5),
        "seed": training.get("seed", _DEFAULT_SEED),
        "model": config["model"]["path"],
        "data": _data_name(config["data"]["train"]),
    }


def _data_name(train: Any) -> str:
    """What a run trains on, in words: its source or its sources."""
    if not isinstance(train, list):
        return str(train)
    return ", ".join(str(each["path"] if isinstance(each, dict) else each) for each in train)


def _measured(metrics: Sequence[Row]) -> dict[str, Any]:
    """Counts and times of the steps, and the last row of held-out examples and of a look."""
    steps = of_kind(metrics, StepRow)
    found: dict[str, Any] = {}
    if steps:
        # A pause of the machine is no step, so the middle one.
        found = {
            "steps": steps[-1].step,
            "tokens": sum(row.tokens for row in steps),
            "median_step_seconds": statistics.median(row.seconds for row in steps),
            "training_seconds": sum(row.seconds for row in steps),
        }
    for last in (last_of(metrics, EvaluationRow), last_of(metrics, ProbeRow)):
        found |= {} if last is None else {name: float(value) for name, value in last.named().items()}
    return found


def _health(metrics: Sequence[Row]) -> dict[str, Any]:
    """What the monitor said while the run went."""
    changes = of_kind(metrics, HealthRow)
    healths = [HEALTHS[0], *(row.health for row in changes)]
    found: dict[str, Any] = {"health": healths[-1], "worst_health": max(healths, key=HEALTHS.index)}
    for row in reversed(changes):  # the first of each stays
        if row.health != HEALTHS[0]:
            found[f"{row.health}_step"] = row.step
    back = last_of(metrics, RollbackRow)
    return found if back is None else found | {"rolled_back_to": back.to}


def answers_row(model: Mapping[str, Any]) -> dict[str, Any]:
    """Of a model in an evaluation's results.json the measures under their names in `COLUMNS`, each share with its
    interval; without those that are read from numbers, where the right answers are none."""
    kl = (model.get("samples") or {}).get("kl") or {}
    found = {
        "questions": model["stopped"]["of"],
        "repeated_4grams": model["repeated_4grams"],
        "mean_tokens": float(model["tokens"]["mean"]),
        **{f"kl_{name}": kl.get(name) for name in _KL},
    }
    for name in SHARES:
        if name in model:
            found |= _with_interval(name, model[name])
    return found


def _retained(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    right = [row["right"] for _, row in read_jsonl(file)]
    low, high = wilson(sum(right), len(right))
    share = {"share": sum(right) / len(right), "low": low, "high": high}
    return {"retention_questions": len(right), **_with_interval("retention_accuracy", share)}


def _with_interval(name: str, share: Mapping[str, Any]) -> dict[str, float]:
    return {f"{name}{end}": share[key] for end, key in zip(INTERVAL, ("share", "low", "high"), strict=True)}


def _json(file: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file."""
    if not file.exists():
        return {}
    with readable(file, "Delete it, or put back what it was"):
        return dict(json.loads(file.read_text(encoding="utf-8")))


# ---- files ----
def write_results(folder: Path, rows: Sequence[Mapping[str, Any]], settings: Sequence[str] = ()) -> None:
    """Write results.csv, a row each, either whole or as it was.

    `settings` are columns of the rows beside those of `run_row`, which follow the run's name, status and objective.

    Raises:
        InputError: it cannot be written.
    """
    prefixes = (EvaluationRow.PREFIX, ProbeRow.PREFIX)
    measured = [name for row in rows for name in row if name.startswith(prefixes)]
    columns = dict.fromkeys([*_HEAD, *settings, *_HEALTH, *measured, *_EVALUATED, *_COST])
    with (
        written_whole(folder / names.RESULTS_CSV) as aside,
        aside.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_as_text(row.get(name)) for name in columns] for row in rows)


def _as_text(value: Any) -> Any:
    """What is no text or number as JSON; the csv module writes the others, and leaves None out."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, bool | list | dict) else value


# ---- for a terminal ----
# Column → its head, and how its values are written.
_SHOWN: dict[str, list[str]] = json.loads(Path(__file__).with_name("table.json").read_text(encoding="utf-8"))


def results_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows' main columns, aligned, and below them each failure in a line; columns without values are left out."""
    shown = [name for name in _SHOWN if any(row.get(name) is not None for row in rows)]
    lines = [[_SHOWN[name][0] for name in shown], *([_short(row, name) for name in shown] for row in rows)]
    table = [aligned(lines)]
    for status, said in (("failed", "failed"), ("unreadable", "cannot be read")):
        table += [f"{row['run']} {said}: {row['error']}" for row in rows if row["status"] == status]
    return "\n".join(table)


def _short(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if name == "health" and row["status"] != "finished":
        return str(row["status"])
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "" if value is None else "nan"
    text = _SHOWN[name][1].format(value)
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return text if low is None or high is None else f"{text} [{100 * low:.0f}, {100 * high:.0f}]"
