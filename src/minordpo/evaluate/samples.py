"""Several answers of one model to each question → accuracies of one and of many, and what they cost in KL."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from minordpo.evaluate.compare import (
    READERS,
    against_first,
    has_numbers,
    judged,
    repetition_and_length,
    share,
    which_right,
)
from minordpo.evaluate.kl import estimate_kl
from minordpo.evaluate.ranking import best_of, majority, pass_at
from minordpo.evaluate.statistics import bounds, interval_over_questions
from minordpo.evaluate.tasks import Question
from minordpo.generate.generation import Answer

Samples = Sequence[Sequence[Answer]]  # of each question, of every one as many


def summarize_samples(questions: Sequence[Question], samples: Samples) -> dict[str, Any]:
    """What as many samples of every question show; 95 % intervals over questions, lengths in tokens.

    `pass_at`: for k = 1, 2, 4 … and all samples, the chance that at least one of k is right; of all of them that is
    `any_right`. `majority`: whether the number that most samples give is right. Both by either parser,
    and empty where the right answers are no numbers.
    """
    each = len(samples[0])
    shares = judged(questions, samples)
    right = {name: shares[name] for name in READERS if name in shares}
    votes = {name: [majority([READERS[name](a.text) for a in given]) for given in samples] for name in right}
    return {
        "each": each,
        **{name: mean_share([sum(of) / each for of in values], each) for name, values in shares.items()},
        **repetition_and_length([a for given in samples for a in given]),
        "pass_at": {
            name: {
                str(k): mean_share([pass_at(each, sum(of), k) for of in values], each) for k in sizes(each)
            }
            for name, values in right.items()
        },
        "any_right": {name: share([any(of) for of in values]) for name, values in right.items()},
        "majority": {
            name: share([vote == question.answer for question, vote in zip(questions, of, strict=True)])
            for name, of in votes.items()
        },
    }


def samples_and_reference(
    questions: Sequence[Question],
    samples: Samples,
    logps: Sequence[Mapping[str, Any]],
    *,
    temperature: float,
    passed: list[list[bool]] | None = None,
) -> dict[str, Any]:
    """KL(π‖π_ref), and how often the sample of the highest log π/π_ref is right; `logps` has a row a sample, in nats.

    `passed` says which samples pass a verifier, where there is one that says so.
    `kl` is None where the temperature was not 1: its samples are not the model's own distribution. `best_of` is None
    where no log-ratio differs from 0: the model is the reference, which ranks nothing.
    """
    each = len(samples[0])
    flat = [row["logp"] - row["ref_logp"] for row in logps]
    ratios = [flat[start : start + each] for start in range(0, len(flat), each)]
    kl, best = None, None
    if temperature == 1:
        tokens = [[a.tokens for a in given] for given in samples]
        kl = estimate_kl(ratios, tokens, [[a.stopped for a in given] for given in samples])
    right = which_right(questions, samples) | ({} if passed is None else {"passed": passed})
    if any(flat) and right:
        best = {
            name: {
                str(k): mean_share([best_of(*pair, k) for pair in zip(ratios, of, strict=True)], each)
                for k in sizes(each)
            }
            for name, of in right.items()
        }
    return {"kl": kl, "best_of": best}


def compare_samples(questions: Sequence[Question], samples: Mapping[str, Samples]) -> list[dict[str, Any]]:
    """Every other model with the first, by both parsers: the share of right samples, and whether any is right.

    All models have as many samples of a question.
    """
    each = len(next(iter(samples.values()))[0])
    right = {label: which_right(questions, given) for label, given in samples.items()}
    rows: list[dict[str, Any]] = []
    for what, of_each, count in (("samples", each, sum), ("any", 1, any)):
        for name in READERS if has_numbers(questions) else ():
            counts = {label: [int(count(of)) for of in by[name]] for label, by in right.items()}
            said = {"measure": name, "what": what}
            rows += against_first(counts, said, more="better", fewer="worse", each=of_each)
    return rows


def mean_share(values: Sequence[float], samples: int) -> dict[str, float]:
    """The mean of one share, or chance, a question with its 95 % interval over questions."""
    return {"share": statistics.fmean(values), **bounds(interval_over_questions(values, samples))}


def sizes(samples: int) -> list[int]:
    """For how many of the samples a chance is told: 1, 2, 4 … and all."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})
