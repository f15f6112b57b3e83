"""Verifiers that compare an answer's text with the right answer: its number, or all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minordpo.data.read.fields import shorten
from minordpo.errors import InputError, did_you_mean
from minordpo.generate.text_measures import asked_line, last_number, right_number
from minordpo.verify.options import VerifierOptions
from minordpo.verify.verdict import Asked, Groups, Verdict, Verdicts, one_by_one, refuse_rows, right_or_wrong

# What an answer's number is read by; `minordpo evaluate` reads by the same two.
_READINGS: dict[str, Callable[[str], str | None]] = {"last": last_number, "asked": asked_line}
_NOTE = 200  # characters of what was read
_NO_ANSWER = "no right answer, but --verify {} compares with one"
_ADD_ONE = "Add a column answer with the right answer, drop these rows, or verify in another way"


class NumberVerifier:
    """Right where the answer's number is the right answer's: the last number anywhere, or that of the asked line.

    Raises:
        InputError: no such reading.
    """

    passes = True
    compares = False

    def __init__(self, spec: str, reading: str | None, options: VerifierOptions) -> None:
        reading = "last" if reading is None else reading
        if reading not in _READINGS:
            raise InputError(
                f"--verify is {spec!r}, but there is no reading {reading!r}{did_you_mean(reading, _READINGS)}. Write "
                "number (the last number anywhere) or number:asked (the line 'So the answer is: 42')"
            )
        self.spec = spec
        self._reading, self._read = reading, _READINGS[reading]

    def check(self, asked: Sequence[Asked]) -> None:
        """Refuse rows whose right answer is not there or is no number."""
        refuse_rows(asked, _without_answer, _NO_ANSWER.format(self.spec), _ADD_ONE)
        refuse_rows(
            asked,
            lambda each: right_number(each.answer or "") is None,
            f"a right answer that is no number, but --verify {self.spec} compares numbers",
            "Give a number or a worked solution that ends in '#### 42', drop these rows, or verify in another way",
        )

    def cost(self, groups: int, answers: int) -> str | None:
        """Nothing worth a line."""
        return None

    def settings(self) -> dict[str, Any]:
        """How the number is read."""
        return {"verifier": "number", "reading": self._reading}

    def verdicts(self, groups: Groups) -> Verdicts:
        """Score 1 where the numbers are equal, else 0; the note is the number that was read."""
        for key, asked, answers in groups:
            right = right_number(asked.answer or "")
            if right is None:
                raise InputError(
                    f"{asked.where} has no number as its right answer, but --verify {self.spec} needs one. Add it"
                )
            read = [self._read(answer) for answer in answers]
            yield key, [right_or_wrong(each == right, each and shorten(each, _NOTE)) for each in read]


class ExactVerifier:
    """Right where the answer is the right answer, once the white space of both is made alike.

    Raises:
        InputError: something stands behind the name.
    """

    passes = True
    compares = False

    def __init__(self, spec: str, rest: str | None, options: VerifierOptions) -> None:
        if rest is not None:
            raise InputError(f"--verify is {spec!r}, but nothing stands behind exact. Write exact")
        self.spec = spec

    def check(self, asked: Sequence[Asked]) -> None:
        """Refuse rows without a right answer."""
        refuse_rows(asked, _without_answer, _NO_ANSWER.format(self.spec), _ADD_ONE)

    def cost(self, groups: int, answers: int) -> str | None:
        """Nothing worth a line."""
        return None

    def settings(self) -> dict[str, Any]:
        """Nothing but the name."""
        return {"verifier": "exact"}

    def verdicts(self, groups: Groups) -> Verdicts:
        """Score 1 where the texts are equal, else 0; the note is the beginning of the answer."""
        return one_by_one(groups, self._judge)

    def _judge(self, asked: Asked, answer: str) -> Verdict:
        if _without_answer(asked):
            raise InputError(f"{asked.where} has no right answer, but --verify {self.spec} needs one. Add it")
        found = _collapsed(answer)
        return right_or_wrong(found == _collapsed(asked.answer or ""), shorten(found, _NOTE))


def _without_answer(asked: Asked) -> bool:
    return asked.answer is None or not asked.answer.strip()


def _collapsed(text: str) -> str:
    """The text without white space at its ends, and with one space for each run of white space in it."""
    return " ".join(text.split())
