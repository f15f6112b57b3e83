"""Claims on how many answers are right, by β and learning rate, at each objective's best setting, and by steps."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Iterator, Sequence

from minordpo.paper.claims.claim import ClaimFinding, ClaimRun, Undecidable, claim, if_decidable, require
from minordpo.paper.claims.contrast import Contrast, Sign, amount
from minordpo.paper.claims.rules.log_ratios import BOTH, refuse_far_pairs
from minordpo.paper.claims.seed_table import (
    FLOOR,
    ClaimSetting,
    Table,
    common_seeds,
    contrast,
    side_by_side,
    table,
    tables,
    tau,
)
from minordpo.paper.stopping_study import FIXED, SIGNALS, StudiedRun, Worth, worth
from minordpo.report.groups import rate_text

RIVALS = ("dpo", "dpop")
ALL = (*RIVALS, "minordpo")
CONTROLS = ("sft", "minor_sft", "dpo_nll")  # nothing but imitation, or with it
TOLERANCE = 0.01  # accuracy that may be lost by stopping early


# ---- replication: the primary figure ----
@claim("C5a", "§4, Fig. 6", ("dpo",), primary=True)
def dpo_loses_to_the_base(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """On close pairs DPO ends below the untuned model.

    Replication: at each learning rate, accuracy averaged over β is below the untuned model's. Primary (Holm).
    Needs: DPO runs, answers of them and of the untuned model.
    """
    refuse_far_pairs(runs)
    return _at_each_rate(runs, "DPO less base", ("dpo", "accuracy"), ("dpo", "base_accuracy"), predicted=-1)


@claim("C5b", "§4, Fig. 6", BOTH, primary=True)
def minordpo_beats_dpo(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO ends above DPO.

    Replication: at each learning rate, accuracy averaged over the β that both have is above DPO's. Primary (Holm).
    Needs: MinorDPO and DPO runs at the same settings, answers.
    """
    return _at_each_rate(runs, "MinorDPO less DPO", ("minordpo", "accuracy"), ("dpo", "accuracy"))


@claim("C5c", "§4, Fig. 6", ALL, primary=True)
def minordpo_is_best(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO is best at both learning rates.

    Replication: at each of two rates or more, accuracy averaged over β is above DPO's, DPOP's and the untuned model's.
    Primary (Holm). Runs that only imitate (`sft`, `minor_sft`, `dpo_nll`) are told beside.
    Needs: MinorDPO, DPO and DPOP runs at two rates, answers of them and of the untuned model.
    """
    minor = table(runs, "minordpo", "accuracy")
    others = {name.upper(): table(runs, name, "accuracy") for name in RIVALS}
    others["base"] = table(runs, "minordpo", "base_accuracy")
    shared = minor.rates(*others.values())
    missing = "needs at least two learning rates that MinorDPO, DPO and DPOP were all trained at"
    require(len(shared) > 1, missing)
    found = (
        _by_rate(f"MinorDPO less {name}", minor, theirs, among=shared) for name, theirs in others.items()
    )
    return ClaimFinding(*itertools.chain(*found), told=_controls(runs, shared))


@claim("C5d", "§4, Fig. 6", ALL)
def minordpo_wins_most_settings(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO wins in most settings.

    Replication: it is strictly above DPO, DPOP and the untuned model in more than half of the settings.
    Needs: as C5c.
    """

    def won(ours: float, *theirs: float) -> float:
        return float(ours > max(theirs))

    minor, base = table(runs, "minordpo", "accuracy"), table(runs, "minordpo", "base_accuracy")
    arms = (minor, base, *tables(runs, "accuracy", *RIVALS))
    what = "share of settings that MinorDPO wins"
    return ClaimFinding(contrast(what, *arms, unit="share", value=won, bar=0.5))


def _by_rate(
    what: str, first: Table, second: Table, predicted: Sign = 1, *, among: Sequence[float] | None = None
) -> list[Contrast]:
    """A contrast of accuracy averaged over β at each rate."""
    shared = first.rates(second) if among is None else among
    require(shared, "no learning rate that both were trained at")
    pairs = {f"{what}, rate {rate_text(rate)}": (first.at(rate), second.at(rate)) for rate in shared}
    return [contrast(what, *pair, predicted=predicted, unit="points") for what, pair in pairs.items()]


def _at_each_rate(
    runs: Sequence[ClaimRun], what: str, *both: tuple[str, str], predicted: Sign = 1
) -> ClaimFinding:
    """Of two objectives and measures; the same by the asked line is told beside, where it is known."""

    def asked_line() -> str:
        strict = (table(runs, name, measure.replace("accuracy", "strict_accuracy")) for name, measure in both)
        return f"by the asked line: {contrast(what, *strict, predicted=predicted, unit='points').words()}"

    first, second = (table(runs, *each) for each in both)
    return ClaimFinding(*_by_rate(what, first, second, predicted), told=[if_decidable(asked_line)])


def _controls(runs: Sequence[ClaimRun], shared: Sequence[float]) -> Iterator[str]:
    """What imitation alone comes to: without it a win says little of the rejected answers."""

    def tell(name: str) -> str:
        values = table(runs, name, "accuracy")
        own = {rate_text(rate): values.at(rate).flat() for rate in shared}
        means = [
            f"{amount(statistics.fmean(each), 'share', sign=False)} at {rate}"
            for rate, each in own.items()
            if each
        ]
        seeds = len(set().union(*values.values()))
        count = f"{seeds} seed" + ("s" if seeds != 1 else "")
        return f"{name} ({count}): {', '.join(means) or 'not at these rates'}"

    for name in ("minordpo", *CONTROLS):
        yield if_decidable(functools.partial(tell, name)) or f"no run of {name} beside it"


@claim("C5e", "§5 (not measured there)", ALL)
def minordpo_is_best_tuned(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO is best where each objective has its own best setting.

    Tuned against tuned: as many settings for each; each seed's setting is the one best on its own validation questions,
    scored on others; MinorDPO is above DPO and DPOP. The setting that is best over seeds must not be at an edge of the
    β or the rates tried.
    Needs: runs of all three, three β and rates or more, evaluated on questions named validation and on others.
    """
    arms = {
        name: (table(runs, name, "validation_accuracy"), table(runs, name, "accuracy"))
        for name in ("minordpo", *RIVALS)
    }
    trials = {name: len(validation) for name, (validation, _) in arms.items()}
    counted = ", ".join(f"{name} {count}" for name, count in trials.items())
    require(
        len(set(trials.values())) == 1, f"needs as many settings tried for each, but there are: {counted}"
    )
    minor, *rivals = (_scored_once(name, *tables) for name, tables in arms.items())
    named = {f"MinorDPO less {name}, each tuned": own for name, own in zip(RIVALS, rivals, strict=True)}
    return ClaimFinding(*(contrast(what, minor, theirs, unit="points") for what, theirs in named.items()))


def _scored_once(name: str, validation: Table, test: Table) -> Table:
    """Each seed's score at the setting that was best on its own validation questions.

    Raises:
        Undecidable: the setting that is best over seeds is at an edge of what was tried.
    """
    complete = common_seeds(*validation.values(), *(test.get(s, {}) for s in validation))
    require(complete, f"no seed has all {len(validation)} settings of {name} in both evaluations")
    best = max(validation, key=lambda s: statistics.fmean(validation[s][seed] for seed in complete))
    betas = sorted({s.beta for s in validation if s.beta is not None})
    axes = {"learning rate": (best.rate, validation.rates()), "β": (best.beta, betas)}
    for word, (value, tried) in axes.items():
        if value in (tried[:1] + tried[-1:]):
            raise Undecidable(
                f"the best {word} of {name} on validation, {value:g}, is at the edge of those tried "
                f"({', '.join(f'{each:g}' for each in tried)}): extend it"
            )
    own = {seed: max(validation, key=lambda s: validation[s][seed]) for seed in complete}
    return Table({ClaimSetting(None, 0.0): {seed: test[setting][seed] for seed, setting in own.items()}})


# ---- by β, and why ----
@claim("C6a", "§4, Fig. 6", ("dpo",))
def small_beta_hurts_dpo(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """DPO gets worse as β falls.

    Of all pairs of β at one rate: accuracy rises with β more often than it falls. Decided with cells whose text broke
    scored as they are; the paper leaves them out, so that is told beside.
    Needs: DPO runs at two β or more, answers.
    """
    accuracy = table(runs, "dpo", "accuracy")

    def without_broken() -> str:
        broken = table(runs, "dpo", "broken")
        kept = Table()
        for setting, own in accuracy.items():
            broke = broken.get(setting, {})
            kept[setting] = {seed: share for seed, share in own.items() if not broke.get(seed)}
        count = len(accuracy.flat()) - len(kept.flat())
        without = kept.ordering("the same", "beta", 1, complete=False)
        return f"with {count} broken cells left out: {without.words()}, p {without.p:.2g}"

    return ClaimFinding(
        accuracy.ordering("DPO's accuracy, rising less falling with β", "beta", 1),
        told=[
            accuracy.listed("accuracy", "beta", "share"),
            if_decidable(without_broken, "with broken cells left out"),
        ],
    )


@claim("C11", "§3.3", BOTH)
def penalty_is_the_mechanism(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """The mechanism is too much penalty on the rejected answer.

    Over DPO's settings the deeper the rejected log-ratio the lower the accuracy (Kendall's tau above 0); and without
    the penalty below the reference, which alone tells MinorDPO from DPO, accuracy is higher.
    Needs: DPO runs at three settings or more, MinorDPO runs at the same ones, answers.
    """
    rejected, accuracy = table(runs, "dpo", "rejected"), table(runs, "dpo", "accuracy")
    shared = [s for s in rejected if s in accuracy]
    require(len(shared) > 2, "needs DPO at three settings (β, learning rate) at least")
    complete = common_seeds(*(each[s] for each in (rejected, accuracy) for s in shared))
    require(complete, "no seed has all of DPO's settings")
    together = {
        seed: tau([rejected[s][seed] for s in shared], [accuracy[s][seed] for s in shared])
        for seed in complete
    }
    minor = table(runs, "minordpo", "accuracy")
    return ClaimFinding(
        Contrast("DPO's rejected log-ratio and accuracy over settings, tau", together, 1, ""),
        contrast("accuracy without over-penalty, MinorDPO less DPO", minor, accuracy, unit="points"),
    )


@claim("C15c", "§2", BOTH)
def minordpo_retains(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO keeps more of what was learnt before.

    More answers to other tasks are right than with DPO at the same settings.
    Needs: as C15a, on a micro world with `evaluate:`.
    """
    minor, dpo = tables(runs, "retention", "minordpo", "dpo")
    best = max(minor.flat() + dpo.flat())
    missing = f"no run is right in more than {best:.1%} of the other tasks, so there is nothing to retain"
    require(best >= FLOOR, missing)
    return ClaimFinding(
        contrast("other tasks, MinorDPO less DPO", minor, dpo, unit="points"),
        told=side_by_side("right", minor, dpo, "share"),
    )


@claim("C17", "§3.4", BOTH)
def dpos_hyperparameters_serve(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO works with DPO's hyper-parameters.

    In more than half of DPO's settings MinorDPO's text is not broken and its accuracy is no lower than the untuned
    model's.
    Needs: MinorDPO and DPO runs at the same settings, answers of them and of the untuned model.
    """
    dpo = table(runs, "dpo", "accuracy")
    measures = ("accuracy", "base_accuracy", "broken")
    minor, base, broken = (table(runs, "minordpo", measure) for measure in measures)
    shared = Table({s: own for s, own in minor.items() if s in dpo})

    def works(ours: float, untuned: float, broke: float) -> float:
        return float(ours >= untuned and not broke)

    what = "share of DPO's settings at which MinorDPO works"
    return ClaimFinding(contrast(what, shared, base, broken, unit="share", value=works, bar=0.5))


# ---- by steps ----
@claim("C9", "§5 (an open question)")
def signals_tell_when(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """Quantities without β may say when training suffices.

    One of the signals of `paper/stopping_study.py`, its level chosen on the other configurations of the same seed,
    saves more steps than stopping at a fixed share of them, which saves nothing where it loses more than one point of
    accuracy, and itself loses less than that; p times the number of signals. Their use inside an objective is not
    asked here.
    Needs: runs of two configurations or more with held-out pairs and checkable looks on the way.
    """
    studied: dict[int, list[StudiedRun]] = {}
    for run in runs:
        if run.studied is not None and max(run.studied.correct.values()) >= FLOOR:
            studied.setdefault(run.seed, []).append(run.studied)
    require(
        studied,
        "no run was measured on held-out pairs on the way (training.eval_strategy=steps) with looks whose answers "
        f"can be checked, of which {FLOOR:.0%} were ever right",
    )
    usable = {seed: own for seed, own in studied.items() if len({each.setting for each in own}) > 1}
    require(usable, "needs at least two configurations, since a rule's level is chosen on the others")

    def stopped(signal: str) -> dict[int, Worth]:
        return {seed: worth(own, signal, tolerance=TOLERANCE) for seed, own in usable.items()}

    fixed = {seed: each.saved if each.lost <= TOLERANCE else 0.0 for seed, each in stopped(FIXED).items()}

    def contrasts(signal: str) -> tuple[Contrast, Contrast]:
        found = stopped(signal)
        saved = {seed: each.saved - fixed[seed] for seed, each in found.items()}
        lost = {seed: each.lost - TOLERANCE for seed, each in found.items()}
        what = f"steps saved by “{signal}” less by a fixed share"
        return Contrast(what, saved, 1, "share"), Contrast("accuracy lost", lost, -1, "points", bar=TOLERANCE)

    def rank(both: tuple[Contrast, Contrast]) -> tuple[float, float]:
        good = all(each.agrees for each in both)
        return max(each.p for each in both) if good else 2.0, -both[0].mean

    told = f"a fixed share saves {100 * statistics.fmean(fixed.values()):.0f} %"
    return ClaimFinding(*min(map(contrasts, SIGNALS), key=rank), told=[told], among=len(SIGNALS))
