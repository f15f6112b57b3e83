"""What to optimise: pure functions `PairLogps` → unreduced losses, one per pair.

Notation: a log-ratio is `logps − ref_logps`, the paper's β-free reward; σ is the logistic function.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from minordpo.errors import InputError

Objective = Callable[["PairLogps"], Tensor]


@dataclass(frozen=True, eq=False)
class PairLogps:
    """Log-probs of a batch of pairs, summed over each response's scored tokens, in nats."""

    chosen_logps: Float[Tensor, "pairs"]
    rejected_logps: Float[Tensor, "pairs"]
    ref_chosen_logps: Float[Tensor, "pairs"]
    ref_rejected_logps: Float[Tensor, "pairs"]
    chosen_tokens: Int[Tensor, "pairs"]
    rejected_tokens: Int[Tensor, "pairs"]

    @property
    def chosen_logratios(self) -> Float[Tensor, "pairs"]:
        """log π/π_ref of the chosen responses, in nats."""
        return self.chosen_logps - self.ref_chosen_logps

    @property
    def rejected_logratios(self) -> Float[Tensor, "pairs"]:
        """log π/π_ref of the rejected responses, in nats."""
        return self.rejected_logps - self.ref_rejected_logps


def dpo(logps: PairLogps, *, beta: float = 0.1) -> Float[Tensor, "pairs"]:
    """−log σ(β (chosen_logratio − rejected_logratio)).

    Source: Rafailov et al. 2023, Eq. 7; Xie et al. 2024 (arXiv 2408.09834), Eq. 2.
    """
    return -logsigmoid(beta * (logps.chosen_logratios - logps.rejected_logratios))


def minordpo(logps: PairLogps, *, beta: float = 0.1) -> Float[Tensor, "pairs"]:
    """−log σ(β chosen_logratio − β max(0, rejected_logratio)).

    The penalty on a rejected response stops where the policy likes it no more than the reference does. Equality is
    included, as in the paper's text: at a log-ratio of exactly 0, where training starts, no gradient reaches the
    rejected response (`relu`; `torch.clamp` would pass a gradient of 1 there, `torch.maximum` one of ½).

    Source: Xie et al. 2024 (arXiv 2408.09834), Eq. 6 and §3.4.
    """
    return -logsigmoid(beta * logps.chosen_logratios - beta * relu(logps.rejected_logratios))


def dpop(logps: PairLogps, *, beta: float = 0.1, dpop_lambda: float = 50.0) -> Float[Tensor, "pairs"]:
    """−log σ(β (chosen_logratio − rejected_logratio − λ max(0, −chosen_logratio))).

    The λ term stands inside the log-sigmoid and is multiplied by β.

    Source: Pal et al. 2024 (arXiv 2402.13228); Xie et al. 2024, Eq. 5, whose λ of 50 is the default here.
    """
    margins = logps.chosen_logratios - logps.rejected_logratios
    return -logsigmoid(beta * (margins - dpop_lambda * relu(-logps.chosen_logratios)))


OBJECTIVES: dict[str, Callable[..., Tensor]] = {"dpo": dpo, "minordpo": minordpo, "dpop": dpop}

# (lowest, highest, lowest allowed itself?) of each hyper-parameter, whichever objective has it
RANGES: dict[str, tuple[float, float, bool]] = {
    "beta": (0.0, math.inf, False),
    "dpop_lambda": (0.0, math.inf, True),
}


def resolve(name: str, hyperparameters: Mapping[str, Any]) -> Objective:
    """The objective of that name with its hyper-parameters bound.

    Raises:
        InputError: an unknown objective or hyper-parameter (the nearest is named), or one out of its range.
    """
    if name not in OBJECTIVES:
        raise InputError(
            f"objective.name is {name!r}, which is no objective{_nearest(name, OBJECTIVES)}. "
            f"Known: {', '.join(sorted(OBJECTIVES))}"
        )
    function = OBJECTIVES[name]
    known = hyperparameter_defaults(name)
    for key, value in hyperparameters.items():
        if key not in known:
            raise InputError(
                f"objective {name} has no hyper-parameter {key!r}{_nearest(key, known)}. It has: {', '.join(known)}"
            )
        lowest, highest, inclusive = RANGES[key]
        number = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and abs(value) <= sys.float_info.max
        )
        if not number or not (lowest <= value <= highest) or (value == lowest and not inclusive):
            relation = "at least" if inclusive else "above"
            raise InputError(f"objective.{key} is {value!r}, but must be a number {relation} {lowest:g}")
    return functools.partial(function, **hyperparameters)


def hyperparameter_defaults(name: str) -> dict[str, float]:
    """The hyper-parameters of an objective and their defaults: its keyword arguments and nothing else."""
    parameters = inspect.signature(OBJECTIVES[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def losses_and_coefficients(
    objective: Objective, logps: PairLogps
) -> tuple[Float[Tensor, "pairs"], Float[Tensor, "pairs"], Float[Tensor, "pairs"]]:
    """Losses per pair, and d loss / d logp of the chosen and of the rejected response.

    The gradient of any objective on sequence log-probs is coefficient × ∇ log π(response) (the paper's Eq. 4 says it
    for DPO), so these two numbers a pair are all that the backward pass through the model needs.
    """
    with torch.enable_grad():
        chosen = logps.chosen_logps.detach().requires_grad_()
        rejected = logps.rejected_logps.detach().requires_grad_()
        losses = objective(
            PairLogps(
                chosen,
                rejected,
                logps.ref_chosen_logps.detach(),
                logps.ref_rejected_logps.detach(),
                logps.chosen_tokens,
                logps.rejected_tokens,
            )
        )
        grads = torch.autograd.grad(losses.sum(), (chosen, rejected), allow_unused=True)
    c_chosen, c_rejected = (torch.zeros_like(chosen) if g is None else g for g in grads)
    return losses.detach(), c_chosen, c_rejected


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
