"""Verifiers that compare text: number, exact, regex."""

from __future__ import annotations

import re
import time

import pytest

from helpers.places import ROOT
from minordpo.errors import InputError
from minordpo.verify import pattern
from minordpo.verify.verdict import Asked, Verdict
from minordpo.verify.verifier import load_verifier

WORKED = "She sold 48/2 = <<48/2=24>>24 in May.\nIn all 48+24 = <<48+24=72>>72.\n#### 72"


def asked(answer: str | None = "72", row: int = 3) -> Asked:
    return Asked(row=row, prompt="How many?", answer=answer)


def verdicts(spec: str, right: str | None, *answers: str) -> list[Verdict]:
    ((key, found),) = load_verifier(spec, allow_code=False).verdicts([(5, asked(right), answers)])
    assert key == 5
    return found


# ---- number ----
@pytest.mark.parametrize("right", ["72", "$72.00", WORKED, "It is so. The answer is: 72"])
def test_a_number_is_right_however_the_right_answer_is_written(right: str):
    found = verdicts(
        "number", right, "24, so it is 72.", "72 or rather 73", "So the answer is: 72.0 clips", "none"
    )
    assert [(each.score, each.passed, each.note) for each in found] == [
        (1.0, True, "72"),
        (0.0, False, "73"),
        (1.0, True, "72"),
        (0.0, False, None),
    ]


def test_the_asked_reading_wants_the_asked_line():
    answers = ("It is 72.", "So the answer is: 72\nor 3", "So the answer is: 7")
    assert [each.passed for each in verdicts("number:asked", WORKED, *answers)] == [False, True, False]
    assert [each.passed for each in verdicts("number:last", WORKED, *answers)] == [True, False, False]


@pytest.mark.parametrize("spec", ["number", "exact", "regex:^{answer}$"])
def test_rows_without_a_right_answer_are_named_before_anything_slow(spec: str):
    verifier = load_verifier(spec, allow_code=False)
    verifier.check([asked()])
    assert verifier.cost(10, 8) is None
    with pytest.raises(
        InputError, match=r"^row 4 of the prompts has no right answer, but .*Add a column answer"
    ):
        verifier.check([asked(), asked(None, row=4)])
    with pytest.raises(InputError, match=r"^rows 0, 1, 2, 3, 4, 5 and 1,994 more of the prompts have no"):
        verifier.check([asked(" ", row=row) for row in range(2000)])
    with pytest.raises(InputError, match=r"^row 9 of the prompts has no"):
        list(verifier.verdicts([(0, asked(None, row=9), ["72"])]))


def test_a_right_answer_that_is_no_number_is_named():
    verifier = load_verifier("number", allow_code=False)
    with pytest.raises(
        InputError, match=r"^row 8 of the prompts has a right answer that is no number.*#### 42"
    ):
        verifier.check([asked(), asked("Paris", row=8)])


def test_another_reading_is_refused_with_the_near_one():
    with pytest.raises(InputError, match=r"no reading 'aksed' \(did you mean asked\?\)\. Write number"):
        load_verifier("number:aksed", allow_code=False)


def test_the_code_of_the_page_runs(capsys):
    page = (ROOT / "docs" / "verify.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(from minordpo.*?)```", page, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == "0 [1.0, 0.0]\n"


# ---- exact ----
def test_exact_is_equal_but_for_white_space():
    found = verdicts(
        "exact", "The  cat\nsat. ", " The cat sat.", "the cat sat.", "The cat sat", "The\u00a0cat\tsat."
    )
    assert [each.passed for each in found] == [True, False, False, True]
    assert found[0] == Verdict(score=1.0, passed=True, note="The cat sat.")


def test_exact_takes_nothing_behind_it():
    with pytest.raises(InputError, match=r"^--verify is 'exact:x', but nothing stands behind exact"):
        load_verifier("exact:x", allow_code=False)


# ---- regex ----
def test_a_pattern_is_searched_for_with_the_right_answer_in_it():
    found = verdicts(r"regex:\b{answer}\s*$", " 3.5+ ", "so 3.5+", "3.5+ or 4", "so 3x5+ ", "13.5+")
    # \b needs a word's edge before the 3; "13.5+" has none there.
    assert [each.passed for each in found] == [True, False, False, False]
    assert found[0].note == "3.5+"
    assert [each.passed for each in verdicts("regex:(?i)^yes", None, "Yes.", "Oh yes", "no")] == [
        True,
        False,
        False,
    ]


def test_a_pattern_may_hold_colons():
    assert verdicts("regex:a:b", None, "xa:b")[0].passed


@pytest.mark.parametrize("wrong", ["(", "[z-a]", "a{99999999999999}", "(?P<x"])
def test_a_pattern_that_cannot_be_read_is_refused(wrong: str):
    with pytest.raises(InputError, match=rf"of --verify regex:{re.escape(wrong)} cannot be read: .*position"):
        load_verifier(f"regex:{wrong}", allow_code=False)
    with pytest.raises(InputError, match="has no pattern"):
        load_verifier("regex:", allow_code=False)


def test_a_pattern_that_never_ends_is_stopped(monkeypatch):
    monkeypatch.setattr(pattern, "SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(
        InputError, match=r"an answer to row 3 of the prompts for more than 0\.2 seconds\. Write it"
    ):
        verdicts(r"regex:(?:a|aa)+$|(.*a){25}c", None, "a" * 60 + "b")
    assert time.monotonic() - began < 5
