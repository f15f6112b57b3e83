"""Sampled answers made by hand."""

from __future__ import annotations

from typing import Any

from minordpo.generate.generation import Answer
from minordpo.onpolicy.answers import SampledAnswer
from minordpo.verify.verdict import Verdict


def sampled(
    text: str,
    score: float | int | None = None,
    *,
    sample: int = 0,
    row: int = 1,
    model: str = "m",
    stopped: bool = True,
    tokens: int | None = None,
    **verdict: Any,
) -> SampledAnswer:
    """One answer; without `tokens` it has one token a word and an end token."""
    ids = tuple(range(len(text.split()))) if tokens is None else tuple(range(tokens - stopped))
    answer = Answer(text, ids, stopped, len(ids) + stopped, 0 if stopped else None)
    said = None if score is None else Verdict(score=float(score), passed=verdict.get("passed", score > 0))
    return SampledAnswer(row=row, model=model, sample=sample, answer=answer, verdict=said)


def several(*scored: tuple[str, float | int], **options: Any) -> list[SampledAnswer]:
    """Answers of one model to one prompt, numbered from 0."""
    return [sampled(text, score, sample=number, **options) for number, (text, score) in enumerate(scored)]
