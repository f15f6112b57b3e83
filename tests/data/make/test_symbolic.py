"""Two styles of the same easy problems: right in both, in the files that say so, and nothing asked that was taught."""

import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from fractions import Fraction

import pytest

from minordpo.cli import main
from minordpo.data.make import symbolic
from minordpo.data.make.symbolic import EASY, PARTS, draw_parts, write_symbolic
from minordpo.data.read.examples import load_examples
from minordpo.errors import InputError
from minordpo.evaluate.tasks import load_task
from minordpo.generate.text_measures import asked_line, last_number

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None, reason="the extra symbolic is missing"
)
SIZES = {"test": 34, "validation": 17, "held_out": 17, "pairs": 51, "sft": 102}
TERSE = re.compile(r"[\d+*/-]+=\d+(; [\d+*/-]+=\d+){1,3}")
EQUATION = re.compile(r"([€$£\d][€$£\d+\-*/x ]*) = [€$£]?(\d+)|([\d+\-*/]+)=(\d+)")


@pytest.fixture(scope="module")
def parts():
    return draw_parts(SIZES, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("symbolic") / "new"
    write_symbolic(made, SIZES, seed=3)
    return made


def rows_of(folder, part):
    return [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]


def calculate(expression):
    """Python's own arithmetic, in fractions."""
    assert re.fullmatch(r"[\d+*/-]+", expression), expression
    return eval(re.sub(r"\d+", r"Fraction(\g<0>)", expression), {"Fraction": Fraction})


def test_terse_responses_are_two_to_four_sums_that_hold_and_end_with_the_answer(parts):
    for problem in itertools.chain.from_iterable(parts.values()):
        assert TERSE.fullmatch(problem.sums), problem.sums
        for equation in problem.sums.split("; "):
            expression, result = equation.split("=")
            assert calculate(expression) == int(result)
        assert result == problem.solution.answer
        assert last_number(problem.sums) == problem.solution.answer
        assert asked_line(problem.sums) is None


def test_every_template_is_in_every_part_equally_often(parts):
    for part, problems in parts.items():
        counts = Counter(problem.template for problem in problems)
        assert counts == dict.fromkeys(EASY, SIZES[part] // len(EASY))


def test_fewer_templates_are_in_every_part_equally_often_too():
    for problems in draw_parts(SIZES | {"pairs": 30, "sft": 60}, seed=3, templates=(10, 54)).values():
        counts = Counter(problem.template for problem in problems)
        assert set(counts) == {10, 54}
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(
    ("templates", "complaint"),
    [
        ("10,11", "names 11, which is none of the easy ones. Name some of 7, 8, 10"),
        ("10,54,10", "names 10 twice"),
        ("", "names none"),
    ],
)
def test_templates_that_are_not_easy_ones_are_refused(templates, complaint, tmp_path, capsys):
    assert main(["data", "symbolic", str(tmp_path / "out"), "--templates", templates]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_templates_that_are_no_numbers_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["data", "symbolic", str(tmp_path / "out"), "--templates", "10,x"])
    assert "--templates: '10,x' is not of the form 10,20,48" in capsys.readouterr().err


def test_no_question_is_twice_in_a_part_and_no_sums_of_one_part_are_in_another(parts):
    by_part = {}
    for part, problems in parts.items():
        questions = [problem.question for problem in problems]
        assert len(set(questions)) == len(questions)
        by_part[part] = {(problem.template, problem.sums) for problem in problems}
    for one, other in itertools.combinations(PARTS, 2):
        assert not by_part[one] & by_part[other]


def test_questions_do_not_change_with_how_much_there_is_to_train_on(parts):
    more = draw_parts(SIZES | {"pairs": 68, "sft": 17}, seed=3)
    for part in ("test", "validation", "held_out"):
        assert [problem.question for problem in more[part]] == [problem.question for problem in parts[part]]
    other = {problem.question for problem in draw_parts(SIZES, seed=4)["test"]}
    assert not other & {problem.question for problem in parts["test"]}


def test_no_question_has_the_generators_own_wish_for_a_format(parts):
    for problem in itertools.chain.from_iterable(parts.values()):
        assert problem.question.endswith(("?", "."))
        assert "final answer" not in problem.question


def test_pairs_are_worked_in_sentences_and_one_result_before_the_last_differs(folder):
    for row in rows_of(folder, "pairs") + rows_of(folder, "held_out"):
        chosen, rejected = (row[key][0]["content"] for key in ("chosen", "rejected"))
        changed = row["changed"]
        before, after = chosen[: changed["char"]], chosen[changed["char"] + len(changed["from"]) :]
        assert chosen == f"{before}{changed['from']}{after}"
        assert rejected == f"{before}{changed['to']}{after}"
        assert changed["step"] < len(EQUATION.findall(chosen)) <= 4
        assert asked_line(chosen) == asked_line(rejected) == row["answer"]


def test_every_file_is_read_by_what_it_is_for(folder):
    assert {file.name for file in folder.iterdir()} == {f"{part}.jsonl" for part in PARTS}
    for part in ("pairs", "held_out", "sft"):
        loaded = load_examples(str(folder / f"{part}.jsonl"))
        assert len(loaded.examples) == SIZES[part]
    row = rows_of(folder, "sft")[0]
    assert row["label"] is True
    assert TERSE.fullmatch(row["completion"][0]["content"])
    assert row["prompt"][0]["content"].startswith(
        "You are a helpful assistant. Please answer follow question"
    )
    for part in ("validation", "test"):
        task = load_task(str(folder / f"{part}.jsonl"))
        answers = [row["answer"].rpartition("#### ")[2] for row in rows_of(folder, part)]
        assert [question.answer for question in task.questions] == answers
        assert all(2 <= question.steps <= 4 for question in task.questions)


def test_another_process_draws_the_same(folder, tmp_path):
    command = [sys.executable, "-m", "minordpo", "data", "symbolic", str(tmp_path / "again"), "--seed", "3"]
    for part, count in SIZES.items():
        command += [f"--{part.replace('_', '-')}", str(count)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("problems") == len(PARTS)
    for part in PARTS:
        assert (tmp_path / "again" / f"{part}.jsonl").read_bytes() == (folder / f"{part}.jsonl").read_bytes()


def test_files_that_are_there_are_kept_unless_told_otherwise(tmp_path):
    (tmp_path / "sft.jsonl").write_text("mine")
    sizes = dict.fromkeys(PARTS, 1)
    with pytest.raises(InputError, match=r"sft\.jsonl exists already and would be replaced"):
        write_symbolic(tmp_path, sizes)
    assert [file.name for file in tmp_path.iterdir()] == ["sft.jsonl"]
    write_symbolic(tmp_path, sizes, overwrite=True)
    assert len(rows_of(tmp_path, "sft")) == 1


def test_a_part_of_no_problems_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--held-out is 0, but at least 1 problem is needed"):
        write_symbolic(tmp_path / "out", SIZES | {"held_out": 0})
    assert not (tmp_path / "out").exists()


def test_more_problems_than_a_template_has_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(symbolic, "EASY", (62,))  # of which there are some forty
    with pytest.raises(
        InputError, match=r"pairs\.jsonl should have 51 problems, but after \d+ template 62 .* Lower --pairs"
    ):
        write_symbolic(tmp_path / "out", SIZES, templates=(62,))
    assert not (tmp_path / "out").exists()


def test_without_its_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(InputError, match=r"data symbolic comes from .* pip install 'minordpo\[symbolic\]'"):
        write_symbolic(tmp_path / "out", SIZES)
