"""The tasks that have a name. One function here is a further task: --help, refusals and `load_task` read it from here.

The function returns rows as a file of questions has them (`tasks.read_questions`). What is slow to import is imported
in it, since --help reads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from minordpo.data.read.fields import shorten
from minordpo.errors import InputError

Rows = Callable[..., Iterable[Any]]


@dataclass(frozen=True)
class KnownTask:
    """A named task: `rows()` of a fixed set, `rows(n, seed)` of a generator."""

    about: str  # what --help says of it
    rows: Rows
    source: str | None  # what the results call a fixed set; None: a generator


KNOWN_TASKS: dict[str, KnownTask] = {}


def known_task(name: str, about: str, *, source: str | None = None) -> Callable[[Rows], Rows]:
    """Give the decorated function's task a name; with `source` it is a fixed set, else a generator of rows(n, seed).

    Raises:
        ValueError: another task has the name.
    """

    def add(rows: Rows) -> Rows:
        if name in KNOWN_TASKS:
            raise ValueError(f"there are two tasks {name}, but a name stands for one. Rename one of them")
        KNOWN_TASKS[name] = KnownTask(about, rows, source)
        return rows

    return add


def tasks_in_words() -> str:
    """Every known task with what it asks, for --help."""
    return ", ".join(f"{name} ({known.about})" for name, known in KNOWN_TASKS.items())


@known_task("gsm8k", "the hub set's test split", source="openai/gsm8k[test]")
def _gsm8k() -> Iterable[Any]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        return datasets.load_dataset("openai/gsm8k", "main", split="test")
    except (OSError, ValueError, DatasetsError) as error:
        reason = shorten(" ".join(str(error).split()).rstrip("."), 200)
        raise InputError(
            f"the hub set openai/gsm8k could not be loaded: {reason}. Check the connection, or name a file of its "
            "test rows: --task path/to/test.jsonl"
        ) from error


@known_task("problems", "minordpo's own, from a seed held out of training")
def _problems(n: int, seed: int) -> Iterable[Any]:
    from minordpo.data.make.problems import generate_problems

    return (problem.row() for problem in generate_problems(n, seed=seed))


@known_task("gsm_symbolic", "needs the extra symbolic")
def _gsm_symbolic(n: int, seed: int) -> Iterable[Any]:
    from minordpo.data.make.symbolic import reasoning_gym, symbolic_row

    gym = reasoning_gym("the task gsm_symbolic")
    return map(symbolic_row, gym.create_dataset("gsm_symbolic", seed=seed, size=n))
