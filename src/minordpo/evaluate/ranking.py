"""Several answers to a question → one, or a chance: best of n, majority vote, pass@n. Standard library only."""

from __future__ import annotations

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
    order = sorted(range(count), key=lambda i: -rewards[i])
    total, start = 0.0, 0
    while start < count:
        end = start + 1
        while end < count and rewards[order[end]] == rewards[order[start]]:
            end += 1
        chance = sum(math.comb(count - 1 - i, k - 1) for i in range(start, end)) / math.comb(count, k)
        tied = [right[i] for i in order[start:end]]
        total += chance * sum(tied) / len(tied)
        start = end
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
