"""Intervals and tests against published values, closed forms and counting."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minordpo.evaluate.statistics import (
    holm,
    interval_over_questions,
    mean_difference_interval,
    mean_interval,
    sign_flip,
    sign_flip_of_means,
    sign_flip_of_scores,
    student,
    wilson,
)

Z = 1.959963984540054


def of_single_answers(gained, lost, same=0):
    """The differences of so many questions that are answered once by each model."""
    return [1] * gained + [-1] * lost + [0] * same


def test_wilsons_interval_has_its_published_value():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", 81 of 263 and 15 of 148
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)


def test_wilsons_interval_at_the_ends_is_one_sided_and_not_empty():
    assert wilson(0, 10) == (0.0, pytest.approx(Z**2 / (10 + Z**2)))
    assert wilson(10, 10) == (pytest.approx(10 / (10 + Z**2)), 1.0)


@given(st.integers(1, 300), st.data())
def test_wilsons_bounds_are_the_shares_that_are_one_z_away(total, data):
    successes = data.draw(st.integers(0, total))
    for bound in wilson(successes, total):
        distance = abs(successes / total - bound)
        assert distance == pytest.approx(Z * math.sqrt(bound * (1 - bound) / total), abs=1e-9)


@given(st.integers(2, 60), st.integers(1, 9), st.data())
def test_samples_that_agree_count_once_and_a_sample_a_question_is_wilsons(questions, samples, data):
    right = data.draw(st.lists(st.booleans(), min_size=questions, max_size=questions))
    assert interval_over_questions(list(map(float, right)), samples) == pytest.approx(
        wilson(sum(right), questions)
    )


def test_samples_that_do_not_depend_on_the_question_count_one_by_one():
    assert interval_over_questions([0.5] * 6, 4) == pytest.approx(wilson(12, 24))
    assert interval_over_questions([0.25], 4) != wilson(1, 4)  # one question says nothing about others
    low, high = interval_over_questions([0.25], 4)
    assert low < 0.05
    assert high > 0.85


def test_between_the_two_the_error_over_questions_decides():
    # Shares 0, ½ and 1 of two samples each: s²/3 = 1/12, p(1 − p) = 1/4, so 3 independent answers.
    assert interval_over_questions([0.0, 0.5, 1.0], 2) == pytest.approx(_wilson_of(1 / 2, 3))
    # ¼, ½, ½, ¾: s² = 1/24, over 4 questions 1/96, p(1 − p) = 1/4, so 24 of which 16 were drawn …
    assert interval_over_questions([0.25, 0.5, 0.5, 0.75], 4) == pytest.approx(_wilson_of(1 / 2, 16))
    # … and all 24 of 32.
    assert interval_over_questions([0.25, 0.5, 0.5, 0.75], 8) == pytest.approx(_wilson_of(1 / 2, 24))


def _wilson_of(share, total):
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2))
    return tuple((share + Z**2 / (2 * total) + side * half) / (1 + Z**2 / total) for side in (-1, 1))


@pytest.mark.parametrize(("difficulty", "samples"), [((0.3, 3), 8), ((1, 1), 4), ((500, 500), 2)])
def test_the_interval_over_questions_holds_the_truth_in_95_of_100_draws(difficulty, samples):
    rng = np.random.default_rng(samples)
    truth, held, draws = difficulty[0] / sum(difficulty), 0, 600
    for _ in range(draws):
        shares = rng.binomial(samples, rng.beta(*difficulty, 60)) / samples
        low, high = interval_over_questions(shares.tolist(), samples)
        held += low <= truth <= high
    assert 0.925 < held / draws < 0.98


@pytest.mark.parametrize(("values", "samples"), [([0.5, 1.5], 2), ([-0.5, 1.0], 2), ([0.5], 0)])
def test_what_is_no_share_has_no_interval(values, samples):
    with pytest.raises(ValueError, match=f"are no shares of {samples} samples"):
        interval_over_questions(values, samples)


@pytest.mark.parametrize("gained", range(6))
@pytest.mark.parametrize("lost", range(6))
def test_mcnemars_p_counts_the_ways_to_toss_as_unevenly(gained, lost):
    tosses = list(itertools.product((1, -1), repeat=gained + lost))
    as_uneven = sum(abs(sum(toss)) >= abs(gained - lost) for toss in tosses)
    assert sign_flip(of_single_answers(gained, lost, same=5)) == pytest.approx(as_uneven / len(tosses))


def test_mcnemars_p_is_known_for_many_questions():
    assert sign_flip(of_single_answers(1, 9)) == pytest.approx(22 / 1024)
    assert sign_flip(of_single_answers(2000, 2000)) == pytest.approx(1.0, abs=1e-12)
    assert sign_flip(of_single_answers(0, 1000)) == pytest.approx(2**-999)


def test_the_interval_of_a_paired_difference_is_the_adjusted_walds():
    # gained 10, lost 4 of 50: (11 − 5)/52 ± z √((11 + 5)/52 − (6/52)²)/√52
    half = Z * math.sqrt((16 / 52 - (6 / 52) ** 2) / 52)
    gained_more = mean_difference_interval(of_single_answers(10, 4, 36))
    assert gained_more == pytest.approx((6 / 52 - half, 6 / 52 + half))
    lost_more = mean_difference_interval(of_single_answers(4, 10, 36))
    assert lost_more == pytest.approx((-6 / 52 - half, -6 / 52 + half))


def test_no_difference_on_few_questions_still_has_a_wide_interval():
    low, high = mean_difference_interval(of_single_answers(0, 0, 4))
    assert low == pytest.approx(-high)
    assert high == pytest.approx(Z * math.sqrt(2 / 6 / 6))
    assert mean_difference_interval(of_single_answers(1, 0))[1] == 1.0


def test_the_sign_flip_counts_the_ways_to_give_differences_signs_that_sum_as_far():
    rng = np.random.default_rng(0)
    for count in range(9):
        differences = rng.integers(-4, 5, count).tolist()
        ways = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in _signs(count)]
        as_far = sum(abs(way) >= abs(sum(differences)) for way in ways)
        assert sign_flip(differences) == pytest.approx(as_far / len(ways)), differences


def _signs(count):
    return list(itertools.product((1, -1), repeat=count))


def test_without_a_difference_the_sign_flip_has_nothing_to_reject():
    assert sign_flip([]) == sign_flip([0, 0]) == 1.0


def test_the_sign_flip_rejects_true_equality_as_rarely_as_it_says():
    rng = np.random.default_rng(1)
    rejected = 0
    for _ in range(400):
        chance = rng.beta(1, 1, 30)
        a, b = (rng.binomial(4, chance) for _ in range(2))
        rejected += sign_flip((a - b).tolist()) <= 0.05
    assert rejected / 400 < 0.08


def test_the_interval_of_a_mean_difference_of_shares_is_worked_by_hand():
    # ½ and −¼ of four, with +1 and −1 beside them: mean ¼/6, squares (¼ + 1/16 + 2)/6.
    mean, square = 0.25 / 6, 2.3125 / 6
    half = Z * math.sqrt((square - mean**2) / 6)
    expected = mean - half, mean + half
    assert mean_difference_interval([0.5, -0.25, 0.0, 0.0]) == pytest.approx(expected)


@pytest.mark.parametrize("differences", [[], [0.5, 1.5]])
def test_what_is_no_difference_of_shares_has_no_interval(differences):
    with pytest.raises(ValueError, match="are no differences of shares"):
        mean_difference_interval(differences)


def test_holm_multiplies_the_least_p_most_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.8, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: wilson(0, 0), "0 of 0 is no share"),
        (lambda: wilson(3, 2), "3 of 2 is no share"),
    ],
)
def test_counts_that_cannot_be_are_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_the_sign_flip_test_of_means_has_its_values_worked_by_hand():
    # Sums of ±1 ±2 ±3: −6 −4 −2 0 0 2 4 6. As far out as 1 + 2 − (−3) = 6: two of eight; as 1 − 2 + 3 = 2: six.
    assert sign_flip_of_means([1.0, 2.0, 3.0]) == 2 / 8
    assert sign_flip_of_means([0.1, -0.2, 0.3]) == 6 / 8  # 0.1 − 0.2 + 0.3 is 0.2 but for rounding
    assert sign_flip_of_means([0.5, -0.5]) == 1.0
    assert sign_flip_of_means([0.01] * 8) == 2 ** (1 - 8)
    assert sign_flip_of_means([5.0]) == 1.0
    with pytest.raises(ValueError, match="are no differences"):
        sign_flip_of_means([1.0, math.nan])


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9))
def test_the_sign_flip_test_of_means_is_on_whole_numbers_the_one_by_convolution(
    differences: list[int],
):
    assert sign_flip_of_means([d / 7 for d in differences]) == pytest.approx(
        sign_flip(differences), abs=1e-12
    )


def test_students_t_has_its_published_values():
    # Fisher and Yates, Statistical Tables, table III, of 5 %
    published = {
        1: 12.706,
        2: 4.303,
        3: 3.182,
        4: 2.776,
        5: 2.571,
        9: 2.262,
        10: 2.228,
        30: 2.042,
        120: 1.980,
    }
    assert {freedom: round(student(freedom), 3) for freedom in published} == published
    assert student(100_000) == pytest.approx(Z, abs=1e-4)


def test_the_interval_of_scores_is_students_and_none_where_they_do_not_differ():
    # 5.1, 4.9, 5.3 and 4.7: mean 5, variance 0.2 / 3
    half = 3.182446 * math.sqrt(0.2 / 3 / 4)
    assert mean_interval([5.1, 4.9, 5.3, 4.7]) == pytest.approx((5 - half, 5 + half), abs=1e-6)
    assert mean_interval([7.0, 7.0]) is None
    assert mean_interval([7.0]) is None


def test_students_interval_holds_the_mean_of_a_normal_distribution_95_times_in_100():
    dice = np.random.default_rng(0)
    held = [low <= 3 <= high for low, high in map(mean_interval, dice.normal(3, 2, (4000, 5)).tolist())]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


@given(st.lists(st.sampled_from([-1.5, -1.0, -0.5, 0.0, 0.5, 2.5]), max_size=10))
def test_the_p_of_scores_is_that_of_all_sign_flips(differences):
    total = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in flips(len(differences))
    ]
    p = sum(each >= total for each in sums) / len(sums)
    for parts in (2, 1):  # as whole numbers of halves, and as any numbers
        found, how = sign_flip_of_scores(differences, parts)
        assert found == pytest.approx(p)
        assert how == "exact"


def flips(count):
    return list(itertools.product((1, -1), repeat=count))


def test_too_many_differences_of_any_numbers_are_flipped_at_random_which_is_said():
    dice = np.random.default_rng(1)
    differences = dice.normal(0.25, 1, 80).round(2).tolist()
    exact, how = sign_flip_of_scores(differences, 100)
    assert how == "exact"
    found, how = sign_flip_of_scores(differences)
    assert how == "100,000 random sign flips"
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact / 100_000))
    assert sign_flip_of_scores([math.pi + i * math.e for i in range(60)])[0] == 1 / 100_001
