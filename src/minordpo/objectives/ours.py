"""Objectives of this project, on single tokens' log-ratios: pure functions `ResponseLogps` → a loss a pair.

A close pair says little by most of its tokens: the beginning is common to both responses, and after a wrong result the
rejected one may go on as the chosen one does. docs/own-objective.md derives what follows for a clamp. These are
candidates: what does not hold up when trained is taken out again.

w and l are chosen and rejected; h_t is the log-ratio of a token, in nats. A response's own tokens are those that the
other one has not: all after the common beginning. Its fork is the first of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from minordpo.objectives.logps import ResponseLogps, TokenLogps
from minordpo.objectives.spec import PAIRS, Spec


def minordpo_token(logps: ResponseLogps, *, beta: float = 0.1) -> Float[Tensor, "prompts"]:
    """−log σ(β Σ h_t(w) − β Σ max(0, h_t(l))): MinorDPO's clamp for each token of the rejected response.

    Tokens that fell do not pay for tokens that rose, as they do in a clamped sum. A token of the common beginning adds
    h_t − max(0, h_t) = min(0, h_t): it is raised to the reference's level and no further. For rejected responses of one
    token this is `minordpo`. A token at a log-ratio of exactly 0 has no gradient (`relu`).

    Source: this project, docs/own-objective.md.
    """
    penalty = _sums(logps, relu(_tokens(logps).logratios))
    return -logsigmoid(beta * logps.logratios[logps.best] - beta * penalty[logps.worst])


def minordpo_tail(logps: ResponseLogps, *, beta: float = 0.1) -> Float[Tensor, "prompts"]:
    """−log σ(β Σ h_t(w) − β max(0, Σ h_t(l) over its own tokens)): the clamp knows nothing of the common beginning.

    `minordpo` where the responses have no token in common, and where the clamp is closed in both.

    Source: this project, docs/own-objective.md.
    """
    tokens = _tokens(logps)
    penalty = relu(_sums(logps, torch.where(tokens.own, tokens.logratios, 0.0)))
    return -logsigmoid(beta * logps.logratios[logps.best] - beta * penalty[logps.worst])


def minordpo_token_tail(logps: ResponseLogps, *, beta: float = 0.1) -> Float[Tensor, "prompts"]:
    """−log σ(β Σ h_t(w) − β Σ max(0, h_t(l)) over its own tokens): both at once.

    The common beginning is imitated without a limit but that of the logistic function.

    Source: this project, docs/own-objective.md.
    """
    tokens = _tokens(logps)
    penalty = _sums(logps, torch.where(tokens.own, relu(tokens.logratios), 0.0))
    return -logsigmoid(beta * logps.logratios[logps.best] - beta * penalty[logps.worst])


def minordpo_guarded(
    logps: ResponseLogps, *, beta: float = 0.1, guard: float = 5.0
) -> Float[Tensor, "prompts"]:
    """−log σ(β Σ h_t(w) − β Σ max(0, h_t(l)) − β λ Σ max(0, −h_t(w))), λ = `guard`: DPOP's penalty for each token.

    Chosen tokens below the reference are raised 1 + λ times as hard as the others. `minordpo_token` with a guard of 0.

    Source: this project, docs/own-objective.md.
    """
    ratios = _tokens(logps).logratios
    penalty, fallen = _sums(logps, relu(ratios)), _sums(logps, relu(-ratios))
    margins = logps.logratios[logps.best] - penalty[logps.worst] - guard * fallen[logps.best]
    return -logsigmoid(beta * margins)


def minordpo_fork(
    logps: ResponseLogps, *, beta: float = 0.1, fork_weight: float = 5.0
) -> Float[Tensor, "prompts"]:
    """−log σ(β Σ h_t(w) + β γ (h_fork(w) − h_fork(l))), γ = `fork_weight`: DPO at the fork, imitation elsewhere.

    The fork is where the rejected response goes wrong: both tokens continue the same text, so their difference moves
    their two logits by equal and opposite amounts and no other one. A response without a token of its own, the other's
    beginning, has an h_fork of 0. With a weight of 0 it is `minor_sft` in sums.

    Source: this project, docs/own-objective.md.
    """
    return -logsigmoid(beta * (logps.logratios[logps.best] + fork_weight * _fork_leads(logps)))


def dpo_fork(logps: ResponseLogps, *, beta: float = 0.1) -> Float[Tensor, "prompts"]:
    """−log σ(β (h_fork(w) − h_fork(l))): DPO at the fork and nothing else.

    Nothing is imitated. A pair without a fork, of equal responses, has a loss of log 2 and no gradient.

    Source: this project, docs/own-objective.md.
    """
    return -logsigmoid(beta * _fork_leads(logps))


def _fork_leads(logps: ResponseLogps) -> Tensor:
    """h_fork(w) − h_fork(l), in nats."""
    tokens = _tokens(logps)
    at_fork = _sums(logps, torch.where(tokens.forks, tokens.logratios, 0.0))
    return at_fork[logps.best] - at_fork[logps.worst]


def _tokens(logps: ResponseLogps) -> TokenLogps:
    assert logps.by_token is not None
    return logps.by_token


def _sums(logps: ResponseLogps, values: Tensor) -> Tensor:
    """Sums of a value a token over each response."""
    return torch.zeros_like(logps.logps).index_add(0, _tokens(logps).sequences, values)


OURS = {
    "minordpo_token": Spec(
        minordpo_token,
        PAIRS,
        by_token=True,
        assumes="as minordpo, of each token of the rejected response by itself",
        usual="as minordpo",
    ),
    "minordpo_tail": Spec(
        minordpo_tail,
        PAIRS,
        by_token=True,
        assumes="as minordpo; what the responses begin with in common says nothing against the rejected one",
        usual="as minordpo",
    ),
    "minordpo_token_tail": Spec(
        minordpo_token_tail,
        PAIRS,
        by_token=True,
        assumes="as minordpo_token and minordpo_tail",
        usual="as minordpo",
    ),
    "minordpo_guarded": Spec(
        minordpo_guarded,
        PAIRS,
        by_token=True,
        assumes="as minordpo_token, and no token of the chosen response may fall below the reference",
        usual="guard 1 to 10, else as minordpo",
    ),
    "minordpo_fork": Spec(
        minordpo_fork,
        PAIRS,
        by_token=True,
        assumes="the rejected response is wrong where it first differs; the chosen one is worth imitating",
        usual="fork_weight 1 to 10, else as minordpo",
    ),
    "dpo_fork": Spec(
        dpo_fork,
        PAIRS,
        by_token=True,
        assumes="the rejected response is wrong where it first differs, and nothing else is to change",
        usual="beta 0.1 to 1",
    ),
}
