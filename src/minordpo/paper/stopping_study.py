"""When was a run trained enough? Signals on held-out pairs, told against the accuracy it went on to gain.

A rule is a signal and a level; it stops a run at the first held-out measurement that reaches the level. All signals are
free of β, so one level can serve objectives and settings that it was not chosen on. Stopping at a fixed share of the
steps is the rule to beat. What is lost is the accuracy of the run's last look less that of its look at the stop, both
of the same prompts; the learning rate at the stop is still what the whole run's schedule says.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minordpo.errors import InputError
from minordpo.paper.alarm_study import Watched, read_run
from minordpo.run_folder import names
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.records import (
    ACCURACY,
    CHOSEN_LOGRATIO,
    CORRECT,
    LOGRATIO_MARGIN,
    REJECTED_AT_OR_BELOW,
    EvaluationRow,
    held_out,
    of_kind,
)


@dataclass(frozen=True, eq=False)
class Trained:
    """A run's accuracy and held-out measures, step by step."""

    name: str
    configuration: str
    steps: int
    correct: dict[int, float]  # step → share of right answers
    held_out: list[EvaluationRow]

    def lost(self, step: int) -> float:
        """The accuracy at the end less that at the last look up to this step."""
        known = max(each for each in self.correct if each <= step)
        return self.correct[max(self.correct)] - self.correct[known]


def read_trained(folder: Path, configuration: str | None = None) -> Trained:
    """A run folder as this study sees it.

    Raises:
        InputError: the run has no looks that can be checked, or no held-out measures on the way.
    """
    run: Watched = read_run(folder, configuration)
    rows = of_kind(MetricsFile(folder / names.METRICS).rows(), EvaluationRow)
    if len(rows) < 2:
        raise InputError(
            f"{folder} measured its held-out pairs {len(rows)} times, but on the way is needed too. Train it with "
            "training.eval_strategy=steps"
        )
    lacking = next(
        (name for name, _, _ in SIGNALS.values() if any(name not in row.values for row in rows)), None
    )
    if lacking is not None:
        raise InputError(
            f"{folder} measured no {held_out(lacking)}. Train it with held-out pairs and metrics.reference=true"
        )
    correct = {step: run.look(step).get(CORRECT) for step in run.looks}
    checked = {step: share for step, share in correct.items() if share is not None}
    if len(checked) < 2:
        raise InputError(
            f"{folder} has no answers that can be checked. Its chosen responses must end in "
            "the line 'So the answer is: N'"
        )
    return Trained(run.name, run.configuration, run.steps, checked, rows)


# ---- signals: a held-out measure so far → a number that grows as training suffices ----
def _last(values: Sequence[float]) -> float:
    return values[-1]


def _flat(values: Sequence[float]) -> float:
    """1 where the measure no longer changes, 0 where it changes as fast as it ever did."""
    moves = [abs(after - before) for before, after in itertools.pairwise(values)]
    if len(moves) < 3:
        return 0.0
    recent = statistics.fmean(moves[-2:])
    return 1 - recent / max(moves) if max(moves) > 0 else 0.0


# Its measure, what is made of it, and the levels at which a run may be stopped.
SIGNALS: dict[str, tuple[str, Callable[[Sequence[float]], float], tuple[float, ...]]] = {
    "pairs ranked right": (
        ACCURACY,
        _last,
        (0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 1.0),
    ),
    "margin in nats": (
        LOGRATIO_MARGIN,
        _last,
        (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0),
    ),
    "rejected at or below the reference": (
        REJECTED_AT_OR_BELOW,
        _last,
        (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
    ),
    "chosen log-ratio is flat": (CHOSEN_LOGRATIO, _flat, (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)),
    "margin is flat": (LOGRATIO_MARGIN, _flat, (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)),
}
FIXED = "a fixed share of the steps"
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def stops_at(run: Trained, signal: str, level: float) -> int:
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
    """What a rule saved and lost, on average over configurations that its level was not chosen on."""

    saved: float  # share of the steps
    saved_error: float
    lost: float  # accuracy, as a share; below 0 is a gain
    lost_error: float
    levels: tuple[float, ...]  # chosen, one a configuration left out


def worth(runs: Sequence[Trained], signal: str, *, tolerance: float = 0.01) -> Worth:
    """Leave one configuration out, choose the level on the others, stop the runs that were left out.

    Chosen is the level that saves most while the others lose no more than `tolerance` on average; where each loses
    more, the one that loses least.
    """
    levels = FRACTIONS if signal == FIXED else SIGNALS[signal][2]
    saved, lost, chosen = [], [], []
    for left_out in sorted({run.configuration for run in runs}):
        others = [run for run in runs if run.configuration != left_out]
        level = _choose(others, signal, levels, tolerance)
        own = _mean_of(_of(run, signal, level) for run in runs if run.configuration == left_out)
        saved.append(own[0])
        lost.append(own[1])
        chosen.append(level)
    return Worth(statistics.fmean(saved), _error(saved), statistics.fmean(lost), _error(lost), tuple(chosen))


def _choose(runs: Sequence[Trained], signal: str, levels: Sequence[float], tolerance: float) -> float:
    found = {level: _by_configuration(runs, signal, level) for level in levels}
    allowed = [level for level in levels if found[level][1] <= tolerance]
    if allowed:
        return max(allowed, key=lambda level: (found[level][0], -found[level][1]))
    return min(levels, key=lambda level: found[level][1])


def _by_configuration(runs: Sequence[Trained], signal: str, level: float) -> tuple[float, float]:
    names = sorted({run.configuration for run in runs})
    return _mean_of(
        _mean_of(_of(run, signal, level) for run in runs if run.configuration == name) for name in names
    )


def _of(run: Trained, signal: str, level: float) -> tuple[float, float]:
    step = stops_at(run, signal, level)
    return 1 - step / run.steps, run.lost(step)


def _mean_of(values: Iterable[tuple[float, float]]) -> tuple[float, float]:
    found = list(values)
    return statistics.fmean(each for each, _ in found), statistics.fmean(each for _, each in found)


def _error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
