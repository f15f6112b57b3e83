"""How sure a share, or a difference of two shares of the same questions, is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

_Z = NormalDist().inv_cdf(0.975)
EXACT = "exact"
_FLIPS = 100_000  # random ones, where there are too many to count
_MOST_COUNTED = 40  # differences of any numbers whose 2^n signed sums are counted from two halves
_LARGEST_SUM = 200_000  # of whole differences whose sums are counted one by one


def bounds(interval: tuple[float, float]) -> dict[str, float]:
    """The interval as results.json has it."""
    return {"low": interval[0], "high": interval[1]}


def wilson(successes: float | int, total: float | int) -> tuple[float, float]:
    """The 95 % interval of a share: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n).

    Unlike p ± z·error it stays within [0, 1] and has width where the share is 0 or 1.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(f"{successes} of {total} is no share")
    share, spread = successes / total, _Z**2 / total
    middle = share + spread / 2
    half = _Z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    # Rounding would otherwise leave 1e-17 where the bound is exactly 0 or 1.
    return (0.0 if share == 0 else low), (1.0 if share == 1 else high)


def interval_over_questions(values: Sequence[float], samples: int) -> tuple[float, float]:
    """The 95 % interval of the mean of one value a question, each a share of its `samples` answers or a chance.

    Wilson's, with as many independent answers as give the mean the error that it has over questions, p(1 − p) /
    (s² / questions): at least one a question, where its answers all agree, and at most all of them. So it has width
    where everything is right or wrong, and one sample a question gives Wilson's own.

    Of 30 and 200 questions with 2, 8 and 64 samples, their difficulty drawn from a beta distribution (0.3, 3; 1, 1;
    5, 5; 500, 500), it held the truth in 93 to 97 of 100 draws; of 4 questions in 79 to 97.
    Source: Dean and Pagano 2015, "Evaluating confidence interval methods for binomial proportions in clustered
    surveys".
    """
    if samples < 1 or not 0 <= min(values) <= max(values) <= 1:
        raise ValueError(f"values from {min(values)} to {max(values)} are no shares of {samples} samples")
    questions, mean = len(values), statistics.fmean(values)
    if questions == 1 or mean in (0.0, 1.0):  # nothing says how much questions differ
        return wilson(mean * questions, questions)
    square = statistics.variance(values) / questions
    independent = mean * (1 - mean) / square if square > 0 else math.inf
    counted = min(max(independent, questions), questions * samples)
    return wilson(mean * counted, counted)


def sign_flip(differences: Sequence[int]) -> float:
    """The exact two-sided p that each question's difference could as well have the other sign.

    P(|Σ ε d| ≥ |Σ d|) with signs ε drawn evenly, over all 2^n of them; for differences of at most 1 it is McNemar's
    exact test, min(1, 2 P(X ≤ fewer)) with X binomial(questions that differ, ½).
    The sums' chances are added up question by question, so that nothing is sampled.
    Source: Fisher 1935, The Design of Experiments, section 21; McNemar 1947.
    """
    chances = np.ones(1)  # of the sums from −(Σ|d| so far) on
    for size in sorted(abs(d) for d in differences if d):
        apart = np.zeros(2 * size)
        chances = (np.concatenate([chances, apart]) + np.concatenate([apart, chances])) / 2
    sums = np.arange(len(chances)) - len(chances) // 2
    return min(1.0, float(chances[np.abs(sums) >= abs(sum(differences))].sum()))


def sign_flip_of_means(differences: Sequence[float]) -> float:
    """The exact two-sided p of `sign_flip`, of any numbers: one a replicate, such as the means of each seed.

    All 2^n signed sums are counted, from those of two halves, so the least p of n replicates is 2^(1 − n).
    Source: Fisher 1935, The Design of Experiments, section 21.
    """
    if not differences or not all(map(math.isfinite, differences)):
        raise ValueError(f"{list(differences)} are no differences")
    # Sums that are equal but for rounding count as equal.
    reach = abs(sum(differences)) - 1e-9 * sum(map(abs, differences))
    if reach <= 0:
        return 1.0
    half = len(differences) // 2
    first, second = _signed_sums(differences[:half]), np.sort(_signed_sums(differences[half:]))
    above = len(second) - np.searchsorted(second, reach - first)
    return min(1.0, 2 * float(above.sum()) / 2 ** len(differences))


def sign_flip_of_scores(differences: Sequence[float], parts: int = 1) -> tuple[float, str]:
    """The two-sided p of `sign_flip`, of one difference of scores a question, and how it was found.

    Differences that are whole numbers of 1/`parts` are counted by `sign_flip`, and up to 40 others by
    `sign_flip_of_means`: both are "exact". More of others are flipped at random, the given signs counted as one flip:
    p = (1 + flips that sum as far from 0) / (1 + flips).
    Source: Phipson and Smyth 2010, "Permutation p-values should never be zero", for the 1.
    """
    found = [each for each in differences if each]
    whole = [round(each * parts) for each in found]
    if all(abs(a * parts - b) < 1e-9 for a, b in zip(found, whole, strict=True)):
        whole = [each // math.gcd(*whole) for each in whole]
        if sum(map(abs, whole)) <= _LARGEST_SUM:
            return sign_flip(whole), EXACT
    if len(found) <= _MOST_COUNTED:
        return sign_flip_of_means(found), EXACT
    sizes, dice, hits = np.array(found), np.random.default_rng(0), 0
    reach = abs(sizes.sum()) - 1e-9 * np.abs(sizes).sum()
    for _ in range(0, _FLIPS, 1000):
        signs = 2 * dice.integers(0, 2, (1000, len(found)), dtype=np.int8) - 1
        hits += int((np.abs(signs @ sizes) >= reach).sum())
    return (1 + hits) / (1 + _FLIPS), f"{_FLIPS:,} random sign flips"


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of one number a question; None where all are equal, which says nothing of it.

    Source: Student 1908, "The probable error of a mean".
    """
    if len(set(values)) < 2:
        return None
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    half = student(len(values) - 1) * error
    return mean - half, mean + half


def student(freedom: int) -> float:
    """What Student's t of so many degrees of freedom stays within, ±, 95 times in 100.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4, turned round by bisection.
    """
    low, high = 1.9, 13.0  # below the normal distribution's, above that of one degree
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """The chance that Student's t is within ±t."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = total = math.cos(angle) if odd else 1.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (power - 1) / power
        total += term
    if odd:
        return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
    return math.sin(angle) * total


def _signed_sums(values: Sequence[float]) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def mean_difference_interval(differences: Sequence[float | int]) -> tuple[float, float]:
    """The 95 % interval of the mean of one difference a question, each within [−1, 1], and so is the interval.

    d ± z √((s − d²) / n), Wald's after one more question of +1 and one of −1, d the mean of the n differences and s
    that of their squares: it keeps its coverage where few answers differ.
    Source: Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data"; that it serves shares too, and not only −1, 0 and 1, is our extension.
    """
    if not differences or max(abs(d) for d in differences) > 1:
        raise ValueError(f"{list(differences)} are no differences of shares")
    n = len(differences) + 2
    mean, square = sum(differences) / n, (sum(d * d for d in differences) + 2) / n
    half = _Z * math.sqrt((square - mean**2) / n)
    return max(-1.0, mean - half), min(1.0, mean + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p adjusted for how many were looked at: the k-th least of n times n − k + 1, and none below one before.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = floor
    return adjusted
