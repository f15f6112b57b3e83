"""Scored answers become the pairs, ranks and labels that the options say."""

from __future__ import annotations

import pytest

from helpers.sampled import sampled, several
from minordpo.errors import InputError
from minordpo.onpolicy.pairing import (
    AnswerPair,
    PairingOptions,
    label,
    make_pairs,
    rank,
    style_of,
    usable_answers,
)

ANSWERS = several(("one", 0.1), ("two", 0.9), ("three", 0.5), ("four", 0.3))


def texts(pairs):
    return [(pair.chosen.answer.text, pair.rejected.answer.text) for pair in pairs]


def test_best_worst_takes_the_highest_and_the_lowest_score():
    assert texts(make_pairs(ANSWERS, PairingOptions())) == [("two", "one")]


def test_a_second_pair_of_a_prompt_takes_other_answers():
    assert texts(make_pairs(ANSWERS, PairingOptions(most=2))) == [("two", "one"), ("three", "four")]
    assert texts(make_pairs(ANSWERS, PairingOptions(most=9))) == [("two", "one"), ("three", "four")]


def test_all_takes_every_two_answers_of_different_scores_in_the_right_order():
    found = texts(make_pairs([*ANSWERS, sampled("five", 0.5, sample=4)], PairingOptions(kind="all")))
    scores = {each.answer.text: each.verdict.score for each in [*ANSWERS, sampled("five", 0.5)]}
    assert len(found) == len(set(found)) == 9  # of 10 twos, one has equal scores
    assert all(scores[chosen] > scores[rejected] for chosen, rejected in found)
    assert len(make_pairs(ANSWERS, PairingOptions(kind="all", most=3))) == 3


def test_closest_takes_the_pair_that_is_most_alike_in_words():
    answers = several(
        ("we add 3 and 4 to get 7", 1),
        ("the answer must be nine", 0),
        ("we add 3 and 4 to get 8", 0),
        ("seven it is", 1),
    )
    found = make_pairs(answers, PairingOptions(kind="closest"))
    assert texts(found) == [("we add 3 and 4 to get 7", "we add 3 and 4 to get 8")]
    assert found[0].likeness > 0.8


def test_scores_must_differ_by_more_than_the_least_gap():
    found = texts(make_pairs(ANSWERS, PairingOptions(least_gap=0.5, kind="all")))
    assert sorted(found) == [("two", "four"), ("two", "one")]
    assert make_pairs(ANSWERS, PairingOptions(least_gap=0.8)) == []
    assert make_pairs(several(("a", 1), ("b", 1)), PairingOptions()) == []
    assert make_pairs([], PairingOptions()) == []


@pytest.mark.parametrize("kind", ["best-worst", "all", "closest"])
def test_like_length_prefers_pairs_of_like_length_among_equals(kind):
    answers = several(("a b c d e f", 1), ("g", 1), ("h i j k l m", 0), ("n", 0))
    first = {
        texts(make_pairs(answers, PairingOptions(kind=kind, like="length", seed=seed)))[0]
        for seed in range(9)
    }
    assert first <= {("a b c d e f", "h i j k l m"), ("g", "n")}


def test_like_style_prefers_pairs_of_one_style_among_equals():
    listed, plain = "1. add 3\n2. get 7", "seven"
    answers = several((listed, 1), (plain, 1), ("1. add 3\n2. get 8", 0))
    for seed in range(9):
        found = make_pairs(answers, PairingOptions(like="style", seed=seed))
        assert found[0].chosen.answer.text == listed
        assert found[0].style_gap == 0


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("one line", "two\nlines"),
        ("a\nb", "a\nb\nc\nd\ne"),
        ("- a", "a"),
        ("# a", "a"),
        ("```\na\n```", "'a'\nb\nc"),
        ("**a**", "a"),
        ("3 + 4 = 7", "seven"),
        ("1) a", "a"),
    ],
)
def test_styles_differ(text, other):
    assert style_of(text) != style_of(other)
    assert style_of(text) == style_of(text + " ")


def test_by_lot_means_by_the_seed_and_not_always_the_first():
    answers = several(*((str(number), number % 2) for number in range(8)))
    found = {texts(make_pairs(answers, PairingOptions(seed=seed)))[0] for seed in range(20)}
    assert len(found) > 4
    again = {texts(make_pairs(answers, PairingOptions(seed=seed)))[0] for seed in range(20)}
    assert found == again


def test_pair_from_takes_chosen_answers_of_one_model_and_rejected_ones_of_another():
    answers = [
        *several(("strong right", 1), ("strong wrong", 0), model="strong"),
        *several(("weak right", 1), ("weak wrong", 0), model="weak"),
    ]
    options = PairingOptions(kind="all", pair_from=("strong", "weak"))
    assert texts(make_pairs(answers, options)) == [("strong right", "weak wrong")]


def test_answers_that_cannot_be_trained_on_are_left_out_and_counted():
    answers = [
        *several(("same", 1), ("same ", 0), ("  ", 0), ("fine", 0)),
        sampled("goes on and", 0, sample=4, stopped=False),
    ]
    found = usable_answers(answers, PairingOptions())
    assert [each.answer.text for each in found.answers] == ["same", "fine"]
    assert found.left_out == {"the same text as another": 1, "empty": 1, "cut by the length limit": 1}


def test_an_unfinished_answer_may_be_rejected_on_request_and_is_never_chosen():
    answers = [
        sampled("cut", 1, stopped=False),
        sampled("whole", 0.5, sample=1),
        sampled("cut too", 0, sample=2, stopped=False),
    ]
    options = PairingOptions(unfinished=True, kind="all")
    assert texts(make_pairs(usable_answers(answers, options).answers, options)) == [("whole", "cut too")]


def test_ranks_have_one_answer_of_each_score():
    ranked = rank([*ANSWERS, sampled("five", 0.9, sample=4)], PairingOptions(format="ranked"))
    assert [each.verdict.score for each in ranked] == [0.9, 0.5, 0.3, 0.1]


def test_labels_are_the_verifiers_or_by_a_threshold():
    assert label(sampled("a", 1.0), PairingOptions()) is True
    assert label(sampled("a", 0.0), PairingOptions()) is False
    assert label(sampled("a", 0.4, passed=None), PairingOptions(format="labelled", threshold=0.4)) is True
    assert label(sampled("a", 0.3, passed=None), PairingOptions(format="labelled", threshold=0.4)) is False
    with pytest.raises(InputError, match="from which score on"):
        label(sampled("a", 0.4, passed=None), PairingOptions())


def test_gaps_of_a_pair():
    pair = AnswerPair(sampled("a b c", 1, tokens=10), sampled("a b d", 0, tokens=5))
    assert pair.length_gap == 0.5
    assert pair.likeness == pytest.approx(2 / 3)
    assert pair.style_gap == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"most": 0},
        {"least_gap": -1.0},
        {"least_gap": float("nan")},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(InputError, match="needed"):
        PairingOptions(**wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": float("nan"), "format": "labelled"}, "threshold is nan"),
        ({"threshold": 1.0}, "--threshold is given, but it is of the format labelled"),
        ({"most": 2, "format": "ranked"}, "--most-pairs is given, but it is of the format pairs"),
        ({"pair_from": ("a", "b"), "format": "labelled"}, "--pair-from is given"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        PairingOptions(**options)
