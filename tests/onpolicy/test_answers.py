"""The file of answers: written as they come, read back after a kill, one line an answer at the end."""

from __future__ import annotations

import json

import pytest

from helpers.sampled import sampled
from minordpo.errors import InputError
from minordpo.onpolicy.answers import SampledAnswers
from minordpo.verify.verdict import Verdict


def lines(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "a.answers.jsonl"


def filled(file):
    answers = SampledAnswers(file)
    for row in (2, 1):
        for sample in (1, 0):
            answers.add(sampled(f"{row} {sample}", row=row, sample=sample))
    return answers


def test_what_is_added_is_read_back(file):
    made = filled(file)
    assert SampledAnswers(file).found == made.found
    assert [each.answer.text for each in made.of(1, "m", 2)] == ["1 0", "1 1"]


def test_scores_are_read_back_and_stand_beside_their_answers_at_the_end(file):
    answers = filled(file)
    verdicts = [Verdict(score=1.0, passed=True, note="7"), Verdict(score=0.0, passed=False)]
    answers.score(answers.of(2, "m", 2), verdicts)
    again = SampledAnswers(file)
    assert [each.verdict for each in again.of(2, "m", 2)] == verdicts
    assert [each.verdict for each in again.of(1, "m", 2)] == [None, None]
    again.finish()
    assert [(row["row"], row["sample"], row.get("score")) for row in lines(file)] == [
        (1, 0, None),
        (1, 1, None),
        (2, 0, 1.0),
        (2, 1, 0.0),
    ]
    assert lines(file)[2]["note"] == "7"
    assert SampledAnswers(file).found == again.found


def test_a_half_written_line_is_cut_off_and_the_rest_stays(file):
    filled(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    assert len(SampledAnswers(file).found) == 3
    assert file.read_bytes() == whole[: whole[:-1].rfind(b"\n") + 1]


def test_scores_can_be_forgotten_without_their_answers(file):
    answers = filled(file)
    answers.score(answers.of(2, "m", 2), [Verdict(score=1.0, passed=True)] * 2)
    answers.without_scores()
    assert len(SampledAnswers(file).found) == 4
    assert all(each.verdict is None for each in SampledAnswers(file).found.values())


@pytest.mark.parametrize(
    "line", ['{"row": 1}', '{"row": 9, "model": "m", "scores": [{"sample": 0, "score": 1}]}', "[1]"]
)
def test_a_line_that_is_no_answer_is_named(file, line):
    filled(file)
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(InputError, match="line 5 of"):
        SampledAnswers(file)


def test_half_a_character_becomes_a_question_mark(file):
    SampledAnswers(file).add(sampled("a\ud800b"))
    assert lines(file)[0]["answer"] == "a?b"
    assert SampledAnswers(file).of(1, "m", 1)[0].answer.text == "a?b"
