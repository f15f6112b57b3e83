"""Grade-school word problems with worked solutions, from a seed: data that needs no download."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minordpo.data.make.solutions import gsm8k_row
from minordpo.data.make.stories import Story, UnfitNumbers, stories
from minordpo.errors import InputError
from minordpo.run_folder.files import refuse_existing, write_jsonl

MAX_PROBLEMS = 100_000  # beyond it the stories differ in little but their names
_MAX_DRAWS = 20_000  # the pickiest story needs some hundred draws until every division comes out even


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
    for index, story in zip(range(n), _deal_stories(seed), strict=False):
        # Seeded by text, which Python hashes with SHA-512: the same on every machine and in every process.
        rng = random.Random(f"problem {index} of seed {seed}")
        problem = _draw(story, rng, seen)
        seen.add(problem.question)
        problems.append(problem)
    return problems


def _deal_stories(seed: int) -> Iterator[Story]:
    rng = random.Random(f"stories of seed {seed}")
    while True:
        yield from rng.sample(stories(), len(stories()))


def _draw(story: Story, rng: random.Random, seen: set[str]) -> Problem:
    for _ in range(_MAX_DRAWS):
        try:
            question, steps, (*intermediate, answer) = story.tell(rng)
        except UnfitNumbers:
            continue
        # A result that happens to be the answer could not be corrupted without touching the answer.
        if question not in seen and answer not in intermediate:
            return Problem(question, steps, answer, story.name)
    raise RuntimeError(f"the story {story.name} found no numbers that come out even in {_MAX_DRAWS} draws")


def write_problems(out: Path, *, n: int, seed: int, overwrite: bool = False) -> None:
    """Write `n` problems to `out` as GSM8K rows, one JSON object a line.

    Raises: InputError where `out` exists or cannot be written, or `n` is impossible.
    """
    refuse_existing(out, overwrite=overwrite)
    write_jsonl(out, (problem.row() for problem in generate_problems(n, seed=seed)))
