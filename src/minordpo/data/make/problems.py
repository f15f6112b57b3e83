"""Grade-school word problems with worked solutions, from a seed: the stories of `stories.yaml`, told with numbers."""

from __future__ import annotations

import contextlib
import functools
import random
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from minordpo.config.yaml import parse_yaml
from minordpo.data.make.arithmetic import evaluate
from minordpo.data.make.solutions import gsm8k_row
from minordpo.errors import InputError
from minordpo.run_folder.files import refuse_existing, write_jsonl

T = TypeVar("T")
Values = dict[str, Any]
MAX_PROBLEMS = 100_000  # beyond it the stories differ in little but their names
_MAX_DRAWS = 20_000  # the pickiest story needs some hundred draws until every division comes out even
_STEP = re.compile(r"(\$?)\{(\w+) = ([^}]+)\}")  # $ where the result is in dollars, name, expression
_RANGE = re.compile(r"(.+) to (.+?)(?: by (\d+))?")


class UnfitNumbers(Exception):
    """The numbers drawn make no sensible problem; others will."""


class Person(NamedTuple):
    """A name and its pronouns; as text the name."""

    name: str
    she: str
    She: str
    her: str

    def __str__(self) -> str:
        return self.name


_WOMEN = (
    "Bianca Chiara Dorota Elif Freya Greta Hana Ines Jana Keiko Leila Mina Noor Olga Petra Rosa Selma Vera"
)
_MEN = "Bruno Cyril Dario Emre Felix Goran Hugo Ivan Jonas Karim Marek Nico Omar Pablo Rafi Stefan Viktor"
_PEOPLE = [Person(name, "she", "She", "her") for name in _WOMEN.split()]
_PEOPLE += [Person(name, "he", "He", "his") for name in _MEN.split()]


@dataclass(frozen=True)
class Problem:
    """A question, its solution one line a step with calculator annotations, and the answer."""

    question: str
    steps: tuple[str, ...]
    answer: int
    template: str

    def row(self) -> dict[str, str]:
        """The problem as a GSM8K row."""
        return gsm8k_row(self.question, "\n".join(self.steps), self.answer)


@dataclass(frozen=True)
class Story:
    """One entry of `stories.yaml`, which says what its fields mean."""

    name: str
    draw: Mapping[str, Any]
    solution: str
    question: str
    only: str = ""

    def tell(self, rng: random.Random) -> Problem:
        """The story with numbers of `rng`.

        Raises: UnfitNumbers where a result is uneven or below 2, an earlier result equals the answer, or the condition
        of the story does not hold.
        """
        values: Values = {}
        for names, source in self.draw.items():
            keys = names.split(", ")
            values |= zip(keys, _draw_values(source, len(keys), values, rng), strict=True)
        shown, results = [], []
        for dollars, name, formula in _STEP.findall(self.solution):
            expression = _fill_in(formula, values)
            result = evaluate(expression)
            # One of something would need the singular, and none of it no story.
            if result.denominator != 1 or result < 2:
                raise UnfitNumbers
            values[name] = result.numerator
            results.append(result.numerator)
            shown.append(f"{expression} = {dollars}<<{expression.replace(' ', '')}={result}>>{result}")
        # A result that happens to be the answer could not be corrupted without touching the answer.
        if results[-1] in results[:-1]:
            raise UnfitNumbers
        if self.only:
            smaller, larger = (_compute(side, values) for side in self.only.split(" < "))
            if smaller >= larger:
                raise UnfitNumbers
        left = iter(shown)
        solution = _STEP.sub(lambda step: next(left), self.solution).format_map(values)
        return Problem(self.question.format_map(values), tuple(solution.splitlines()), results[-1], self.name)


@functools.cache
def stories() -> tuple[Story, ...]:
    """All stories, in the order of the file."""
    text = Path(__file__).with_name("stories.yaml").read_text(encoding="utf-8")
    return tuple(Story(name, **fields) for name, fields in parse_yaml(text, "stories.yaml").items())


def _draw_values(source: Any, count: int, values: Values, rng: random.Random) -> list[Any]:
    """Return the values that an entry of `draw` has for its `count` names."""
    if isinstance(source, dict):
        least = _compute(source["above"], values)
        return next(each for each in source["of"] if each[0] > least)
    things: Any = _PEOPLE if source == "people" else source
    if isinstance(things, list):
        if count == 1:
            return [rng.choice(things)]
        return rng.choice(things) if isinstance(things[0], list) else rng.sample(things, count)
    if match := _RANGE.fullmatch(source):
        low, high = (_compute(end, values) for end in match.group(1, 2))
        return [rng.randrange(low, high + 1, int(match[3] or 1))]
    return [_compute(source, values)]


def _compute(expression: str, values: Values) -> int:
    # Most are a bare number, for which the parser would double the time of a data set.
    return int(expression) if expression.isdigit() else int(evaluate(_fill_in(expression, values)))


def _fill_in(expression: str, values: Values) -> str:
    """The expression with the values in place of their names."""
    return re.sub(r"[a-z_]+", lambda match: str(values[match[0]]), expression)


def generate_problems(n: int, *, seed: int) -> list[Problem]:
    """`n` different problems, every story told equally often; the first ten of twenty are those of ten.

    Raises: InputError where `n` is no number of problems or more than the stories have to tell.
    """
    if not 1 <= n <= MAX_PROBLEMS:
        raise InputError(
            f"{n} problems were asked for, but between 1 and {MAX_PROBLEMS} are possible. Change the "
            "number, or write several files with different seeds."
        )
    problems: dict[str, Problem] = {}  # by question
    for index, story in zip(range(n), deal(stories(), f"stories of seed {seed}"), strict=False):
        rng = random.Random(f"problem {index} of seed {seed}")
        problem = _tell_new(story, rng, problems)
        problems[problem.question] = problem
    return list(problems.values())


def deal(things: Sequence[T], seed: str) -> Iterator[T]:
    """Each of the things equally often, for ever, in an order that the seed gives."""
    # Seeded by text, which Python hashes with SHA-512: the same on every machine and in every process.
    rng = random.Random(seed)
    while True:
        yield from rng.sample(things, len(things))


def _tell_new(story: Story, rng: random.Random, seen: Container[str]) -> Problem:
    for _ in range(_MAX_DRAWS):
        with contextlib.suppress(UnfitNumbers):
            problem = story.tell(rng)
            if problem.question not in seen:
                return problem
    raise RuntimeError(f"the story {story.name} found no numbers that come out even in {_MAX_DRAWS} draws")


def write_problems(out: Path, *, n: int, seed: int, overwrite: bool = False) -> None:
    """Write `n` problems to `out` as GSM8K rows, one JSON object a line.

    Raises: InputError where `out` exists or cannot be written, or `n` is impossible.
    """
    refuse_existing(out, overwrite=overwrite)
    write_jsonl(out, (problem.row() for problem in generate_problems(n, seed=seed)))
