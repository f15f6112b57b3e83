"""A user's own objective: a function, given in Python or named in a file, checked as the built-in ones are.

The checks of its signature and of what it returns for a few made-up pairs run once, before anything slow. What it
returns is checked in every step too.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from minordpo.errors import InputError
from minordpo.objectives.late import Tensor, torch
from minordpo.objectives.logps import ResponseLogps, alternating
from minordpo.objectives.spec import PAIRS, Spec
from minordpo.own_code import raised

# `objective.name`, and the arguments of PreferenceTrainer, beside which it takes hyper-parameters.
RESERVED = {
    *("name", "self", "model", "objective", "args", "train_dataset", "eval_dataset", "processing_class"),
    *("ref_model", "peft_config", "callbacks", "optimizers", "token_options", "invalid", "token_budget"),
    *("dropout", "measure_reference", "cache", "metrics_file", "allow_code"),
    *("router_aux_loss", "mixture", "held_out_sources"),
}
_FORM = "def my_loss(logps, *, beta: float = 0.1)"


# ---- a function, or its Spec ----
def own_spec(given: Any, name: str) -> Spec:
    """The `Spec` of a user's function, or of a user's `Spec`, with a function that checks what it returns.

    Raises:
        InputError: no function, or a signature from which hyper-parameters cannot be read.
    """
    function = given.function if isinstance(given, Spec) else given
    if not callable(function) or isinstance(function, type):
        raise InputError(
            f"objective {name} is of type {type(function).__name__}, but a name or a function of PairLogps is "
            f"needed, as in {_FORM}. Pass one"
        )
    spec = given if isinstance(given, Spec) else Spec(function, reference=None)
    try:
        signature = inspect.signature(function)
    except ValueError:  # written in C
        signature = inspect.Signature()
    parameters = [*signature.parameters.values()]
    by_place = [
        each for each in parameters[:1] if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    numbers = [each for each in parameters if each.kind is each.KEYWORD_ONLY and _is_number(each.default)]
    if not by_place or by_place + numbers != parameters:
        raise InputError(
            f"objective {name} takes {signature}, but log-probs by place are needed, and hyper-"
            f"parameters behind * with a number, true or false as default. Write it as {_FORM}"
        )
    if taken := RESERVED & spec.defaults.keys():
        raise InputError(
            f"objective {name} has a hyper-parameter {min(taken)!r}, which is also a setting of the trainer. Give the "
            "hyper-parameter another name"
        )
    if not spec.data >= PAIRS or (spec.alternatives and "top_k" not in spec.defaults):
        raise InputError(
            f"the Spec of objective {name} leaves out pairs, or has alternatives and no hyper-parameter top_k. Every "
            "objective takes pairs, and alternatives are drawn from the top_k likeliest tokens"
        )
    return replace(spec, function=_checked(function, name))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _checked(function: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
    """The function, with its errors and wrong results told in one line that names it."""

    @functools.wraps(function)
    def checked(logps: Any, **hyper: Any) -> Tensor:
        try:
            losses = function(logps, **hyper)
        except (InputError, torch.OutOfMemoryError):  # the step makes room and tries again
            raise
        except (Exception, SystemExit) as error:
            raise InputError(f"objective {name} {raised(error)}. Correct the function") from error
        _refuse_result(losses, logps, name)
        return losses

    checked.__name__ = name
    return checked


def _refuse_result(losses: Any, logps: Any, name: str) -> None:
    seen = logps.logps if isinstance(logps, ResponseLogps) else logps.chosen_logps
    prompts = logps.prompts if isinstance(logps, ResponseLogps) else len(seen)
    if not isinstance(losses, Tensor):
        found = f"a value of type {type(losses).__name__}"
    elif losses.shape != (prompts,):
        found = f"a tensor of shape {tuple(losses.shape)}"
    elif not losses.is_floating_point():
        found = f"a tensor of {losses.dtype}"
    elif seen.requires_grad and not losses.requires_grad:
        found = "a tensor without a gradient"
    else:
        return
    raise InputError(
        f"objective {name} returned {found} for {prompts} pairs, but a loss for each is needed, of shape ({prompts},), "
        "computed from the log-probs and not averaged. Correct the function"
    )


# ---- tried on made-up pairs ----
def tried(spec: Spec, hyper: dict[str, Any], name: str) -> Spec:
    """The spec, once its function has returned losses with a gradient for made-up pairs; where gradients are recorded.

    A spec whose `reference` is None learns here whether its loss is made of reference log-probs: whether the function
    fails without them, or returns something else. Where the loss is not, its plane is of sums unless lengths matter.

    Raises:
        InputError: the function raises an error, returns something that is no loss a pair with a gradient, or lets
            pairs change each other's losses.
    """
    logps, fewer = _made_up(5), _made_up(2)
    alone = replace(logps, ref_logps=None)
    if spec.reference is False:
        logps, fewer = alone, replace(fewer, ref_logps=None)
    losses = spec.losses(logps, hyper)
    if not torch.allclose(spec.losses(fewer, hyper), losses[:2], equal_nan=True):
        raise InputError(
            f"objective {name} gives a pair another loss when other pairs stand beside it, but how a step is cut into "
            "rows must not change what is optimised. Compute the loss of each pair from that pair alone"
        )
    if torch.autograd.grad(losses.sum(), logps.logps, allow_unused=True)[0] is None:
        raise InputError(
            f"objective {name} returned losses that have no gradient with respect to the responses' log-probs, so "
            "nothing would be trained. Correct the function"
        )
    if spec.reference is not None:
        return spec

    def same(other: ResponseLogps) -> bool:
        try:
            return torch.equal(spec.losses(other, hyper).nan_to_num(), losses.nan_to_num())
        except InputError:
            return False

    longer = replace(logps, tokens=logps.tokens + 1)
    return replace(spec, reference=not same(alone), axes="sums" if same(longer) else "means")


def _made_up(pairs: int) -> ResponseLogps:
    """The first of five pairs whose log-ratios have all signs and 0."""
    ratios = torch.tensor([3.0, -2.0, -4.0, 1.5, 2.0, 5.0, -1.0, -6.0, 0.0, 0.0])[: 2 * pairs]
    tokens = torch.arange(2 * pairs) % 4 + 3
    ref = -1.5 * tokens - 0.25 * torch.arange(2 * pairs) - 8
    return alternating((ref + ratios).requires_grad_(), ref, tokens, by_token=True)
