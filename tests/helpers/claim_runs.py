"""Runs made of nothing but their measures, for claims: of every β, rate and seed that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minordpo.paper.claims.claims import CLAIMS
from minordpo.paper.claims.evidence import Run
from minordpo.paper.claims.verdict import Claim, Verdict, judge

BETAS, RATES, SEEDS = (0.02, 0.2), (1e-4, 1e-3), tuple(range(8))
Value = float | Callable[[float, float, int], float]  # of β (0 where there is none), rate and seed


def runs(
    objective: str,
    *,
    betas: Iterable[float | None] = BETAS,
    rates: Iterable[float] = RATES,
    seeds: Iterable[int] = SEEDS,
    situation: dict[str, Any] | None = None,
    trained: Any = None,
    **measures: Value,
) -> list[Run]:
    """A run for each combination."""
    return [
        Run(
            label=f"{objective}-{beta}-{rate}-{seed}",
            objective=objective,
            beta=beta,
            rate=rate,
            seed=seed,
            situation=situation or {},
            measures={
                name: float(value(beta or 0.0, rate, seed) if callable(value) else value)
                for name, value in measures.items()
            },
            source=(f"base-{seed}", f"pairs-{seed}"),
            trained=trained(beta, rate, seed) if trained else None,
        )
        for beta in betas
        for rate in rates
        for seed in seeds
    ]


def claim(name: str) -> Claim:
    """The claim of that name."""
    (found,) = [each for each in CLAIMS if each.name == name]
    return found


def verdict(name: str, *groups: list[Run]) -> Verdict:
    """What comes of that claim alone, of all the runs."""
    (found,) = judge([claim(name)], [run for group in groups for run in group])
    return found
