"""What became of a file of worked solutions: how many close pairs, how close, and why rows were left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from minordpo.data.make.solutions import Unusable
from minordpo.data.read.fields import shared_beginning


@dataclass
class CorruptReport:
    """Counts and distances, filled row by row."""

    source: str
    out: str
    read: int = 0
    unusable: Counter[str] = field(default_factory=Counter)  # rows by reason
    examples: dict[str, str] = field(default_factory=dict)  # the first row of each reason
    distances: list[int] = field(default_factory=list)  # Levenshtein, in characters
    percents: list[float] = field(default_factory=list)  # the distances in percent of the chosen text
    same_length: int = 0  # pairs whose changed number is as long as the original

    @property
    def usable(self) -> int:
        return len(self.distances)

    def add_unusable(self, unusable: Unusable, line: int) -> None:
        self.unusable[unusable.reason] += 1
        self.examples.setdefault(unusable.reason, f"line {line}: {unusable.example}".rstrip(": "))

    def add_pair(self, chosen: str, rejected: str, *, same_length: bool) -> None:
        self.distances.append(edit_distance(chosen, rejected))
        self.percents.append(100 * self.distances[-1] / len(chosen))
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
            lines.append(_spread("characters", self.distances, 0))
            lines.append(_spread("% of the chosen text", self.percents, 2))
            lines.append(f"  changed number as long as before: {_percent(self.same_length, self.usable)}")
        return "\n".join(lines)


def _spread(name: str, values: list[int] | list[float], digits: int) -> str:
    low, high = np.percentile(values, (5, 95), method="nearest")
    median = f"{np.median(values):>8.{digits}f}"
    return f"    {name:<20} {np.mean(values):>8.2f} {median}   {low:.{digits}f}–{high:.{digits}f}"


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
