"""Measures of answers against values found by hand."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.places import SHARED
from minordpo.generate.generation import Answer
from minordpo.generate.text_measures import (
    asked_line,
    last_number,
    looping,
    means,
    measure,
    normalize_number,
    repeated_4grams,
    right_number,
)

GSM8K = SHARED / "data" / "gsm8k" / "test.jsonl"


@pytest.mark.parametrize(
    ("token_ids", "share"),
    [
        ([], 0.0),
        ([7, 7, 7, 7], 0.0),  # one 4-gram has none before it
        ([7, 7, 7, 7, 7], 1 / 2),
        ([1, 2, 3, 4, 5, 6, 7], 0.0),
        ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5),
        ([1, 2, 3, 4, 9, 1, 2, 3, 4, 9, 1, 2, 3, 4], 6 / 11),
    ],
)
def test_repeated_4grams_are_the_share_that_occurred_before(token_ids, share):
    assert repeated_4grams(token_ids) == pytest.approx(share)


def words(text):
    """One token a word, and one for each digit and mark, as small tokenizers cut arithmetic."""
    pieces = "".join(c if c.isalpha() else f" {c} " for c in text.replace("\n", " ¶ ")).split()
    return [sum(ord(c) * 131**i for i, c in enumerate(piece)) for piece in pieces]


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 1" + "0" * 24,
        "So " + "the " * 24,
        "48/2=24.\n" + "She has 24 clips, so " * 5,
        "48/2=24.\n" + "She has 24 clips, so " * 4 + "She has",  # cut in the midst of a round
        "The baker sells the rest of the bread to the people of the town in the morning, every day. " * 4,
    ],
)
def test_a_cycle_at_the_end_is_a_loop(text):
    assert looping(words(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Natalia sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 clips altogether.\nSo the answer is: 72",
        "The number is 1" + "0" * 20,
        "\n".join(f"| {i} | {i * i} | {i**3} |" for i in range(40)),
        "| a | b |\n|---|---|\n" + "| 0 | 0 |\n" * 3,
        "the " * 40 + "end",  # it came to an end
        "\n".join(f"{i}. She has {i} clips" for i in range(10, 60)),  # counts on: for repeated_4grams to see
        "The baker sells the rest of the bread in the morning. " * 3,
    ],
)
def test_text_that_somebody_may_mean_is_no_loop(text):
    assert not looping(words(text))


def test_a_loops_limits_are_four_repetitions_and_24_tokens():
    unit = list(range(10))
    assert looping(unit * 4)
    assert not looping((unit * 4)[1:])
    assert not looping([*range(50, 90), *(unit * 4)[1:]])
    assert looping([5] * 24)
    assert not looping([5] * 23)
    assert looping(list(range(64)) * 4)
    assert not looping(list(range(65)) * 4)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", "72"),
        (" $1,200.50. ", "1200.5"),
        ("007", "7"),
        ("1,234,567", "1234567"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("−3.0", "-3"),
        ("+4", "4"),
        ("-0.00", "0"),
        (".50", "0.5"),
        (r"\$18", "18"),
        ("18 €", "18"),
        ("9" * 5000, "9" * 5000),
        ("--5", None),
        ("-$-5", None),
        ("18 dollars", "18"),
        ("18 dollars every day at the market.", "18"),
        ("5kg", "5"),
        ("5 m²", "5"),
        ("50%", "50"),  # the reference of a share in percent is 50
        ("0.5", "0.5"),  # and so this is not it
        ("US$1,200 a week", "1200"),
        ("**72**", "72"),
        (r"$\boxed{18}$", "18"),
        (r"\(18\) clips", "18"),
        ("2.5 million dollars", "2500000"),
        ("70 thousand", "70000"),
        ("2.5 Million", "2500000"),
        ("3 BILLION people", "3000000000"),
        ("5 thousand-year-old trees", "5"),
        ("1/2", "0.5"),
        ("1 1/2 cups", "1.5"),
        ("10 / 4", "2.5"),
        (r"\frac{3}{4}", "0.75"),
        (r"$\boxed{1\frac{1}{2}}$", "1.5"),
        (r"-2 \dfrac{1}{3}", "-7/3"),
        ("“72”", "72"),
        ("\N{NO-BREAK SPACE}72", "72"),
        ("4/6", "2/3"),
        ("-2/3 million", "-2000000/3"),
        ("10/5", "2"),
        ("1/0", None),
        ("9" * 5000 + "/3", None),
        ("1/2/3", None),
        ("1,20", None),
        ("5k", None),
        ("5x", None),
        ("5²", None),
        ("2½", None),
        ("5万", None),
        ("1e5", None),
        ("10:30", None),
        ("10-12", None),
        ("3 hours 20 minutes", None),
        ("3 + 2 = 5", None),
        ("5 = x", None),
        ("about 5", None),
        ("seven", None),
        ("NaN", None),
        ("", None),
        (".", None),
        ("٣", None),
    ],
)
def test_a_number_has_one_spelling(text, number):
    assert normalize_number(text) == number


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12))
def test_normalising_keeps_the_value_and_is_done_once(value):
    written = f"${value:,}" if value >= 0 else f"-${-value:,}"
    number = normalize_number(written)
    assert number is not None
    assert Decimal(number) == value
    assert normalize_number(number) == number == normalize_number(str(value))


@st.composite
def written_numbers(draw):
    """A value, and one of the ways to write it."""
    value = draw(st.fractions(-1000, 1000, max_denominator=12))
    wholes, rest = divmod(abs(value), 1)
    sign = "-" if value < 0 else ""
    ways = [f"{sign}{abs(value.numerator)}/{value.denominator}"]
    if rest:
        ways.append(f"{sign}{wholes} {rest.numerator}/{rest.denominator}")
    if (value * 1000).denominator == 1:
        ways += [f"{sign}{abs(float(value)):.4f}", f"{sign}${abs(float(value)):,.3f} a day."]
    return value, draw(st.sampled_from(ways))


@given(written_numbers(), written_numbers())
def test_two_numbers_have_one_spelling_exactly_where_their_values_are_equal(a, b):
    assert (normalize_number(a[1]) == normalize_number(b[1])) == (a[0] == b[0])
    assert normalize_number(a[1]) == last_number(f"It is {a[1]}")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48+24=72\nSo the answer is: 72", "72"),
        ("So the answer is: $1,200.", "1200"),
        ("  So the answer is:  18  \nThank you.", "18"),
        ("So the answer is:-4\r\n", "-4"),
        ("So the answer is: 1\nWait.\nSo the answer is: 2", "2"),
        ("So the answer is: 1\nSo the answer is: unknown", None),
        ("So the answer is 72", None),
        ("The answer is: 72", None),
        ("so the answer is: 72", None),
        ("24+48=72, So the answer is: 72", None),
        ("So the answer is: 72 clips", "72"),
        ("**So the answer is:** 72", "72"),
        ("**So the answer is**: 72", "72"),
        ("So the answer is: 72\nSo the answer is:", None),
        ("> **So the answer is: 72.**", "72"),
        ("So the answer is: 48 + 24 = 72", None),
        ("So the answer is: Natalia sold 72 clips", None),
        ("So the answer is:\n72", None),
        ("72", None),
        ("", None),
    ],
)
def test_the_asked_line_is_read_strictly(text, number):
    assert asked_line(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("48 + 24 = 72 clips.", "72"),
        ("She earns $1,200.50.", "1200.5"),
        ("10-3", "3"),
        ("f(x)-3", "3"),
        ("x = -3", "-3"),
        ("It is (-3).", "-3"),
        ("She lost -$5", "-5"),
        (r"\boxed{18}", "18"),
        ("It is 50%.", "50"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        ("She ate 3/4", "0.75"),
        ("48/2 = 24", "24"),
        ("It holds 1 1/2 cups.", "1.5"),
        ("They earned $2.5 million.", "2500000"),
        ("They earned $2.5 Million.", "2500000"),
        (r"It holds $1\frac{1}{2}$ cups.", "1.5"),
        ("On 12/25/2020", "2020"),
        ("about .5 litres", "0.5"),
        ("0" * 6000, "0"),
        ("no number", None),
        ("", None),
    ],
)
def test_the_last_number_is_found_anywhere(text, number):
    assert last_number(text) == number


def answer_of(text, token_ids=(1, 2, 3), stopped=True):
    return Answer(text, tuple(token_ids), stopped, len(token_ids) + stopped)


def test_the_means_over_answers_are_shares_and_lengths():
    answers = [
        answer_of("So the answer is: 72"),
        answer_of("It is 1,200", range(7)),
        answer_of("So the answer is: 5\nCheck: 2+3=5, not 6"),
        answer_of("0" * 30, [4] * 30, stopped=False),
    ]
    answers.append(answer_of(" ", []))
    assert means(list(map(measure, answers))) == {
        "stopped": 4 / 5,
        "looping": 1 / 5,
        "empty": 1 / 5,
        "repeated_4grams": pytest.approx((26 / 27) / 5),
        "tokens": pytest.approx((4 + 8 + 4 + 30 + 1) / 5),
    }


@pytest.mark.shared
@pytest.mark.skipif(not GSM8K.exists(), reason="the data folder is not beside the checkout")
def test_real_solutions_have_their_answer_last_and_do_not_loop():
    rows = [json.loads(line)["answer"] for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    answers = [answer_of(row.replace("\n#### ", "\nSo the answer is: "), words(row)) for row in rows]
    references = [normalize_number(row.rpartition("#### ")[2]) for row in rows]
    assert len(rows) > 500
    assert [asked_line(answer.text) for answer in answers] == references
    assert [last_number(answer.text) for answer in answers] == references
    assert means(list(map(measure, answers)))["looping"] == 0.0


@pytest.mark.parametrize(
    ("given_answer", "number"),
    [
        ("42", "42"),
        (" $1,200.50 ", "1200.5"),
        ("3 dogs\n4 * 3 = 12\n#### 12", "12"),
        ("4 + 3 = 7.\r\nThe answer is: 7", "7"),
        ("4 + 3 = 7, that is \\boxed{1/2}", "0.5"),
        ("#### -3", "-3"),
        ("3 dogs\nand 4 cats", None),
        ("Paris", None),
        ("#### Paris", None),
        ("", None),
    ],
)
def test_a_right_answer_is_a_bare_number_or_that_of_a_worked_solution(given_answer, number):
    assert right_number(given_answer) == number
