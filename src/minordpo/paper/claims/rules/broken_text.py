"""Claims on text that breaks, by β, learning rate and steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from minordpo.paper.claims.claim import ClaimFinding, ClaimRun, claim, require
from minordpo.paper.claims.seed_table import ClaimSetting, Table, common_seeds, contrast, table, tables
from minordpo.report.groups import rate_text

MUCH = 10.0  # times a rate that is much higher, as between the paper's two
SOME = 0.05  # share of broken runs that is still no crash
_CORNER = " at the highest rate, smallest β less the larger ones"


@claim("C6b", "§3.3, §4, Fig. 6b", ("dpo",))
def small_beta_breaks_dpo(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """At the high learning rate and small β DPO's text breaks.

    At the highest rate, of all pairs of β: broken text gets rarer with β more often than more frequent. Not decidable
    where it breaks at every β.
    Needs: DPO runs at two β or more, their text.
    """
    broken = table(runs, "dpo", "broken")
    highest = broken.at(broken.rates()[-1])
    rate = rate_text(broken.rates()[-1])
    require(
        not all(highest.flat()),
        f"at rate {rate} DPO's text broke at every β, which tells none from another: it needs a lower one",
    )
    found = highest.ordering(f"broken at rate {rate}, rising less falling with β", "beta", -1)
    return ClaimFinding(found, told=[highest.listed("broken", "beta", "share")])


@claim("C7", "§4, Fig. 6b", ("dpop",))
def dpop_repeats_at_the_corner(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """DPOP with λ = 50 repeats at the high rate and the smallest β, and loses there.

    At the highest rate, smallest β against the mean of the larger ones: repeated 4-grams have risen more, and accuracy
    is lower.
    Needs: DPOP runs at two β or more, answers of them and of the untuned model.
    """
    repeated, accuracy = table(runs, "dpop", "repeated"), table(runs, "dpop", "accuracy")
    return ClaimFinding(
        contrast("repeated 4-grams of DPOP" + _CORNER, *_corner(repeated), unit="share"),
        contrast("accuracy of DPOP" + _CORNER, *_corner(accuracy), predicted=-1, unit="points"),
        told=[f"at rate {rate_text(accuracy.rates()[-1])}"],
    )


def _corner(values: Table) -> tuple[Table, Table]:
    """At the highest rate, of each seed: the smallest β, and the mean of the larger ones.

    Raises:
        Undecidable: there is one β only.
    """
    at_highest = values.at(values.rates()[-1]).by_beta()
    require(len(at_highest) > 1, "needs DPOP at two β at least at its highest learning rate")
    smallest, *larger = at_highest
    means = {seed: statistics.fmean(each[seed] for each in larger) for seed in common_seeds(*at_highest)}
    return Table({ClaimSetting(None, 0.0): smallest}), Table({ClaimSetting(None, 0.0): means})


@claim("C8a", "§3.4, §5", ("dpo", "minordpo"))
def minordpo_takes_a_high_rate(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """MinorDPO takes a much higher learning rate without a crash.

    At the highest of rates ten times apart: MinorDPO's text breaks less often than DPO's at the same β, and in fewer
    than 5 % of its runs. Not decidable where DPO's never breaks.
    Needs: MinorDPO and DPO runs at rates ten times apart, their text.
    """
    minor, dpo = tables(runs, "broken", "minordpo", "dpo")
    known = minor.rates(dpo)
    tried = ", ".join(map(rate_text, known)) or "none in common"
    require(
        known and known[-1] >= 0.999 * MUCH * known[0],
        f"needs learning rates ten times apart for MinorDPO and DPO; there are: {tried}",
    )
    minor, dpo, name = minor.at(known[-1]), dpo.at(known[-1]), rate_text(known[-1])
    require(
        any(dpo.flat()),
        f"at rate {name} no text of DPO broke, so nothing shows what MinorDPO withstands: it needs a higher rate",
    )
    return ClaimFinding(
        contrast(f"broken at rate {name}, DPO less MinorDPO", dpo, minor, unit="share"),
        contrast("MinorDPO broken there", minor, predicted=-1, unit="share", bar=SOME),
    )


@claim("C12", "§3.3", ("dpo",))
def dose_breaks(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """With enough steps DPO breaks the model even at a small learning rate.

    At the smallest of two rates or more: the share of DPO runs whose text is broken is larger at the end than at half
    of the steps. Not decidable where none broke: that may be steps too few.
    Needs: DPO runs at two rates or more with looks of the monitor on the way.
    """
    half, end = table(runs, "dpo", "broken_at_half"), table(runs, "dpo", "broken_at_end")
    known = half.rates(end)
    require(len(known) > 1, "needs DPO at two learning rates, of which one is small")
    half, end, name = half.at(known[0]), end.at(known[0]), rate_text(known[0])
    found = contrast(f"DPO at rate {name}: broken at the end less at half", end, half, unit="share")
    ever = half.flat() + end.flat()
    slowest = [run for run in runs if (run.objective, run.rate) == ("dpo", known[0])]
    steps = max(run.measures.get("steps", 0) for run in slowest)
    require(
        any(ever),
        f"none of {len(ever) // 2} DPO runs at the smallest rate ({name}) broke in {steps:.0f} steps, and the "
        "claim is of enough of them: it needs longer runs",
    )
    return ClaimFinding(found, told=[end.listed("broken at the end", "beta", "share")])


@claim("C18", "§3.3", ("pairwise_cringe", "sft"))
def cringe_repeats(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """Pairwise cringe pulls the sampled token up too far and repeats.

    Text breaks in a larger share of its runs than of SFT's at the same rates.
    Needs: runs of `pairwise_cringe` and `sft` at the same rates, their text.
    """
    cringe, sft = tables(runs, "broken", "pairwise_cringe", "sft")
    found = contrast("broken, pairwise cringe less SFT", cringe, sft, unit="share")
    repeated = table(runs, "pairwise_cringe", "repeated")
    return ClaimFinding(found, told=[repeated.listed("rise of repeated 4-grams", "rate", "share")])
