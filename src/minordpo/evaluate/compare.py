"""Answers of several models to the same questions → shares with intervals, paired comparisons, examples."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minordpo.evaluate.statistics import Comparison, holm, wilson
from minordpo.evaluate.tasks import Question
from minordpo.generate.generation import Answer
from minordpo.generate.text_measures import asked_line, last_number, looping, repeated_4grams

READERS: dict[str, Callable[[str], str | None]] = {
    "strict_accuracy": asked_line,
    "flexible_accuracy": last_number,
}
MEASURES = tuple(READERS)
LONG = 7  # computations; above it GSM8K has a few questions each, which say nothing one by one


def summarize_model(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Any]:
    """What the answers of one model show; shares with 95 % Wilson intervals, lengths in tokens."""
    right = {name: _right(name, questions, answers) for name in MEASURES}
    lengths = [answer.tokens for answer in answers]
    loops = [looping(answer.token_ids) for answer in answers]
    return {
        **{name: share(values) for name, values in right.items()},
        "asked_format": share([asked_line(answer.text) is not None for answer in answers]),
        "stopped": share([answer.stopped for answer in answers]),
        "looping": share(loops),
        "empty": share([not answer.text.strip() for answer in answers]),
        "repeated_4grams": statistics.fmean(repeated_4grams(answer.token_ids) for answer in answers),
        "tokens": {
            "mean": statistics.fmean(lengths),
            "median": statistics.median(lengths),
            "most": max(lengths),
        },
        "by_steps": _by_steps(questions, right),
        "examples": _examples(questions, answers, right, loops),
    }


def share(values: Sequence[bool]) -> dict[str, Any]:
    """How many of how many, the share and its 95 % interval."""
    count = sum(values)
    low, high = wilson(count, len(values))
    return {"count": count, "of": len(values), "share": count / len(values), "low": low, "high": high}


def compare_models(
    questions: Sequence[Question], answers: Mapping[str, Sequence[Answer]]
) -> list[dict[str, Any]]:
    """Every other model against the first, by both parsers; p is exact McNemar, adjusted over the models (Holm)."""
    first, *others = answers
    rows = []
    for name in MEASURES:
        right = {label: _right(name, questions, given) for label, given in answers.items()}
        compared = [Comparison.of(right[label], right[first]) for label in others]
        adjusted = holm([each.p for each in compared])
        for label, each, p in zip(others, compared, adjusted, strict=True):
            low, high = each.interval
            rows.append(
                {
                    "model": label,
                    "against": first,
                    "measure": name,
                    "gained": each.gained,
                    "lost": each.lost,
                    "difference": each.difference,
                    "low": low,
                    "high": high,
                    "p": each.p,
                    "p_holm": p,
                }
            )
    return rows


def _right(name: str, questions: Sequence[Question], answers: Sequence[Answer]) -> list[bool]:
    read = READERS[name]
    return [read(a.text) == question.answer for question, a in zip(questions, answers, strict=True)]


def _by_steps(questions: Sequence[Question], right: Mapping[str, list[bool]]) -> dict[str, Any]:
    """Both accuracies by the computations in the reference solution.

    Computations and not tokens: they are the same for models of different tokenizers, and what makes a problem hard.
    """
    groups: dict[str, list[int]] = {}
    for place, question in sorted(enumerate(questions), key=lambda pair: pair[1].steps or LONG + 1):
        steps = question.steps
        name = "unknown" if steps is None else str(steps) if steps < LONG else f"{LONG} or more"
        groups.setdefault(name, []).append(place)
    if set(groups) == {"unknown"}:
        return {}
    if "unknown" in groups:
        groups["unknown"] = groups.pop("unknown")  # last
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
    return {
        kind: {
            "row": questions[i].row,
            "question": questions[i].text,
            "reference": questions[i].answer,
            "answer": answers[i].text,
            "stopped": answers[i].stopped,
        }
        for kind, i in found.items()
    }
