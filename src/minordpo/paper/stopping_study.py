"""When was a run trained enough? Signals on held-out pairs, told against the accuracy it went on to gain.

A rule is a signal and a level; it stops a run at the first held-out measurement that reaches the level. All signals are
free of β, so one level can serve objectives and settings that it was not chosen on. Stopping at a fixed share of the
steps is the rule to beat. What is lost is the accuracy of the run's last probe less that of its probe at the stop, both
of the same prompts; the learning rate at the stop is still what the whole run's schedule says.
"""

from __future__ import annotations

import functools
import itertools
import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minordpo.config import load_config
from minordpo.errors import InputError
from minordpo.generate.text_measures import means
from minordpo.objectives import recorded
from minordpo.run_folder import names, records
from minordpo.run_folder.files import read_jsonl
from minordpo.run_folder.metrics_file import MetricsFile


@dataclass(frozen=True, eq=False)
class StudiedRun:
    """The rows of metrics.jsonl without probes, and the probes prompt by prompt."""

    name: str
    setting: str  # what it shares with the runs that differ in their seed alone
    rows: list[records.StepRow]
    probes: dict[int, list[dict[str, Any]]]  # step → an answer's measures each
    held_out: list[records.EvaluationRow] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return max(row.step for row in self.rows)

    def probe(self, step: int, prompts: int | None = None) -> dict[str, float]:
        """Means over the first prompts of one probe; over all of them without a number."""
        return means(self.probes[step][:prompts])

    @functools.cached_property
    def correct(self) -> dict[int, float]:
        """Step → share of right answers, where answers can be checked."""
        shares = {step: self.probe(step).get(records.CORRECT) for step in self.probes}
        return {step: share for step, share in shares.items() if share is not None}

    def lost(self, step: int) -> float:
        """The accuracy at the end less that at the last probe up to this step."""
        known = max(each for each in self.correct if each <= step)
        return self.correct[max(self.correct)] - self.correct[known]


def read_run(folder: Path) -> StudiedRun:
    """A run folder as studies see it; runs that differ in their seed alone share the setting.

    Raises:
        InputError: the folder has no probes.
    """
    file = folder / names.PROBES
    if not file.exists():
        raise InputError(f"{folder} has no probes.jsonl. Only runs with monitor.enabled=true can be studied")
    config = load_config(folder / names.CONFIG, [])
    objective = recorded(config.objective.name, config.objective.hyper)
    rate = float(config.training.arguments["learning_rate"])
    rows = MetricsFile(folder / names.METRICS).rows()
    probes: dict[int, list[dict[str, Any]]] = {}
    for _, row in read_jsonl(file):
        probes.setdefault(int(row["step"]), []).append(dict(row["measures"]))
    steps, held_out = records.of_kind(rows, records.StepRow), records.of_kind(rows, records.EvaluationRow)
    return StudiedRun(folder.name, f"{objective}, rate {rate:g}", steps, probes, held_out)


def by_setting(runs: Sequence[StudiedRun]) -> dict[str, list[StudiedRun]]:
    """The runs of each setting, sorted by its name."""
    settings = sorted({run.setting for run in runs})
    return {name: [run for run in runs if run.setting == name] for name in settings}


def is_stoppable(run: StudiedRun) -> bool:
    """Whether its accuracy and held-out measures are known step by step."""
    wanted = {measure for measure, _, _ in SIGNALS.values()}
    measured = all(wanted <= row.values.keys() for row in run.held_out)
    return measured and len(run.held_out) > 1 and len(run.correct) > 1


# ---- signals: a held-out measure so far → a number that grows as training suffices ----
_last = operator.itemgetter(-1)


def _flat(values: Sequence[float]) -> float:
    """1 where the measure no longer changes, 0 where it changes as fast as it ever did."""
    moves = [abs(after - before) for before, after in itertools.pairwise(values)]
    if len(moves) < 3:
        return 0.0
    recent = statistics.fmean(moves[-2:])
    return 1 - recent / max(moves) if max(moves) > 0 else 0.0


_NATS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0)
_RANKED = (0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0)
_BELOW = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
_FLATNESS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# Its measure, what is made of it, and the levels at which a run may be stopped.
SIGNALS: dict[str, tuple[str, Callable[[Sequence[float]], float], tuple[float, ...]]] = {
    "pairs ranked right": (records.ACCURACY, _last, _RANKED),
    "margin in nats": (records.LOGRATIO_MARGIN, _last, _NATS),
    "rejected at or below the reference": (records.REJECTED_AT_OR_BELOW, _last, _BELOW),
    "chosen log-ratio is flat": (records.CHOSEN_LOGRATIO, _flat, _FLATNESS),
    "margin is flat": (records.LOGRATIO_MARGIN, _flat, _FLATNESS),
}
FIXED = "a fixed share of the steps"
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def stops_at(run: StudiedRun, signal: str, level: float) -> int:
    """The step at which the rule stops the run; its last one where the level is never reached."""
    measured = [row for row in run.held_out if row.step > 0]
    if signal == FIXED:
        return next((row.step for row in measured if row.step >= level * run.steps), run.steps)
    measure, rule, _ = SIGNALS[signal]
    values: list[float] = []
    for row in measured:
        values.append(float(row.values[measure]))
        if rule(values) >= level:
            return row.step
    return run.steps


@dataclass(frozen=True)
class Worth:
    """What a rule saved and lost, on average over settings that its level was not chosen on."""

    saved: float  # share of the steps
    saved_error: float
    lost: float  # accuracy, as a share; below 0 is a gain
    lost_error: float
    levels: tuple[float, ...]  # chosen, one a setting left out


def worth(runs: Sequence[StudiedRun], signal: str, *, tolerance: float = 0.01) -> Worth:
    """Leave one setting out, choose the level on the others, stop the runs that were left out.

    Chosen is the level that saves most while the others lose no more than `tolerance` on average; where each loses
    more, the one that loses least.
    """
    groups, tried = by_setting(runs).values(), FRACTIONS if signal == FIXED else SIGNALS[signal][2]
    each = {
        level: [_mean([_stopped(run, signal, level) for run in own]) for own in groups] for level in tried
    }
    levels = []
    for place in range(len(groups)):
        others = {level: _mean(own[:place] + own[place + 1 :]) for level, own in each.items()}
        allowed = [level for level, (_, lost) in others.items() if lost <= tolerance]
        most = max(allowed, key=lambda level: (others[level][0], -others[level][1]), default=None)
        levels.append(min(others, key=lambda level: others[level][1]) if most is None else most)
    saved, lost = zip(*(each[level][place] for place, level in enumerate(levels)), strict=True)
    return Worth(statistics.fmean(saved), _error(saved), statistics.fmean(lost), _error(lost), tuple(levels))


def _stopped(run: StudiedRun, signal: str, level: float) -> tuple[float, float]:
    """The share of the steps that the rule saves on a run, and the accuracy that it loses."""
    step = stops_at(run, signal, level)
    return 1 - step / run.steps, run.lost(step)


def _mean(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return statistics.fmean(each for each, _ in values), statistics.fmean(each for _, each in values)


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
