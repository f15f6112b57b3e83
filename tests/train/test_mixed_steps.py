"""The order of a mixture follows from its seed, and each source is met as often as its weight says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from minordpo.data.mixture import Mixture, SourceOf
from minordpo.train.loader import StepSampler
from minordpo.train.mixed_steps import MixedSteps


def mixture(counts, weights, by="rows") -> Mixture:
    numbers = np.repeat(np.arange(len(counts)), counts)
    return Mixture(SourceOf(tuple("abc"[: len(counts)]), numbers), tuple(map(float, weights)), by)


def steps(given: Mixture, per_step: int = 4, *, seed: int = 0, shuffle: bool = True, drop_last: bool = False):
    return MixedSteps(given, per_step, seed=seed, shuffle=shuffle, drop_last=drop_last)


def drawn(sampler: StepSampler, epochs: int) -> list[list[list[int]]]:
    return [[*sampler.steps(epoch)] for epoch in range(epochs)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_sources_of_weight_one_are_drawn_as_one_source_of_all_rows(shuffle):
    how = {"seed": 3, "shuffle": shuffle, "drop_last": False}
    mixed = steps(mixture((7, 4, 2), (1, 1, 1)), **how)
    assert drawn(mixed, 3) == drawn(StepSampler(13, 4, **how), 3)


def test_a_weight_of_two_is_met_twice_a_pass_and_of_a_half_every_other_pass():
    sampler = steps(mixture((5, 6), (2, 0.5)))
    for epoch in drawn(sampler, 2):
        counts = Counter(i for step in epoch for i in step)
        assert [counts[i] for i in range(5)] == [2] * 5
        assert sum(counts[i] for i in range(5, 11)) == 3
    both = Counter(i for epoch in drawn(sampler, 2) for step in epoch for i in step)
    assert [both[i] for i in range(5, 11)] == [1] * 6
    assert len(sampler) == 4  # 13 prompts


def test_every_step_has_its_share_whatever_the_sizes():
    given = mixture((90, 10), (1, 1), "steps")
    sampler = steps(given)
    for epoch in drawn(sampler, 2):
        assert [Counter(given.sources.numbers[step].tolist()) for step in epoch] == [{0: 2, 1: 2}] * 25
    met = Counter(i for epoch in drawn(sampler, 2) for step in epoch for i in step)
    assert {met[i] for i in range(90, 100)} == {10}  # 100 drawn of 10
    assert {met[i] for i in range(90)} == {1, 2}  # 100 drawn of 90: none twice before all were met


def test_shares_smaller_than_a_prompt_a_step_come_round():
    given = mixture((30, 10), (7, 1), "steps")
    counts = [Counter(given.sources.numbers[step].tolist())[1] for step in steps(given).steps(0)]
    assert sum(counts) == 5
    assert max(counts) == 1


@pytest.mark.parametrize("by", ["rows", "steps"])
def test_the_order_follows_from_the_seed_and_the_epoch_alone(by):
    given = mixture((9, 5), (1, 1.7), by)
    one, other = steps(given), steps(given)
    assert drawn(one, 3)[2] == [*other.steps(2)]
    assert drawn(steps(given, seed=1), 1) != drawn(one, 1)
    assert drawn(one, 2)[0] != drawn(one, 2)[1]


@pytest.mark.parametrize("by", ["rows", "steps"])
@pytest.mark.parametrize("drop_last", [True, False])
def test_a_run_visits_what_its_steps_have(by, drop_last):
    sampler = steps(mixture((9, 5), (0.5, 2), by), drop_last=drop_last)
    for count in (1, 3, 9):
        met = sorted({i for step in sampler.run(count) for i in step})
        assert sampler.visited(count).tolist() == met
    assert (
        all(len(step) == 4 for step in sampler.steps(0)) == drop_last or len(sampler) * 4 == sampler.examples
    )


def test_fewer_rows_than_a_step_are_one_step():
    sampler = steps(mixture((1, 1), (1, 1), "steps"), per_step=8)
    assert [sorted(step) for step in sampler.steps(0)] == [[0, 1]]
    assert len(sampler) == 1
