"""The page a word problem is worked on: who is in it, which numbers, and the solution line by line."""

from __future__ import annotations

import random
from typing import NamedTuple, TypeVar

from minordpo.data.make.arithmetic import evaluate

T = TypeVar("T")


class Redraw(Exception):
    """These numbers make no sensible problem; others will."""


class Person(NamedTuple):
    name: str
    she: str
    her: str

    @property
    def She(self) -> str:
        return self.she.capitalize()

    @property
    def Her(self) -> str:
        return self.her.capitalize()


_WOMEN = (
    "Bianca Chiara Dorota Elif Freya Greta Hana Ines Jana Keiko Leila Mina Noor Olga Petra Rosa Selma Vera"
)
_MEN = "Bruno Cyril Dario Emre Felix Goran Hugo Ivan Jonas Karim Marek Nico Omar Pablo Rafi Stefan Viktor"
PEOPLE = tuple(Person(name, "she", "her") for name in _WOMEN.split()) + tuple(
    Person(name, "he", "his") for name in _MEN.split()
)


class Sheet:
    """The page one problem is worked on: the numbers drawn, the lines written, their results."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.steps: list[str] = []
        self.results: list[int] = []

    def people(self, count: int) -> list[Person]:
        return self.rng.sample(PEOPLE, count)

    def person(self) -> Person:
        return self.rng.choice(PEOPLE)

    def between(self, low: int, high: int, *, step: int = 1) -> int:
        return self.rng.randrange(low, high + 1, step)

    def pick(self, *things: T) -> T:
        return self.rng.choice(things)

    def work(self, line: str, expression: str) -> int:
        """The result of `expression`, written into `line` at its {} with the calculator's annotation."""
        value = evaluate(expression)
        # One of something would need the singular, and none of it no story.
        if value.denominator != 1 or value < 2:
            raise Redraw
        result, before = value.numerator, ""
        if "${}" in line:
            line, before = line.replace("${}", "{}"), "$"
        bare = expression.replace(" ", "")
        self.steps.append(line.replace("{}", f"{expression} = {before}<<{bare}={result}>>{result}"))
        self.results.append(result)
        return result


def require(condition: bool) -> None:
    if not condition:
        raise Redraw
