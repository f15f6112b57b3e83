"""A function of the user's own as a verifier."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from minordpo.errors import InputError
from minordpo.verify.function import FunctionVerifier
from minordpo.verify.verdict import Asked, Verdict
from minordpo.verify.verifier import load_verifier

ASKED = Asked(row=12, prompt="Why?", answer="so", facts={"level": 3})
CODE = """
import pathlib
pathlib.Path(__file__).with_suffix(".imported").touch()

def right_length(prompt, answer, *, right, facts):
    return len(answer) - len(right) + facts["level"]

def contains(prompt, answer, *, right, facts):
    return right in answer

def fails(prompt, answer, *, right, facts):
    return 1 / 0
"""


@pytest.fixture
def module(tmp_path, monkeypatch) -> Path:
    (tmp_path / "own_checks.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_checks", raising=False)
    return tmp_path / "own_checks.py"


def found(function, *answers: str) -> list[Verdict]:
    ((_, verdicts),) = FunctionVerifier("own:f", function).verdicts([(0, ASKED, answers)])
    return verdicts


def test_a_named_function_scores_with_leave_alone(module):
    with pytest.raises(
        InputError, match=r"own_checks \(.*own_checks\.py\) would be imported and its contains"
    ):
        load_verifier("own_checks:contains", allow_code=False)
    assert not module.with_suffix(".imported").exists()
    verifier = load_verifier("own_checks:contains", allow_code=True)
    verifier.check([ASKED])
    assert verifier.cost(20, 8) == "own_checks:contains: 160 calls"
    assert list(verifier.verdicts([(4, ASKED, ["so it is", "no"])])) == [
        (4, [Verdict(score=1.0, passed=True), Verdict(score=0.0, passed=False)])
    ]
    scored = load_verifier("own_checks:right_length", allow_code=True)
    assert list(scored.verdicts([(4, ASKED, ["four", ""])])) == [
        (4, [Verdict(score=5.0, passed=None), Verdict(score=1.0, passed=None)])
    ]


def test_other_code_is_another_setting(module, monkeypatch):
    before = load_verifier("own_checks:contains", allow_code=True).settings()
    module.write_text(f"{CODE}\n# changed", encoding="utf-8")
    assert load_verifier("own_checks:contains", allow_code=True).settings() != before
    assert before["function"] == "own_checks:contains"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_checks:contain", r"^--verify is .*own_checks has no contain \(did you mean contains\?\)"),
        ("own_checkz:contains", r"^--verify is .*there is no module own_checkz on sys\.path"),
        ("own_checks:CODE", "has no CODE"),
    ],
)
def test_a_function_that_is_not_there_is_refused(module, name: str, message: str):
    with pytest.raises(InputError, match=message):
        load_verifier(name, allow_code=True)


def test_what_is_no_function_of_these_arguments_is_refused():
    with pytest.raises(InputError, match=r"of type int, but a function is needed, as in def my_check"):
        FunctionVerifier("own:f", 3)
    with pytest.raises(InputError, match=r"which takes \(answer\) .*right and facts by name\. Write it as"):
        FunctionVerifier("own:f", lambda answer: 1)


def test_an_error_of_the_function_is_told_with_its_line_and_the_row(module):
    verifier = load_verifier("own_checks:fails", allow_code=True)
    line = CODE.splitlines().index("    return 1 / 0") + 1
    message = (
        rf"^--verify own_checks:fails raised ZeroDivisionError on line {line} of own_checks\.py: division by zero, "
        r"for an answer to row 12 of the prompts\. Correct the function$"
    )
    with pytest.raises(InputError, match=message):
        list(verifier.verdicts([(0, ASKED, ["x"])]))


@pytest.mark.parametrize("result", [np.float32(0.5), np.float64(0.5), np.int64(2), 3, 0.5])
def test_a_number_of_any_kind_is_a_score(result):
    assert found(lambda p, a, *, right, facts: result, "x") == [Verdict(score=float(result), passed=None)]


def test_true_of_numpy_is_right():
    assert found(lambda p, a, **_: np.bool_(True), "x") == [Verdict(score=1.0, passed=True)]


@pytest.mark.parametrize("result", [None, float("nan"), float("-inf"), "1", [1.0], 1j])
def test_any_other_result_is_refused_with_the_row(result):
    message = (
        r"^--verify own:f returned .* for an answer to row 12 of the prompts, but a finite number, or true or"
    )
    with pytest.raises(InputError, match=message):
        found(lambda p, a, *, right, facts: result, "x")
