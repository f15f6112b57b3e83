"""Finished runs → verdicts on all claims: apart for each situation, and across them."""

from __future__ import annotations

from dataclasses import dataclass

from minordpo.paper.claims.claims import CLAIMS
from minordpo.paper.claims.runs import Gathered, Situation, situations
from minordpo.paper.claims.verdict import Verdict, judge

ACROSS = "across situations"
_ORDER_ONLY = (
    "seeds redraw only the order of the pairs here, not model and pairs: p says nothing of how those matter"
)


@dataclass(frozen=True)
class Judged:
    """A situation with the verdicts on its claims, or all runs with those on claims across situations."""

    title: str
    notes: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def judge_all(gathered: Gathered) -> list[Judged]:
    """Each situation's verdicts, that of most runs first; at the end those across situations."""
    apart = [claim for claim in CLAIMS if not claim.across]
    across = [claim for claim in CLAIMS if claim.across]
    judged = [
        Judged(_title(each), () if each.redraws else (_ORDER_ONLY,), tuple(judge(apart, each.runs)))
        for each in situations(gathered.runs)
    ]
    return [*judged, Judged(ACROSS, (), tuple(judge(across, gathered.runs)))]


def _title(situation: Situation) -> str:
    """What it is and how much of it there is."""
    runs, seeds = len(situation.runs), len(situation.seeds)
    counted = f"{_counted(runs, 'finished run')}, {_counted(seeds, 'seed')}"
    return f"{situation.label}: {counted}" if situation.label else counted


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
