"""What became of a file of worked solutions: how many close pairs, how close, and why rows were left out."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from minordpo.data.make.solutions import Unusable
from minordpo.data.read.fields import shared_beginning


@dataclass(frozen=True)
class Spread:
    """Mean, median and the 5th and 95th percentile of a measure."""

    mean: float
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[int] | Sequence[float]) -> Spread:
        ordered = sorted(map(float, values))
        low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.05, 0.95))
        return cls(statistics.fmean(ordered), statistics.median(ordered), low, high)


@dataclass
class CorruptReport:
    """Counts and distances, filled row by row."""

    source: str
    out: str
    read: int = 0
    unusable: Counter[str] = field(default_factory=Counter)  # rows by reason
    examples: dict[str, str] = field(default_factory=dict)  # the first row of each reason
    distances: list[int] = field(default_factory=list)  # Levenshtein, in characters
    lengths: list[int] = field(default_factory=list)  # of the chosen text, in characters
    same_length: int = 0  # pairs whose changed number is as long as the original

    @property
    def usable(self) -> int:
        return len(self.distances)

    @property
    def characters(self) -> Spread:
        return Spread.of(self.distances)

    @property
    def percent(self) -> Spread:
        """The distance in percent of the chosen text's length."""
        return Spread.of(
            [100 * distance / length for distance, length in zip(self.distances, self.lengths, strict=True)]
        )

    def add_unusable(self, unusable: Unusable, line: int) -> None:
        self.unusable[unusable.reason] += 1
        self.examples.setdefault(unusable.reason, f"line {line}: {unusable.example}".rstrip(": "))

    def add_pair(self, chosen: str, rejected: str, *, same_length: bool) -> None:
        self.distances.append(edit_distance(chosen, rejected))
        self.lengths.append(len(chosen))
        self.same_length += same_length

    def __str__(self) -> str:
        lines = [
            f"{self.source} → {self.out}",
            f"  rows read            {self.read:>7}",
            f"  close pairs written  {self.usable:>7}  ({_percent(self.usable, self.read)})",
            f"  rows left out        {self.read - self.usable:>7}",
        ]
        for reason, count in self.unusable.most_common():
            lines += [f"    {count:>7}  {reason}", f"             {self.examples[reason]}"]
        if self.usable:
            lines += ["  edit distance            mean   median   5th–95th percentile"]
            for name, spread, digits in (
                ("characters", self.characters, 0),
                ("% of the chosen text", self.percent, 2),
            ):
                lines.append(
                    f"    {name:<20} {spread.mean:>8.2f} {spread.median:>8.{digits}f}   "
                    f"{spread.low:.{digits}f}–{spread.high:.{digits}f}"
                )
            lines.append(f"  changed number as long as before: {_percent(self.same_length, self.usable)}")
        return "\n".join(lines)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def edit_distance(first: str, second: str) -> int:
    """The Levenshtein distance of two texts, in characters: the textbook table, row by row."""
    # What both begin and end with leaves the distance as it is, and is nearly all of a close pair.
    start = shared_beginning(first, second)
    first, second = first[start:], second[start:]
    end = shared_beginning(first[::-1], second[::-1])
    first, second = first[: len(first) - end], second[: len(second) - end]
    letters, columns = np.array([ord(letter) for letter in second]), np.arange(len(second) + 1)
    row = columns
    for number, letter in enumerate(first, 1):
        cells = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))
        # A cell may also be reached along its row, one insertion a column.
        row = np.minimum.accumulate(np.append(number, cells) - columns) + columns
    return int(row[-1])
