"""Claims on formulas: the objectives' own coefficients decide them, and the runs' logged ones must agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch

from minordpo import objectives
from minordpo.objectives.logps import alternating
from minordpo.paper.claims.claim import ClaimFinding, ClaimRun, claim
from minordpo.paper.claims.measures import formula

BETAS = (0.02, 0.05, 0.1, 0.2)  # the paper's ends, and between
AGREES = 1e-3  # largest relative difference of a logged coefficient: log-ratios are kept to 4 digits
SLIGHTLY = 0.1  # of β, which is the most that a coefficient can be


def push(objective: str, beta: float, chosen: Sequence[float], rejected: Sequence[float]) -> list[float]:
    """How strongly the objective pushes the chosen response of each pair of log-ratios up, by its own gradient."""
    ratios = torch.tensor([chosen, rejected], dtype=torch.float64).T.reshape(-1)
    logps = alternating(ratios - 50, torch.full_like(ratios, -50), torch.full((len(ratios),), 50))
    found = objectives.gradient(objectives.resolve(objective, {"beta": beta}), logps)
    return [-each for each in found.sequences[::2].tolist()]


@claim("C1", "§3.2, Fig. 1", ("dpo",))
def coefficient_decays(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """The push f(β, margin) = β σ(−β · margin) is high where the margin is low, and falls off sooner the larger β.

    The gradient of `dpo` on the chosen response is −f for margins from −100 to 100 nats and β 0.02 to 0.2; f falls with
    the margin; from margin 0 on, f of a larger β over f of a smaller one falls, and ends below 1. Coefficients that DPO
    runs logged are those of their pairs within 0.1 %.
    Needs: nothing; DPO runs with responses.jsonl are checked too.
    """
    margins = [float(each) for each in range(-100, 101)]
    pushes = {beta: push("dpo", beta, margins, [0.0] * len(margins)) for beta in BETAS}
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
    agree, said = _logged(runs, "dpo")
    told = [f"half of the push at margin 0 is left, in nats: {halves}", said]
    return ClaimFinding(told=told, holds=equal and falls and sooner and agree)


@claim("C14", "§3.4", ("minordpo",))
def chosen_is_pushed_more(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """Where the rejected answer is at or below the reference, MinorDPO pushes the chosen one slightly more than DPO.

    The gradient of `minordpo` on the chosen response is larger than that of `dpo` for every rejected log-ratio below 0
    (−40 to −2 nats; chosen −40 to 40; β 0.02 to 0.2); on the pairs of MinorDPO runs by 0.1 β or less on average; and
    what runs logged is the formula's within 0.1 %.
    Needs: nothing; MinorDPO runs with responses.jsonl say how much.
    """
    ratios = [float(each) for each in range(-40, 41, 2)]
    chosen, rejected = zip(*itertools.product(ratios, [each for each in ratios if each < 0]), strict=True)
    pushes = [[push(name, beta, chosen, rejected) for name in ("minordpo", "dpo")] for beta in BETAS]
    raises = all(ours > theirs for both in pushes for ours, theirs in zip(*both, strict=True))
    agree, said = _logged(runs, "minordpo")
    raised = _measured(runs, "minordpo", "push_raise")
    mean = sum(raised) / len(raised) if raised else 0.0
    how_much = (
        f"on the pairs of {len(raised)} MinorDPO runs with a rejected log-ratio of 0 or below it is {mean:.3f} β "
        f"larger than DPO's at the same place (slightly: at most {SLIGHTLY:g} β)"
        if raised
        else "no MinorDPO run has kept such pairs (responses.jsonl), so how much larger is not told"
    )
    return ClaimFinding(told=[said, how_much], holds=raises and mean <= SLIGHTLY and agree)


def _logged(runs: Sequence[ClaimRun], objective: str) -> tuple[bool, str]:
    """Whether the coefficients that runs logged are those of the formula, and a sentence on it; none where none is."""
    errors = _measured(runs, objective, "push_error")
    worst = max(errors, default=0.0)
    told = f"logged by {len(errors)} runs of {objective}: within {worst:.1g} of the formula" if errors else ""
    return worst <= AGREES, told


def _measured(runs: Sequence[ClaimRun], objective: str, measure: str) -> list[float]:
    own = [run.measures for run in runs if run.objective == objective]
    return [measures[measure] for measures in own if measure in measures]
