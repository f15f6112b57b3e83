"""Findings → verdicts. A claim is held only where a test could have said otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from minordpo.evaluate.statistics import holm
from minordpo.paper.claims.contrast import Contrast
from minordpo.paper.claims.evidence import Run, Undecidable

LEVEL = 0.05
ANY = ("*",)  # runs of whatever objective
State = Literal["held", "did not hold", "not decidable"]


@dataclass(frozen=True)
class Finding:
    """What the runs say: each contrast must go as predicted, all of them for the claim to hold."""

    contrasts: tuple[Contrast, ...] = ()
    told: tuple[str, ...] = ()  # numbers beside, that decide nothing
    holds: bool | None = None  # of a property of the formula, which needs no seeds
    among: int = 1  # how many alternatives this one is the best of; its p counts so many times

    @property
    def p(self) -> float | None:
        """The largest of the contrasts': where all must hold, that needs no correction (intersection-union test)."""
        return min(1.0, self.among * max(each.p for each in self.contrasts)) if self.contrasts else None

    @property
    def seeds(self) -> int:
        """The fewest of any contrast."""
        return min((each.seeds for each in self.contrasts), default=0)


@dataclass(frozen=True)
class Claim:
    """What the paper says, in our words, and how it is decided."""

    name: str
    sentence: str
    where: str
    rule: str
    needs: str
    decide: Callable[[Sequence[Run]], Finding]
    arms: tuple[str, ...]  # objectives whose runs it is decided from
    primary: bool = False  # a contrast of the primary figure, whose p are corrected by Holm
    across: bool = False  # decided from runs of several situations


@dataclass(frozen=True)
class Verdict:
    """What came of a claim."""

    claim: Claim
    state: State
    finding: Finding | None = None
    adjusted: float | None = None  # p after Holm
    missing: str = ""
    runs: int = 0

    @property
    def p(self) -> float | None:
        """The p that counts."""
        if self.adjusted is not None:
            return self.adjusted
        return None if self.finding is None else self.finding.p

    def words(self) -> str:
        """The numbers, the test and what is missing, as sentences without a full stop."""
        parts: list[str] = []
        if self.finding is not None:
            parts += [each.words() for each in self.finding.contrasts]
            if self.finding.p is not None and self.state != "not decidable":
                parts.append(self._test())
            parts += self.finding.told
            for each in self.finding.contrasts[:1]:
                if each.left_out:
                    parts.append(f"left out for lacking settings: seeds {', '.join(map(str, each.left_out))}")
        return "; ".join([*([self.missing] if self.missing else []), *parts])

    def _test(self) -> str:
        assert self.finding is not None
        text = f"p {self.finding.p:.2g}"
        if self.adjusted is not None:
            text += f", {self.adjusted:.2g} after Holm"
        if self.state == "held":
            return text
        opposite = [
            each for each in self.finding.contrasts if each.mean * each.predicted < 0 and each.p < LEVEL
        ]
        if opposite:
            return f"{text} (the opposite of what is claimed: {opposite[0].what})"
        weakest = max(self.finding.contrasts, key=lambda each: (not each.agrees, each.p))
        return f"{text} (no difference shown: {weakest.what})"


def seeds_needed(tests: int = 1) -> int:
    """The fewest seeds with which the smallest p of that many sign-flip tests, 2^(1 − n) each, is below 0.05."""
    seeds = 1
    while tests * 2.0 ** (1 - seeds) >= LEVEL:
        seeds += 1
    return seeds


def judge(claims: Sequence[Claim], runs: Sequence[Run]) -> list[Verdict]:
    """The verdict on each claim; the primary ones are corrected for how many of them the runs can be asked."""
    found: list[Finding | str] = []
    for claim in claims:
        try:
            found.append(claim.decide(runs))
        except Undecidable as error:
            found.append(str(error))
    primary = [
        place
        for place, (claim, finding) in enumerate(zip(claims, found, strict=True))
        if claim.primary and isinstance(finding, Finding)
    ]
    adjusted = holm([_p(found[place]) for place in primary])
    corrected = dict(zip(primary, adjusted, strict=True))
    return [
        _verdict(claim, finding, corrected.get(place), len(primary), runs)
        for place, (claim, finding) in enumerate(zip(claims, found, strict=True))
    ]


def _p(finding: Finding | str) -> float:
    assert isinstance(finding, Finding)
    assert finding.p is not None
    return finding.p


def _verdict(
    claim: Claim, finding: Finding | str, adjusted: float | None, family: int, runs: Sequence[Run]
) -> Verdict:
    if isinstance(finding, str):
        return Verdict(claim, "not decidable", missing=finding)
    counted = {seed for each in finding.contrasts for seed in each.by_seed}
    count = sum(
        (claim.arms == ANY or run.objective in claim.arms)
        and (run.seed in counted or finding.holds is not None)
        for run in runs
    )
    if finding.holds is not None:
        return Verdict(claim, "held" if finding.holds else "did not hold", finding, runs=count)
    needed = seeds_needed(family if adjusted is not None else finding.among)
    if finding.seeds < needed:
        among = family if adjusted is not None else finding.among
        why = f" ({among} tests are made)" if among > 1 else ""
        there = "1 is" if finding.seeds == 1 else f"{finding.seeds} are"
        missing = f"needs at least {needed} seeds{why}: {there} there"
        return Verdict(claim, "not decidable", finding, missing=missing, runs=count)
    p = finding.p if adjusted is None else adjusted
    assert p is not None
    held = p < LEVEL and all(each.agrees for each in finding.contrasts)
    return Verdict(claim, "held" if held else "did not hold", finding, adjusted, runs=count)
