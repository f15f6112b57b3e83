"""What a claim is: a sentence of the paper, the rule that decides it, and what the rule finds in finished runs.

A rule is a function of the runs under `@claim`. Its docstring is what tables and reports show: the sentence, a blank
line, how the claim is decided, and after "Needs:" the data for it. Nothing else has to know of a new claim.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minordpo.paper.claims.contrast import Contrast
from minordpo.paper.stopping_study import StudiedRun


class Undecidable(Exception):
    """What is missing for a claim, in words."""


def require(condition: object, missing: str) -> None:
    """Raise Undecidable with these words if the condition does not hold."""
    if not condition:
        raise Undecidable(missing)


def if_decidable(tell: Callable[[], str], otherwise: str | None = None) -> str:
    """What `tell` says; where that is not decidable the reason after `otherwise`, or nothing without one."""
    try:
        return tell()
    except Undecidable as error:
        return "" if otherwise is None else f"{otherwise}: {error}"


@dataclass(frozen=True, eq=False)
class ClaimRun:
    """A finished run as claims see it."""

    label: str
    objective: str  # its name, with those of its hyper-parameters beside β that are not the defaults
    beta: float | None
    rate: float
    seed: int
    others: Mapping[str, Any] = field(default_factory=dict)  # all other settings that matter, by dotted key
    measures: Mapping[str, float] = field(default_factory=dict)
    source: tuple[str, str] = ("", "")  # model and pairs
    studied: StudiedRun | None = None  # where the run has what the study of stopping needs


class ClaimFinding:
    """What the runs say: each contrast must go as predicted, all of them for the claim to hold."""

    def __init__(
        self, *contrasts: Contrast, told: Iterable[str] = (), holds: bool | None = None, among: int = 1
    ) -> None:
        self.contrasts = contrasts
        self.told = tuple(filter(None, told))  # numbers beside, that decide nothing
        self.holds = holds  # of a property of the formula, which needs no seeds
        self.among = among  # how many alternatives this one is the best of; its p counts so many times

    @property
    def p(self) -> float | None:
        """The largest of the contrasts': where all must hold, that needs no correction (intersection-union test)."""
        return min(1.0, self.among * max(each.p for each in self.contrasts)) if self.contrasts else None

    @property
    def seeds(self) -> int:
        """The fewest of any contrast."""
        return min((each.seeds for each in self.contrasts), default=0)


Rule = Callable[[Sequence[ClaimRun]], ClaimFinding]


@dataclass(frozen=True)
class Claim:
    """What the paper says, in our words, and how it is decided."""

    name: str
    sentence: str
    where: str
    rule: str
    needs: str
    decide: Rule
    arms: tuple[str, ...]  # objectives whose runs it is decided from; all objectives if empty
    primary: bool = False  # a contrast of the primary figure, whose p are corrected by Holm
    across: bool = False  # decided from runs whose other settings differ


CLAIMS: dict[str, Claim] = {}  # by name


def claim(
    name: str, where: str, arms: tuple[str, ...] = (), *, primary: bool = False, across: bool = False
) -> Callable[[Rule], Rule]:
    """Make the function below the rule of a claim, with the texts of its docstring.

    Raises:
        ValueError: the name is taken or no name of a claim, or the docstring lacks a part.
    """

    def add(decide: Rule) -> Rule:
        parts = re.fullmatch(r"(.+?)\.?\n\n(.+)\bNeeds: (.+?)\.?\s*", decide.__doc__ or "", re.DOTALL)
        if name in CLAIMS:
            other = CLAIMS[name].decide
            raise ValueError(f"claim {name} is that of {other.__module__}.{other.__qualname__} already")
        if parts is None or not re.fullmatch(r"C\d+[a-z]?", name):
            raise ValueError(
                f"claim {name!r} needs a name such as C5a and a docstring of a sentence, a blank line, the rule, "
                "and 'Needs: …'"
            )
        sentence, rule, needs = (" ".join(part.split()) for part in parts.groups())
        CLAIMS[name] = Claim(name, sentence, where, rule, needs, decide, arms, primary, across)
        return decide

    return add
