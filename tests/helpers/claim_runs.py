"""Runs made of nothing but their measures, for claims: of every β, rate and seed that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from minordpo.paper.claims.claim import CLAIMS, Claim, ClaimRun
from minordpo.paper.claims.judge import ClaimVerdict, judge

BETAS, RATES, SEEDS = (0.02, 0.2), (1e-4, 1e-3), tuple(range(8))
Value = float | Callable[[float, float, int], float]  # of β (0 where there is none), rate and seed


def runs(
    objective: str,
    *,
    betas: Iterable[float | None] = BETAS,
    rates: Iterable[float] = RATES,
    seeds: Iterable[int] = SEEDS,
    others: dict[str, Any] | None = None,
    studied: Any = None,
    **measures: Value,
) -> list[ClaimRun]:
    """A run for each combination."""
    return [
        ClaimRun(
            label=f"{objective}-{beta}-{rate}-{seed}",
            objective=objective,
            beta=beta,
            rate=rate,
            seed=seed,
            others=others or {},
            measures={
                name: float(value(beta or 0.0, rate, seed) if callable(value) else value)
                for name, value in measures.items()
            },
            source=(f"base-{seed}", f"pairs-{seed}"),
            studied=studied(beta, rate, seed) if studied else None,
        )
        for beta in betas
        for rate in rates
        for seed in seeds
    ]


def claim(name: str) -> Claim:
    """The claim of that name."""
    return CLAIMS[name]


def verdict(name: str, *groups: list[ClaimRun]) -> ClaimVerdict:
    """What comes of that claim alone, of all the runs."""
    (found,) = judge([claim(name)], [run for group in groups for run in group])
    return found
