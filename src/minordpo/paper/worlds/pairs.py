"""A question's worked answer and a wrong one: the pairs of the micro world, close as the paper's or further apart."""

from __future__ import annotations

import random
from typing import Literal

from minordpo.paper.worlds.questions import ASKED, Family, Question, draw

Rejected = Literal["result", "quarter", "independent"]


def rejected(question: Question, kind: Rejected, family: Family, rng: random.Random) -> str:
    """A wrong worked answer.

    `result`: one result before the last is another number in every digit; all later text and the answer stay, as
    where the paper corrupts a solution. `quarter`: a quarter of the characters before the answer line are other
    digits. `independent`: the worked answer of another question, with another answer.
    """
    if kind == "result":
        return _one_result(question, rng)
    if kind == "quarter":
        return _quarter(question, rng)
    while True:
        other = draw(family, rng)
        if other.answer != question.answer:
            return other.worked()


def _one_result(question: Question, rng: random.Random) -> str:
    place = rng.randrange(len(question.steps) - 1)
    steps = list(question.steps)
    term, result = steps[place]
    steps[place] = (term, int(_other_digits(str(result), rng)))
    lines = [f"{term}={result}" for term, result in steps]
    return "\n".join((*lines, ASKED.format(answer=question.answer)))


def _quarter(question: Question, rng: random.Random) -> str:
    *lines, last = question.worked().split("\n")
    text = list("\n".join(lines))
    digits = [place for place, character in enumerate(text) if character.isdigit()]
    for place in rng.sample(digits, min(len(digits), round(len(text) / 4))):
        text[place] = _other_digits(text[place], rng)
    return "".join(text) + "\n" + last


def _other_digits(number: str, rng: random.Random) -> str:
    """As many digits, none where it was; the first of several is no zero."""
    several = len(number) > 1
    return "".join(
        rng.choice(
            [digit for digit in "0123456789" if digit != old and (digit != "0" or place or not several)]
        )
        for place, old in enumerate(number)
    )
