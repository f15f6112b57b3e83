"""Best of n, votes and pass@n against every subset counted out."""

from __future__ import annotations

import itertools
import random

import pytest

from minordpo.evaluate.ranking import best_of, majority, pass_at


@pytest.mark.parametrize(("samples", "right", "k"), [(1, 0, 1), (4, 1, 2), (5, 3, 2), (6, 6, 3), (6, 0, 6)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(samples: int, right: int, k: int):
    answers = [True] * right + [False] * (samples - right)
    subsets = list(itertools.combinations(answers, k))
    assert pass_at(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_best_of_k_is_the_share_of_subsets_whose_best_is_right(k: int):
    rng = random.Random(k)
    for _ in range(20):
        rewards = [rng.random() for _ in range(5)]
        right = [rng.random() < 0.5 for _ in range(5)]
        subsets = list(itertools.combinations(range(5), k))
        wanted = sum(right[max(subset, key=lambda i: rewards[i])] for subset in subsets) / len(subsets)
        assert best_of(rewards, right, k) == pytest.approx(wanted)


def test_samples_of_one_reward_share_their_chance():
    assert best_of([1.0, 1.0, 0.0], [True, False, True], 3) == pytest.approx(0.5)
    assert best_of([0.0, 0.0, 0.0, 0.0], [True, False, False, False], 2) == pytest.approx(0.25)


def test_the_best_of_one_is_the_accuracy():
    assert best_of([3.0, 1.0, 2.0], [True, False, True], 1) == pytest.approx(2 / 3)


def test_the_majority_is_the_most_given_number_and_of_two_the_first():
    assert majority(["7", "12", "12", None, "7", "12"]) == "12"
    assert majority(["7", "12", "12", "7"]) == "7"
    assert majority([None, "3", None]) == "3"
    assert majority([None, None]) is None


def test_of_right_answers_the_best_is_right_and_no_more_than_surely():
    for count in range(1, 41):
        for k in range(1, count + 1):
            chance = best_of([float(i) for i in range(count)], [True] * count, k)
            assert chance == pytest.approx(1.0)
            assert chance <= 1.0


@pytest.mark.parametrize("k", [0, 4])
def test_more_or_fewer_than_there_are_cannot_be_taken(k: int):
    with pytest.raises(ValueError, match=f"{k} of 3 samples cannot be taken"):
        best_of([1.0, 2.0, 3.0], [True] * 3, k)
    with pytest.raises(ValueError, match=f"{k} of 3 samples cannot be taken"):
        pass_at(3, 1, k)


def test_more_right_answers_than_samples_are_no_chance():
    with pytest.raises(ValueError, match="4 of 3 samples cannot be right"):
        pass_at(3, 4, 1)
