"""Claims on log-ratios and on the distance from the reference."""

from __future__ import annotations

from collections.abc import Sequence

from minordpo.paper.claims.claim import ClaimFinding, ClaimRun, claim, if_decidable, require
from minordpo.paper.claims.measures import SIDES
from minordpo.paper.claims.seed_table import ClaimSetting, Table, contrast, side_by_side, table, tables

BOTH = ("dpo", "minordpo")
CLOSE = "result"  # world.rejected of close pairs


def refuse_far_pairs(runs: Sequence[ClaimRun]) -> None:
    """Raise Undecidable if a micro world says that its wrong answers are not close."""
    kinds = {run.others.get("world.rejected", CLOSE) for run in runs}
    far = ", ".join(sorted(kinds - {CLOSE}))
    require(kinds == {CLOSE}, f"the claim is about close pairs, and these are not (world.rejected: {far})")


@claim("C2", "§3.2, Fig. 2, 3", ("dpo",))
def dpo_falls(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """DPO on close pairs: chosen and rejected log-ratios both fall below 0 while the margin grows.

    At the end of the runs, mean over settings: chosen < 0, rejected < 0, margin > 0.
    Needs: DPO runs; on a micro world with world.rejected: result.
    """
    refuse_far_pairs(runs)
    chosen, rejected, margin = (table(runs, "dpo", side) for side in SIDES)
    each = [
        (chosen[s][seed] < 0, rejected[s][seed] < 0, margin[s][seed] > 0)
        for s in chosen
        for seed in chosen[s].keys() & rejected.get(s, {}).keys() & margin.get(s, {}).keys()
    ]
    return ClaimFinding(
        contrast("chosen", chosen, predicted=-1),
        contrast("rejected", rejected, predicted=-1),
        contrast("margin", margin),
        told=[f"all three in {sum(map(all, each))} of {len(each)} runs"],
    )


@claim("C3a", "§3.2, Fig. 2, 3", ("dpo",))
def beta_holds_the_margin(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """The larger β, the smaller DPO's margin and both its log-ratios.

    Of all pairs of β at one rate: the end margin, |chosen| and |rejected| each fall more often than they rise.
    Needs: DPO runs at two β or more.
    """
    margin = table(runs, "dpo", "margin")
    return ClaimFinding(
        margin.ordering("margin, rising less falling with β", "beta", -1),
        table(runs, "dpo", "chosen").magnitudes().ordering("|chosen|", "beta", -1),
        table(runs, "dpo", "rejected").magnitudes().ordering("|rejected|", "beta", -1),
        told=[margin.listed("margin", "beta", "nats")],
    )


@claim("C3b", "§3.2, Fig. 3", ("dpo",))
def rate_widens_the_margin(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """The larger the learning rate, the larger DPO's margin.

    Of all pairs of rates at one β: the end margin rises more often than it falls.
    Needs: DPO runs at two rates or more.
    """
    margin = table(runs, "dpo", "margin")
    return ClaimFinding(
        margin.ordering("margin, rising less falling with the rate", "rate", 1),
        told=[margin.listed("margin", "rate", "nats")],
    )


@claim("C4", "§3.4, Fig. 4, 5", BOTH)
def minordpo_stays_near(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO: the chosen log-ratio rises above 0, and all magnitudes are far smaller than DPO's.

    At the end, mean over settings: chosen > 0; and |chosen|, |rejected| and |margin| are each below half of DPO's at
    the same settings.
    Needs: MinorDPO and DPO runs at the same settings.
    """
    sides = {name: tables(runs, name, "minordpo", "dpo") for name in SIDES}

    def smaller(theirs: float, ours: float) -> float:
        return abs(theirs) / 2 - abs(ours)

    found = [contrast("MinorDPO: chosen", sides["chosen"][0])]
    told: list[str] = []
    for name, (minor, dpo) in sides.items():
        found.append(contrast(f"|{name}| of DPO, halved, less MinorDPO's", dpo, minor, value=smaller))
        told += side_by_side(name, minor, dpo)
    return ClaimFinding(*found, told=told)


@claim("C8b", "§5", ("minordpo",))
def a_higher_rate_mends_underfit(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO may under-fit, which a higher learning rate mends.

    Of all pairs of rates at one β: the share of held-out pairs that MinorDPO ranks right rises more often than it
    falls.
    Needs: MinorDPO runs at two rates or more, held-out pairs.
    """
    ranked = table(runs, "minordpo", "ranked")
    accuracy = if_decidable(
        lambda: table(runs, "minordpo", "accuracy").listed("accuracy", "rate", "share"), "accuracy"
    )
    return ClaimFinding(
        ranked.ordering("MinorDPO's pairs ranked right, rising less falling with the rate", "rate", 1),
        told=[ranked.listed("ranked right", "rate", "share"), accuracy],
    )


@claim("C15a", "§3.4", BOTH)
def minordpo_moves_pairs_less(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO keeps the policy closer to the reference on chosen and rejected answers.

    |chosen| and |rejected| at the end are smaller than DPO's at the same settings.
    Needs: MinorDPO and DPO runs at the same settings.
    """
    sizes = {name: map(Table.magnitudes, tables(runs, name, *BOTH)) for name in ("chosen", "rejected")}
    return ClaimFinding(*(contrast(f"|{name}|, DPO less MinorDPO", *both) for name, both in sizes.items()))


@claim("C15b", "§2, §3.4", BOTH)
def minordpo_has_less_divergence(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO keeps the policy closer to the reference on its own samples.

    KL a token from samples at temperature 1 is smaller than DPO's at the same settings.
    Needs: as C15a, with samples against the reference.
    """
    minor, dpo = tables(runs, "kl", "minordpo", "dpo")
    return ClaimFinding(
        contrast("KL, DPO less MinorDPO", dpo, minor, unit="nats a token"),
        told=side_by_side("KL", minor, dpo, "nats a token"),
    )


@claim("C16", "§3.2", ("dpo",))
def beta_acts_by_its_shape(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """β acts by interfering with the learning rate.

    Adam undoes a constant factor of the loss, so only the shape of f can act: DPO's margin in the last fifth of the
    steps is larger with the smallest β than with the largest at the same rate, and relatively more so than in the first
    fifth, where f is still nearly constant.
    Needs: DPO runs at two β or more, trained with Adam.
    """
    kinds = {str(run.others.get("training.optim", "adamw_torch")) for run in runs}
    told = f"the rule is about Adam, and these runs use {', '.join(sorted(kinds))}"
    require(all("adam" in kind for kind in kinds), told)
    margins = [table(runs, "dpo", "early_margin"), table(runs, "dpo", "late_margin")]
    early, late = map(_outer_betas, margins)

    def apart(small: float, large: float) -> float:
        return (small - large) / (abs(small) + abs(large)) if small or large else 0.0

    def grown(a: float, b: float, c: float, d: float) -> float:
        return apart(a, b) - abs(apart(c, d))

    return ClaimFinding(
        contrast("late margin, (smallest β less largest) / their sum", *late, unit="", value=apart),
        contrast("that, less its size early", *late, *early, unit="", value=grown),
    )


def _outer_betas(values: Table) -> tuple[Table, Table]:
    """Those of the smallest and of the largest β at each rate, by the rate alone.

    Raises:
        Undecidable: no rate has two.
    """
    known = {ClaimSetting(None, rate): values.at(rate).by_beta() for rate in values.rates()}
    known = {setting: own for setting, own in known.items() if len(own) > 1}
    require(known, "needs at least two β at one learning rate")
    return Table((s, own[0]) for s, own in known.items()), Table((s, own[-1]) for s, own in known.items())
