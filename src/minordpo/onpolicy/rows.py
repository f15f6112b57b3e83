"""Scored answers → rows of a data file: pairs, ranked responses or labelled ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from minordpo.data.read.fields import Text
from minordpo.errors import InputError
from minordpo.evaluate.folder import EvaluatedModel
from minordpo.onpolicy.answers import SampledAnswer, SampledAnswers
from minordpo.onpolicy.pairing import AnswerPair, PairingOptions, label, make_pairs, rank, usable_answers
from minordpo.onpolicy.prompts import Prompts, SampledPrompt


@dataclass
class MadeRows:
    """The rows of a data file, and what they were made of."""

    options: PairingOptions
    rows: list[dict[str, Any]] = field(default_factory=list)
    pairs: list[AnswerPair] = field(default_factory=list)  # of pairs alone
    by_prompt: Counter[int] = field(default_factory=Counter)  # row of a prompt → rows made of it
    left_out: Counter[str] = field(default_factory=Counter)  # reason → answers


def make_rows(
    prompts: Prompts,
    models: Sequence[EvaluatedModel],
    samples: int,
    answers: SampledAnswers,
    options: PairingOptions,
) -> MadeRows:
    """The rows that the answers give, in the order of the prompts.

    Raises:
        InputError: labels are wanted, and the verifier does not say what is right.
    """
    made = MadeRows(options)
    for prompt in prompts.prompts:
        given = [a for model in models for a in answers.of(prompt.asked.row, model.label, samples)]
        usable = usable_answers(given, options)
        made.left_out.update(usable.left_out)
        if options.format == "pairs":
            pairs = make_pairs(usable.answers, options)
            made.pairs += pairs
            rows = [_pair(prompt, pair) for pair in pairs]
        elif options.format == "ranked":
            rows = _ranked(prompt, rank(usable.answers, options), made.left_out, len(usable.answers))
        else:
            rows = [_labelled(prompt, answer, label(answer, options)) for answer in usable.answers]
        made.by_prompt[prompt.asked.row] = len(rows)
        made.rows += rows
    return made


def _response(prompt: SampledPrompt, answer: SampledAnswer) -> Text:
    """The answer as a response to the prompt: text to text, a turn of the assistant to messages."""
    text = answer.answer.text
    return text if isinstance(prompt.asked.prompt, str) else [{"role": "assistant", "content": text}]


def _pair(prompt: SampledPrompt, pair: AnswerPair) -> dict[str, Any]:
    both = {"chosen": _response(prompt, pair.chosen), "rejected": _response(prompt, pair.rejected)}
    return prompt.columns() | both


def _ranked(
    prompt: SampledPrompt, ranked: Sequence[SampledAnswer], left_out: Counter[str], usable: int
) -> list[dict[str, Any]]:
    if len(ranked) < 2:
        return []
    left_out["the same score as another"] += usable - len(ranked)
    scores = [each.verdict.score for each in ranked if each.verdict is not None]
    responses = [_response(prompt, each) for each in ranked]
    return [prompt.columns() | {"responses": responses, "scores": scores}]


def _labelled(prompt: SampledPrompt, answer: SampledAnswer, desirable: bool) -> dict[str, Any]:
    return prompt.columns() | {"completion": _response(prompt, answer), "label": desirable}


def refuse_none(rows: MadeRows, verifier: str, out: object) -> None:
    """Refuse to go on with nothing.

    Raises:
        InputError: no row came of the answers.
    """
    if not rows.rows:
        raise InputError(
            f"{out} would have no rows: {verifier} gave no two usable answers to one prompt scores that differ enough. "
            "Draw more samples, take other prompts or another temperature, or score by another verifier"
        )
