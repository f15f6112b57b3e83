"""A name and hyper-parameters → an `Objective`; its gradient as one coefficient a response."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from minordpo.errors import InputError, did_you_mean
from minordpo.objectives import own
from minordpo.objectives.late import Float, Tensor, torch
from minordpo.objectives.logps import ResponseLogps
from minordpo.objectives.pairwise import PAIRWISE
from minordpo.objectives.responses import RESPONSES
from minordpo.objectives.spec import Range, Spec, name_of
from minordpo.own_code import import_named, refuse_import

OBJECTIVES: dict[str, Spec] = {**PAIRWISE, **RESPONSES}
# Of each hyper-parameter that a built-in objective has.
RANGES: dict[str, Range] = {key: each for spec in OBJECTIVES.values() for key, each in spec.ranges.items()}

_CODE = r"[\w.]+:\w+"  # package.module:function
_GIVEN = "objective.name"
Given = str | Callable[..., Any] | Spec  # a name, a sum of names, or a function of the user's own


@dataclass(frozen=True)
class Term:
    """One objective of a weighted sum, its hyper-parameters complete."""

    weight: float
    name: str
    hyper: dict[str, Any]
    spec: Spec


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
        # A number that is 0 by default switches its part off: it is named only where it is another.
        off = {
            name
            for t in self.terms
            for name, value in t.spec.defaults.items()
            if value == 0 and value is not False
        }
        shown = {name: value for name, value in self.hyper.items() if value != 0 or name not in off}
        return ", ".join([self.name, *(f"{name} {_shown(value)}" for name, value in shown.items())])

    @property
    def hyper(self) -> dict[str, Any]:
        """All hyper-parameters; one that several terms have has one value."""
        return {name: value for term in self.terms for name, value in term.hyper.items()}

    @property
    def beta(self) -> float:
        """The first term's that has one, else 1; what `rewards/*` are scaled by."""
        return float(self.hyper.get("beta", 1.0))

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

    @property
    def report_names(self) -> list[str]:
        """The names of the terms' own metrics."""
        return sorted({name for term in self.terms for name in term.spec.reports})

    def gates(self, logps: ResponseLogps) -> Float[Tensor, "gates"] | None:
        """|log-ratio| of each pair's gates that are open, 0 of those that are shut; None where no term has a gate."""
        gated = [(term.spec.gate, term.hyper) for term in self.terms if term.spec.gate is not None]
        return torch.cat([gate(logps.pairs(), **hyper) for gate, hyper in gated]) if gated else None

    def reports(self, logps: ResponseLogps) -> dict[str, Float[Tensor, ""]]:
        """The terms' own metrics, by name: scalars of the whole step."""
        return {name: report(logps) for t in self.terms for name, report in t.spec.reports.items()}

    @property
    def undesirable(self) -> bool:
        """Whether every term has a use for labelled responses that are undesirable."""
        return all(term.spec.undesirable for term in self.terms)

    def having(self, values: Mapping[str, Any]) -> Objective:
        """The same objective with these values of its hyper-parameters; one goes to every term that has it.

        Raises:
            InputError: no term has it, the value is out of its range, or terms disagree about one that is not given.
        """
        for key, value in values.items():
            if key not in self.hyper:
                which = f"objective {self.name} has no hyper-parameter {key!r}{did_you_mean(key, self.hyper)}"
                raise InputError(f"{which}. It has: {', '.join(self.hyper) or 'none'}")
            for term in self.terms:
                if key in term.hyper and not term.spec.ranges[key].holds(value):
                    raise InputError(f"objective.{key} is {value!r}, but must be {term.spec.ranges[key]}")
        terms: list[Term] = []
        for term in self.terms:
            ranges = term.spec.ranges
            given = {key: ranges[key].kind(value) for key, value in values.items() if key in term.hyper}
            hyper = term.hyper | given
            for other in terms:
                for key in hyper:
                    if other.hyper.get(key, hyper[key]) != hyper[key]:
                        raise InputError(
                            f"objective.name is {self.name!r}, whose {key} is {_shown(other.hyper[key])} by default "
                            f"in {other.name} but {_shown(hyper[key])} in {term.name}. Set objective.{key}; it holds "
                            "for both"
                        )
            terms.append(replace(term, hyper=hyper))
        return replace(self, terms=tuple(terms))


def resolve(objective: Given, hyperparameters: Mapping[str, Any], *, allow_code: bool = False) -> Objective:
    """The objective of that name, or the weighted sum "minordpo + 0.1*sft", with its hyper-parameters bound.

    A function of the user's own is an objective too, as itself, in its `Spec`, or by the name
    "package.module:function", which is imported only with `allow_code`. A hyper-parameter goes to every term that has
    it; one whose defaults differ between them must be given.

    Raises:
        InputError: an unknown objective or hyper-parameter (the nearest is named), one out of its range, or one that
            the terms of a sum disagree about; an objective named twice, or a weight that is no number above 0; a
            function that cannot be imported, or is no objective.
    """
    bound = parse(objective, allow_code=allow_code).having(hyperparameters)
    terms = list(bound.terms)
    for place, term in enumerate(terms):
        if OBJECTIVES.get(term.name) is not term.spec:
            with torch.enable_grad():
                terms[place] = replace(term, spec=own.tried(term.spec, term.hyper, term.name))
    return replace(bound, terms=tuple(terms))


def recorded(name: str, hyperparameters: Mapping[str, Any]) -> Objective:
    """The objective that the config of a finished run names; a function of the user's own is not imported.

    Raises:
        InputError: as `resolve`.
    """
    if not re.search(_CODE, name):
        return resolve(name, hyperparameters)
    unknown = Spec(lambda *_, **__: refuse_import(name, given=_GIVEN))
    return Objective(name, (Term(1.0, name, dict(hyperparameters), unknown),))


def parse(objective: Given, *, allow_code: bool = False) -> Objective:
    """The objective with the defaults of its hyper-parameters, about which its terms may disagree.

    Raises:
        InputError: as `resolve`.
    """
    if isinstance(objective, str):
        return Objective(objective, tuple(_terms(objective, allow_code)))
    name = objective.name if isinstance(objective, Spec) else name_of(objective)
    built_in = OBJECTIVES.get(name)
    spec = built_in if built_in is not None and objective is built_in else own.own_spec(objective, name)
    return Objective(name, (Term(1.0, name, spec.defaults, spec),))


def refuse_data(objective: Objective, kind: str, grades: Iterable[Iterable[float]], source: str) -> None:
    """Refuse data that the objective cannot use.

    Raises:
        InputError: another kind of data, with the objectives that can use it; or undesirable responses.
    """
    if kind not in objective.data:
        able = ", ".join(sorted(name for name, spec in OBJECTIVES.items() if kind in spec.data))
        needed = " or ".join(words for each, words in KINDS.items() if each in objective.data)
        raise InputError(
            f"{source} holds {KINDS[kind]}, but the objective {objective.name} needs {needed}. Objectives for this "
            f"data: {able}"
        )
    if kind == "labelled" and not objective.undesirable:
        undesirable = sum(1 for each in grades if not all(each))
        if undesirable:
            raise InputError(
                f"{source} holds {undesirable} responses labelled undesirable, for which the objective "
                f"{objective.name} has no use. Leave them out of the file, or train with kto"
            )


KINDS = {
    "pairs": "pairs (prompt, chosen, rejected)",
    "labelled": "labelled responses (prompt, completion, label)",
    "ranked": "ranked responses (prompt, responses, ranks or scores)",
}


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
    if logps.ref_logps is not None:
        logps = replace(logps, ref_logps=logps.ref_logps.detach())
    if objective.alternatives is not None:
        return _gradient_by_token(objective, logps)
    with torch.enable_grad():
        leaf = logps.logps.detach().requires_grad_()
        losses = objective(replace(logps, logps=leaf))
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
        losses = objective(replace(logps, logps=sums, by_token=by_token))
        by_member, by_alternative = torch.autograd.grad(losses.sum(), [members, others])
    totals = torch.zeros_like(logps.logps).index_add(0, tokens.sequences, by_member)
    return Gradient(losses.detach(), totals / logps.tokens, by_member, by_alternative)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _terms(text: str, allow_code: bool) -> list[Term]:
    """The terms of "minordpo + 0.1*sft"; what a name such as "package.module:function" names is maybe imported."""
    terms: list[Term] = []
    for part in text.split("+"):
        factor, star, name = (each.strip() for each in part.rpartition("*"))
        is_code = re.fullmatch(_CODE, name)
        if name not in OBJECTIVES and not is_code:
            what = f"{name!r} in {text!r}" if name != text else repr(text)
            other = _OTHER_NAMES.get(name)
            near = f" (did you mean {other}?)" if other else did_you_mean(name, OBJECTIVES)
            raise InputError(
                f"objective.name is {what}, which is no objective{near}. "
                f"Known: {', '.join(sorted(OBJECTIVES))}; sums are written minordpo + 0.1*sft"
            )
        try:
            weight = float(factor) if star else 1.0
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise InputError(
                f"objective.name is {text!r}, but the weight {factor!r} is no number above 0. "
                "Write sums as minordpo + 0.1*sft"
            )
        find = import_named if allow_code else refuse_import
        spec = own.own_spec(find(name, given=_GIVEN), name) if is_code else OBJECTIVES[name]
        terms.append(Term(weight, name, spec.defaults, spec))
    if len({term.name for term in terms}) < len(terms):
        raise InputError(f"objective.name is {text!r}, which names an objective twice. Add up their weights")
    return terms


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
