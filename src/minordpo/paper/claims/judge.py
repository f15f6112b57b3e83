"""Finished runs → verdicts on all claims. A claim is held only where a test could have said otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from minordpo.evaluate.statistics import holm
from minordpo.paper.claims.claim import Claim, ClaimFinding, ClaimRun, Undecidable
from minordpo.paper.claims.rules import all_claims
from minordpo.paper.claims.runs import ComparableRuns, Gathered, comparable

LEVEL = 0.05
State = Literal["held", "did not hold", "not decidable"]
ACROSS = "across situations"
_ORDER_ONLY = (
    "seeds redraw only the order of the pairs here, not model and pairs: p says nothing of how those matter"
)


@dataclass(frozen=True)
class ClaimVerdict:
    """What came of a claim."""

    claim: Claim
    state: State
    finding: ClaimFinding
    adjusted: float | None = None  # p after Holm
    missing: str = ""
    runs: int = 0

    def words(self) -> str:
        """The numbers, the test and what is missing, as sentences without a full stop."""
        parts = [self.missing, *(each.words() for each in self.finding.contrasts)]
        if self.finding.p is not None and self.state != "not decidable":
            parts.append(self._test(self.finding.p))
        parts += self.finding.told
        left_out = [", ".join(map(str, each.left_out)) for each in self.finding.contrasts[:1]]
        parts += [f"left out for lacking settings: seeds {seeds}" for seeds in left_out if seeds]
        return "; ".join(filter(None, parts))

    def _test(self, p: float) -> str:
        text = f"p {p:.2g}"
        if self.adjusted is not None:
            text += f", {self.adjusted:.2g} after Holm"
        if self.state == "held":
            return text
        contrasts = self.finding.contrasts
        opposite = [each for each in contrasts if each.mean * each.predicted < 0 and each.p < LEVEL]
        if opposite:
            return f"{text} (the opposite of what is claimed: {opposite[0].what})"
        weakest = max(contrasts, key=lambda each: (not each.agrees, each.p))
        return f"{text} (no difference shown: {weakest.what})"


@dataclass(frozen=True)
class Judged:
    """Runs of the same other settings with the verdicts on claims, or all runs with those on claims across them."""

    title: str
    notes: tuple[str, ...]
    verdicts: tuple[ClaimVerdict, ...]


def judge_all(gathered: Gathered) -> list[Judged]:
    """The verdicts on runs that can be compared, those of most runs first; at the end those across other settings."""
    apart = [claim for claim in all_claims() if not claim.across]
    across = [claim for claim in all_claims() if claim.across]
    judged = [
        Judged(_title(each), () if each.redraws else (_ORDER_ONLY,), judge(apart, each.runs))
        for each in comparable(gathered.runs)
    ]
    return [*judged, Judged(ACROSS, (), judge(across, gathered.runs))]


def _title(group: ComparableRuns) -> str:
    """What tells the runs from others, and how many there are."""
    counts = {"finished run": len(group.runs), "seed": len(group.seeds)}
    counted = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items())
    return f"{group.label}: {counted}" if group.label else counted


def judge(claims: Sequence[Claim], runs: Sequence[ClaimRun]) -> tuple[ClaimVerdict, ...]:
    """The verdict on each claim; the primary ones are corrected for how many of them the runs can be asked."""
    found: list[ClaimFinding | str] = []
    for claim in claims:
        try:
            found.append(claim.decide(runs))
        except Undecidable as error:
            found.append(str(error))
    p_values = {
        claim.name: finding.p
        for claim, finding in zip(claims, found, strict=True)
        if claim.primary and isinstance(finding, ClaimFinding) and finding.p is not None
    }
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return tuple(
        ClaimVerdict(claim, "not decidable", ClaimFinding(), missing=finding)
        if isinstance(finding, str)
        else _verdict(claim, finding, adjusted.get(claim.name), len(adjusted), runs)
        for claim, finding in zip(claims, found, strict=True)
    )


def _verdict(
    claim: Claim, finding: ClaimFinding, adjusted: float | None, family: int, runs: Sequence[ClaimRun]
) -> ClaimVerdict:
    own = [run for run in runs if not claim.arms or run.objective in claim.arms]
    if finding.holds is not None:
        return ClaimVerdict(claim, "held" if finding.holds else "did not hold", finding, runs=len(own))
    counted = {seed for each in finding.contrasts for seed in each.by_seed}
    count = sum(run.seed in counted for run in own)
    among = finding.among if adjusted is None else family
    needed = seeds_needed(among)
    if finding.seeds < needed:
        why = f" ({among} tests are made)" if among > 1 else ""
        there = "1 is" if finding.seeds == 1 else f"{finding.seeds} are"
        missing = f"needs at least {needed} seeds{why}: {there} there"
        return ClaimVerdict(claim, "not decidable", finding, missing=missing, runs=count)
    p = finding.p if adjusted is None else adjusted
    held = p is not None and p < LEVEL and all(each.agrees for each in finding.contrasts)
    return ClaimVerdict(claim, "held" if held else "did not hold", finding, adjusted, runs=count)


def seeds_needed(tests: int = 1) -> int:
    """The fewest seeds with which the smallest p of that many sign-flip tests, 2^(1 − n) each, is below 0.05."""
    return next(seeds for seeds in itertools.count(1) if tests * 2.0 ** (1 - seeds) < LEVEL)
