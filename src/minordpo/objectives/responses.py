"""Objectives on single, labelled, ranked or token-wise responses: pure functions `ResponseLogps` → a loss a prompt."""

from __future__ import annotations

from minordpo.objectives.late import Float, Tensor, logsigmoid, relu, torch
from minordpo.objectives.logps import ResponseLogps
from minordpo.objectives.spec import LABELLED, PAIRS, RANKED, Count, NotNegative, Positive, Spec, by_name


def sft(logps: ResponseLogps, *, per_token: bool = True) -> Float[Tensor, "prompts"]:
    """−m_chosen, or −chosen_logp without `per_token`: imitation of the chosen (desirable, best) response.

    Every prompt weighs the same; the usual SFT loss weighs every token of a batch the same.

    Assumes: the chosen responses are worth imitating; rejected ones are not looked at.
    Usual: learning rate 1e-6 to 2e-5.
    Source: maximum likelihood.
    """
    return -(logps.mean_logps if per_token else logps.logps)[logps.best]


def minor_sft(
    logps: ResponseLogps, *, beta: Positive = 0.1, per_token: bool = True
) -> Float[Tensor, "prompts"]:
    """−(2/(β n)) log σ(β chosen_logratio), n its scored tokens; −log σ(β chosen_logratio) without `per_token`.

    With `per_token` the coefficient is the authors' (2/n) σ(−β chosen_logratio), which is SFT's 1/n at the start.
    Without, it is `minordpo` on pairs whose rejected log-ratio is at or below 0.

    Assumes: as sft, less the further a response is above the reference already.
    Usual: beta 0.02 to 0.2, learning rate as sft.
    Source: Xie et al. 2024 (arXiv 2408.10642), the gradient of its MinorSFT; the loss is its integral.
    """
    losses = -logsigmoid(beta * logps.logratios[logps.best])
    return 2 / beta * losses / logps.tokens[logps.best] if per_token else losses


def kto(
    logps: ResponseLogps,
    *,
    beta: Positive = 0.1,
    desirable_weight: NotNegative = 1.0,
    undesirable_weight: NotNegative = 1.0,
) -> Float[Tensor, "prompts"]:
    """Desirable: λ_D (1 − σ(β (logratio − z0))); undesirable: λ_U (1 − σ(β (z0 − logratio))); their mean a prompt.

    z0 = max(0, mean log-ratio of responses paired with another prompt), without a gradient, over the whole optimizer
    step: each prompt's mismatched responses are those of the next prompt of the step in the order of the data set. A
    step that has one prompt only has none; z0 is 0 then. TRL's is one micro-batch's. Responses weigh the same, chosen
    and rejected ones of pairs included. The paper advises weights such that λ_D n_desirable is 1 to 4/3 times
    λ_U n_undesirable (Eq. 8).

    Assumes: each response is good or bad by itself, and gains and losses saturate as in prospect theory.
    Usual: beta 0.01 to 0.1; weights such that weight times number is 1 to 4/3 times larger for desirable ones.
    Source: Ethayarajh et al. 2024 (arXiv 2402.01306), Eq. 7 (as TRL cites both).
    """
    distances = logps.logratios - kto_baseline(logps)
    desirable = logps.grades > 0
    losses = torch.where(
        desirable,
        desirable_weight * torch.sigmoid(-beta * distances),
        undesirable_weight * torch.sigmoid(beta * distances),
    )
    counts = logps.per_prompt(torch.ones_like(losses))
    return logps.per_prompt(losses) / counts


def kto_baseline(logps: ResponseLogps) -> Float[Tensor, ""]:
    """z0 of `kto`, in nats: the mean log-ratio of the step's mismatched responses where it is above 0, else 0."""
    mismatched = logps.mismatched_logratio
    if mismatched is None:
        return logps.logps.new_zeros(())
    return relu(mismatched.detach()).to(logps.logps)


def rrhf(
    logps: ResponseLogps, *, rank_weight: NotNegative = 1.0, per_token: bool = False
) -> Float[Tensor, "prompts"]:
    """rank_weight Σ over grade_i < grade_j of max(0, m_i − m_j), plus the best response's NLL; without a reference.

    The NLL is a sum over tokens and the weight 1, as in the paper. The authors' code has another balance: the mean
    over tokens (over padded ones too) and a weight of 100, which is per_token: true and rank_weight: 100 here. Two
    responses that are equally likely a token push no further (`relu`), and equal grades never do.

    Assumes: the likelier response a token should be the better one; the best is worth imitating, which with the
    defaults outweighs the ranking as many times as a response has tokens.
    Usual: rank_weight 1 as in the paper; to rank, per_token with 1 to 100; learning rate 1e-6 to 2e-5.
    Source: Yuan et al. 2023 (arXiv 2304.05302), Eq. 2 to 4, and the authors' train.py.
    """
    means = logps.mean_logps
    same_prompt = logps.groups[:, None] == logps.groups[None, :]
    worse = same_prompt & (logps.grades[:, None] < logps.grades[None, :])
    violations = torch.where(worse, relu(means[:, None] - means[None, :]), 0.0)
    nll = -(means if per_token else logps.logps)[logps.best]
    return rank_weight * logps.per_prompt(violations.sum(dim=1)) + nll


def pairwise_cringe(
    logps: ResponseLogps,
    *,
    alpha: NotNegative = 0.01,
    margin: float = 0.0,
    temperature: Positive = 10.0,
    top_k: Count = 5,
    per_token: bool = True,
    gate_gradient: bool = False,
) -> Float[Tensor, "prompts"]:
    """gate · (NLL(chosen) + α Cringe(rejected)), gate = σ((margin − (chosen_logp − rejected_logp)) / temperature).

    Cringe of a rejected token with logit s⁻ is −log(e^{s⁺}/(e^{s⁺} + e^{s⁻})), s⁺ the logit of another token, drawn
    from the softmax over the `top_k` likeliest others. Logits stand in it as a difference, which is that of the
    log-probs: s⁻ − s⁺ = logp⁻ − logp⁺. Both sums over tokens are means with `per_token`. The gate carries a gradient
    only with `gate_gradient`.

    As in the code of Cringe's authors (ParlAI) the token itself is not among the k, both logits carry a gradient and
    the loss is a mean over tokens. Of Pairwise Cringe there is no public code and its paper was not at hand: the form
    of the gate, that it carries no gradient, mean or sum, and the defaults of alpha, margin (the paper's b),
    temperature (its τ) and top_k are unverified.

    Assumes: what the model itself would rather say is better than the rejected token.
    Usual: alpha 0.005 to 0.5, temperature 1 to 10, margin −10 to 10.
    Source: Adolphs et al. 2022 (arXiv 2211.05826), §3; Xu et al. 2023 (arXiv 2312.16682).
    """
    tokens = logps.by_token
    assert tokens is not None
    leads = tokens.alternative_logps - tokens.logps[tokens.alternative_members]
    owners = tokens.sequences[tokens.alternative_members]
    cringe = torch.zeros_like(logps.logps).index_add(0, owners, -logsigmoid(leads))
    nll = -logps.logps
    if per_token:
        cringe, nll = cringe / logps.tokens, nll / logps.tokens
    lead = logps.logps[logps.best] - logps.logps[logps.worst]
    gate = torch.sigmoid((margin - (lead if gate_gradient else lead.detach())) / temperature)
    return gate * (nll[logps.best] + alpha * cringe[logps.worst])


RESPONSES = by_name(
    Spec(sft, PAIRS | LABELLED | RANKED, reference=False, undesirable=False),
    Spec(minor_sft, PAIRS | LABELLED | RANKED, undesirable=False),
    Spec(kto, PAIRS | LABELLED, mismatched=True, reports={"z0": kto_baseline}, drawn_for="z0 = 0"),
    Spec(rrhf, PAIRS | RANKED, reference=False, drawn_for="two responses a prompt"),
    Spec(
        pairwise_cringe,
        reference=False,
        alternatives=True,
        axes="sums",
        varied="temperature",
        drawn_for="tokens alike, each rejected one as likely as its alternative",
    ),
)
