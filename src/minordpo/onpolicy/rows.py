"""Scored answers → rows of a data file: pairs, ranked responses or labelled ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minordpo.data.read.fields import Text
from minordpo.errors import InputError
from minordpo.evaluate.folder import EvaluatedModel
from minordpo.onpolicy.answers import SampledAnswer, SampledAnswers
from minordpo.onpolicy.pairing import CUT, AnswerPair, PairingOptions, label, make_pairs, rank, usable_answers
from minordpo.verify.prompts import AskedPrompt, Prompts


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
            rows = _ranked(prompt, _whole(usable.answers, made.left_out), options, made.left_out)
        else:
            rows = _labelled(prompt, usable.answers, options, made.left_out)
        made.by_prompt[prompt.asked.row] = len(rows)
        made.rows += rows
    return made


def _response(prompt: AskedPrompt, answer: SampledAnswer) -> Text:
    """The answer as a response to the prompt: text to text, a turn of the assistant to messages."""
    text = answer.answer.text
    return text if isinstance(prompt.asked.prompt, str) else [{"role": "assistant", "content": text}]


def _pair(prompt: AskedPrompt, pair: AnswerPair) -> dict[str, Any]:
    both = {"chosen": _response(prompt, pair.chosen), "rejected": _response(prompt, pair.rejected)}
    return prompt.columns() | both


def _whole(answers: Sequence[SampledAnswer], left_out: Counter[str]) -> list[SampledAnswer]:
    """The answers that ended by themselves; the others are counted."""
    whole = [each for each in answers if each.answer.stopped]
    if len(whole) < len(answers):
        left_out[CUT] += len(answers) - len(whole)
    return whole


def _ranked(
    prompt: AskedPrompt, whole: Sequence[SampledAnswer], options: PairingOptions, left_out: Counter[str]
) -> list[dict[str, Any]]:
    ranked = rank(whole, options)
    if len(ranked) < 2:
        return []
    left_out["the same score as another"] += len(whole) - len(ranked)
    scores = [each.verdict.score for each in ranked if each.verdict is not None]
    responses = [_response(prompt, each) for each in ranked]
    return [prompt.columns() | {"responses": responses, "scores": scores}]


def _labelled(
    prompt: AskedPrompt, answers: Sequence[SampledAnswer], options: PairingOptions, left_out: Counter[str]
) -> list[dict[str, Any]]:
    """A row an answer; a cut answer is never a desirable one, as it is never a chosen one."""
    labels = [(each, label(each, options)) for each in answers]
    kept = [(each, desirable) for each, desirable in labels if each.answer.stopped or not desirable]
    if len(kept) < len(labels):
        left_out[CUT] += len(labels) - len(kept)
    return [
        prompt.columns() | {"completion": _response(prompt, each), "label": desirable}
        for each, desirable in kept
    ]


def refuse_none(rows: MadeRows, verifier: str, out: Path) -> None:
    """Refuse to go on with nothing.

    Raises:
        InputError: no row came of the answers.
    """
    if not rows.rows:
        stale = f". {out} still holds the rows of an earlier start; delete it" if out.exists() else ""
        raise InputError(
            f"{out} would have no rows: {verifier} gave no two usable answers to one prompt scores that differ enough. "
            f"Draw more samples, take other prompts or another temperature, or score by another verifier{stale}"
        )
