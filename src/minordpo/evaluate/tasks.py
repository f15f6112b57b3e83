"""Questions with a right number each: GSM8K, our own problems, gsm_symbolic, any file of such rows.

Questions that a verifier scores need no number: `verified_tasks`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from minordpo.data.make.solutions import (
    ANSWER_COLUMNS,
    QUESTION_COLUMNS,
    Unusable,
    read_solution,
    whole_question,
)
from minordpo.data.read.fields import half_character, listed, shorten
from minordpo.data.read.readers import READERS, read_csv
from minordpo.errors import InputError, did_you_mean
from minordpo.evaluate.known_tasks import KNOWN_TASKS
from minordpo.generate.text_measures import bare_number, normalize_number
from minordpo.verify.prompts import Prompts
from minordpo.verify.verdict import Asked

GENERATED = 200  # questions of a generator, unless told
# Far from seeds that people train on (`data problems` begins at 0), and far apart: gsm_symbolic's question i of seed
# s is question 0 of seed s + i, so that neighbouring seeds share all but one.
HELD_OUT_SEED = 1_000_000
_READERS = READERS | {".csv": functools.partial(read_csv, columns=QUESTION_COLUMNS)}


@dataclass(frozen=True)
class Question:
    """One question and the number that answers it."""

    row: int  # of the source, as in messages; a generator's are counted from 1
    text: str
    answer: str | None  # normalised; None in a task whose right answers are not all numbers
    steps: int | None  # computations in the reference solution; None where there is no solution to count in
    reference: str | None = None  # the right answer where it is no number, as the source has it
    written: str = field(default="", compare=False)  # as the row has it, with its outer white space


@dataclass(frozen=True)
class Task:
    """What is asked, and where it is from."""

    source: str  # in words
    questions: list[Question]
    asked: tuple[Asked, ...] = ()  # with a verifier: what it is given of each question
    # With a verifier, where a task without one could not be asked so: as messages, or without right numbers.
    prompts: Prompts | None = None

    @property
    def digest(self) -> str:
        """Stands for the questions and their answers."""
        if self.prompts is not None:
            return self.prompts.digest
        digest = xxhash.xxh3_128()
        for question in self.questions:
            digest.update(f"{question.row}\0{question.text}\0{question.answer}\0".encode())
        return digest.hexdigest()

    def asked_by(self, prompt: str) -> Task:
        """The task as `prompt` asks it: a question that is all of the prompt is asked as written, as it is trained.

        In another prompt it stands without outer white space, as in the pairs of `minordpo data corrupt`.
        """
        if prompt != "{question}":
            return self
        return replace(
            self, questions=[replace(each, text=each.written or each.text) for each in self.questions]
        )


def load_task(name: str, *, n: int | None = None, seed: int = 0) -> Task:
    """The questions of a known task or a file, all or `n`.

    Of a file or hub set `seed` says which `n` are taken (the first ten of twenty are those of ten) and they stay
    in its order; a generator's questions are drawn with seed 1,000,000 · (1 + seed).

    Raises:
        InputError: no such task or file, a row without a question or a number, or fewer than `n` questions.
    """
    rows = task_rows(name, n=n, seed=seed)
    task = Task(rows.title, read_questions(rows.rows, source=rows.source, unit=rows.unit))
    return task if n is None or rows.generated else draw(task, n, seed)


@dataclass(frozen=True)
class TaskRows:
    """The rows of a task, read but not looked at: all of a file or hub set, of a generator as many as are wanted."""

    title: str  # what results call the task
    source: str  # what messages call it
    rows: Iterable[tuple[int, Any]]
    unit: str = "row"
    generated: bool = False


def task_rows(name: str, *, n: int | None, seed: int) -> TaskRows:
    """The numbered rows of a known task or a file.

    Raises:
        InputError: no such task or file, or a number below 1 or a seed below 0.
    """
    if n is not None and n < 1:
        raise InputError(f"--n is {n}, but at least 1 question is needed. Raise it.")
    if seed < 0:
        raise InputError(f"--seed is {seed}, but at least 0 is needed. Raise it.")
    known = KNOWN_TASKS.get(name)
    if known is None:
        path = task_file(name)
        suffix = path.suffix.lower()
        unit = "line" if suffix == ".jsonl" else "row"
        return TaskRows(path.name, name, _READERS[suffix](path, name), unit)
    if known.source is None:
        seed = HELD_OUT_SEED * (1 + seed)
        rows = enumerate(known.rows(n or GENERATED, seed), 1)
        return TaskRows(f"{name}, generated with seed {seed}", name, rows, generated=True)
    return TaskRows(known.source, known.source, enumerate(known.rows(), 1))


def draw(task: Task, n: int, seed: int) -> Task:
    """`n` of the questions in their order; `seed` says which, and fewer of one seed are among the more.

    Raises:
        InputError: there are fewer.
    """
    if n > len(task.questions):
        raise InputError(
            f"--n is {n}, but {task.source} has {len(task.questions)} questions. Lower --n, or leave it out."
        )
    rows = list(range(len(task.questions)))
    random.Random(f"questions of seed {seed}").shuffle(rows)
    places = sorted(rows[:n])
    return replace(
        task,
        source=f"{n} of the {len(task.questions)} of {task.source}",
        questions=[task.questions[i] for i in places],
        asked=tuple(task.asked[i] for i in places if task.asked),
        prompts=None if task.prompts is None else task.prompts.taken(places),
    )


def task_file(name: str) -> Path:
    """The file that `--task` names.

    Raises:
        InputError: it is not there, or of another kind.
    """
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if suffix not in _READERS or not path.is_file():
        raise InputError(
            f"--task is {name!r}{did_you_mean(name, KNOWN_TASKS)}, which is neither a task "
            f"({', '.join(KNOWN_TASKS)}) nor a file that ends in {', '.join(sorted(_READERS))}. Correct the name."
        )
    return path


def read_questions(rows: Iterable[tuple[int, Any]], *, source: str, unit: str = "row") -> list[Question]:
    """The question of every numbered row.

    The answer is a number in the column `answer`, or that at the end of a worked solution ("#### 42",
    "The answer is: 42", \\boxed{42}).

    Raises:
        InputError: there is no row, or one without a question or a number; none is passed over, since that would
            change what the accuracy is of.
    """
    questions = [_question(row, number, f"{unit} {number} of {source}") for number, row in rows]
    if not questions:
        raise InputError(f"{source} holds no rows, but questions are needed. Name another file.")
    return questions


def _question(row: Any, number: int, where: str) -> Question:
    columns = listed(list(row)) if isinstance(row, dict) else ""
    if not isinstance(row, dict) or not any(name in row for name in QUESTION_COLUMNS):
        raise InputError(
            f"{where} has no question (its columns: {columns or 'none'}), but one is needed in a column named "
            f"{', '.join(QUESTION_COLUMNS)}. Rename a column, or name another file."
        )
    if not any(name in row for name in ANSWER_COLUMNS):
        raise InputError(
            f"{where} has no answer (its columns: {columns}), but to be right or wrong a number or a worked "
            f"solution is needed in a column named {', '.join(ANSWER_COLUMNS)}. Add it, or name another file."
        )
    bare = bare_number(str(row.get("answer", "")))
    written = whole_question(row, str(next(row[name] for name in QUESTION_COLUMNS if name in row)))
    solution = read_solution(row, where)
    if isinstance(solution, Unusable):
        question = next(row[name] for name in QUESTION_COLUMNS if name in row)
        question = whole_question(row, question) if isinstance(question, str) else question
        says = isinstance(question, str) and question.strip() and not half_character(question)
        if bare is None or not says:
            raise InputError(
                f"{where} cannot be used: {solution.reason}{f' ({solution.example})' if solution.example else ''}. "
                "A question and a number that answers it are needed. Correct or drop the row."
            )
        return Question(number, question.strip(), bare, None, written=written)
    answer = bare or normalize_number(solution.answer)
    if answer is None:
        raise InputError(
            f"{where} has the answer {shorten(solution.answer)!r}, but a number is needed. Correct or drop the row."
        )
    return Question(number, solution.question, answer, len(solution.steps) or None, written=written)
