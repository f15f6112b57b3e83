"""Grade-school word problems with worked solutions, from a seed: data that needs no download."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from minordpo.data.make.stories import Problem, Story, UnfitNumbers, stories
from minordpo.errors import InputError
from minordpo.run_folder.files import refuse_existing, write_jsonl

T = TypeVar("T")
MAX_PROBLEMS = 100_000  # beyond it the stories differ in little but their names
_MAX_DRAWS = 20_000  # the pickiest story needs some hundred draws until every division comes out even


def generate_problems(n: int, *, seed: int) -> list[Problem]:
    """`n` different problems, every story told equally often; the first ten of twenty are those of ten.

    Raises: InputError where `n` is no number of problems or more than the stories have to tell.
    """
    if not 1 <= n <= MAX_PROBLEMS:
        raise InputError(
            f"{n} problems were asked for, but between 1 and {MAX_PROBLEMS} are possible. Change the "
            "number, or write several files with different seeds."
        )
    problems, seen = [], set[str]()
    for index, story in zip(range(n), deal(stories(), f"stories of seed {seed}"), strict=False):
        rng = random.Random(f"problem {index} of seed {seed}")
        problem = _draw(story, rng, seen)
        seen.add(problem.question)
        problems.append(problem)
    return problems


def deal(things: Sequence[T], seed: str) -> Iterator[T]:
    """Each of the things equally often, for ever, in an order that the seed gives."""
    # Seeded by text, which Python hashes with SHA-512: the same on every machine and in every process.
    rng = random.Random(seed)
    while True:
        yield from rng.sample(things, len(things))


def _draw(story: Story, rng: random.Random, seen: set[str]) -> Problem:
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
