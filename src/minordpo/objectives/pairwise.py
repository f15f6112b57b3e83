"""Objectives on pairs: pure functions `PairLogps` → unreduced losses, one a pair.

Notation: a log-ratio is `logps − ref_logps`, the paper's β-free reward; m is a log-prob a token (`mean_logps`);
margin = chosen − rejected; σ is the logistic function. w and l in formulas are chosen and rejected.
"""

from __future__ import annotations

import math

from minordpo.objectives.late import Float, Tensor, logsigmoid, relu, torch
from minordpo.objectives.logps import PairLogps
from minordpo.objectives.spec import NotNegative, Positive, Share, Smoothing, Spec, UpToOne, by_name


def dpo(logps: PairLogps, *, beta: Positive = 0.1) -> Float[Tensor, "pairs"]:
    """−log σ(β (chosen_logratio − rejected_logratio)).

    Assumes: preferences follow Bradley-Terry; nothing keeps the chosen response up, only the difference counts.
    Usual: beta 0.01 to 0.5, learning rate 5e-7 to 5e-6.
    Source: Rafailov et al. 2023 (arXiv 2305.18290), Eq. 7; Xie et al. 2024 (arXiv 2408.09834), Eq. 2.
    """
    return -logsigmoid(beta * (logps.chosen_logratios - logps.rejected_logratios))


def minordpo(
    logps: PairLogps, *, beta: Positive = 0.1, gate_margin: NotNegative = 0.0
) -> Float[Tensor, "pairs"]:
    """−log σ(β chosen_logratio − β max(0, rejected_logratio − gate_margin)).

    The penalty on a rejected response stops where the policy likes it no more than the reference does. Equality is
    included, as in the paper's text: at a log-ratio of exactly 0, where training starts, no gradient reaches the
    rejected response (`relu`; `torch.clamp` would pass a gradient of 1 there, `torch.maximum` one of ½).
    A `gate_margin` above 0, in nats, keeps the penalty off until the rejected response is that much likelier than under
    the reference, so that rounding opens no gate; the loss stays continuous. The paper has no margin.

    Assumes: as dpo, but a rejected response that fell to the reference's level is bad enough.
    Usual: beta 0.02 to 0.2, learning rate 1e-6 to 1e-5.
    Source: Xie et al. 2024 (arXiv 2408.09834), Eq. 6 and §3.4.
    """
    return -logsigmoid(beta * logps.chosen_logratios - beta * relu(logps.rejected_logratios - gate_margin))


def _minordpo_gate(logps: PairLogps, *, gate_margin: float, **_: float) -> Float[Tensor, "pairs"]:
    ratios = logps.rejected_logratios
    return torch.where(ratios > gate_margin, ratios, 0.0)


def _dpop_gate(logps: PairLogps, **_: float) -> Float[Tensor, "pairs"]:
    return relu(-logps.chosen_logratios)


def dpop(
    logps: PairLogps, *, beta: Positive = 0.1, dpop_lambda: NotNegative = 50.0
) -> Float[Tensor, "pairs"]:
    """−log σ(β (chosen_logratio − rejected_logratio − λ max(0, −chosen_logratio))).

    The λ term stands inside the log-sigmoid and is multiplied by β.

    Where the chosen response is exactly as likely as under the reference the penalty has no gradient (`relu`). The
    formula and the default λ are checked against Xie et al. 2024 only.

    Assumes: the chosen response must not fall below the reference.
    Usual: beta 0.1 to 0.3, dpop_lambda 5 to 50.
    Source: Pal et al. 2024, Smaug (arXiv 2402.13228); Xie et al. 2024 (arXiv 2408.09834), Eq. 5.
    """
    margins = logps.chosen_logratios - logps.rejected_logratios
    return -logsigmoid(beta * (margins - dpop_lambda * relu(-logps.chosen_logratios)))


def bdpo(logps: PairLogps, *, beta: Positive = 0.1, bdpo_lambda: Share = 0.5) -> Float[Tensor, "pairs"]:
    """−log σ(β (chosen_logratio − log(λ e^rejected_logratio + 1 − λ))).

    DPO whose rejected policy is mixed with the reference: the penalty is bounded below by log(1 − λ), and its gradient,
    DPO's times the policy's part of the mixture, fades as the rejected response falls. `minordpo` cuts it off at 0
    instead. λ near 1 is DPO.

    Assumes: as dpo, but to push a rejected response far below the reference earns nothing.
    Usual: bdpo_lambda 0.5, beta and learning rate as dpo.
    Source: Bounded-DPO (arXiv 2506.12725); its equation numbers and other values of λ were not at hand.
    """
    # The larger of e^rejected_logratio and 1 is taken out of the sum, so that large log-ratios cancel exactly.
    larger = relu(logps.rejected_logratios)
    mixed = torch.logaddexp(
        logps.rejected_logratios.clamp(max=0) + math.log(bdpo_lambda), -larger + math.log1p(-bdpo_lambda)
    )
    return -logsigmoid(beta * (logps.chosen_logratios - larger - mixed))


def bpo(logps: PairLogps, *, beta: Positive = 0.1, bpo_alpha: UpToOne = 0.3) -> Float[Tensor, "pairs"]:
    """−log σ(β min(chosen_logratio, −α rejected_logratio)).

    Only the response that is behind is pushed: the chosen one up, or the rejected one down at α of the strength. Where
    both are level, as every pair is before training, each is pushed at half its strength (`torch.minimum`, as in the
    authors' code).

    Assumes: a chosen response must rise as far as the rejected one falls times alpha.
    Usual: bpo_alpha 0.3 to 1, beta 0.1, learning rate 5e-6 with an adapter.
    Source: Sun et al. 2025 (arXiv 2506.03557); the default α is that of the authors' code and config.
    """
    return -logsigmoid(beta * torch.minimum(logps.chosen_logratios, -bpo_alpha * logps.rejected_logratios))


def ipo(logps: PairLogps, *, beta: Positive = 0.1, per_token: bool = True) -> Float[Tensor, "pairs"]:
    """(margin − 1/(2β))², margin being the difference of log-ratios, of each a token with `per_token`.

    β is the paper's τ. The paper's formula sums over tokens. TRL averages, and says that the authors confirmed it for
    the paper's results; that is the default here.

    Assumes: a margin of 1/(2·beta) is enough, however certain the preference; with per_token nats a token, so 5 of
    them at beta 0.1.
    Usual: beta 0.01 to 1.
    Source: Azar et al. 2023 (arXiv 2310.12036), Eq. 17.
    """
    chosen, rejected = logps.chosen_logratios, logps.rejected_logratios
    if per_token:
        chosen, rejected = chosen / logps.chosen_tokens, rejected / logps.rejected_tokens
    return (chosen - rejected - 1 / (2 * beta)).square()


def simpo(logps: PairLogps, *, beta: Positive = 2.0, gamma: NotNegative = 1.0) -> Float[Tensor, "pairs"]:
    """−log σ(β (m_chosen − m_rejected) − γ); without a reference.

    The authors' code writes γ as a ratio to β: γ here is β times its `gamma_beta_ratio`, by default half of β.

    Assumes: what is generated first is the likelier response a token; no reference holds the model.
    Usual: beta 2 to 10, gamma 0 to 1 times beta (0.25 to 1.6 in the paper), learning rate 3e-7 to 1e-6.
    Source: Meng et al. 2024 (arXiv 2405.14734), Eq. 6.
    """
    return -logsigmoid(beta * (logps.chosen_mean_logps - logps.rejected_mean_logps) - gamma)


def orpo(logps: PairLogps, *, orpo_lambda: NotNegative = 0.1) -> Float[Tensor, "pairs"]:
    """−m_chosen − λ log σ(log-odds_chosen − log-odds_rejected), log-odds = m − log(1 − eᵐ); without a reference.

    The NLL is over the response only; TRL's includes the prompt. A chosen response of probability exactly 1 has loss 0
    and the finite limit of the gradient, −1 − λ odds_rejected on its m. A rejected one has an infinite loss, as the
    formula has it, NaN if both are so: it is left to stop the run.

    Assumes: one stage does for SFT and preference; the chosen responses are worth imitating.
    Usual: orpo_lambda 0.1 to 0.25, learning rate 5e-6 to 8e-6.
    Source: Hong et al. 2024 (arXiv 2403.07691), Eq. 4, 6 and 7.
    """
    return -logps.chosen_mean_logps + orpo_lambda * _odds_ratio_loss(
        logps.chosen_mean_logps, logps.rejected_mean_logps
    )


def _odds_ratio_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """log(1 + odds_rejected / odds_chosen) of log-probs, which is −log σ of the log of the inverse ratio.

    With the log-odds by themselves a chosen response of probability 1 would be ∞ with a gradient of 0·∞. The ratio is
    e^gap (1 − e^chosen) / (1 − e^rejected); e^gap is taken out of the log where it is above 1, lest it overflow.
    """
    gap = rejected - chosen
    # clamp passes the gradient at 0 and relu does not, so that both belong to one side there.
    outside, inside = relu(gap), gap.clamp(max=0)
    # abs for the sign of 0 only: a rejected response of probability 1 is to give ∞.
    doubt = -torch.expm1(chosen) / torch.expm1(rejected).abs()
    return outside + torch.log1p(torch.expm1(-outside) + torch.exp(inside) * doubt)


def hinge(logps: PairLogps, *, beta: Positive = 0.1) -> Float[Tensor, "pairs"]:
    """max(0, 1 − β (chosen_logratio − rejected_logratio)): no push on a pair that is won by 1/β nats or more.

    β is the paper's γ. The same as TRL's `loss_type="hinge"`; SLiC-HF's own loss has no reference: `slic`.

    Assumes: a pair won by 1/beta nats needs no more push.
    Usual: beta 0.01 to 0.5.
    Source: Liu et al. 2023, RSO (arXiv 2309.06657), its hinge-norm loss.
    """
    return relu(1 - beta * (logps.chosen_logratios - logps.rejected_logratios))


def slic(logps: PairLogps, *, delta: NotNegative = 1.0) -> Float[Tensor, "pairs"]:
    """max(0, δ − chosen_logp + rejected_logp), sums in nats; without a reference.

    The paper adds a cross-entropy on an SFT target: train "slic + 0.1*sft", with per_token: false for its sum over
    tokens. Which δ and weight it used could not be checked; SimPO's authors tried δ from 0.5 to 10.

    Assumes: the chosen response should be likelier by delta nats; add sft to hold the model.
    Usual: delta 0.5 to 10.
    Source: Zhao et al. 2023, SLiC-HF (arXiv 2305.10425), §2, first term of its loss.
    """
    return relu(delta - logps.chosen_logps + logps.rejected_logps)


def cdpo(
    logps: PairLogps, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.1
) -> Float[Tensor, "pairs"]:
    """(1 − ε) DPO + ε DPO with the labels flipped: labels are wrong with probability ε.

    Its least value is at a finite margin, log((1 − ε)/ε)/β nats; beyond it both coefficients change sign.

    Assumes: a share label_smoothing of the labels is wrong, so the margin should stay finite.
    Usual: label_smoothing 0.1 to 0.4, beta as dpo.
    Source: Mitchell 2023, "A note on DPO with noisy preferences", Eq. 3 (as the DPO authors' code cites it).
    """
    right, flipped = _both_ways(logps, beta)
    return (1 - label_smoothing) * right + label_smoothing * flipped


def robust(
    logps: PairLogps, *, beta: Positive = 0.1, label_smoothing: Smoothing = 0.1
) -> Float[Tensor, "pairs"]:
    """((1 − ε) DPO − ε DPO with the labels flipped) / (1 − 2ε): unbiased where labels are wrong with probability ε.

    Without bound below: it falls as −ε/(1 − 2ε) β margin where the margin is large.

    Assumes: a share label_smoothing of the labels is wrong; corrects the loss for it on average.
    Usual: label_smoothing 0.1 to 0.4, beta as dpo.
    Source: Chowdhury et al. 2024, rDPO (arXiv 2403.00409), §3.1.
    """
    right, flipped = _both_ways(logps, beta)
    return ((1 - label_smoothing) * right - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def _both_ways(logps: PairLogps, beta: float) -> tuple[Tensor, Tensor]:
    logits = beta * (logps.chosen_logratios - logps.rejected_logratios)
    return -logsigmoid(logits), -logsigmoid(-logits)


def dpo_nll(logps: PairLogps, *, beta: Positive = 0.1, alpha: NotNegative = 1.0) -> Float[Tensor, "pairs"]:
    """DPO − α m_chosen: the usual remedy against a falling chosen response.

    The length that divides the NLL counts the response only; that the paper's does so too, and its α of 1, are
    unverified.

    Assumes: the chosen responses are worth imitating too.
    Usual: alpha 0.2 to 2, beta as dpo.
    Source: Pang et al. 2024, iterative RPO (arXiv 2404.19733), Eq. 1.
    """
    return dpo(logps, beta=beta) - alpha * logps.chosen_mean_logps


PAIRWISE = by_name(
    Spec(dpo),
    Spec(minordpo, gate=_minordpo_gate),
    Spec(dpop, gate=_dpop_gate),
    Spec(bdpo),
    Spec(bpo),
    Spec(ipo),
    Spec(simpo, reference=False),
    Spec(orpo, reference=False),
    Spec(hinge),
    Spec(slic, reference=False, axes="sums"),
    Spec(cdpo),
    Spec(robust),
    Spec(dpo_nll),
)
