"""Claims on formulas: the objectives' own coefficients decide them, and the runs' logged ones must agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from minordpo import objectives
from minordpo.objectives.logps import alternating
from minordpo.paper.claims.evidence import Run
from minordpo.paper.claims.verdict import Finding

BETAS = (0.02, 0.05, 0.1, 0.2)  # the paper's ends, and between
AGREES = 1e-3  # largest relative difference of a logged coefficient: log-ratios are kept to 4 digits
SLIGHTLY = 0.1  # of β, which is the most that a coefficient can be


def push(objective: str, beta: float, chosen: Sequence[float], rejected: Sequence[float]) -> list[float]:
    """How strongly the objective pushes the chosen response of each pair of log-ratios up, by its own gradient."""
    ratios = torch.tensor([chosen, rejected], dtype=torch.float64).T.reshape(-1)
    logps = alternating(ratios - 50, torch.full_like(ratios, -50), torch.full((len(ratios),), 50))
    found = objectives.gradient(objectives.resolve(objective, {"beta": beta}), logps)
    return [-each for each in found.sequences[::2].tolist()]


def formula(beta: float, margin: float) -> float:
    """f(β, margin) = β σ(−β margin), the paper's coefficient."""
    # Of both signs the form that neither overflows nor cancels.
    decay = math.exp(-abs(beta * margin))
    return beta * (decay if margin > 0 else 1.0) / (1 + decay)


def coefficient_decays(runs: Sequence[Run]) -> Finding:
    """C1."""
    margins = [float(each) for each in range(-100, 101)]
    zero = [0.0] * len(margins)
    pushes = {beta: push("dpo", beta, margins, zero) for beta in BETAS}
    equal = all(
        math.isclose(value, formula(beta, margin), rel_tol=1e-9)
        for beta in BETAS
        for value, margin in zip(pushes[beta], margins, strict=True)
    )
    falls = all(a > b for values in pushes.values() for a, b in itertools.pairwise(values))
    # Below margin 0 the smaller β is the first to leave its plateau; the paper's claim is of the other side.
    start = margins.index(0.0)
    sooner = all(
        all(a > b for a, b in itertools.pairwise(ratios)) and ratios[-1] < 1
        for small, large in itertools.pairwise(BETAS)
        if (ratios := [b / a for a, b in zip(pushes[small][start:], pushes[large][start:], strict=True)])
    )
    halves = ", ".join(f"β {beta:g} at {math.log(3) / beta:.1f}" for beta in BETAS)
    told = [f"half of the push at margin 0 is left, in nats: {halves}"]
    agree, said = logged(runs, "dpo")
    return Finding(told=(*told, *said), holds=equal and falls and sooner and agree)


def chosen_is_pushed_more(runs: Sequence[Run]) -> Finding:
    """C14."""
    ratios = [float(each) for each in range(-40, 41, 2)]
    places = list(itertools.product(ratios, [each for each in ratios if each < 0]))
    chosen, rejected = ([each[i] for each in places] for i in (0, 1))
    raises = all(
        ours > theirs
        for beta in BETAS
        for ours, theirs in zip(
            push("minordpo", beta, chosen, rejected), push("dpo", beta, chosen, rejected), strict=True
        )
    )
    agree, said = logged(runs, "minordpo")
    raised = [
        run.measures["push_raise"]
        for run in runs
        if run.objective == "minordpo" and "push_raise" in run.measures
    ]
    slightly = True
    if raised:
        mean = sum(raised) / len(raised)
        slightly = mean <= SLIGHTLY
        said.append(
            f"on the pairs of {len(raised)} MinorDPO runs with a rejected log-ratio of 0 or below it is {mean:.3f} β "
            f"larger than DPO's at the same place (slightly: at most {SLIGHTLY:g} β)"
        )
    else:
        said.append("no MinorDPO run has kept such pairs (responses.jsonl), so how much larger is not told")
    return Finding(told=tuple(said), holds=raises and slightly and agree)


def logged(runs: Sequence[Run], objective: str) -> tuple[bool, list[str]]:
    """Whether the coefficients that runs logged are those of the formula, and a sentence on it."""
    errors = [
        run.measures["push_error"]
        for run in runs
        if run.objective == objective and "push_error" in run.measures
    ]
    if not errors:
        return True, []
    worst = max(errors)
    return worst <= AGREES, [
        f"logged by {len(errors)} runs of {objective}: within {worst:.1g} of the formula"
    ]
