"""The slow truth that fast paths are compared with: float64, stock transformers, one sequence at a time."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

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
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    gate_margin: float = 0.0,
) -> Tensor:
    """Xie 2024, Eq. 6: DPO with max(0, log(π_l/ref_l)); at 0 the constant is taken, as the text of §3.4 has it.

    A margin is subtracted from the ratio.
    """
    ratio = rejected - ref_rejected - gate_margin
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


def bdpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    bdpo_lambda: float,
) -> Tensor:
    """arXiv 2506.12725: DPO with the rejected policy λ π + (1 − λ) ref in place of π; sums of e^x in float64."""
    pi, ref = rejected.double(), ref_rejected.double()
    largest = torch.maximum(pi, ref)
    inside = bdpo_lambda * (pi - largest).exp() + (1 - bdpo_lambda) * (ref - largest).exp()
    x = beta * ((chosen - ref_chosen) - (largest + inside.log() - ref).to(chosen.dtype))
    return torch.logaddexp(torch.zeros_like(x), -x)


def bpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
    bpo_alpha: float,
) -> Tensor:
    """arXiv 2506.03557: −log σ(min(β log(π_w/ref_w), −α β log(π_l/ref_l))); at a tie the mean of both gradients."""
    up, down = beta * (chosen - ref_chosen), -bpo_alpha * beta * (rejected - ref_rejected)
    x = torch.where(up < down, up, torch.where(down < up, down, (up + down) / 2))
    return torch.logaddexp(torch.zeros_like(x), -x)


class Answer(NamedTuple):
    """One response to a prompt: log-probs of its scored tokens, how good it is, other tokens' log-probs there."""

    logps: Tensor
    ref_logps: Tensor
    grade: float
    other_logps: Tensor | None = None

    @property
    def ratio(self) -> Tensor:
        """log(π(y|x) / ref(y|x))."""
        return self.logps.sum() - self.ref_logps.sum()

    @property
    def mean(self) -> Tensor:
        """log π(y|x) a token."""
        return self.logps.sum() / len(self.logps)


def _log_bradley_terry(best: Answer, worst: Answer, beta: float) -> tuple[Tensor, Tensor]:
    """log p(w ≻ l) and log p(l ≻ w): the softmax over both rewards β log(π/ref)."""
    return tuple((beta * torch.stack([best.ratio, worst.ratio])).log_softmax(dim=0))  # type: ignore[return-value]


def _above_zero(x: Tensor) -> Tensor:
    """max(0, x), the constant at x = 0."""
    return torch.where(x > 0, x, torch.zeros_like(x))


def _sigma(x: Tensor) -> Tensor:
    return (1 + torch.tanh(x / 2)) / 2


def _in_four(formula: Any) -> Any:
    """A formula of sums, of policy and reference, chosen and rejected, on answers."""
    return lambda answers, **hyper: formula(
        answers[0].logps.sum(),
        answers[-1].logps.sum(),
        answers[0].ref_logps.sum(),
        answers[-1].ref_logps.sum(),
        **hyper,
    )


def ipo(answers: Sequence[Answer], *, beta: float, per_token: bool) -> Tensor:
    """Azar 2023, Eq. 17: (h − 1/(2τ))², h the difference of log-ratios, a token each as TRL has it or in sum."""
    best, worst = answers
    n_best, n_worst = (len(best.logps), len(worst.logps)) if per_token else (1, 1)
    return (best.ratio / n_best - worst.ratio / n_worst - 1 / (2 * beta)) ** 2


def simpo(answers: Sequence[Answer], *, beta: float, gamma: float) -> Tensor:
    """Meng 2024, Eq. 6: −log σ(β/|y_w| log π(y_w) − β/|y_l| log π(y_l) − γ)."""
    best, worst = answers
    return torch.logaddexp(torch.zeros_like(best.mean), -(beta * best.mean - beta * worst.mean - gamma))


def orpo(answers: Sequence[Answer], *, orpo_lambda: float) -> Tensor:
    """Hong 2024, Eq. 6 and 7: NLL − λ log σ(log(odds_w / odds_l)), odds = P/(1 − P), P the mean log-prob's exponential.

    With r the ratio of odds, σ(log r) is r/(1 + r).
    """
    best, worst = (answer.mean.exp() for answer in answers)
    ratio = (best / (1 - best)) / (worst / (1 - worst))
    return -answers[0].mean - orpo_lambda * torch.log(ratio / (1 + ratio))


def hinge(answers: Sequence[Answer], *, beta: float) -> Tensor:
    """Liu 2023, hinge-norm: max(0, 1 − (γ log-ratio_w − γ log-ratio_l))."""
    return _above_zero(1 - beta * (answers[0].ratio - answers[1].ratio))


def slic(answers: Sequence[Answer], *, delta: float) -> Tensor:
    """Zhao 2023: max(0, δ − log P(y⁺|x) + log P(y⁻|x))."""
    return _above_zero(delta - answers[0].logps.sum() + answers[1].logps.sum())


def cdpo(answers: Sequence[Answer], *, beta: float, label_smoothing: float) -> Tensor:
    """Mitchell 2023: cross-entropy with the target 1 − ε for w ≻ l and ε for l ≻ w."""
    right, wrong = _log_bradley_terry(answers[0], answers[1], beta)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def robust(answers: Sequence[Answer], *, beta: float, label_smoothing: float) -> Tensor:
    """Chowdhury 2024: ((1 − ε) L(w, l) − ε L(l, w)) / (1 − 2ε)."""
    right, wrong = _log_bradley_terry(answers[0], answers[1], beta)
    return ((1 - label_smoothing) * -right - label_smoothing * -wrong) / (1 - 2 * label_smoothing)


def dpo_nll(answers: Sequence[Answer], *, beta: float, alpha: float) -> Tensor:
    """Pang 2024, Eq. 1: DPO plus α times the chosen response's NLL a token."""
    return -_log_bradley_terry(answers[0], answers[1], beta)[0] - alpha * answers[0].mean


def sft(answers: Sequence[Answer], *, per_token: bool) -> Tensor:
    """The NLL of the first answer, in sum or a token."""
    return -answers[0].mean if per_token else -answers[0].logps.sum()


def minor_sft(answers: Sequence[Answer], *, beta: float, per_token: bool) -> Tensor:
    """Xie 2024b: what has the gradient −(2/m) σ(−β log-ratio) ∇ log π; in sum, MinorDPO with nothing rejected."""
    loss = torch.logaddexp(torch.zeros_like(answers[0].ratio), -beta * answers[0].ratio)
    return loss * 2 / (beta * len(answers[0].logps)) if per_token else loss


def kto(
    answers: Sequence[Answer],
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
    mismatched: float | None,
) -> Tensor:
    """Ethayarajh 2024, Eq. 7: λ_y − v(x, y), v = λ_D σ(β(r − z0)) or λ_U σ(β(z0 − r)); z0 = max(0, mismatched)."""
    z0 = 0.0 if mismatched is None or mismatched < 0 else mismatched
    losses = [
        desirable_weight - desirable_weight * _sigma(beta * (answer.ratio - z0))
        if answer.grade > 0
        else undesirable_weight - undesirable_weight * _sigma(beta * (z0 - answer.ratio))
        for answer in answers
    ]
    return torch.stack(losses).mean()


def rrhf(answers: Sequence[Answer], *, rank_weight: float, per_token: bool) -> Tensor:
    """Yuan 2023, Eq. 2: Σ over r_i < r_j of max(0, p_i − p_j), p a mean log-prob; plus the best answer's NLL."""
    ranks = [_above_zero(i.mean - j.mean) for i in answers for j in answers if i.grade < j.grade]
    best = max(answers, key=lambda answer: answer.grade)
    return rank_weight * sum(ranks, torch.zeros_like(best.mean)) + sft([best], per_token=per_token)


def pairwise_cringe(
    answers: Sequence[Answer],
    *,
    alpha: float,
    margin: float,
    temperature: float,
    per_token: bool,
    gate_gradient: bool,
    top_k: int,
) -> Tensor:
    """Xu 2023: σ((b − M)/τ) (CE(y_w) + α Cringe(y_l)), M = log P(y_w) − log P(y_l).

    Adolphs 2022, Eq. 2: a rejected token's Cringe is −log of the softmax over s⁺ and s⁻ at s⁺. The choice among the
    top k has been made: `other_logps`.
    """
    best, worst = answers
    assert worst.other_logps is not None
    both = torch.stack([worst.other_logps, worst.logps])
    cringe = -both.log_softmax(dim=0)[0].sum() / (len(worst.logps) if per_token else 1)
    lead = best.logps.sum() - worst.logps.sum()
    gate = _sigma((margin - (lead if gate_gradient else lead.detach())) / temperature)
    return gate * (sft([best], per_token=per_token) + alpha * cringe)


# The loss of one prompt, its answers given best first.
FORMULAS: dict[str, Any] = {
    "dpo": _in_four(dpo),
    "minordpo": _in_four(minordpo),
    "dpop": _in_four(dpop),
    "bdpo": _in_four(bdpo),
    "bpo": _in_four(bpo),
    **{
        formula.__name__: formula
        for formula in (ipo, simpo, orpo, hinge, slic, cdpo, robust, dpo_nll, sft, minor_sft, kto, rrhf)
    },
    "pairwise_cringe": pairwise_cringe,
}


def pair_losses(
    objective: Any, policy: Any, reference: Any, pairs: Sequence[Any], **hyperparameters: float
) -> Tensor:
    """The loss of each pair by one of the formulas above; `policy` carries the gradient, `reference` does not."""
    sums = torch.stack([logps.sum() for logps in scored_logps(policy, pairs)]).view(-1, 2)
    with torch.no_grad():
        ref = torch.stack([logps.sum() for logps in scored_logps(reference, pairs)]).view(-1, 2)
    return objective(sums[:, 0], sums[:, 1], ref[:, 0], ref[:, 1], **hyperparameters)
