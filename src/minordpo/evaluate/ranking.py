"""Several answers to a question → one, or a chance: best of n, majority vote, pass@n. Standard library only."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence


def pass_at(samples: int, right: int, k: int) -> float:
    """The chance that of `k` answers taken from the samples at least one is right: 1 − C(n − c, k) / C(n, k).

    The mean of it over questions estimates pass@k without bias.
    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", Eq. 1.
    """
    _check(samples, k)
    if not 0 <= right <= samples:
        raise ValueError(f"{right} of {samples} samples cannot be right")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def best_of(rewards: Sequence[float], right: Sequence[bool], k: int) -> float:
    """The chance that of `k` answers taken from the samples the one with the highest reward is right.

    Σ_i right_i C(n − 1 − i, k − 1) / C(n, k), i counting the samples from the highest reward; samples of one reward
    share their chance. With k = n it says whether the best of all is right.
    """
    count = len(rewards)
    _check(count, k)
    ranked = sorted(zip(rewards, right, strict=True), key=lambda sample: -sample[0])
    total, start = 0.0, 0
    for _, group in itertools.groupby(ranked, key=lambda sample: sample[0]):
        tied = [is_right for _, is_right in group]
        places = range(start, start + len(tied))
        chance = sum(math.comb(count - 1 - i, k - 1) for i in places) / math.comb(count, k)
        total += chance * sum(tied) / len(tied)
        start += len(tied)
    return min(1.0, total)  # the chances of all samples sum to 1 but for rounding


def majority(numbers: Sequence[str | None]) -> str | None:
    """The number that most answers give, of several the one given first; None where none gives any.

    Source: self-consistency, Wang et al. 2022 (arXiv 2203.11171).
    """
    votes = Counter(number for number in numbers if number is not None)
    return votes.most_common(1)[0][0] if votes else None


def _check(samples: int, k: int) -> None:
    if not 1 <= k <= samples:
        raise ValueError(f"{k} of {samples} samples cannot be taken")
