"""KL from samples against distributions whose KL is known, and the samples' log-probs against the stock model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from helpers import oracle
from helpers.tiny_models import tiny
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.logprobs import install
from minordpo.engine.reference import reference_logps
from minordpo.engine.reference_cache import ReferenceCache
from minordpo.evaluate.kl import estimate_kl
from minordpo.evaluate.scoring import answer_examples, split_responses
from minordpo.generate.generation import Answer


def _of_tokens(logratios: Sequence[Sequence[Any]], stopped: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """KL from the log-ratio of every token."""
    sums = [[float(np.sum(sample)) for sample in samples] for samples in logratios]
    return estimate_kl(sums, [[len(sample) for sample in samples] for samples in logratios], stopped)


def test_means_and_errors_worked_by_hand():
    # Prompt sums 3 and 1, each a mean of two samples; lengths 2 and 1 tokens a sample.
    found = _of_tokens([[[1.0, 1.0], [3.0, 1.0]], [[2.0], [0.0]]], [[True, False], [True, True]])
    assert found["per_sequence"] == pytest.approx(2.0)
    assert found["per_sequence_error"] == pytest.approx(math.sqrt(2) / math.sqrt(2))
    assert found["per_token"] == pytest.approx(4 / 3)
    # Residuals 3 − 8/3 and 1 − 4/3 over the mean length 3/2: ±2/9.
    assert found["per_token_error"] == pytest.approx(2 / 9)
    assert (found["sequences"], found["tokens"], found["cut"]) == (4, 6, 0.25)


def test_of_equal_models_it_is_zero_without_an_error():
    found = _of_tokens([[[0.0, 0.0]]] * 3, [[True]] * 3)
    assert all(found[name] == 0.0 for name in ("per_sequence", "per_sequence_error", "per_token", "cut"))


def test_one_prompt_has_no_error():
    found = _of_tokens([[[0.5]]], [[True]])
    assert found["per_sequence_error"] is None
    assert found["per_token_error"] is None


def test_the_estimate_is_the_divergence_of_two_known_distributions():
    rng = np.random.default_rng(0)
    policy, reference = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.25, 0.25, 0.25, 0.25])
    ratio = np.log(policy / reference)
    known = float(
        (policy * ratio).sum()
    )  # of a token; a sequence goes on with probability ½, the same in both
    prompts, samples = 800, 3
    drawn = [
        [ratio[rng.choice(4, rng.geometric(0.5), p=policy)] for _ in range(samples)] for _ in range(prompts)
    ]
    found = _of_tokens(drawn, [[True] * samples] * prompts)
    assert abs(found["per_token"] - known) < 4 * found["per_token_error"]
    assert abs(found["per_sequence"] - 2 * known) < 4 * found["per_sequence_error"]
    assert found["per_token_error"] < 0.05 * known


def test_the_stated_error_is_the_spread_over_repetitions():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        lengths = rng.integers(1, 9, 40)
        found.append(_of_tokens([[rng.normal(0.2, 1.0, n)] for n in lengths], [[True]] * 40))
    for value, error in (("per_sequence", "per_sequence_error"), ("per_token", "per_token_error")):
        spread = np.std([each[value] for each in found])
        stated = np.mean([each[error] for each in found])
        assert stated == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("samples", [[], [[[1.0]], [[1.0], [1.0]]]])
def test_prompts_of_different_numbers_of_samples_are_refused(samples: list):
    with pytest.raises(ValueError, match="as many samples"):
        _of_tokens(samples, [[True]] * len(samples))


def test_log_probs_of_samples_are_the_stock_models_with_the_end_token():
    model = tiny("Llama")
    rng = np.random.default_rng(2)
    prompts = [rng.integers(3, 100, n).astype(np.int32) for n in (5, 1)]
    answers = [
        [
            Answer("", tuple(rng.integers(3, 100, n).tolist()), ended, n + ended, 2 if ended else None)
            for n, ended in ((4, True), (0, True), (6, False))
        ]
        for _ in prompts
    ]
    examples = answer_examples(prompts, answers)
    stock = oracle.stock_copy(model)
    install(model)
    with attention_switched(model, NAME):
        found = split_responses(
            examples, reference_logps(model, examples, ReferenceCache(None, ""), token_budget=512)
        )
    expected = iter(oracle.scored_logps(stock, examples))
    assert [len(each) for each in found] == [answer.tokens for given in answers for answer in given]
    for each in found:
        np.testing.assert_allclose(each, next(expected).detach().numpy(), rtol=0, atol=1e-4)
