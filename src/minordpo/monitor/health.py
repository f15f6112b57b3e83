"""Records of metrics.jsonl → the run's health, and why. No model, no clock: a finished run is judged as a running one.

healthy     nothing below is seen
displaced   the chosen answers are less likely than under the reference, and falling: normal in many DPO runs
inaccurate  answers that were right at the start are wrong now, though they do not repeat
collapsing  predicted: the chosen answers have fallen far, or will have, and the text shows early signs
collapsed   seen in generated text alone: loops, repetition, no end, words that the reference would not say, against
            the same model's answers at step 0

docs/monitor.md has the formulas and their sources.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from minordpo.run_folder import records
from minordpo.run_folder.records import HealthRow, ProbeRow, Row, StepRow

Health = Literal["healthy", "displaced", "inaccurate", "collapsing", "collapsed"]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Where one health ends and the next begins.

    Those of a prediction were fitted on half of the configurations of seventy runs of a small model and on seven runs
    of SmolLM2-135M; the others are set by hand (docs/monitor.md). Shares are of the probe's answers, changes are
    against the probe at step 0.
    """

    # Rows that a mean is taken over; half of the rows where there are fewer than twice as many.
    window: int = 8
    least_rows: int = 4  # before which log-ratios say nothing
    hold: float = 0.5  # a health ends where its signal is back at this share of what began it

    displaced_nats: float = 1.0  # the mean chosen log-ratio is below minus this
    collapsing_nats: float = 10.0  # … and for a prediction below minus this
    collapsing_ahead: float = 0.25  # displacement a window ahead, with an early sign in the text
    collapsing_alone: float = 2.0  # displacement now, whatever the text shows
    noise: float = 2.0  # standard errors that a fall without a reference must exceed

    early_looping: float = 0.2  # early signs: rises of shares …
    early_repeated: float = 0.1
    early_stopped: float = 0.5  # … a fall of the share that ends …
    early_nll: float = 0.2  # … a rise in nats a token under the reference …
    early_distance: float = 0.75  # … and answers that share next to nothing with those at step 0

    looping: float = 0.5  # collapsed: rises of shares
    repeated: float = 0.3
    empty: float = 0.5
    endless_stopped: float = 0.5  # … or this fall of the share that ends, with …
    endless_repeated: float = 0.15  # … this rise of repetition: a longer answer alone is no collapse

    # … or this rise in nats a token under the reference, beyond the chosen answers' level
    garbled_nll: float = 0.6

    inaccurate: float = 0.5  # fall of the share of right answers


@dataclass(frozen=True)
class HealthVerdict:
    """A health, and what was seen, in words."""

    health: Health
    why: str


class Monitor:
    """Sees the rows of one step after the other; what it says follows from them alone."""

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        self.thresholds = thresholds or Thresholds()
        self.verdict = HealthVerdict("healthy", "nothing was seen yet")
        self._chosen = _Chosen(self.thresholds)
        self._first: ProbeRow | None = None  # the probe at step 0
        self._last: ProbeRow | None = None

    @property
    def is_sound(self) -> bool:
        """Whether the model is one to go back to: no alarm, and text without early signs; of shares, not half of one.

        What is healthy at one probe and broken at the next is on its way there, and reads so.
        """
        text = _Text.between(self._first, self._last)
        worse = [] if text is None else text.worse(self.thresholds, share=self.thresholds.hold)
        return self.verdict.health in ("healthy", "displaced") and not worse

    def see(self, rows: Iterable[Row]) -> HealthRow | None:
        """Take in the rows of one step (steps and probes; others mean nothing here); the change of health, if any."""
        rows = list(rows)
        if not rows:
            return None
        for row in rows:
            if isinstance(row, StepRow):
                self._chosen.add(row)
            elif isinstance(row, ProbeRow) and row.number(records.REPEATED) is not None:
                self._last = row
                self._first = row if row.step == 0 else self._first
        was = self.verdict.health
        self.verdict = self._judge()
        if self.verdict.health == was:
            return None
        return HealthRow(rows[-1].step, {}, self.verdict.health, was, self.verdict.why)

    def _judge(self) -> HealthVerdict:
        limits, was = self.thresholds, self.verdict.health
        fall = self._chosen.fall()
        text = _Text.between(self._first, self._last)
        broken = [] if text is None else text.broken(limits)
        if broken:
            return HealthVerdict("collapsed", "; ".join(broken))
        if fall is not None:
            early = [] if text is None else text.early(limits)
            share = limits.hold if was == "collapsing" else 1.0
            far = fall.now >= share * limits.collapsing_alone
            soon = fall.ahead >= share * limits.collapsing_ahead and early
            if fall.nats <= -limits.collapsing_nats and (far or soon):
                return HealthVerdict("collapsing", "; ".join([fall.said, *early]))
        if text is not None and -text.rise(records.CORRECT) >= limits.inaccurate:
            return HealthVerdict("inaccurate", text.said(records.CORRECT, "of the answers are right"))
        if fall is not None:
            share = 1.0 if was == "healthy" else limits.hold
            falling = fall.speed < 0 or was != "healthy"
            if fall.nats <= -share * limits.displaced_nats and falling:
                return HealthVerdict("displaced", fall.said)
        return HealthVerdict(
            "healthy", "the answers are as sound as at the start" if fall is None else fall.said
        )

    def see_all(self, rows: Iterable[Row]) -> list[HealthRow]:
        """Take in the rows of many steps, those of a metrics.jsonl; every change of health."""
        step = operator.attrgetter("step")
        by_step = itertools.groupby(sorted(rows, key=step), key=step)
        seen = (self.see(list(group)) for _, group in by_step)
        return [change for change in seen if change is not None]


def changes(rows: Iterable[Row], thresholds: Thresholds | None = None) -> list[HealthRow]:
    """Every change of health of a run, from the rows of its metrics.jsonl (`run_folder.metrics_file.MetricsFile`)."""
    return Monitor(thresholds).see_all(rows)


# ---- chosen responses ----
@dataclass(frozen=True)
class Fall:
    """Where the chosen responses are: means over the last `window` rows."""

    nats: float  # log-ratio of a response, or log-prob less that at the start
    now: float  # displacement: −nats over the reference's |log-prob|; 1 where the log-prob has doubled
    before: float  # the same, one window earlier
    speed: float  # nats a row; below 0 is falling
    reference: bool

    @property
    def ahead(self) -> float:
        """The displacement one window ahead, if it goes on as it did."""
        return 2 * self.now - self.before

    @property
    def said(self) -> str:
        """In words."""
        than = "under the reference" if self.reference else "at the start"
        how = f"{self.nats:+.1f} nats a response"
        if self.nats >= 0:
            return f"chosen answers are as likely as {than} or likelier ({how})"
        times = f", {1 + self.now:.1f} times its log-prob there" if self.now >= 0.5 else ""
        direction = "falling" if self.speed < 0 else "no longer falling"
        return f"chosen answers are less likely than {than} ({how}{times}) and {direction}"


class _Chosen:
    """The rows that a fall is told from: the last two windows, and the first of a run without a reference."""

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.count = 0
        self._start: list[float] = []
        self._rows: deque[tuple[float | None, float]] = deque(maxlen=2 * thresholds.window)

    def add(self, row: StepRow) -> None:
        logp, logratio = row.number(records.CHOSEN_LOGP), row.number(records.CHOSEN_LOGRATIO)
        if logp is None:
            return
        if logratio is None and len(self._start) < self.thresholds.least_rows:
            self._start.append(logp)
        self._rows.append((logratio, logp))
        self.count += 1

    def fall(self) -> Fall | None:
        least = self.thresholds.least_rows
        if self.count < least:
            return None
        window = min(self.thresholds.window, len(self._rows) // 2)
        told = [(ratio, logp) for ratio, logp in self._rows if ratio is not None]
        logps = [logp for _, logp in self._rows]
        if len(told) == len(logps):
            windows = told[-2 * window : -window], told[-window:]
            nats = [fmean(ratio for ratio, _ in rows) for rows in windows]
            levels = [fmean(logp - ratio for ratio, logp in rows) for rows in windows]
        elif told or self.count < 2 * least:
            return None
        else:
            before, now, start = logps[-2 * window : -window], logps[-window:], fmean(self._start)
            nats, levels = [fmean(before) - start, fmean(now) - start], [start, start]
            # Batches differ, so what may be their noise is no fall.
            if abs(nats[1]) <= self.thresholds.noise * math.hypot(_error(self._start), _error(now)):
                return Fall(0.0, 0.0, 0.0, 0.0, False)
        displaced = [n / level if level < 0 else 0.0 for n, level in zip(nats, levels, strict=True)]
        return Fall(nats[1], displaced[1], displaced[0], (nats[1] - nats[0]) / window, bool(told))


# ---- generated text ----
@dataclass(frozen=True)
class _Text:
    """The last probe beside the one at step 0."""

    first: ProbeRow
    last: ProbeRow

    @classmethod
    def between(cls, first: ProbeRow | None, last: ProbeRow | None) -> _Text | None:
        return None if first is None or last is None or last is first else cls(first, last)

    def rise(self, name: str) -> float:
        first, last = self.first.number(name), self.last.number(name)
        return 0.0 if first is None or last is None else last - first

    def said(self, name: str, what: str) -> str:
        first, last = self.first.values[name], self.last.values[name]
        return f"{last:.0%} {what} ({first:.0%} at the start)"

    def broken(self, limits: Thresholds) -> list[str]:
        """What is wrong with the text, in words; nothing where it is no collapse."""
        loops, repeats, ends = map(self.rise, (records.LOOPING, records.REPEATED, records.STOPPED))
        endless = ends <= -limits.endless_stopped and repeats >= limits.endless_repeated
        signs = [
            (loops >= limits.looping, records.LOOPING, "of the answers loop"),
            (repeats >= limits.repeated, records.REPEATED, "of their 4-grams repeat"),
            (self.rise(records.EMPTY) >= limits.empty, records.EMPTY, "of the answers are empty"),
            (endless, records.STOPPED, "of the answers end"),
            (endless, records.REPEATED, "of their 4-grams repeat"),
        ]
        found = [self.said(name, what) for seen, name, what in signs if seen]
        if self.rise(records.REFERENCE_NLL) >= limits.garbled_nll and self._beyond_the_chosen():
            found.append(self._unlikely())
        return list(dict.fromkeys(found))

    def early(self, limits: Thresholds) -> list[str]:
        """What may be the beginning of it, in words."""
        found = self.worse(limits)
        distance = self.last.number(records.DISTANCE)
        if distance is not None and distance >= limits.early_distance:
            found.append(f"the answers share {1 - distance:.0%} of their tokens with those at the start")
        return found

    def worse(self, limits: Thresholds, *, share: float = 1.0) -> list[str]:
        """What got worse by this share of an early sign, in words; that answers are others is not worse."""
        loops, repeats, ends = map(self.rise, (records.LOOPING, records.REPEATED, records.STOPPED))
        signs = [
            (loops >= share * limits.early_looping, records.LOOPING, "of the answers loop"),
            (repeats >= share * limits.early_repeated, records.REPEATED, "of the answers' 4-grams repeat"),
            (ends <= -share * limits.early_stopped, records.STOPPED, "of the answers end"),
        ]
        found = [self.said(name, what) for seen, name, what in signs if seen]
        if self.rise(records.REFERENCE_NLL) >= limits.early_nll:  # half of it is what sound answers vary by
            found.append(self._unlikely())
        return found

    def _beyond_the_chosen(self) -> bool:
        """Less likely to the reference than the very answers that are taught; a new style alone is not."""
        chosen, last = self.first.number(records.CHOSEN_NLL), self.last.number(records.REFERENCE_NLL)
        return chosen is None or last is None or last > chosen

    def _unlikely(self) -> str:
        first, last = self.first.values[records.REFERENCE_NLL], self.last.values[records.REFERENCE_NLL]
        return (
            f"to the reference the answers are unlikely, {last:.2f} nats a token ({first:.2f} at the start)"
        )


def _error(values: Sequence[float]) -> float:
    """The standard error of their mean; of a single one, which tells none, 0."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
