"""Finished runs → was a broken text announced, and how early; thresholds fitted on half of them.

run folder ─► Watched      its rows, and its looks at the text: many prompts, often
           ─► broke_at     where the text broke, from all of the looks; log-ratios have no say in it
           ─► alarm_at     where a monitor with given thresholds, and with few looks of few prompts, would have said so
           ─► Tally        announced, how many steps before, false alarms
           ─► fit          the thresholds that do best on some of the configurations

The trivial alarm beside it says "collapsing" where the mean chosen log-ratio falls below −c.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from minordpo.config import load_config
from minordpo.errors import InputError
from minordpo.evaluate.statistics import wilson
from minordpo.monitor.health import Monitor, Thresholds
from minordpo.monitor.probe import is_due, means
from minordpo.objectives import recorded
from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.records import (
    CHOSEN_LOGRATIO,
    CHOSEN_NLL,
    EMPTY,
    LOOPING,
    REFERENCE_NLL,
    REPEATED,
    ProbeRow,
    Row,
    StepRow,
    of_kind,
)

# Where the text of a run is called broken: rises over step 0, over ALL its prompts, of shares and of nats a token under
# the reference; the latter also beyond the data's chosen answers. Set before any run was made.
BROKEN = {LOOPING: 0.25, REPEATED: 0.2, EMPTY: 0.25, REFERENCE_NLL: 0.6}
T = TypeVar("T")
ALARMS = ("collapsing", "collapsed")


@dataclass(frozen=True, eq=False)
class Watched:
    """A run as it can be judged again: rows of metrics.jsonl without looks, and the looks prompt by prompt."""

    name: str
    configuration: str  # what it shares with the runs that differ in their seed alone
    rows: list[StepRow]
    looks: dict[int, list[dict[str, Any]]]  # step → an answer's measures each

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return max(row.step for row in self.rows)

    def look(self, step: int, prompts: int | None = None) -> dict[str, float]:
        """Means over the first prompts of one look; over all of them without a number."""
        return means(self.looks[step][:prompts])


def read_run(folder: Path, configuration: str | None = None) -> Watched:
    """A run folder as the study sees it; runs that differ in their seed alone share the configuration.

    Raises:
        InputError: the folder has no looks at the text.
    """
    config = load_config(folder / names.CONFIG, [])
    objective = recorded(config.objective.name, config.objective.hyper)
    rate = float(config.training.arguments["learning_rate"])
    rows = of_kind(MetricsFile(folder / names.METRICS).rows(), StepRow)
    file = folder / names.PROBES
    if not file.exists():
        raise InputError(f"{folder} has no probes.jsonl. Only runs with monitor.enabled=true can be studied")
    looks: dict[int, list[dict[str, Any]]] = {}
    for _, row in read_jsonl(file):
        looks.setdefault(int(row["step"]), []).append(dict(row["measures"]))
    return Watched(folder.name, configuration or f"{objective}, rate {rate:g}", rows, looks)


def broke_at(run: Watched) -> int | None:
    """The first step at which the text was broken; None where it never was."""
    first = run.look(0)
    later = sorted(run.looks)[1:]
    return next((step for step in later if is_broken(first, run.look(step))), None)


def is_broken(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a text is broken that was not before training; measures that one of both lacks say nothing."""
    rises = {
        name: now[name] - before[name]
        for name in BROKEN
        if now.get(name) is not None and before.get(name) is not None
    }
    taught = before.get(CHOSEN_NLL)
    if taught is not None and REFERENCE_NLL in rises and now[REFERENCE_NLL] <= taught:
        del rises[REFERENCE_NLL]  # a new style, no less likely than what is taught
    return any(rise >= BROKEN[name] for name, rise in rises.items())


def as_seen(run: Watched, *, prompts: int = 4, every: int | str = "auto") -> list[tuple[int, list[Row]]]:
    """The rows of each step that a monitor of so few prompts and looks would have had."""
    by_step: dict[int, list[Row]] = {row.step: [row] for row in run.rows}
    steps = run.steps
    due = {step for step in range(1, steps + 1) if is_due(step, steps, every)} | {0}
    for step in due:
        # Where the run looked at other steps, the one before stands for it: nothing is seen early.
        known = max((each for each in run.looks if each <= step), default=None)
        if known is not None and not (known == 0 and step):
            by_step.setdefault(step, []).append(ProbeRow(step, run.look(known, prompts)))
    return sorted(by_step.items())


def alarm_at(seen: Iterable[tuple[int, Sequence[Row]]], thresholds: Thresholds) -> int | None:
    """The first step at which the monitor says collapsing or collapsed."""
    monitor = Monitor(thresholds)
    for step, rows in seen:
        monitor.see(rows)
        if monitor.verdict.health in ALARMS:
            return step
    return None


def trivial_alarm_at(run: Watched, c: float, *, window: int = 8) -> int | None:
    """The first step at which the chosen log-ratio, as a mean over the last rows, is below −c nats."""
    rows = [(row.step, nats) for row in run.rows if (nats := row.number(CHOSEN_LOGRATIO)) is not None]
    for place in range(min(window, len(rows)) // 2, len(rows) + 1):
        recent = rows[max(0, place - window) : place]
        if recent and statistics.fmean(nats for _, nats in recent) < -c:
            return recent[-1][0]
    return None


def was_displaced(run: Watched) -> bool:
    """Whether the chosen responses ended below the reference."""
    nats = [value for row in run.rows if (value := row.number(CHOSEN_LOGRATIO)) is not None]
    return bool(nats) and statistics.fmean(nats[-8:]) < -1.0


# ---- how good an alarm is ----
@dataclass(frozen=True)
class Tally:
    """What an alarm was worth on some runs."""

    broken: int
    announced: int  # before the step at which the text was seen to be broken
    leads: tuple[int, ...]  # steps between, of those announced
    sound: int
    false: int

    @property
    def youden(self) -> float:
        """Share announced − share of false alarms. Source: Youden 1950, "Index for rating diagnostic tests"."""
        return self.announced / max(1, self.broken) - self.false / max(1, self.sound)

    def words(self) -> str:
        """Both shares with their 95 % intervals, and the lead."""
        lead = (
            f"{statistics.median(self.leads):g} steps before (from {min(self.leads)} to {max(self.leads)})"
            if self.leads
            else "–"
        )
        return f"{_share(self.announced, self.broken)} | {lead} | {_share(self.false, self.sound)}"


def _share(count: int, of: int) -> str:
    if not of:
        return "none of none"
    low, high = wilson(count, of)
    return f"{count} of {of} ({low:.0%} to {high:.0%})"


def tally(broke: Sequence[int | None], alarms: Sequence[int | None]) -> Tally:
    """Counts over runs: where each broke, and where it was announced."""
    pairs = list(zip(broke, alarms, strict=True))
    leads = tuple(at - alarm for at, alarm in pairs if at is not None and alarm is not None and alarm < at)
    return Tally(
        broken=sum(at is not None for at, _ in pairs),
        announced=len(leads),
        leads=leads,
        sound=sum(at is None for at, _ in pairs),
        false=sum(at is None and alarm is not None for at, alarm in pairs),
    )


# ---- fitting ----
# Few, since few runs of a half are broken: 600 draws of seven thresholds did no better on the other half.
GRID: dict[str, tuple[float, ...]] = {
    "collapsing_nats": (5.0, 10.0, 20.0),
    "collapsing_alone": (1.5, 2.0, 3.0),
    "collapsing_ahead": (0.25, 0.5, 1.0, 2.0),
    "early_nll": (0.1, 0.2, 0.4),
}
TRIVIAL = (0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0, 200.0, 300.0)


def candidates() -> list[Thresholds]:
    """All of the grid; the first are what the package has today, which so win among equals."""
    drawn = (dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values()))
    fitted = (dataclasses.replace(Thresholds(), **each) for each in drawn)  # type: ignore[arg-type]  # floats all
    return list(dict.fromkeys([Thresholds(), *fitted]))


def halves(runs: Sequence[Watched], seed: int) -> tuple[list[int], list[int]]:
    """The runs' places in two halves; all runs of a configuration are in the same one."""
    names = sorted({run.configuration for run in runs})
    random.Random(seed).shuffle(names)
    first = set(names[: len(names) // 2])
    places = range(len(runs))
    return (
        [place for place in places if runs[place].configuration in first],
        [place for place in places if runs[place].configuration not in first],
    )


def best(
    among: Sequence[T],
    alarms: Callable[[T], Sequence[int | None]],
    broke: Sequence[int | None],
    on: Sequence[int],
) -> T:
    """The one of the highest Youden index on these runs; of equals that of fewer false alarms, then the longer lead."""

    def worth(each: T) -> tuple[float, int, float]:
        found = tally([broke[place] for place in on], [alarms(each)[place] for place in on])
        return found.youden, -found.false, float(statistics.median(found.leads)) if found.leads else 0.0

    return max(among, key=worth)
