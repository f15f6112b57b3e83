"""A name and hyper-parameters → an `Objective`; its gradient as one coefficient a response."""

from __future__ import annotations

import difflib
import inspect
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from minordpo.errors import InputError
from minordpo.objectives.logps import ResponseLogps
from minordpo.objectives.pairwise import PAIRWISE
from minordpo.objectives.responses import RESPONSES
from minordpo.objectives.spec import Spec

OBJECTIVES: dict[str, Spec] = {**PAIRWISE, **RESPONSES}


@dataclass(frozen=True)
class Range:
    """The values a hyper-parameter may take: numbers, whole ones only, or true and false."""

    lowest: float = -math.inf
    highest: float = math.inf
    open_below: bool = False  # the lowest itself is refused
    open_above: bool = False
    kind: type = float

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of them."""
        if self.kind is bool:
            return isinstance(value, bool)
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
            return False
        if not abs(value) <= sys.float_info.max:
            return False
        above = value > self.lowest if self.open_below else value >= self.lowest
        below = value < self.highest if self.open_above else value <= self.highest
        return above and below

    def __str__(self) -> str:
        if self.kind is bool:
            return "true or false"
        words = "a whole number" if self.kind is int else "a number"
        if self.lowest > -math.inf:
            words += f" {'above' if self.open_below else 'at least'} {self.lowest:g}"
        if self.highest < math.inf:
            joint = " and" if self.lowest > -math.inf else ""
            words += f"{joint} {'below' if self.open_above else 'at most'} {self.highest:g}"
        return words


_POSITIVE, _NOT_NEGATIVE, _SWITCH = Range(0.0, open_below=True), Range(0.0), Range(kind=bool)
# Of each hyper-parameter, whichever objective has it.
RANGES: dict[str, Range] = {
    "alpha": _NOT_NEGATIVE,
    "beta": _POSITIVE,
    "delta": _NOT_NEGATIVE,
    "desirable_weight": _NOT_NEGATIVE,
    "dpop_lambda": _NOT_NEGATIVE,
    "gamma": _NOT_NEGATIVE,
    "gate_gradient": _SWITCH,
    "label_smoothing": Range(0.0, 0.5, open_above=True),
    "margin": Range(),
    "orpo_lambda": _NOT_NEGATIVE,
    "per_token": _SWITCH,
    "rank_weight": _NOT_NEGATIVE,
    "temperature": _POSITIVE,
    "top_k": Range(1.0, kind=int),
    "undesirable_weight": _NOT_NEGATIVE,
}


@dataclass(frozen=True)
class Term:
    """One objective of a weighted sum, its hyper-parameters complete."""

    weight: float
    name: str
    hyper: dict[str, Any]

    @property
    def spec(self) -> Spec:
        """What it is."""
        return OBJECTIVES[self.name]


@dataclass(frozen=True)
class Objective:
    """What a run optimises: a weighted sum of objectives, mostly of one."""

    name: str
    terms: tuple[Term, ...]

    def __call__(self, logps: ResponseLogps) -> Float[Tensor, "prompts"]:
        """The loss of each prompt."""
        losses = [term.weight * term.spec.losses(logps, term.hyper) for term in self.terms]
        return torch.stack(losses).sum(dim=0) if len(losses) > 1 else losses[0]

    def __str__(self) -> str:
        return ", ".join([self.name, *(f"{key} {_shown(value)}" for key, value in self.hyper.items())])

    @property
    def hyper(self) -> dict[str, Any]:
        """All hyper-parameters; one that several terms have has one value."""
        return {name: value for term in self.terms for name, value in term.hyper.items()}

    @property
    def beta(self) -> float:
        """The first term's that has one, else 1; what `rewards/*` are scaled by."""
        return float(next((term.hyper["beta"] for term in self.terms if "beta" in term.hyper), 1.0))

    @property
    def data(self) -> frozenset[str]:
        """The kinds of data that every term takes; pairs are one, as every objective takes them."""
        return frozenset.intersection(*(term.spec.data for term in self.terms))

    @property
    def reference(self) -> bool:
        """Whether the loss is made of reference log-probs."""
        return any(term.spec.reference for term in self.terms)

    @property
    def mismatched(self) -> bool:
        """Whether it needs log-ratios of responses paired with another prompt of the step."""
        return any(term.spec.mismatched for term in self.terms)

    @property
    def alternatives(self) -> int | None:
        """How many of the likeliest other tokens an alternative to each rejected token is drawn from, if any are."""
        return next((int(t.hyper["top_k"]) for t in self.terms if t.spec.alternatives), None)

    def reports(self, logps: ResponseLogps) -> dict[str, Float[Tensor, ""]]:
        """The terms' own metrics, by name: scalars of the whole step."""
        return {name: report(logps) for t in self.terms for name, report in t.spec.reports.items()}

    @property
    def undesirable(self) -> bool:
        """Whether every term has a use for labelled responses that are undesirable."""
        return all(term.spec.undesirable for term in self.terms)


def resolve(name: str, hyperparameters: Mapping[str, Any]) -> Objective:
    """The objective of that name, or the weighted sum "minordpo + 0.1*sft", with its hyper-parameters bound.

    A hyper-parameter goes to every term that has it; one whose defaults differ between them must be given.

    Raises:
        InputError: an unknown objective or hyper-parameter (the nearest is named), one out of its range, or one that
            the terms of a sum disagree about; an objective named twice, or a weight that is no number above 0.
    """
    weighted = [_weighted(part, name) for part in name.split("+")]
    names = [each for _, each in weighted]
    if len(set(names)) < len(names):
        raise InputError(f"objective.name is {name!r}, which names an objective twice. Add up their weights")
    known = list(dict.fromkeys(key for each in names for key in hyperparameter_defaults(each)))
    for key, value in hyperparameters.items():
        if key not in known:
            which = f"objective {name} has no hyper-parameter {key!r}{_nearest(key, known)}"
            raise InputError(f"{which}. It has: {', '.join(known) or 'none'}")
        if not RANGES[key].holds(value):
            raise InputError(f"objective.{key} is {value!r}, but must be {RANGES[key]}")
    terms = []
    for weight, each in weighted:
        defaults = hyperparameter_defaults(each)
        given = {key: RANGES[key].kind(value) for key, value in hyperparameters.items() if key in defaults}
        terms.append(Term(weight, each, {**defaults, **given}))
    _refuse_disagreement(name, terms)
    return Objective(name, tuple(terms))


def _refuse_disagreement(name: str, terms: Iterable[Term]) -> None:
    found: dict[str, Term] = {}
    for term in terms:
        for key, value in term.hyper.items():
            other = found.setdefault(key, term)
            if value != other.hyper[key]:
                raise InputError(
                    f"objective.name is {name!r}, whose {key} is {_shown(other.hyper[key])} by default in {other.name} "
                    f"but {_shown(value)} in {term.name}. Set objective.{key}; it holds for both"
                )


def hyperparameter_defaults(name: str) -> dict[str, Any]:
    """The hyper-parameters of an objective and their defaults: its keyword arguments and nothing else."""
    parameters = inspect.signature(OBJECTIVES[name].function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def check_ranges(specs: Mapping[str, Spec]) -> None:
    """Nothing, where every hyper-parameter has a range; at import, so that who adds an objective is told at once.

    Raises:
        TypeError: one has none, and help, errors and config could say nothing of it.
    """
    for name, spec in specs.items():
        for parameter in inspect.signature(spec.function).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.name not in RANGES:
                raise TypeError(f"{parameter.name} of objective {name} has no range. Give it one in RANGES")


check_ranges(OBJECTIVES)


def refuse_data(objective: Objective, kind: str, grades: Iterable[Iterable[float]], source: str) -> None:
    """Refuse data that the objective cannot use.

    Raises:
        InputError: another kind of data, with the objectives that can use it; or undesirable responses.
    """
    if kind not in objective.data:
        able = ", ".join(sorted(name for name, spec in OBJECTIVES.items() if kind in spec.data))
        raise InputError(
            f"{source} holds {_KINDS[kind]}, but the objective {objective.name} needs "
            f"{listed_kinds(objective.data)}. Objectives for this data: {able}"
        )
    if kind == "labelled" and not objective.undesirable:
        undesirable = sum(1 for each in grades if not all(each))
        if undesirable:
            raise InputError(
                f"{source} holds {undesirable} responses labelled undesirable, for which the objective "
                f"{objective.name} has no use. Leave them out of the file, or train with kto"
            )


_KINDS = {
    "pairs": "pairs (prompt, chosen, rejected)",
    "labelled": "labelled responses (prompt, completion, label)",
    "ranked": "ranked responses (prompt, responses, ranks or scores)",
}


def listed_kinds(kinds: Iterable[str]) -> str:
    """The kinds of data in words, with their columns."""
    return " or ".join(_KINDS[kind] for kind in sorted(kinds, key=list(_KINDS).index))


@dataclass(frozen=True, eq=False)
class Gradient:
    """Losses, and what the backward pass through the model needs: d loss / d log-prob.

    The gradient of an objective on a response's log-prob is coefficient × ∇ log π(response) (the MinorDPO paper's
    Eq. 4 says it for DPO); a finer one has a coefficient for each token, here those of `members` and `alternatives`.
    """

    losses: Float[Tensor, "prompts"]
    sequences: Float[Tensor, "sequences"]  # of a token-wise objective: the mean over the response's tokens
    members: Float[Tensor, "members"] | None = None
    alternatives: Float[Tensor, "alternatives"] | None = None


def gradient(objective: Objective, logps: ResponseLogps) -> Gradient:
    """Losses and coefficients; nothing reaches what `logps` was computed from."""
    if objective.alternatives is not None:
        return _gradient_by_token(objective, logps)
    with torch.enable_grad():
        leaf = logps.logps.detach().requires_grad_()
        losses = objective(replace(logps, logps=leaf, ref_logps=_detached(logps.ref_logps)))
        (coefficients,) = torch.autograd.grad(losses.sum(), leaf)
    return Gradient(losses.detach(), coefficients)


def _gradient_by_token(objective: Objective, logps: ResponseLogps) -> Gradient:
    tokens = logps.by_token
    assert tokens is not None
    with torch.enable_grad():
        members = tokens.logps.detach().requires_grad_()
        others = tokens.alternative_logps.detach().requires_grad_()
        # Added in float64 as `engine.logprobs` adds them, so that both ways see the same log-probs.
        doubled = logps.logps.new_zeros(len(logps.logps), dtype=torch.float64)
        sums = doubled.index_add(0, tokens.sequences, members.double()).to(logps.logps)
        by_token = replace(tokens, logps=members, alternative_logps=others)
        losses = objective(
            replace(logps, logps=sums, ref_logps=_detached(logps.ref_logps), by_token=by_token)
        )
        by_member, by_alternative = torch.autograd.grad(losses.sum(), [members, others])
    totals = torch.zeros_like(logps.logps).index_add(0, tokens.sequences, by_member)
    return Gradient(losses.detach(), totals / logps.tokens, by_member, by_alternative)


def _detached(ref_logps: Tensor | None) -> Tensor | None:
    return None if ref_logps is None else ref_logps.detach()


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _weighted(part: str, whole: str) -> tuple[float, str]:
    """ "0.1*sft" → (0.1, "sft")."""
    match = re.fullmatch(r"\s*(?:(?P<weight>[^*]+?)\s*\*\s*)?(?P<name>[^*]*?)\s*", part)
    name = match["name"] if match else part.strip()
    if name not in OBJECTIVES:
        what = repr(name) if name != whole else repr(whole)
        within = f" in {whole!r}" if name != whole else ""
        raise InputError(
            f"objective.name is {what}{within}, which is no objective{_nearest(name, OBJECTIVES)}. "
            f"Known: {', '.join(sorted(OBJECTIVES))}; sums are written minordpo + 0.1*sft"
        )
    assert match is not None
    try:
        weight = float(match["weight"] or 1)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise InputError(
            f"objective.name is {whole!r}, but the weight {match['weight']!r} is no number above 0. "
            "Write sums as minordpo + 0.1*sft"
        )
    return weight, name


# What other tools call these objectives.
_OTHER_NAMES = {
    "sigmoid": "dpo",
    "kto_pair": "kto",
    "smaug": "dpop",
    "cringe": "pairwise_cringe",
    "rpo": "dpo_nll",
    "slic_hf": "slic",
    "nll": "sft",
}


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    other = [_OTHER_NAMES[name]] if name in _OTHER_NAMES and _OTHER_NAMES[name] in known else []
    by_lower_case = {each.lower(): each for each in known}
    close = other or [
        by_lower_case[each] for each in difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    ]
    return f" (did you mean {close[0]}?)" if close else ""
