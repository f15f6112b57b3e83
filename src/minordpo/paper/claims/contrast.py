"""One number a seed, and what it says: mean, spread, the test over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from minordpo.evaluate.statistics import sign_flip_of_means

Unit = Literal["nats", "nats a token", "points", "share", ""]
Sign = Literal[1, -1]


@dataclass(frozen=True)
class Contrast:
    """One number a seed, and on which side of `bar` the claim has it; `by_seed` is what the number is above the bar."""

    what: str
    by_seed: Mapping[int, float]
    predicted: Sign
    unit: Unit = "nats"
    left_out: tuple[int, ...] = ()  # seeds that lack one of the settings
    bar: float = 0.0

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.by_seed.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds; None of one."""
        return statistics.stdev(self.by_seed.values()) if self.seeds > 1 else None

    @property
    def as_predicted(self) -> int:
        """Seeds whose number has the predicted sign."""
        return sum(value * self.predicted > 0 for value in self.by_seed.values())

    @property
    def agrees(self) -> bool:
        """Whether the mean has the predicted sign."""
        return self.mean * self.predicted > 0

    @property
    def p(self) -> float:
        """Exact paired sign-flip test over seeds, two-sided."""
        return sign_flip_of_means(list(self.by_seed.values()))

    def words(self) -> str:
        """ "dpo: chosen −12.3 nats (sd 1.1, 8 of 8 seeds)"; the count is of seeds as predicted."""
        beside = []
        if self.bar:
            side = "above" if self.predicted > 0 else "below"
            beside.append(f"claimed: {side} {amount(self.bar, self.unit, sign=False)}")
        if self.spread is not None:
            beside.append(f"sd {amount(self.spread, self.unit, sign=False).split(' ')[0]}")
        beside.append(f"{self.as_predicted} of {self.seeds} seeds")
        found = amount(self.mean + self.bar, self.unit, sign=not self.bar)
        return f"{self.what} {found} ({', '.join(beside)})"


def amount(value: float, unit: Unit, *, sign: bool = True) -> str:
    """A number as it is told; shares of right answers in points, other shares in percent."""
    plus = "+" if sign else ""
    if unit == "points":
        text = f"{100 * value:{plus}.1f} points"
    elif unit == "share":
        text = f"{100 * value:{plus}.1f} %"
    else:
        digits = ".3f" if unit == "nats a token" else ".2f" if abs(value) < 10 else ".1f"
        text = f"{value:{plus}{digits}} {unit}".rstrip()
    return text.replace("-", "−")
