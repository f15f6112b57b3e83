"""Arithmetic of worked solutions: exact, and nothing else is ever computed."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minordpo.data.make.arithmetic import ArithmeticProblem, evaluate, read_number, write_like


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("48/2", 24),
        ("2+3*4-1", 13),
        ("(2+3)*4", 20),
        ("100-30-15-5", 50),
        ("24/4/2", 3),
        ("1,200 x 3", 3600),
        ("$0.2 * 50", 10),
        (".5+.25", Fraction(3, 4)),
        ("80/100*10", 8),
        ("20% * 50", 10),
        ("1/2 * 30", 15),
        ("2 + 1 1/2 + 3 1/2", 7),
        ("40(.10)", 4),
        ("-36+13+-15", -38),
        ("3 × 4 ÷ 6", 2),
        (r"\$3 \times 4", 12),
        ("0.1+0.2", Fraction(3, 10)),
    ],
)
def test_expressions_of_worked_solutions_have_their_exact_value(expression, value):
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2+",
        "(2+3",
        "2)",
        "2 3",
        "x",
        "__import__('os')",
        "2**3",
        "1/0",
        "1/(2-2)",
        "9" * 500,
        "(" * 60 + "1",
        "1 1/0",
    ],
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ArithmeticProblem):
        evaluate(text)


def test_replaced_numbers_are_read_by_value():
    assert evaluate("1,200 * 2 + 12", {Fraction(1200): Fraction(1300)}) == 2612


@pytest.mark.parametrize(
    ("value", "model", "text"),
    [
        (Fraction(1300), "1,200", "1,300"),
        (Fraction(1300), "900", "1300"),
        (Fraction(999), "1,200", "999"),
        (Fraction(5, 2), "7.50", "2.50"),
        (Fraction(1, 4), ".75", ".25"),
        (Fraction(5, 4), ".75", "1.25"),
        (Fraction(1, 4), "0.75", "0.25"),
        (Fraction(5, 2), "7", None),
        (Fraction(1, 3), "0.75", None),
        (Fraction(-1), "7", None),
    ],
)
def test_numbers_are_written_like_the_one_they_replace(value, model, text):
    assert write_like(value, model) == text


@given(st.integers(0, 10**9), st.integers(0, 4), st.booleans())
def test_writing_and_reading_a_number_gives_it_back(scaled, decimals, commas):
    value = Fraction(scaled, 10**decimals)
    text = write_like(value, ("1,000" if commas else "1") + ("." + "0" * decimals if decimals else ""))
    assert text is not None
    assert read_number(text) == value
