"""Cases for objectives: pairs at given log-ratios, prompts at given token log-probs, settings for every objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st

from helpers.oracle import Answer
from minordpo.objectives import (
    OBJECTIVES,
    PairLogps,
    ResponseLogps,
    TokenLogps,
)

TOKENS = (4, 5)


def pairs(
    chosen: Any, rejected: Any, *, tokens: tuple[int, int] = TOKENS, dtype: torch.dtype = torch.float64
) -> PairLogps:
    """Pairs of these log-ratios over references of −64 and −65 nats."""
    chosen, rejected = torch.as_tensor(chosen, dtype=dtype), torch.as_tensor(rejected, dtype=dtype)
    return PairLogps(
        chosen - 64,
        rejected - 65,
        torch.full_like(chosen, -64),
        torch.full_like(rejected, -65),
        torch.full(chosen.shape, tokens[0]),
        torch.full(rejected.shape, tokens[1]),
    )


def answer(
    logps: Sequence[float],
    ref_logps: Sequence[float] | None = None,
    *,
    grade: float = 1.0,
    others: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Answer:
    """One response; without `ref_logps` the reference finds it as likely."""
    ref_logps = logps if ref_logps is None else ref_logps
    drawn = None if others is None else torch.tensor(others, dtype=dtype)
    return Answer(torch.tensor(logps, dtype=dtype), torch.tensor(ref_logps, dtype=dtype), grade, drawn)


def two(chosen: float, rejected: float, *, tokens: tuple[int, int] = TOKENS) -> list[Answer]:
    """A pair at these log-ratios over references of −64 and −65 nats."""
    n, m = tokens
    return [
        answer([(chosen - 64) / n] * n, [-64 / n] * n),
        answer([(rejected - 65) / m] * m, [-65 / m] * m, grade=0.0, others=[-1.0] * m),
    ]


def responses(prompts: Sequence[Sequence[Answer]], mismatched: float | None = None) -> ResponseLogps:
    """What an objective sees of these prompts."""
    answers = [each for prompt in prompts for each in prompt]
    lengths = torch.tensor([len(each.logps) for each in answers])
    sequences = torch.arange(len(answers)).repeat_interleave(lengths)
    at = [i for i, each in enumerate(answers) if each.other_logps is not None]
    drawn = [each.other_logps for each in answers if each.other_logps is not None]
    dtype = answers[0].logps.dtype
    return ResponseLogps(
        torch.stack([each.logps.sum() for each in answers]),
        torch.stack([each.ref_logps.sum() for each in answers]),
        lengths,
        torch.tensor([i for i, prompt in enumerate(prompts) for _ in prompt]),
        torch.tensor([float(each.grade) for each in answers]),
        None if mismatched is None else torch.tensor(mismatched, dtype=torch.float32),
        TokenLogps(
            torch.cat([each.logps for each in answers]),
            sequences,
            torch.cat(drawn) if drawn else torch.zeros(0, dtype=dtype),
            torch.cat([(sequences == i).nonzero().squeeze(1) for i in at])
            if at
            else torch.zeros(0, dtype=torch.int64),
        ),
    )


def per_response(values: Any, logps: ResponseLogps) -> list[list[float]]:
    """Values of single responses, prompt by prompt."""
    return [values[logps.groups == i].tolist() for i in range(logps.prompts)]


_BETA = st.floats(0.005, 2)
_SWITCH = st.booleans()
_HYPER: dict[str, st.SearchStrategy[Any]] = {
    "alpha": st.floats(0, 3),
    "beta": _BETA,
    "delta": st.floats(0, 20),
    "desirable_weight": st.floats(0, 3),
    "bdpo_lambda": st.floats(0.01, 0.99),
    "bpo_alpha": st.floats(0.05, 1),
    "dpop_lambda": st.floats(0, 60),
    "gate_margin": st.floats(0, 5),
    "gamma": st.floats(0, 5),
    "gate_gradient": _SWITCH,
    "label_smoothing": st.floats(0, 0.45),
    "margin": st.floats(-15, 15),
    "orpo_lambda": st.floats(0, 2),
    "per_token": _SWITCH,
    "rank_weight": st.floats(0, 100),
    "temperature": st.floats(0.5, 20),
    "top_k": st.integers(1, 10),
    "undesirable_weight": st.floats(0, 3),
}
# Sixty-fourths add up exactly in any order, so that both sides of a comparison stand on the same side of a kink.
_LOGPS = st.integers(-64 * 6, -2).map(lambda x: x / 64)


@st.composite
def answers(draw: Any, grade: float) -> Answer:
    """A response of one to four tokens."""
    n = draw(st.integers(1, 4))
    logps, ref_logps, others = (draw(st.lists(_LOGPS, min_size=n, max_size=n)) for _ in range(3))
    return answer(logps, ref_logps, grade=grade, others=others if grade == 0 else None)


@st.composite
def cases(draw: Any, name: str) -> tuple[list[list[Answer]], float | None, dict[str, Any]]:
    """Prompts of one kind of data that the objective takes, a mismatched log-ratio, and its hyper-parameters."""
    spec = OBJECTIVES[name]
    kind = draw(st.sampled_from(sorted(spec.data)))
    prompts = []
    for _ in range(draw(st.integers(1, 3))):
        if kind == "pairs":
            grades = [1.0, 0.0]
        elif kind == "labelled":
            grades = [draw(st.sampled_from([1.0, 0.0])) if spec.undesirable else 1.0]
        else:
            grades = sorted(draw(st.lists(st.integers(1, 3), min_size=2, max_size=4)), reverse=True)
        prompts.append([draw(answers(float(grade))) for grade in grades])
    mismatched = draw(st.none() | _LOGPS | _LOGPS.map(abs)) if spec.mismatched else None
    return prompts, mismatched, {key: draw(_HYPER[key]) for key in OBJECTIVES[name].defaults}
