"""Finished runs → was a broken text announced, and how early; thresholds fitted on half of them.

run folder ─► StudiedRun   its rows, and its probes of the text: many prompts, often
           ─► broke_at     where the text broke, from all of the probes; log-ratios have no say in it
           ─► alarm_at     where a monitor with given thresholds, and with few probes of few prompts, would have said so
           ─► Tally        announced, how many steps before, false alarms
           ─► best         the thresholds that do best on some of the settings

The trivial alarm beside it says "collapsing" where the mean chosen log-ratio falls below −c.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from minordpo.evaluate.statistics import wilson
from minordpo.monitor.health import Monitor, Thresholds
from minordpo.monitor.probe import is_due
from minordpo.paper.claims.measures import is_broken
from minordpo.paper.stopping_study import StudiedRun, by_setting
from minordpo.run_folder.records import CHOSEN_LOGRATIO, ProbeRow, Row

T = TypeVar("T")
Steps = Sequence[int | None]  # one a run: where it broke, or where an alarm was raised
ALARMS = ("collapsing", "collapsed")


def broke_at(run: StudiedRun) -> int | None:
    """The first step at which the text was broken; None where it never was."""
    first = run.probe(0)
    later = sorted(run.probes)[1:]
    return next((step for step in later if is_broken(first, run.probe(step))), None)


def as_seen(run: StudiedRun, *, prompts: int = 4, every: int | str = "auto") -> list[tuple[int, list[Row]]]:
    """The rows of each step that a monitor of so few prompts and probes would have had."""
    by_step: dict[int, list[Row]] = {row.step: [row] for row in run.rows}
    steps = run.steps
    for step in [0, *(step for step in range(1, steps + 1) if is_due(step, steps, every))]:
        # Where the run was probed at other steps, the one before stands for it: nothing is seen early.
        known = max((each for each in run.probes if each <= step), default=None)
        if known is not None and not (known == 0 and step):
            by_step.setdefault(step, []).append(ProbeRow(step, run.probe(known, prompts)))
    return sorted(by_step.items())


def alarm_at(seen: Iterable[tuple[int, Sequence[Row]]], thresholds: Thresholds) -> int | None:
    """The first step at which the monitor says collapsing or collapsed."""
    monitor = Monitor(thresholds)
    for step, rows in seen:
        monitor.see(rows)
        if monitor.verdict.health in ALARMS:
            return step
    return None


def trivial_alarm_at(run: StudiedRun, c: float, *, window: int = 8) -> int | None:
    """The first step at which the chosen log-ratio, as a mean over the last rows, is below −c nats."""
    rows = _chosen(run)
    for place in range(min(window, len(rows)) // 2, len(rows) + 1):
        recent = rows[max(0, place - window) : place]
        if recent and statistics.fmean(nats for _, nats in recent) < -c:
            return recent[-1][0]
    return None


def was_displaced(run: StudiedRun) -> bool:
    """Whether the chosen responses ended below the reference."""
    last = [nats for _, nats in _chosen(run)[-8:]]
    return bool(last) and statistics.fmean(last) < -1.0


def _chosen(run: StudiedRun) -> list[tuple[int, float]]:
    """Step and chosen log-ratio of each row that has it."""
    return [(row.step, nats) for row in run.rows if (nats := row.number(CHOSEN_LOGRATIO)) is not None]


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
        lead = "–"
        if self.leads:
            median = statistics.median(self.leads)
            lead = f"{median:g} steps before (from {min(self.leads)} to {max(self.leads)})"
        return f"{_share(self.announced, self.broken)} | {lead} | {_share(self.false, self.sound)}"


def _share(count: int, of: int) -> str:
    if not of:
        return "none of none"
    low, high = wilson(count, of)
    return f"{count} of {of} ({low:.0%} to {high:.0%})"


def tally(broke: Steps, alarms: Steps) -> Tally:
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


def halves(runs: Sequence[StudiedRun], seed: int) -> tuple[list[int], list[int]]:
    """The runs' places in two halves; all runs of a setting are in the same one."""
    settings = list(by_setting(runs))
    random.Random(seed).shuffle(settings)
    first = set(settings[: len(settings) // 2])
    one = [place for place, run in enumerate(runs) if run.setting in first]
    return one, [place for place in range(len(runs)) if place not in one]


def best(among: Sequence[T], alarms: Callable[[T], Steps], broke: Steps, on: Sequence[int]) -> T:
    """The one of the highest Youden index on these runs; of equals that of fewer false alarms, then the longer lead."""

    def worth(each: T) -> tuple[float, int, float]:
        found = tally([broke[place] for place in on], [alarms(each)[place] for place in on])
        return found.youden, -found.false, float(statistics.median(found.leads)) if found.leads else 0.0

    return max(among, key=worth)
