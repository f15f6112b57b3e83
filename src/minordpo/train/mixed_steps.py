"""Steps of several sources: who is in which, by weights of rows or by shares of each step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minordpo.data.mixture import Mixture, deal
from minordpo.train.loader import StepSampler


class MixedSteps(StepSampler):
    """The examples of each optimizer step of a mixture, drawn from (seed, epoch) alone, as `StepSampler` draws them.

    A source goes on in the next epoch where it stopped: each of its examples is met before any is met again.
    """

    def __init__(self, mixture: Mixture, per_step: int, *, seed: int, shuffle: bool, drop_last: bool) -> None:
        self.mixture = mixture
        numbers = mixture.sources.numbers
        self._members = [np.flatnonzero(numbers == number) for number in range(len(mixture.weights))]
        self._drawn = mixture.drawn()
        super().__init__(int(self._drawn.sum()), per_step, seed=seed, shuffle=shuffle, drop_last=drop_last)
        self._dealt: np.ndarray | None = None
        if mixture.by == "steps":
            sizes = [per_step] * (self.examples // per_step)
            if not sizes or (self.examples % per_step and not drop_last):
                sizes.append(self.examples % per_step or self.examples)
            weights = np.array(mixture.weights, np.float64)
            self._dealt = deal(weights / weights.sum(), sizes)
            self._drawn = self._dealt.sum(axis=0)

    def steps(self, epoch: int) -> Iterator[list[int]]:
        """The examples of each step of that epoch."""
        if self._dealt is None:
            yield from super().steps(epoch)
            return
        parts = [self._part(number, epoch) for number in range(len(self._members))]
        taken = np.zeros(len(parts), np.int64)
        for counts in self._dealt:
            drawn = [part[a : a + count] for part, a, count in zip(parts, taken, counts, strict=True)]
            taken += counts
            yield np.concatenate(drawn).tolist()

    def order(self, epoch: int) -> np.ndarray:
        """Every example of a pass, in the order of that epoch; one may be there several times."""
        joined = np.concatenate([self._part(number, epoch) for number in range(len(self._members))])
        if not self.shuffle or self._dealt is not None:
            return joined
        return joined[np.random.default_rng((self.seed, epoch)).permutation(len(joined))]

    def visited(self, steps: int) -> np.ndarray:
        """The examples that a run of that many steps meets, ascending."""
        met = np.zeros(len(self.mixture.sources.numbers), np.bool_)
        for drawn in self.run(steps):
            met[drawn] = True
        return np.flatnonzero(met)

    def _part(self, number: int, epoch: int) -> np.ndarray:
        """The examples of a source in that epoch: the next of its endless passes, each in an order of its own."""
        members, count = self._members[number], int(self._drawn[number])
        if not len(members):
            return members
        if self._dealt is None and count % len(members) == 0:  # whole passes are shuffled with all else
            return np.tile(members, count // len(members))
        start = epoch * count
        passes = range(start // len(members), -(-(start + count) // len(members)))
        orders = [self._pass(members, number, each) for each in passes]
        first = start - passes.start * len(members)
        return np.concatenate([*orders, members[:0]])[first : first + count]

    def _pass(self, members: np.ndarray, number: int, which: int) -> np.ndarray:
        if not self.shuffle:
            return members
        return members[np.random.default_rng((self.seed, number, which, 1)).permutation(len(members))]
