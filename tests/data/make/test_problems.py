"""Word problems: as people would write them, right in every step, the same everywhere."""

import json
import re
from collections import Counter

import pytest

from minordpo.data.make import problems as problems_module
from minordpo.data.make.problems import MAX_PROBLEMS, Story, generate_problems, stories, write_problems
from minordpo.errors import InputError

ANNOTATED = re.compile(r"([\d+*/ -]+) = \$?<<([\d+*/-]+)=(\d+)>>(\d+)")
FIRST_OF_SEED_ZERO = {
    "question": (
        "Marek has 55 glass beads and four times as many wooden ones. One curtain cord takes 25 "
        "beads of any kind. How many curtain cords can Marek make?"
    ),
    "answer": (
        "There are 4 * 55 = <<4*55=220>>220 wooden beads.\n"
        "Altogether Marek has 55 + 220 = <<55+220=275>>275 beads.\n"
        "He can make 275 / 25 = <<275/25=11>>11 curtain cords.\n"
        "#### 11"
    ),
}


@pytest.fixture(scope="module")
def problems():
    return generate_problems(1350, seed=11)


def calculate(expression):
    """Left to right with the usual precedence, in whole numbers; not the library's parser."""
    total = 0
    for sign, term in re.findall(r"([+-]?)([^+-]+)", expression):
        value = 1
        for operator, factor in re.findall(r"([*/]?)(\d+)", term):
            if operator == "/":
                assert value % int(factor) == 0, f"{expression} does not come out even"
            value = value // int(factor) if operator == "/" else value * int(factor)
        total += -value if sign == "-" else value
    return total


def test_every_step_is_a_line_with_one_right_annotation(problems):
    for problem in problems:
        assert 2 <= len(problem.steps) <= 5
        for step in problem.steps:
            (shown, annotated, result, repeated), *others = ANNOTATED.findall(step)
            assert not others
            assert shown.strip().replace(" ", "") == annotated
            assert result == repeated
            assert calculate(annotated) == int(result) >= 2
            assert "\n" not in step


def test_the_last_step_gives_the_answer_and_no_earlier_one_does(problems):
    for problem in problems:
        results = [int(ANNOTATED.search(step)[3]) for step in problem.steps]
        assert results[-1] == problem.answer
        assert problem.answer not in results[:-1]


def test_every_number_of_a_step_stands_in_the_question_or_comes_from_an_earlier_step(problems):
    words = {
        "twice": 2, "half": 2, "two": 2, "three": 3, "third": 3, "four": 4, "quarter": 4, "five": 5,
        "fifth": 5, "sixth": 6,
    }  # fmt: skip
    by_story = {"practice": {5, 2}, "discount": {100}, "fence": {2}}  # weekdays, percent, two pairs of sides
    for problem in problems:
        known = {int(number) for number in re.findall(r"\d+", problem.question)}
        known |= {words[word] for word in re.findall(r"[a-z]+", problem.question) if word in words}
        known |= by_story.get(problem.template, set())
        if problem.template == "change":
            known |= {200}  # two $100 bills
        for step in problem.steps:
            operands = {int(number) for number in re.findall(r"\d+", ANNOTATED.search(step)[2])}
            assert operands <= known, (problem.template, step)
            known.add(int(ANNOTATED.search(step)[3]))


def test_every_intermediate_result_is_used_by_a_later_step(problems):
    for problem in problems:
        for number, step in enumerate(problem.steps[:-1]):
            result = ANNOTATED.search(step)[3]
            later = " ".join(ANNOTATED.search(line)[2] for line in problem.steps[number + 1 :])
            assert result in re.findall(r"\d+", later), (problem.template, step)


def test_questions_have_no_holes_and_end_with_a_question_mark(problems):
    for problem in problems:
        assert problem.question.endswith("?")
        assert not re.search(r"[{}]|  |\bNone\b|<", problem.question), problem.question
        assert not any(re.search(r"[{}]|  ", step) for step in problem.steps)


def test_every_story_is_told_equally_often(problems):
    told = Counter(problem.template for problem in problems)
    assert len(told) == len(stories()) == 27
    assert set(told.values()) == {1350 // 27}


def test_no_question_comes_twice(problems):
    assert len({problem.question for problem in problems}) == len(problems)


def test_ten_problems_are_the_first_ten_of_twenty():
    assert generate_problems(20, seed=4)[:10] == generate_problems(10, seed=4)


def test_another_seed_gives_other_problems():
    first, second = generate_problems(30, seed=1), generate_problems(30, seed=2)
    assert not {problem.question for problem in first} & {problem.question for problem in second}


def test_the_first_problem_of_seed_zero_never_changes():
    # A published data set is named by its seed, so a change to the stories or the drawing shows here.
    assert generate_problems(1, seed=0)[0].row() == FIRST_OF_SEED_ZERO


def test_written_rows_have_the_form_of_gsm8k(tmp_path):
    out = tmp_path / "problems.jsonl"
    write_problems(out, n=5, seed=3)
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [list(row) for row in rows] == [["question", "answer"]] * 5
    for row, problem in zip(rows, generate_problems(5, seed=3), strict=True):
        *steps, ending = row["answer"].split("\n")
        assert tuple(steps) == problem.steps
        assert ending == f"#### {problem.answer}"


def test_an_existing_file_is_kept_unless_overwriting_is_allowed(tmp_path):
    out = tmp_path / "problems.jsonl"
    out.write_text("mine\n")
    with pytest.raises(InputError, match=r"problems\.jsonl exists already"):
        write_problems(out, n=2, seed=0)
    assert out.read_text() == "mine\n"
    write_problems(out, n=2, seed=0, overwrite=True)
    assert len(out.read_text().splitlines()) == 2


@pytest.mark.parametrize("n", [0, -3, MAX_PROBLEMS + 1])
def test_an_impossible_number_of_problems_is_refused(tmp_path, n):
    with pytest.raises(InputError, match=rf"{n} problems were asked for, but between 1 and {MAX_PROBLEMS}"):
        write_problems(tmp_path / "problems.jsonl", n=n, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_a_story_that_never_comes_out_even_ends_in_an_error(monkeypatch):
    odd = Story("odd", {"many": "3 to 3"}, "Each gets {share = many / 2} nuts.", "How many nuts?")
    monkeypatch.setattr(problems_module, "stories", lambda: (odd,))
    with pytest.raises(
        RuntimeError, match="the story odd found no numbers that come out even in 20000 draws"
    ):
        generate_problems(1, seed=0)
