"""Several sources trained on together: which example is of which, and how often each is met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, eq=False)
class SourceOf:
    """Which source each of some examples is from."""

    names: tuple[str, ...]
    numbers: np.ndarray  # (examples,) of the source of each, as `names` counts them

    def take(self, places: np.ndarray) -> SourceOf:
        """Of the examples at these places."""
        return SourceOf(self.names, self.numbers[places])

    @property
    def counts(self) -> np.ndarray:
        """(sources,) examples of each."""
        return np.bincount(self.numbers, minlength=len(self.names))


@dataclass(frozen=True, eq=False)
class Mixture:
    """The sources of the training examples, and their weights."""

    sources: SourceOf
    weights: tuple[float, ...]
    by: Literal["rows", "steps"] = "rows"

    def drawn(self) -> np.ndarray:
        """(sources,) examples of each in one pass.

        By rows that is weight times its examples, rounded. By steps a pass has as many examples as there are, of each
        source its share of the weights whatever its size.
        """
        counts, weights = self.sources.counts, np.array(self.weights, np.float64)
        if self.by == "rows":
            return np.round(weights * counts).astype(np.int64)
        return deal(weights / weights.sum(), [int(counts.sum())])[0]

    def lines(self) -> list[str]:
        """The mixture in words, a line a source."""
        counts, drawn = self.sources.counts.tolist(), self.drawn().tolist()
        of, total = "of a pass" if self.by == "rows" else "of every step", max(1, sum(drawn))
        return [
            f"  {name}: {count:,} to train on, {each:,} in a pass (weight {weight:g}, {each / total:.0%} {of})"
            for name, count, each, weight in zip(self.sources.names, counts, drawn, self.weights, strict=True)
        ]


def deal(shares: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """(steps, sources) of how many of each source are in steps of these sizes.

    All steps so far together have the shares, up to less than one or two of a source.
    """
    dealt = np.zeros((len(sizes), len(shares)), np.int64)
    have, total = np.zeros(len(shares)), 0
    for step, size in enumerate(sizes):
        total += size
        wanted = shares * total - have
        now = np.clip(np.floor(wanted), 0, None)
        while now.sum() > size:  # one that is ahead takes from the one that is least behind
            now[np.argmin(np.where(now > 0, wanted - now, np.inf))] -= 1
        behind = np.argsort(now - wanted, kind="stable")[: int(size - now.sum())]
        now[behind] += 1
        have += now
        dealt[step] = now
    return dealt


def held_out_places(sources: SourceOf, count: int, seed: int = 0) -> np.ndarray:
    """Places of `count` examples to hold out, ascending: of each source its share, one at least where that can be."""
    order = np.random.default_rng(seed).permutation(len(sources.numbers))
    numbers, there = sources.numbers[order], sources.counts
    shares = deal(there / max(1, len(order)), [count])[0]
    for number in np.flatnonzero((shares == 0) & (there > 1)):
        if shares.max() > 1:
            shares[np.argmax(shares)] -= 1
            shares[number] = 1
    chosen = [order[numbers == number][:share] for number, share in enumerate(shares.tolist())]
    return np.sort(np.concatenate(chosen))
