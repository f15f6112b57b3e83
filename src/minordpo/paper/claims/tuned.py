"""Tuned against tuned: each objective at its own best setting, chosen on one evaluation and scored on another."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from minordpo.paper.claims.evidence import Run, Setting, Table, Undecidable, against, betas, rates, table
from minordpo.paper.claims.scores import RIVALS
from minordpo.paper.claims.verdict import Finding


def minordpo_is_best_tuned(runs: Sequence[Run]) -> Finding:
    """C5, each at its own best setting."""
    arms = {
        name: (table(runs, name, "validation_accuracy"), table(runs, name, "accuracy"))
        for name in ("minordpo", *RIVALS)
    }
    trials = {name: len(validation) for name, (validation, _) in arms.items()}
    if len(set(trials.values())) > 1:
        counted = ", ".join(f"{name} {count}" for name, count in trials.items())
        raise Undecidable(f"needs as many settings tried for each, but there are: {counted}")
    chosen = {name: _scored_once(name, *tables) for name, tables in arms.items()}
    found = [
        against(
            f"MinorDPO less {name}, each tuned", chosen["minordpo"], chosen[name], predicted=1, unit="points"
        )
        for name in RIVALS
    ]
    return Finding(tuple(found))


def _scored_once(name: str, validation: Table, test: Table) -> Table:
    """Each seed's score at the setting that was best on its own validation questions.

    Raises:
        Undecidable: the setting that is best over seeds is at an edge of what was tried.
    """
    complete = set.intersection(*(set(v) & set(test.get(s, {})) for s, v in validation.items()))
    if not complete:
        raise Undecidable(f"no seed has all {len(validation)} settings of {name} in both evaluations")
    best = max(validation, key=lambda s: statistics.fmean(validation[s][seed] for seed in complete))
    axes = {"learning rate": (best.rate, rates(validation)), "β": (best.beta, betas(validation))}
    for word, (value, tried) in axes.items():
        if value in (tried[:1] + tried[-1:]):
            raise Undecidable(
                f"the best {word} of {name} on validation, {value:g}, is at the edge of those tried "
                f"({', '.join(f'{each:g}' for each in tried)}): extend it"
            )
    scores = {}
    for seed in sorted(complete):
        own = max(validation, key=lambda s: validation[s][seed])
        scores[seed] = test[own][seed]
    return {Setting(None, 0.0): scores}
