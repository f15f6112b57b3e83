"""Questions that a verifier scores: any prompts, with right answers or without, and the known tasks.

What can be asked without a verifier is asked in the same words with one, so that `--verify` changes no answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minordpo.data.make.close_pairs import PAPER_PROMPT
from minordpo.data.make.solutions import QUESTION_COLUMNS
from minordpo.errors import InputError
from minordpo.evaluate.known_tasks import KNOWN_TASKS
from minordpo.evaluate.tasks import Question, Task, draw, load_task, read_questions, task_file, task_rows
from minordpo.evaluate.verified_tables import ALONE
from minordpo.generate.text_measures import right_number
from minordpo.verify.prompts import Prompts, prompts_of, read_prompts
from minordpo.verify.verdict import in_words


def usual_prompt(name: str) -> str:
    """The prompt that questions are asked by unless told: the paper's where all of them have right numbers.

    Raises:
        InputError: the file cannot be read.
    """
    if name in KNOWN_TASKS:
        return PAPER_PROMPT
    task_file(name)
    return ALONE if _numbers(name, read_prompts(name, once=False)) is None else PAPER_PROMPT


def load_verified_task(name: str, *, n: int | None, seed: int, prompt: str, plain_text: bool) -> Task:
    """The questions of a known task or a file of prompts, with what a verifier is given of each; all or `n`.

    A file is read as `verify.prompts.read_prompts` reads it, rows whose prompt stood before included. `n` and `seed`
    are those of `load_task`.

    Raises:
        InputError: no such task or file, a row without a prompt, fewer than `n`, or `prompt` or `plain_text` given
            where no question is asked by them.
    """
    numbered = name in KNOWN_TASKS
    rows = task_rows(name, n=n, seed=seed)
    if numbered:
        kept = list(rows.rows)
        questions: list[Question] | None = read_questions(kept, source=rows.source)
        prompts = prompts_of(
            _with_places(kept, rows.source),
            source=rows.source,
            template=prompt,
            plain_text=plain_text,
            once=False,
        )
    else:
        task_file(name)
        prompts = read_prompts(name, template=prompt, plain_text=plain_text, once=False)
        _refuse_unused(prompts, prompt, plain_text)
        questions = _numbers(name, prompts)
    task = Task(
        rows.title,
        _questions(prompts) if questions is None else questions,
        tuple(each.asked for each in prompts.prompts),
        prompts if questions is None else None,
    )
    return task if n is None or rows.generated else draw(task, n, seed)


def _with_places(rows: list[tuple[int, Any]], source: str) -> Iterator[tuple[int, Any, str]]:
    yield from ((number, row, f"row {number} of {source}") for number, row in rows)


def _numbers(name: str, prompts: Prompts) -> list[Question] | None:
    """The questions of a file as `load_task` has them; None where it could not be asked without a verifier."""
    if any(each.question is None for each in prompts.prompts):
        return None
    try:
        return load_task(name).questions
    except InputError:
        return None


def _questions(prompts: Prompts) -> list[Question]:
    """The questions of other prompts; with their numbers where every right answer is one."""
    numbers = [right_number(each.asked.answer or "") for each in prompts.prompts]
    known = None not in numbers
    return [
        Question(
            each.asked.row,
            in_words(each.asked.prompt) if each.question is None else each.question,
            number if known else None,
            None,
            None if known else each.asked.answer,
        )
        for each, number in zip(prompts.prompts, numbers, strict=True)
    ]


def _refuse_unused(prompts: Prompts, prompt: str, plain_text: bool) -> None:
    if any(each.question is not None for each in prompts.prompts):
        return
    given = [
        *(["--prompt"] if prompt not in (ALONE, PAPER_PROMPT) else []),
        *(["--plain-text"] if plain_text else []),
    ]
    if given:
        raise InputError(
            f"{given[0]} is given, but no row of {prompts.source} has a question in a column named "
            f"{', '.join(QUESTION_COLUMNS)}, and other prompts are asked as they stand. Leave it out"
        )
