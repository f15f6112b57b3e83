"""A row with a worked solution → its text, its steps and where each result stands, its final answer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from minordpo.data.make.arithmetic import (
    MAX_LENGTH,
    NUMBER,
    ArithmeticProblem,
    evaluate,
    read_number,
    tokenize,
)
from minordpo.data.read.fields import half_character, listed, shorten
from minordpo.errors import InputError

QUESTION_COLUMNS = ("question", "problem", "query", "instruction")
# The answer comes last: beside a solution it holds only the bare result.
ANSWER_COLUMNS = ("solution", "response", "output", "answer")

_ANNOTATION = re.compile(r"<<([^<>\n]*)>>")
_ENDING = re.compile(
    r"(?:\A|\n|(?<=[.!?$}]) )[ \t]*"
    r"(?:####[ \t]*|(?:(?:so|thus|hence|therefore),?[ \t]+)?the (?:final )?answer is[: \t]+)"
    r"(?P<answer>\S[^\n]*)\Z",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\{([^{}]+)\}")
_SHOWN_RESULT = re.compile(rf"\s*(?:\\?[$€£])?\s*(?P<result>{NUMBER})(?P<percent>\s?\\?%)?", re.ASCII)
# What may stand left of an equals sign. Runs are found without backtracking, so that a page of digits costs
# no more than a page of words.
_RUN = re.compile(
    rf"(?:{NUMBER}|\\times|\\cdot|\\div|\\?[$€£%]|[+\-−–*/×·÷() ]|(?<![A-Za-z])x(?![A-Za-z]))+", re.ASCII
)
_GOES_ON = re.compile(r"[ \t]*[+\-−–*/x×·÷^][ \t]*\(?[$\d]")
_OPERATORS = ("times", "over", "sign")


@dataclass(frozen=True)
class Unusable:
    """Why a row gives no close pair: a reason to count, and an example of it."""

    reason: str
    example: str = ""


@dataclass(frozen=True)
class Step:
    """One computation; its result is `text[start:end]` of the solution, where it is computed."""

    expression: str
    value: Fraction  # as shown: 60 where the text says 60%
    percent: bool
    start: int
    end: int

    def holds(self) -> bool:
        """Whether the expression comes to exactly the result shown."""
        try:
            return evaluate(self.expression) * (100 if self.percent else 1) == self.value
        except ArithmeticProblem:
            return False


@dataclass(frozen=True)
class Solution:
    """A question with a worked solution, step by step, and its final answer."""

    question: str
    text: str  # without annotations and without the line that states the final answer
    steps: tuple[Step, ...]  # in the order of the text
    answer: str

    @property
    def answer_value(self) -> Fraction | None:
        numbers = find_numbers(self.answer)
        return numbers[0][0] if len(numbers) == 1 else None


def read_solution(row: dict[str, Any], where: str = "the row") -> Solution | Unusable:
    """The solution of a row, whose columns are recognised by their names.

    Raises: InputError where no column holds a question or none a solution.
    """
    question = row[_find_column(row, QUESTION_COLUMNS, "a question", where)]
    worked = row[_find_column(row, ANSWER_COLUMNS, "a worked solution", where)]
    if not isinstance(question, str) or not isinstance(worked, str) or not question.strip():
        return Unusable("the question or the solution is not text")
    question = whole_question(row, question)
    if half_character(question + worked):
        return Unusable("the text holds half a character (a lone surrogate)", shorten(question))
    body, answer = _split_answer(worked.replace("\r\n", "\n").strip())
    if not answer:
        return Unusable("no final answer (#### 42, The answer is: 42 or \\boxed{42})", shorten(worked[-60:]))
    text, annotated = _take_annotations(body)
    spans = {step.start for step in annotated}
    steps = annotated + [step for step in find_plain_steps(text) if step.start not in spans]
    return Solution(question.strip(), text, tuple(sorted(steps, key=lambda step: step.start)), answer)


def gsm8k_row(question: str, worked: str, answer: str | int) -> dict[str, str]:
    """A worked solution as a row of GSM8K's columns, which `read_solution` reads."""
    return {"question": question, "answer": f"{worked}\n#### {answer}"}


def whole_question(row: dict[str, Any], question: str) -> str:
    """The question with what Alpaca's columns split off from it."""
    if isinstance(row.get("input"), str) and row["input"].strip() and "instruction" in row:
        return f"{question}\n{row['input']}"
    return question


def _find_column(row: dict[str, Any], names: tuple[str, ...], what: str, where: str) -> str:
    for name in names:
        if name in row:
            return name
    raise InputError(
        f"{where} has the columns {listed(list(row))}, but {what} is needed in one named "
        f"{', '.join(names)}. Rename a column."
    )


def final_answer(worked: str) -> str:
    """The final answer that a worked solution ends in, as it stands there: "#### 42"; empty where it has none."""
    return _split_answer(worked.replace("\r\n", "\n").strip())[1]


def _split_answer(worked: str) -> tuple[str, str]:
    """The text before the final answer's line, and the answer; some sets state it on two lines."""
    answer = ""
    while match := _ENDING.search(worked):
        stated = re.sub(r"(?<=\d)\.$", "", match["answer"])
        if answer and stated != answer:
            break
        answer = stated
        worked = worked[: match.start()].rstrip()
    if not answer and (boxed := _BOXED.findall(worked)):
        answer = boxed[-1].strip()
    return worked, answer


def _take_annotations(body: str) -> tuple[str, list[Step]]:
    """The text without <<48/2=24>>, and a step for each of these that the number behind it agrees with."""
    text, position, steps = "", 0, []
    for match in _ANNOTATION.finditer(body):
        text += body[position : match.start()]
        position = match.end()
        expression, _, result = match[1].rpartition("=")
        shown = _SHOWN_RESULT.match(body, position)
        try:
            agrees = shown is not None and read_number(shown["result"]) == read_number(result.strip())
        except ArithmeticProblem:
            continue
        if shown is not None and agrees and _computes(expression):
            start = len(text) + shown.start("result") - position
            steps.append(_step(expression, shown, start, percent=False))
    return text + body[position:], steps


def find_plain_steps(text: str) -> list[Step]:
    """The steps "a + b = c" of a text whose arithmetic holds."""
    steps = []
    for run in _RUN.finditer(text):
        shown = _SHOWN_RESULT.match(text, run.end() + 1) if text[run.end() : run.end() + 1] == "=" else None
        if shown is None or len(shown["result"]) > MAX_LENGTH or _GOES_ON.match(text, shown.end()):
            continue  # an equation goes on behind: "2p = 5 * 3" has no result at 5
        for expression in _endings(run.group()):
            step = _step(expression, shown, shown.start("result"), percent=bool(shown["percent"]))
            if _computes(expression) and step.holds():
                steps.append(step)
                break
    return steps


def _step(expression: str, shown: re.Match[str], start: int, *, percent: bool) -> Step:
    result = shown["result"]
    return Step(expression.strip(), read_number(result), percent, start, start + len(result))


def _endings(run: str) -> Iterator[str]:
    """The run and its shorter ends, none of which cuts an operator from its left side ("in week 2 3*4")."""
    yield run
    try:
        tokens = tokenize(run[-200:])
    except ArithmeticProblem:
        return
    offset = max(0, len(run) - 200)
    for (before, _, _), (kind, _, start) in itertools.pairwise(tokens):
        if before not in _OPERATORS and kind in ("number", "mixed", "open"):
            yield run[offset + start :]


def _computes(expression: str) -> bool:
    try:
        kinds = [kind for kind, _, _ in tokenize(expression)]
        evaluate(expression)
    except ArithmeticProblem:
        return False
    return sum(kind in ("number", "mixed") for kind in kinds) > 1


def find_numbers(text: str) -> list[tuple[Fraction, int, int]]:
    """(value, start, end) of every number in figures; a page of digits is none."""
    return [
        (read_number(match.group()), match.start(), match.end())
        for match in re.finditer(NUMBER, text, re.ASCII)
        if len(match.group()) <= MAX_LENGTH
    ]
