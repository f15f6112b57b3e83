"""Claims on how training goes: log-ratios, distance from the reference, and when the text breaks."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence

from minordpo.paper.claims.contrast import Contrast
from minordpo.paper.claims.evidence import (
    FLOOR,
    Run,
    Setting,
    Table,
    Undecidable,
    against,
    at,
    betas,
    level,
    listed,
    magnitudes,
    ordering,
    rates,
    side_by_side,
    table,
)
from minordpo.paper.claims.verdict import Finding
from minordpo.paper.stopping_study import FIXED, SIGNALS, Trained, worth
from minordpo.report.groups import rate_text

TOLERANCE = 0.01  # accuracy that may be lost by stopping early
CLOSE = "result"  # world.rejected of close pairs


def of(runs: Sequence[Run], objective: str) -> Callable[[str], Table]:
    """The tables of an objective by measure."""
    return functools.partial(table, runs, objective)


def refuse_far_pairs(runs: Sequence[Run]) -> None:
    """Nothing, unless a micro world says that its wrong answers are not close.

    Raises:
        Undecidable: so it is.
    """
    kinds = {run.situation.get("world.rejected", CLOSE) for run in runs}
    if kinds != {CLOSE}:
        far = ", ".join(sorted(kinds - {CLOSE}))
        raise Undecidable(f"the claim is about close pairs, and these are not (world.rejected: {far})")


def dpo_falls(runs: Sequence[Run]) -> Finding:
    """C2."""
    refuse_far_pairs(runs)
    chosen, rejected, margin = map(of(runs, "dpo"), ("chosen", "rejected", "margin"))
    each = [
        (chosen[s][seed] < 0, rejected[s][seed] < 0, margin[s][seed] > 0)
        for s in chosen
        for seed in chosen[s].keys() & rejected.get(s, {}).keys() & margin.get(s, {}).keys()
    ]
    return Finding(
        (level("chosen", chosen, -1), level("rejected", rejected, -1), level("margin", margin, 1)),
        (f"all three in {sum(map(all, each))} of {len(each)} runs",),
    )


def beta_holds_the_margin(runs: Sequence[Run]) -> Finding:
    """C3, β."""
    dpo = of(runs, "dpo")
    return Finding(
        (
            ordering("margin, rising less falling with β", dpo("margin"), "beta", -1),
            ordering("|chosen|", magnitudes(dpo("chosen")), "beta", -1),
            ordering("|rejected|", magnitudes(dpo("rejected")), "beta", -1),
        ),
        (listed("margin", dpo("margin"), "beta", "nats"),),
    )


def rate_widens_the_margin(runs: Sequence[Run]) -> Finding:
    """C3, learning rate."""
    margin = table(runs, "dpo", "margin")
    return Finding(
        (ordering("margin, rising less falling with the rate", margin, "rate", 1),),
        (listed("margin", margin, "rate", "nats"),),
    )


def minordpo_stays_near(runs: Sequence[Run]) -> Finding:
    """C4."""
    minor, dpo = of(runs, "minordpo"), of(runs, "dpo")
    smaller = (
        against(
            f"|{name}| of DPO, halved, less MinorDPO's",
            dpo(name),
            minor(name),
            value=lambda theirs, ours: abs(theirs) / 2 - abs(ours),
        )
        for name in ("chosen", "rejected", "margin")
    )
    told = [
        each
        for name in ("chosen", "rejected", "margin")
        for each in side_by_side(name, ("MinorDPO", minor(name)), ("DPO", dpo(name)), "nats")
    ]
    return Finding((level("MinorDPO: chosen", minor("chosen"), 1), *smaller), tuple(told))


def minordpo_moves_pairs_less(runs: Sequence[Run]) -> Finding:
    """C15, log-ratios."""
    minor, dpo = of(runs, "minordpo"), of(runs, "dpo")
    return Finding(
        tuple(
            against(f"|{name}|, DPO less MinorDPO", magnitudes(dpo(name)), magnitudes(minor(name)))
            for name in ("chosen", "rejected")
        )
    )


def minordpo_has_less_divergence(runs: Sequence[Run]) -> Finding:
    """C15, KL."""
    minor, dpo = table(runs, "minordpo", "kl"), table(runs, "dpo", "kl")
    told = side_by_side("KL", ("MinorDPO", minor), ("DPO", dpo), "nats a token")
    return Finding((against("KL, DPO less MinorDPO", dpo, minor, unit="nats a token"),), tuple(told))


def minordpo_retains(runs: Sequence[Run]) -> Finding:
    """C15, other tasks."""
    minor, dpo = table(runs, "minordpo", "retention"), table(runs, "dpo", "retention")
    best = max(value for each in (minor, dpo) for seeds in each.values() for value in seeds.values())
    if best < FLOOR:
        raise Undecidable(
            f"no run is right in more than {best:.1%} of the other tasks, so there is nothing to retain"
        )
    told = side_by_side("right", ("MinorDPO", minor), ("DPO", dpo), "share")
    return Finding((against("other tasks, MinorDPO less DPO", minor, dpo, unit="points"),), tuple(told))


def dose_breaks(runs: Sequence[Run]) -> Finding:
    """C12."""
    half, end = table(runs, "dpo", "broken_at_half"), table(runs, "dpo", "broken_at_end")
    known = rates(half, end)
    if len(known) < 2:
        raise Undecidable("needs DPO at two learning rates, of which one is small")
    half, end = at(half, rate=known[0]), at(end, rate=known[0])
    name = rate_text(known[0])
    found = against(f"DPO at rate {name}: broken at the end less at half", end, half, unit="share")
    ever = [value for each in (half, end) for seeds in each.values() for value in seeds.values()]
    if not any(ever):
        steps = max(run.measures["steps"] for run in runs if run.objective == "dpo" and run.rate == known[0])
        raise Undecidable(
            f"none of {len(ever) // 2} DPO runs at the smallest rate ({name}) broke in {steps:.0f} steps, and the "
            "claim is of enough of them: it needs longer runs"
        )
    return Finding((found,), (listed("broken at the end", end, "beta", "share"),))


def beta_acts_by_its_shape(runs: Sequence[Run]) -> Finding:
    """C16."""
    kinds = {str(run.situation.get("training.optim", "adamw_torch")) for run in runs}
    if not all("adam" in kind for kind in kinds):
        raise Undecidable(f"the rule is about Adam, and these runs use {', '.join(sorted(kinds))}")
    early, late = table(runs, "dpo", "early_margin"), table(runs, "dpo", "late_margin")
    (early_small, early_large), (late_small, late_large) = _outer_betas(early), _outer_betas(late)

    def apart(small: float, large: float) -> float:
        return (small - large) / (abs(small) + abs(large)) if small or large else 0.0

    at_end = against(
        "late margin, (smallest β less largest) / their sum", late_small, late_large, unit="", value=apart
    )
    grown = against(
        "that, less its size early",
        late_small,
        late_large,
        early_small,
        early_large,
        unit="",
        value=lambda a, b, c, d: apart(a, b) - abs(apart(c, d)),
    )
    return Finding((at_end, grown))


def _outer_betas(values: Table) -> tuple[Table, Table]:
    """Those of the smallest and of the largest β at each rate, by the rate alone.

    Raises:
        Undecidable: no rate has two.
    """
    small: Table = {}
    large: Table = {}
    for rate in rates(values):
        known = betas(at(values, rate=rate))
        if len(known) > 1:
            for ends, beta in ((small, known[0]), (large, known[-1])):
                ((_, seeds),) = at(values, rate=rate, beta=beta).items()
                ends[Setting(None, rate)] = seeds
    if not small:
        raise Undecidable("needs at least two β at one learning rate")
    return small, large


def cringe_repeats(runs: Sequence[Run]) -> Finding:
    """C18."""
    cringe, sft = table(runs, "pairwise_cringe", "broken"), table(runs, "sft", "broken")
    found = against("broken, pairwise cringe less SFT", cringe, sft, unit="share")
    repeated = table(runs, "pairwise_cringe", "repeated")
    return Finding((found,), (listed("rise of repeated 4-grams", repeated, "rate", "share"),))


def signals_tell_when(runs: Sequence[Run]) -> Finding:
    """C9."""
    trained: dict[int, list[Trained]] = {}
    for run in runs:
        if run.trained is not None and max(run.trained.correct.values()) >= FLOOR:
            trained.setdefault(run.seed, []).append(run.trained)
    if not trained:
        raise Undecidable(
            "no run was measured on held-out pairs on the way (training.eval_strategy=steps) with looks whose answers "
            f"can be checked, of which {FLOOR:.0%} were ever right"
        )
    usable = {s: own for s, own in trained.items() if len({each.configuration for each in own}) > 1}
    if not usable:
        raise Undecidable("needs at least two configurations, since a rule's level is chosen on the others")
    fixed = {}
    for seed, own in usable.items():
        found = worth(own, FIXED, tolerance=TOLERANCE)
        fixed[seed] = found.saved if found.lost <= TOLERANCE else 0.0
    best: tuple[float, float, tuple[Contrast, ...], str] | None = None
    for signal in SIGNALS:
        ours = {seed: worth(own, signal, tolerance=TOLERANCE) for seed, own in usable.items()}
        contrasts = (
            Contrast(
                f"steps saved by “{signal}” less by a fixed share",
                {seed: ours[seed].saved - fixed[seed] for seed in usable},
                1,
                "share",
            ),
            Contrast(
                "accuracy lost",
                {seed: ours[seed].lost - TOLERANCE for seed in usable},
                -1,
                "points",
                bar=TOLERANCE,
            ),
        )
        good = all(each.agrees for each in contrasts)
        key = (max(each.p for each in contrasts) if good else 2.0, -contrasts[0].mean)
        if best is None or key < best[:2]:
            best = (*key, contrasts, signal)
    assert best is not None
    saved = statistics.fmean(fixed.values())
    return Finding(best[2], (f"a fixed share saves {100 * saved:.0f} %",), among=len(SIGNALS))
