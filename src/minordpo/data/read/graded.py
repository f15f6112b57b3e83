"""Rows of one labelled response, or of ranked ones → `Parts`."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from minordpo.data.read.accounting import RowProblem, Tally
from minordpo.data.read.fields import Row, Text, read_content, say, wrong
from minordpo.data.read.layout import Parts, layout, without_repetition
from minordpo.errors import InputError

NUMBER_LABEL_NOTE = "the label is a number; 1 was read as true (desirable) and 0 as false"
_ORDERS = {"ranks": "rank", "scores": "score"}  # column and what one of its numbers is called


def read_label(row: Row, names: tuple[str, ...], where: str, tally: Tally) -> float:
    """The grade that the row's label gives, under one of these names: 1 for true (desirable), 0 for false."""
    given = [name for name in names if name in row]
    field = next((name for name in given if row[name] is not None), given[0])
    label = row[field]
    if isinstance(label, bool):
        return float(label)
    if isinstance(label, int | float) and label in (0, 1):
        tally[NUMBER_LABEL_NOTE] += 1
        return float(label)
    needed = "true (desirable) or false" + (" without quotes" if isinstance(label, str) else "")
    raise wrong(where, field, say(label), needed)


def prompt_column(row: Row) -> str:
    """The prompt's column; RRHF's files call it query."""
    return "query" if row.get("prompt") is None and "query" in row else "prompt"


def responses_of(row: Row, where: str) -> list[Any]:
    """The ranked responses as they stand, two or more."""
    responses = row["responses"]
    if not isinstance(responses, list):
        hint = " (a .csv file cannot hold one: save the rows as .jsonl)" if isinstance(responses, str) else ""
        raise wrong(where, "responses", say(responses), "a list of texts, or of lists of messages," + hint)
    if len(responses) < 2:
        raise InputError(
            f"{where}: responses is {say(responses)}, but two or more are needed to rank them. Add responses, "
            "drop the row, or give single responses as prompt, completion, label."
        )
    return responses


def _labelled(row: Row, where: str, tally: Tally) -> Parts:
    prompt, completion = (read_content(row[field], field, where, tally) for field in ("prompt", "completion"))
    responses = without_repetition(prompt, [completion], tally)
    return Parts(prompt, tuple(responses), (read_label(row, ("label",), where, tally),))


def _ranked(row: Row, where: str, tally: Tally) -> Parts:
    field = prompt_column(row)
    prompt = read_content(row[field], field, where, tally)
    responses = [
        read_content(each, f"response {i}", where, tally) for i, each in enumerate(row["responses"], 1)
    ]
    return best_first(prompt, without_repetition(prompt, responses, tally), row, where)


def best_first(prompt: Text, responses: list[Text], row: Row, where: str) -> Parts:
    """The responses in the order that the row's ranks or scores give; their grades count down to 0.

    Raises:
        InputError: there are no such numbers.
        RowProblem: two of them are the same.
    """
    column, numbers = _read_order(row, len(responses), where)
    order = sorted(range(len(numbers)), key=numbers.__getitem__, reverse=column == "scores")
    for best, next_best in pairwise(order):
        if numbers[best] == numbers[next_best]:
            raise RowProblem(
                "tie",
                f"responses {best + 1} and {next_best + 1} both have the {_ORDERS[column]} "
                f"{numbers[best]}, but ranked responses need an order",
                remedy="Break the tie or drop one of them",
            )
    grades = tuple(float(grade) for grade in reversed(range(len(responses))))
    return Parts(prompt, tuple(responses[i] for i in order), grades)


def _read_order(row: Row, count: int, where: str) -> tuple[str, list[int | float]]:
    """The column that ranks the responses, and its numbers."""
    # Not by presence: where rows differ, Arrow fills the column that a row lacks with null.
    given = [column for column in _ORDERS if row.get(column) is not None]
    if len(given) != 1:
        raise InputError(
            f"{where}: responses come with {'both' if given else 'neither'} ranks {'and' if given else 'nor'} "
            "scores, but one of the two is needed: ranks (1 is the best) or scores (higher is better). "
            + ("Take one out." if given else "Add it or drop the row.")
        )
    (column,) = given
    numbers = row[column]
    if not isinstance(numbers, list):
        raise wrong(where, column, say(numbers), "a list of numbers")
    if len(numbers) != count:
        raise wrong(where, column, say(numbers), f"a number for each of the {count} responses")
    for i, number in enumerate(numbers, 1):
        _check_number(number, f"{_ORDERS[column]} {i}", column, where)
    return column, numbers


def _check_number(number: Any, field: str, column: str, where: str) -> None:
    # An int may be too large for math.isfinite.
    is_int = isinstance(number, int) and not isinstance(number, bool)
    if not is_int and not (isinstance(number, float) and math.isfinite(number)):
        raise wrong(where, field, say(number), "a finite number")
    # Scores under the wrong name would turn the preference round, and mostly they are no whole numbers from 1 on.
    if column == "ranks" and (number < 1 or number != int(number)):
        raise InputError(
            f"{where}: {field} is {say(number)}, but whole numbers from 1 (the best) on are needed. Count so, or "
            "name the column scores if higher is better."
        )


LABELLED_TEXT = layout("TRL unpaired text", _labelled)
LABELLED_CHAT = layout("TRL unpaired chat", _labelled)
RANKED_TEXT = layout("ranked text", _ranked)
RANKED_CHAT = layout("ranked chat", _ranked)
