"""KL(π‖π_ref) from the policy's own samples: what a reward was paid with (Eq. 1 of the MinorDPO paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def estimate_kl(
    logratios: Sequence[Sequence[float]], tokens: Sequence[Sequence[int]], stopped: Sequence[Sequence[bool]]
) -> dict[str, float | None]:
    """KL from log π/π_ref of each sample, summed over its tokens, prompt by prompt; as many samples each.

    A sample's log-ratio log π(y|x) − log π_ref(y|x), y drawn from π, is an unbiased estimate of KL; per token it is
    the ratio of the sums, whose error is that of a ratio. Samples of a prompt are not independent, so errors are
    those of means over prompts, and None of a single one. `cut` is the share of the samples that ran into the length
    limit: their tails are not counted. As results.json has it, in nats.
    """
    counts = {len(samples) for samples in logratios}
    if len(counts) != 1 or 0 in counts:
        raise ValueError("every prompt needs as many samples, at least one")
    sums = np.array([np.mean(samples) for samples in logratios])
    lengths = np.array([np.mean(samples) for samples in tokens])
    per_token = float(sums.sum() / lengths.sum()) if lengths.sum() else None
    # A ratio's residuals have mean zero; their spread over the mean length is its error.
    residuals = sums if per_token is None else (sums - per_token * lengths) / lengths.mean()
    each = counts.pop()
    return {
        "per_sequence": float(sums.mean()),
        "per_sequence_error": _error(sums),
        "per_token": per_token,
        "per_token_error": _error(residuals),
        "sequences": len(sums) * each,
        "tokens": round(float(lengths.sum()) * each),
        "cut": 1.0 - float(np.mean([ended for samples in stopped for ended in samples])),
    }


def _error(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
