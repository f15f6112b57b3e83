"""Several answers of one model to each question → accuracies of one and of many, and what they cost in KL."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from minordpo.evaluate.compare import READERS, share
from minordpo.evaluate.kl import divergence
from minordpo.evaluate.ranking import best_of, majority, pass_at
from minordpo.evaluate.statistics import holm, interval_over_questions, mean_difference_interval, sign_flip
from minordpo.evaluate.tasks import Question
from minordpo.generate.generation import Answer
from minordpo.generate.text_measures import asked_line, looping, repeated_4grams


def summarize_samples(questions: Sequence[Question], samples: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """What as many samples of every question show; 95 % intervals over questions, lengths in tokens.

    `pass_at`: for k = 1, 2, 4 … and all samples, the chance that at least one of k is right; of all of them that is
    `any_right`. `majority`: whether the number that most samples give is right. Both by either parser.
    """
    each = len(samples[0])
    right = _right(questions, samples)
    shares = right | {
        "asked_format": [[asked_line(a.text) is not None for a in given] for given in samples],
        "stopped": [[a.stopped for a in given] for given in samples],
        "looping": [[looping(a.token_ids) for a in given] for given in samples],
    }
    lengths = [a.tokens for given in samples for a in given]
    return {
        "each": each,
        **{name: _mean([sum(of) / each for of in values], each) for name, values in shares.items()},
        "repeated_4grams": statistics.fmean(repeated_4grams(a.token_ids) for given in samples for a in given),
        "tokens": {
            "mean": statistics.fmean(lengths),
            "median": statistics.median(lengths),
            "most": max(lengths),
        },
        "pass_at": {
            name: {str(k): _mean([pass_at(each, sum(of), k) for of in values], each) for k in _sizes(each)}
            for name, values in right.items()
        },
        "any_right": {name: share([any(of) for of in values]) for name, values in right.items()},
        "majority": {
            name: share(
                [
                    majority([read(a.text) for a in given]) == question.answer
                    for question, given in zip(questions, samples, strict=True)
                ]
            )
            for name, read in READERS.items()
        },
    }


def samples_against_reference(
    questions: Sequence[Question],
    samples: Sequence[Sequence[Answer]],
    logratios: Sequence[Sequence[float]],
    *,
    temperature: float,
) -> dict[str, Any]:
    """KL(π‖π_ref), and how often the sample of the highest log π/π_ref is right; `logratios` in nats, one a sample.

    `kl` is None where the temperature was not 1: its samples are not the model's own distribution. `best_of` is None
    where no log-ratio differs from 0: the model is the reference, which ranks nothing.
    """
    each = len(samples[0])
    tokens = [[a.tokens for a in given] for given in samples]
    stopped = [[a.stopped for a in given] for given in samples]
    kl = None
    if temperature == 1:
        measured = dataclasses.asdict(divergence(logratios, tokens, stopped))
        # One question has no error, and JSON no NaN.
        kl = {name: None if math.isnan(value) else value for name, value in measured.items()}
    best = None
    if any(value != 0 for values in logratios for value in values):
        best = {
            name: {
                str(k): _mean(list(map(best_of, logratios, values, [k] * len(values))), each)
                for k in _sizes(each)
            }
            for name, values in _right(questions, samples).items()
        }
    return {"kl": kl, "best_of": best}


def compare_samples(
    questions: Sequence[Question], samples: Mapping[str, Sequence[Sequence[Answer]]]
) -> list[dict[str, Any]]:
    """Every other model against the first, by both parsers: the share of right samples, and whether any is right.

    Paired by question; p is that of an exact sign-flip test over questions, adjusted over the models (Holm). All
    models have as many samples of a question.
    """
    first, *others = samples
    each = len(samples[first][0])
    right = {label: _right(questions, given) for label, given in samples.items()}
    rows = []
    for what, scale in (("samples", each), ("any", 1)):
        for name in READERS:
            counts = {
                label: [sum(of) if what == "samples" else int(any(of)) for of in values[name]]
                for label, values in right.items()
            }
            differences = {
                label: [a - b for a, b in zip(counts[label], counts[first], strict=True)] for label in others
            }
            chances = [sign_flip(differences[label]) for label in others]
            for label, p, adjusted in zip(others, chances, holm(chances), strict=True):
                shares = [d / scale for d in differences[label]]
                low, high = mean_difference_interval(shares)
                rows.append(
                    {
                        "model": label,
                        "against": first,
                        "measure": name,
                        "what": what,
                        "difference": statistics.fmean(shares),
                        "low": low,
                        "high": high,
                        "better": sum(d > 0 for d in shares),
                        "worse": sum(d < 0 for d in shares),
                        "p": p,
                        "p_holm": adjusted,
                    }
                )
    return rows


def _right(questions: Sequence[Question], samples: Sequence[Sequence[Answer]]) -> dict[str, list[list[bool]]]:
    """By either parser, which samples of each question are right."""
    return {
        name: [
            [read(a.text) == question.answer for a in given]
            for question, given in zip(questions, samples, strict=True)
        ]
        for name, read in READERS.items()
    }


def _mean(values: Sequence[float], samples: int) -> dict[str, float]:
    low, high = interval_over_questions(values, samples)
    return {"share": statistics.fmean(values), "low": low, "high": high}


def _sizes(samples: int) -> list[int]:
    """1, 2, 4 … and all."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})
