"""Answers of several models to the same questions → shares with intervals, paired comparisons, examples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from minordpo.evaluate.statistics import bounds, holm, mean_difference_interval, sign_flip, wilson
from minordpo.evaluate.tasks import Question
from minordpo.generate.generation import Answer
from minordpo.generate.text_measures import asked_line, last_number, looping, repeated_4grams

READERS: dict[str, Callable[[str], str | None]] = {
    "strict_accuracy": asked_line,
    "flexible_accuracy": last_number,
}
LONG = 7  # computations; above it GSM8K has a few questions each, which say nothing one by one


def summarize_model(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Any]:
    """What the answers of one model show; shares with 95 % Wilson intervals, lengths in tokens.

    Where the right answers are no numbers, nothing is read from the answers, and there are no examples.
    """
    found = {name: [each for (each,) in of] for name, of in judged(questions, [[a] for a in answers]).items()}
    right = {name: found[name] for name in READERS if name in found}
    return {
        **{name: share(values) for name, values in found.items()},
        "empty": share([not answer.text.strip() for answer in answers]),
        **repetition_and_length(answers),
        "by_steps": _by_steps(questions, right),
        "examples": _examples(questions, answers, right, found["looping"]) if right else {},
    }


def judged(questions: Sequence[Question], samples: Sequence[Sequence[Answer]]) -> dict[str, list[list[bool]]]:
    """Return for each question whether its answers are right by either parser, and their other yes-or-no measures.

    What is read as a number is left out where the right answers are none.
    """
    read = {"asked_format": [[asked_line(a.text) is not None for a in given] for given in samples]}
    return (
        which_right(questions, samples)
        | (read if has_numbers(questions) else {})
        | {
            "stopped": [[a.stopped for a in given] for given in samples],
            "looping": [[looping(a.token_ids) for a in given] for given in samples],
        }
    )


def has_numbers(questions: Sequence[Question]) -> bool:
    """Whether every question has a right number."""
    return all(question.answer is not None for question in questions)


def which_right(
    questions: Sequence[Question], samples: Sequence[Sequence[Answer]]
) -> dict[str, list[list[bool]]]:
    """By either parser, which answers to each question are right; empty where the right answers are no numbers."""
    if not has_numbers(questions):
        return {}
    pairs = list(zip(questions, samples, strict=True))
    return {
        name: [[read(a.text) == question.answer for a in given] for question, given in pairs]
        for name, read in READERS.items()
    }


def repetition_and_length(answers: Sequence[Answer]) -> dict[str, Any]:
    """The mean share of repeated 4-grams, and lengths in tokens."""
    lengths = [answer.tokens for answer in answers]
    return {
        "repeated_4grams": statistics.fmean(repeated_4grams(answer.token_ids) for answer in answers),
        "tokens": {
            "mean": statistics.fmean(lengths),
            "median": statistics.median(lengths),
            "most": max(lengths),
        },
    }


def share(values: Sequence[bool]) -> dict[str, Any]:
    """How many of how many, the share and its 95 % interval."""
    count = sum(values)
    found = {"count": count, "of": len(values), "share": count / len(values)}
    return found | bounds(wilson(count, len(values)))


def compare_models(
    questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]]
) -> list[dict[str, Any]]:
    """Every other model with the first, by both parsers; p is exact McNemar, adjusted over the models (Holm)."""
    right = {label: which_right(questions, [[a] for a in given]) for label, given in answers.items()}
    rows: list[dict[str, Any]] = []
    for name in READERS if has_numbers(questions) else ():
        counts = {label: [sum(of) for of in by[name]] for label, by in right.items()}
        rows += against_first(counts, {"measure": name}, more="gained", fewer="lost")
    return rows


def against_first(
    counts: Mapping[str, Sequence[int]], what: Mapping[str, str], *, more: str, fewer: str, each: int = 1
) -> Iterator[dict[str, Any]]:
    """A row for every model but the first, from how many of its `each` answers to each question are right.

    Paired by question; p is that of an exact sign-flip test over questions, adjusted over the models (Holm). `more`
    and `fewer` name the counts of questions with more, and with fewer, right answers; `what` stands in every row.
    """
    first, *others = counts
    differences = [[a - b for a, b in zip(counts[label], counts[first], strict=True)] for label in others]
    chances = [sign_flip(of) for of in differences]
    for label, of, p, adjusted in zip(others, differences, chances, holm(chances), strict=True):
        shares = [difference / each for difference in of]
        yield {
            "model": label,
            "against": first,
            **what,
            more: sum(difference > 0 for difference in of),
            fewer: sum(difference < 0 for difference in of),
            "difference": statistics.fmean(shares),
            **bounds(mean_difference_interval(shares)),
            "p": p,
            "p_holm": adjusted,
        }


def _by_steps(questions: Sequence[Question], right: Mapping[str, list[bool]]) -> dict[str, Any]:
    """Both accuracies by the computations in the reference solution.

    Computations and not tokens: they are the same for models of different tokenizers, and what makes a problem hard.
    """
    groups: dict[str, list[int]] = {}
    for place, question in sorted(enumerate(questions), key=lambda pair: pair[1].steps or math.inf):
        steps = question.steps
        name = "unknown" if steps is None else str(steps) if steps < LONG else f"{LONG} or more"
        groups.setdefault(name, []).append(place)
    if set(groups) == {"unknown"}:
        return {}
    return {
        group: {name: share([values[i] for i in places]) for name, values in right.items()}
        for group, places in groups.items()
    }


def _examples(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    right: Mapping[str, list[bool]],
    loops: Sequence[bool],
) -> dict[str, Any]:
    """The first answer of each kind: right on the asked line, wrong however it is read, in a loop."""
    kinds = {
        "right": right["strict_accuracy"],
        "right, but not in the asked format": [
            flexible and asked_line(a.text) is None
            for flexible, a in zip(right["flexible_accuracy"], answers, strict=True)
        ],
        "wrong": [
            not (strict or flexible or loop)
            for strict, flexible, loop in zip(*right.values(), loops, strict=True)
        ],
        "looping": list(loops),
    }
    found = {kind: values.index(True) for kind, values in kinds.items() if True in values}
    return {kind: example(questions[i], answers[i]) for kind, i in found.items()}


def example(question: Question, answer: Answer) -> dict[str, Any]:
    """An answer as results show it."""
    return {
        "row": question.row,
        "question": question.text,
        "reference": question.reference if question.answer is None else question.answer,
        "answer": answer.text,
        "stopped": answer.stopped,
    }
