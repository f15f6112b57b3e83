"""KL(π‖π_ref) from the policy's own samples: what a reward was paid with (Eq. 1 of the MinorDPO paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class KLEstimate:
    """KL(π‖π_ref) in nats, with standard errors over prompts; NaN where a single prompt has none."""

    per_sequence: float
    per_sequence_error: float
    per_token: float
    per_token_error: float
    sequences: int
    tokens: int
    cut: float  # share of the samples that ran into the length limit: their tails are not counted


def estimate_kl(
    logratios: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]], stopped: Sequence[Sequence[bool]]
) -> KLEstimate:
    """KL from log π/π_ref of each sample, summed over its tokens, prompt by prompt; as many samples each.

    A sample's log-ratio log π(y|x) − log π_ref(y|x), y drawn from π, is an unbiased estimate of KL; per token it is
    the ratio of the sums, whose error is that of a ratio. Samples of a prompt are not independent, so errors are
    those of means over prompts.
    """
    counts = {len(samples) for samples in logratios}
    if len(counts) != 1 or 0 in counts:
        raise ValueError("every prompt needs as many samples, at least one")
    sums = np.array([np.mean(samples) for samples in logratios])
    lengths = np.array([np.mean(samples) for samples in tokens])
    per_token = float(sums.sum() / lengths.sum()) if lengths.sum() else math.nan
    # A ratio's residuals have mean zero; their spread over the mean length is its error.
    residuals = (sums - per_token * lengths) / lengths.mean() if lengths.sum() else sums
    each = counts.pop()
    return KLEstimate(
        per_sequence=float(sums.mean()),
        per_sequence_error=_error(sums),
        per_token=per_token,
        per_token_error=_error(residuals),
        sequences=len(sums) * each,
        tokens=round(float(lengths.sum()) * each),
        cut=1.0 - float(np.mean([ended for samples in stopped for ended in samples])),
    )


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
