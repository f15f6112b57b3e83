"""Claims on answers: how many are right, and whether the text broke, by β and learning rate."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from minordpo.paper.claims.contrast import Contrast, amount
from minordpo.paper.claims.evidence import (
    Run,
    Setting,
    Table,
    Undecidable,
    against,
    at,
    betas,
    level,
    listed,
    ordering,
    rates,
    table,
    tau,
)
from minordpo.paper.claims.training import refuse_far_pairs
from minordpo.paper.claims.verdict import Finding
from minordpo.report.groups import rate_text

RIVALS = ("dpo", "dpop")
CONTROLS = ("sft", "minor_sft", "dpo_nll")  # nothing but imitation, or with it
MUCH = 10.0  # times a rate that is much higher, as between the paper's two
SOME = 0.05  # share of broken runs that is still no crash


# ---- replication: the primary figure ----
def dpo_loses_to_the_base(runs: Sequence[Run]) -> Finding:
    """C5, against the untuned model."""
    refuse_far_pairs(runs)
    dpo, base = table(runs, "dpo", "accuracy"), table(runs, "dpo", "base_accuracy")
    told = [_strictly(runs, "dpo", "base_strict_accuracy", "DPO less base", predicted=-1)]
    return Finding(_by_rate("DPO less base", dpo, base, -1), tuple(filter(None, told)))


def minordpo_beats_dpo(runs: Sequence[Run]) -> Finding:
    """C5, MinorDPO against DPO."""
    minor, dpo = table(runs, "minordpo", "accuracy"), table(runs, "dpo", "accuracy")
    told = [_strictly(runs, "minordpo", "strict_accuracy", "MinorDPO less DPO", other="dpo")]
    return Finding(_by_rate("MinorDPO less DPO", minor, dpo, 1), tuple(filter(None, told)))


def minordpo_is_best(runs: Sequence[Run]) -> Finding:
    """C5, best at both rates."""
    minor = table(runs, "minordpo", "accuracy")
    others = {name: table(runs, name, "accuracy") for name in RIVALS}
    others["base"] = table(runs, "minordpo", "base_accuracy")
    shared = rates(minor, *others.values())
    if len(shared) < 2:
        raise Undecidable("needs at least two learning rates that MinorDPO, DPO and DPOP were all trained at")
    found = [
        each
        for name, theirs in others.items()
        for each in _by_rate(
            f"MinorDPO less {name.upper() if name in RIVALS else name}", minor, theirs, 1, among=shared
        )
    ]
    return Finding(tuple(found), tuple(_controls(runs, shared)))


def minordpo_wins_most_settings(runs: Sequence[Run]) -> Finding:
    """C5, most settings."""
    minor, base = table(runs, "minordpo", "accuracy"), table(runs, "minordpo", "base_accuracy")
    rivals = [table(runs, name, "accuracy") for name in RIVALS]
    won = against(
        "share of settings that MinorDPO wins",
        minor,
        base,
        *rivals,
        unit="share",
        value=lambda ours, *theirs: float(ours > max(theirs)),
        bar=0.5,
    )
    return Finding((won,))


def _by_rate(
    what: str, first: Table, second: Table, predicted: Literal[1, -1], *, among: Sequence[float] | None = None
) -> tuple[Contrast, ...]:
    """A contrast of accuracy averaged over β at each rate."""
    shared = rates(first, second) if among is None else among
    if not shared:
        raise Undecidable("no learning rate that both were trained at")
    return tuple(
        against(
            f"{what}, rate {rate_text(rate)}",
            at(first, rate=rate),
            at(second, rate=rate),
            predicted=predicted,
            unit="points",
        )
        for rate in shared
    )


def _strictly(
    runs: Sequence[Run],
    objective: str,
    measure: str,
    what: str,
    *,
    other: str | None = None,
    predicted: Literal[1, -1] = 1,
) -> str:
    """The same by the asked line; nothing where it is not known."""
    try:
        first = table(runs, objective, "strict_accuracy")
        second = table(runs, other or objective, measure)
        return (
            f"by the asked line: {against(what, first, second, predicted=predicted, unit='points').words()}"
        )
    except Undecidable:
        return ""


def _controls(runs: Sequence[Run], shared: Sequence[float]) -> list[str]:
    """What imitation alone comes to: without it a win says little of the rejected answers."""
    said = []
    for name in ("minordpo", *CONTROLS):
        try:
            values = table(runs, name, "accuracy")
        except Undecidable:
            if name != "minordpo":
                said.append(f"no run of {name} beside it")
            continue
        means = [
            f"{amount(statistics.fmean(v for seeds in own.values() for v in seeds.values()), 'share', sign=False)} "
            f"at {rate_text(rate)}"
            for rate in shared
            if any((own := at(values, rate=rate)).values())
        ]
        seeds = len({seed for own in values.values() for seed in own})
        count = f"{seeds} seed" + ("s" if seeds != 1 else "")
        said.append(f"{name} ({count}): {', '.join(means) or 'not at these rates'}")
    return said


# ---- where it breaks ----
def small_beta_hurts_dpo(runs: Sequence[Run]) -> Finding:
    """C6, accuracy."""
    accuracy = table(runs, "dpo", "accuracy")
    as_they_are = ordering("DPO's accuracy, rising less falling with β", accuracy, "beta", 1)
    told = [listed("accuracy", accuracy, "beta", "share")]
    try:
        broken = table(runs, "dpo", "broken")
        kept = {
            s: {seed: v for seed, v in own.items() if not broken.get(s, {}).get(seed, 0.0)}
            for s, own in accuracy.items()
        }
        count = sum(len(own) - len(kept[s]) for s, own in accuracy.items())
        without = ordering("the same", kept, "beta", 1, complete=False)
        told.append(f"with {count} broken cells left out: {without.words()}, p {without.p:.2g}")
    except Undecidable as error:
        told.append(f"with broken cells left out: {error}")
    return Finding((as_they_are,), tuple(told))


def small_beta_breaks_dpo(runs: Sequence[Run]) -> Finding:
    """C6, repeated text."""
    broken = table(runs, "dpo", "broken")
    highest = at(broken, rate=rates(broken)[-1])
    rate = rate_text(rates(broken)[-1])
    if all(value for seeds in highest.values() for value in seeds.values()):
        raise Undecidable(
            f"at rate {rate} DPO's text broke at every β, which tells none from another: it needs a lower one"
        )
    found = ordering(f"broken at rate {rate}, rising less falling with β", highest, "beta", -1)
    return Finding((found,), (listed("broken", highest, "beta", "share"),))


def dpop_repeats_at_the_corner(runs: Sequence[Run]) -> Finding:
    """C7."""
    repeated, accuracy = table(runs, "dpop", "repeated"), table(runs, "dpop", "accuracy")
    return Finding(
        (
            against("repeated 4-grams of DPOP" + _CORNER, *_corner(repeated), predicted=1, unit="share"),
            against("accuracy of DPOP" + _CORNER, *_corner(accuracy), predicted=-1, unit="points"),
        ),
        (f"at rate {rate_text(rates(accuracy)[-1])}",),
    )


_CORNER = " at the highest rate, smallest β less the larger ones"


def _corner(values: Table) -> tuple[Table, Table]:
    """At the highest rate, of each seed: the smallest β, and the mean of the larger ones.

    Raises:
        Undecidable: there is one β only.
    """
    rate = rates(values)[-1]
    highest = at(values, rate=rate)
    known = betas(highest)
    if len(known) < 2:
        raise Undecidable("needs DPOP at two β at least at its highest learning rate")
    smallest, *larger = known
    complete = set.intersection(*(set(seeds) for seeds in highest.values()))
    others = {seed: statistics.fmean(highest[Setting(b, rate)][seed] for b in larger) for seed in complete}
    return {Setting(None, rate): highest[Setting(smallest, rate)]}, {Setting(None, rate): others}


def minordpo_takes_a_high_rate(runs: Sequence[Run]) -> Finding:
    """C8, no crash."""
    minor, dpo = table(runs, "minordpo", "broken"), table(runs, "dpo", "broken")
    known = rates(minor, dpo)
    if not known or known[-1] < 0.999 * MUCH * known[0]:
        tried = ", ".join(map(rate_text, known)) or "none in common"
        raise Undecidable(f"needs learning rates ten times apart for MinorDPO and DPO; there are: {tried}")
    minor, dpo = at(minor, rate=known[-1]), at(dpo, rate=known[-1])
    if not any(value for seeds in dpo.values() for value in seeds.values()):
        raise Undecidable(
            f"at rate {rate_text(known[-1])} no text of DPO broke, so nothing shows what MinorDPO withstands: it "
            "needs a higher rate"
        )
    name = rate_text(known[-1])
    return Finding(
        (
            against(f"broken at rate {name}, DPO less MinorDPO", dpo, minor, unit="share"),
            level("MinorDPO broken there", minor, -1, "share", bar=SOME),
        )
    )


def a_higher_rate_mends_underfit(runs: Sequence[Run]) -> Finding:
    """C8, under-fit."""
    ranked = table(runs, "minordpo", "ranked")
    told = [listed("ranked right", ranked, "rate", "share")]
    try:
        told.append(listed("accuracy", table(runs, "minordpo", "accuracy"), "rate", "share"))
    except Undecidable as error:
        told.append(f"accuracy: {error}")
    return Finding(
        (ordering("MinorDPO's pairs ranked right, rising less falling with the rate", ranked, "rate", 1),),
        tuple(told),
    )


def penalty_is_the_mechanism(runs: Sequence[Run]) -> Finding:
    """C11."""
    rejected, accuracy = table(runs, "dpo", "rejected"), table(runs, "dpo", "accuracy")
    shared = [s for s in rejected if s in accuracy]
    if len(shared) < 3:
        raise Undecidable("needs DPO at three settings (β, learning rate) at least")
    complete = set.intersection(*(set(rejected[s]) & set(accuracy[s]) for s in shared))
    if not complete:
        raise Undecidable("no seed has all of DPO's settings")
    together = {
        seed: tau([rejected[s][seed] for s in shared], [accuracy[s][seed] for s in shared])
        for seed in sorted(complete)
    }
    minor = table(runs, "minordpo", "accuracy")
    return Finding(
        (
            Contrast("DPO's rejected log-ratio and accuracy over settings, tau", together, 1, ""),
            against("accuracy without over-penalty, MinorDPO less DPO", minor, accuracy, unit="points"),
        )
    )


def dpos_hyperparameters_serve(runs: Sequence[Run]) -> Finding:
    """C17."""
    dpo = table(runs, "dpo", "accuracy")
    minor, base = table(runs, "minordpo", "accuracy"), table(runs, "minordpo", "base_accuracy")
    broken = table(runs, "minordpo", "broken")
    tried = {s: own for s, own in minor.items() if s in dpo}
    works = against(
        "share of DPO's settings at which MinorDPO works",
        tried,
        base,
        broken,
        unit="share",
        value=lambda ours, untuned, broke: float(ours >= untuned and not broke),
        bar=0.5,
    )
    return Finding((works,))
