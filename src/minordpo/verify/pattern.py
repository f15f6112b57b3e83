"""The verifier `regex:PATTERN`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import regex

from minordpo.data.read.fields import shorten
from minordpo.errors import InputError
from minordpo.verify.options import VerifierOptions
from minordpo.verify.verdict import Asked, Groups, Verdict, Verdicts, one_by_one, refuse_rows, right_or_wrong

_ANSWER = "{answer}"
_NOTE = 200  # characters of what was found
SECONDS = 10.0  # of one search; a sound pattern takes milliseconds even on a long answer


class RegexVerifier:
    """Right where the pattern is found in the answer; {answer} in the pattern stands for the right answer's text.

    Patterns are read by the package `regex` and not by `re`, because `regex` can end a search after a time.

    Raises:
        InputError: no pattern, or one that cannot be read.
    """

    passes = True
    compares = False

    def __init__(self, spec: str, pattern: str | None, options: VerifierOptions) -> None:
        if not pattern:
            raise InputError(
                f"--verify is {spec!r}, which has no pattern. Write it behind a colon: regex:PATTERN"
            )
        self.spec = spec
        self._pattern = pattern
        self._needs_answer = _ANSWER in pattern
        self._compiled("42")

    def check(self, asked: Sequence[Asked]) -> None:
        """Refuse rows without a right answer where the pattern needs it."""
        if self._needs_answer:
            refuse_rows(
                asked,
                lambda each: each.answer is None or not each.answer.strip(),
                f"no right answer, but the pattern of --verify {self.spec} has {_ANSWER} in it",
                f"Add a column answer with the right answer, drop these rows, or take {_ANSWER} out of the pattern",
            )

    def cost(self, groups: int, answers: int) -> str | None:
        """Nothing worth a line."""
        return None

    def settings(self) -> dict[str, Any]:
        """The pattern."""
        return {"verifier": "regex", "pattern": self._pattern}

    def verdicts(self, groups: Groups) -> Verdicts:
        """Score 1 where the pattern is found, else 0; the note is what was found first."""
        return one_by_one(groups, self._judge)

    def _judge(self, asked: Asked, answer: str) -> Verdict:
        if self._needs_answer and not (asked.answer or "").strip():
            raise InputError(f"{asked.where} has no right answer, but --verify {self.spec} needs one. Add it")
        compiled = self._compiled((asked.answer or "").strip())
        try:
            found = compiled.search(answer, timeout=SECONDS)
        except TimeoutError:
            raise InputError(
                f"the pattern of --verify {self.spec} was searched for in an answer to {asked.where} for more than "
                f"{SECONDS:g} seconds. Write it without repetitions inside repetitions"
            ) from None
        return right_or_wrong(found is not None, None if found is None else shorten(found.group(), _NOTE))

    def _compiled(self, answer: str) -> regex.Pattern[str]:
        """The pattern for one right answer; `regex` keeps those of the last few hundred."""
        try:
            # re.escape and not regex.escape, whose spaces and letters a pattern with (?x) would read otherwise.
            return regex.compile(self._pattern.replace(_ANSWER, re.escape(answer)))
        except (regex.error, ValueError, OverflowError, RecursionError) as error:
            raise InputError(
                f"the pattern of --verify {self.spec} cannot be read: {error}. Correct it; Python's rules for regular "
                "expressions hold"
            ) from None
