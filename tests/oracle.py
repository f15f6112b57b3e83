"""The slow truth that fast paths are compared with: float64, stock transformers, one sequence at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def stock_copy(model: Any, dtype: torch.dtype = torch.float64) -> Any:
    """An independent copy in another dtype, in evaluation mode, with transformers' own eager attention.

    Take it before the engine is installed: the copy then never saw it. Architectures compute norms and
    softmax in float32 whatever their dtype, which bounds how exact this is.
    """
    reference = copy.deepcopy(model).to(dtype).eval()
    reference.config._attn_implementation = "eager"
    reference.config._experts_implementation = "eager"  # grouped products know no float64
    return reference


def scored_logps(model: Any, items: Sequence[Any]) -> list[Tensor]:
    """For each response of each prompt, in order: log-probs in nats of its scored tokens."""
    found = []
    for item in items:
        for response in item.responses:
            ids = torch.from_numpy(np.concatenate([item.prompt_ids, response.ids]).astype(np.int64))
            logits = model(input_ids=ids[None], use_cache=False).logits[0]
            logits = logits if logits.dtype == torch.float64 else logits.float()
            places = torch.from_numpy(np.flatnonzero(response.scored)) + len(item.prompt_ids)
            logps = logits[places - 1].log_softmax(dim=-1)
            found.append(logps.gather(1, ids[places, None])[:, 0])
    return found


def sees(paths: Sequence[Sequence[int]], tokens: int) -> np.ndarray:
    """(tokens, tokens) visibility by the definition: i sees j if j is not after i on some sequence's path."""
    visible = np.zeros((tokens, tokens), bool)
    for path in paths:
        for depth, i in enumerate(path):
            visible[i, list(path[: depth + 1])] = True
    return visible


def dpo(chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float) -> Tensor:
    """Rafailov 2023, Eq. 7: −log σ(β log(π_w/ref_w) − β log(π_l/ref_l)); −log σ(x) = log(1 + e^−x)."""
    x = beta * (chosen - ref_chosen) - beta * (rejected - ref_rejected)
    return torch.logaddexp(torch.zeros_like(x), -x)


def minordpo(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float
) -> Tensor:
    """Xie 2024, Eq. 6: DPO with max(0, log(π_l/ref_l)); at 0 the constant is taken, as the text of §3.4 has it."""
    ratio = rejected - ref_rejected
    x = beta * (chosen - ref_chosen) - beta * torch.where(ratio > 0, ratio, torch.zeros_like(ratio))
    return torch.logaddexp(torch.zeros_like(x), -x)


def dpop(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    dpop_lambda: float,
) -> Tensor:
    """Xie 2024, Eq. 5: −log σ(β (log(π_w/ref_w) − log(π_l/ref_l) − λ max(0, log(ref_w/π_w))))."""
    below = ref_chosen - chosen
    penalty = dpop_lambda * torch.where(below > 0, below, torch.zeros_like(below))
    x = beta * ((chosen - ref_chosen) - (rejected - ref_rejected) - penalty)
    return torch.logaddexp(torch.zeros_like(x), -x)


def pair_losses(
    objective: Any, policy: Any, reference: Any, pairs: Sequence[Any], **hyperparameters: float
) -> Tensor:
    """The loss of each pair by one of the formulas above; `policy` carries the gradient, `reference` does not."""
    sums = torch.stack([logps.sum() for logps in scored_logps(policy, pairs)]).view(-1, 2)
    with torch.no_grad():
        ref = torch.stack([logps.sum() for logps in scored_logps(reference, pairs)]).view(-1, 2)
    return objective(sums[:, 0], sums[:, 1], ref[:, 0], ref[:, 1], **hyperparameters)
