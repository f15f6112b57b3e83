"""What is asked of a verifier, and what it says of one answer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minordpo.errors import InputError

_ROWS_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One row of the prompts: what a model was asked, and what the row says of the right answer."""

    row: int  # of the prompts' file, as messages name it
    source: str = "the prompts"  # the file, as messages name it
    prompt: str | list[dict[str, Any]]  # text, or chat messages of role and content
    answer: str | None = None  # the right answer as the file gives it; None where there is none
    facts: Mapping[str, Any] = field(default_factory=dict)  # the row's other columns, for own code

    @property
    def where(self) -> str:
        """The row, as messages name it."""
        return f"row {self.row} of {self.source}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a verifier says of one answer.

    Raises:
        ValueError: the score is not finite; a verifier refuses such a score before, with the row.
    """

    score: float  # higher is better
    passed: bool | None  # right or wrong where the verifier can say so, else None
    note: str | None = None  # what was read ("42"), or the judge's words

    def __post_init__(self) -> None:
        if not math.isfinite(self.score):
            raise ValueError(f"the score of a verdict is {self.score}, but a finite number is needed")
        if self.note is not None:  # half characters, which no file takes
            object.__setattr__(self, "note", self.note.encode(errors="replace").decode())


# (key, what was asked, answers to it), and (key, a verdict an answer).
Groups = Iterable[tuple[int, Asked, Sequence[str]]]
Verdicts = Iterator[tuple[int, list[Verdict]]]


def right_or_wrong(passed: bool, note: str | None = None) -> Verdict:
    """The verdict of a verifier that only knows right (score 1) and wrong (score 0)."""
    return Verdict(score=float(passed), passed=passed, note=note)


def one_by_one(groups: Groups, judge: Callable[[Asked, str], Verdict]) -> Verdicts:
    """The verdicts of a verifier that looks at each answer alone, in the order of the groups."""
    for key, asked, answers in groups:
        yield key, [judge(asked, answer) for answer in answers]


def refuse_rows(asked: Iterable[Asked], wrong: Callable[[Asked], bool], what: str, advice: str) -> None:
    """Raise InputError if rows are wrong: their numbers, that they have `what`, and the advice."""
    found = [each for each in asked if wrong(each)]
    if not found:
        return
    rows, source = [each.row for each in found], found[0].source
    shown = ", ".join(map(str, rows[:_ROWS_SHOWN]))
    more = f" and {len(rows) - _ROWS_SHOWN:,} more" if len(rows) > _ROWS_SHOWN else ""
    subject, verb = ("row", "has") if len(rows) == 1 else ("rows", "have")
    raise InputError(f"{subject} {shown}{more} of {source} {verb} {what}. {advice}")


def in_words(prompt: str | list[dict[str, Any]]) -> str:
    """The text of a prompt; of several chat messages, each below its role."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0].get("role") == "user":
        return _content(prompt[0])
    return "\n\n".join(f"[{turn.get('role', '')}]\n{_content(turn)}" for turn in prompt)


def _content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content")
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str)
