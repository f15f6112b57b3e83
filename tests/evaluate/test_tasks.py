"""Questions with answers: which rows give one, which are drawn, and how they become prompts."""

import importlib.util
import json

import datasets
import pytest

from helpers.places import ROOT, SHARED
from helpers.small_tokenizers import byte_level
from helpers.tiny_runs import write_rows
from minordpo.cli import main
from minordpo.data.make.close_pairs import corrupt_file
from minordpo.data.make.problems import generate_problems, write_problems
from minordpo.data.read.examples import examples_from_rows
from minordpo.data.tokens import TokenOptions, tokenize_examples
from minordpo.errors import InputError
from minordpo.evaluate.known_tasks import KNOWN_TASKS, known_task
from minordpo.evaluate.tasks import Question, load_task
from minordpo.generate.prompts import question_prompts

GSM8K = SHARED / "data" / "gsm8k" / "test.jsonl"
WORKED = "She sold 48/2 = <<48/2=24>>24 in May.\nIn all she sold 48+24 = <<48+24=72>>72.\n#### 72"


def read(tmp_path, *rows):
    return load_task(str(write_rows(tmp_path / "questions.jsonl", list(rows)))).questions


@pytest.mark.parametrize(
    ("row", "answer", "steps"),
    [
        ({"question": "Q?", "answer": WORKED}, "72", 2),
        ({"question": "Q?", "answer": WORKED.replace("#### 72", "#### 1,072.0")}, "1072", 2),
        ({"question": "Q?", "answer": "72"}, "72", None),
        ({"question": "Q?", "answer": 72}, "72", None),
        ({"question": "Q?", "answer": 0.5}, "0.5", None),
        ({"question": "Q?", "answer": "$1,200 a week"}, "1200", None),
        ({"question": "Q?", "answer": "1/2", "solution": "2 * 0.25 = 0.5, that is \\boxed{1/2}"}, "0.5", 1),
        ({"question": "Q?", "answer": "7", "solution": "It is seven."}, "7", None),
        ({"problem": "Q?", "solution": "4 + 3 = 7. The answer is: 7"}, "7", 1),
        ({"instruction": "Q?", "input": "", "output": "4 + 3 = 7\n#### 7"}, "7", 1),
        ({"question": "Q?", "answer": "3 dogs\n4 * 3 = 12\n#### 12"}, "12", 1),
    ],
)
def test_a_row_gives_a_question_its_number_and_the_computations_of_its_solution(tmp_path, row, answer, steps):
    assert read(tmp_path, row) == [Question(1, "Q?", answer, steps)]


def test_close_pairs_and_problems_are_questions_too(tmp_path):
    write_problems(tmp_path / "problems.jsonl", n=5, seed=1)
    corrupt_file(tmp_path / "problems.jsonl", tmp_path / "pairs.jsonl")
    problems = generate_problems(5, seed=1)
    made = load_task(str(tmp_path / "problems.jsonl")).questions
    assert [(q.text, q.answer, q.steps) for q in made] == [
        (p.question, str(p.answer), len(p.steps)) for p in problems
    ]
    paired = load_task(str(tmp_path / "pairs.jsonl")).questions
    assert [(q.text, q.answer) for q in paired] == [(q.text, q.answer) for q in made]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_a_file_of_another_kind_gives_the_same_questions(tmp_path, suffix):
    rows = [{"question": "Q?", "answer": WORKED}, {"question": "R?", "answer": "#### 3"}]
    path = tmp_path / f"questions{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif suffix == ".csv":
        path.write_text(f'question,answer,note\nQ?,"{WORKED}",\nR?,#### 3,"a, b"\n', encoding="utf-8")
    else:
        datasets.Dataset.from_list(rows).to_parquet(path)
    assert [(q.text, q.answer) for q in load_task(str(path)).questions] == [("Q?", "72"), ("R?", "3")]


@pytest.mark.parametrize("number", [7, "7"])
def test_a_question_that_is_split_into_two_columns_is_asked_whole(tmp_path, number):
    row = {"instruction": "Solve it.", "input": "What is 3 + 4?", "answer": number}
    assert read(tmp_path, row) == [Question(1, "Solve it.\nWhat is 3 + 4?", "7", None)]


def test_a_csv_file_without_a_question_column_is_refused_with_the_names_of_one(tmp_path):
    path = tmp_path / "questions.csv"
    path.write_text("prompt,answer\nQ?,7\n", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"is prompt, answer, but .* such as question,problem,query,instruction"
    ):
        load_task(str(path))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"question": "Q?"},
            r"line 2 of .* has no answer \(its columns: question\).* Add it, or name another",
        ),
        ({"answer": "7"}, r"line 2 of .* has no question \(its columns: answer\).*Rename a column"),
        (
            {"question": "Q?", "answer": "Monday"},
            "line 2 of .* cannot be used: no final answer.*Correct or drop",
        ),
        ({"question": "Q?", "answer": "#### x = 3"}, "line 2 of .* has the answer 'x = 3', but a number"),
        (
            {"question": "Q?", "answer": None},
            "line 2 of .* cannot be used: the question or the solution is not",
        ),
        (
            {"question": " ", "answer": "7"},
            "line 2 of .* cannot be used: the question or the solution is not",
        ),
        (
            {"instruction": "Q?", "input": "\ud83d", "answer": "7"},
            "line 2 of .* cannot be used: .*half a character",
        ),
        ({"question": "\ud83d?", "answer": "7"}, "line 2 of .* cannot be used: .*half a character"),
    ],
)
def test_a_row_without_question_or_number_is_refused_not_passed_over(tmp_path, row, said):
    with pytest.raises(InputError, match=said):
        read(tmp_path, {"question": "Q?", "answer": "7"}, row)


@pytest.mark.parametrize(
    ("task", "settings", "said"),
    [
        (
            "gsm8",
            {},
            r"'gsm8' \(did you mean gsm8k\?\), which is neither a task \(gsm8k, .* Correct the name",
        ),
        ("nowhere.jsonl", {}, r"'nowhere\.jsonl', which is neither a task .* Correct the name"),
        ("problems", {"n": 0}, "--n is 0, but at least 1 question is needed"),
        ("problems", {"seed": -1}, "--seed is -1, but at least 0 is needed"),
        ("{}", {"n": 2}, r"--n is 2, but one\.jsonl has 1 questions\. Lower --n"),
        ("{}/../empty.jsonl", {}, r"empty\.jsonl holds no rows, but questions are needed"),
    ],
)
def test_a_task_that_cannot_be_asked_is_refused(tmp_path, task, settings, said):
    one = write_rows(tmp_path / "one.jsonl", [{"question": "Q?", "answer": "7"}])
    (tmp_path / "empty.jsonl").write_text("")
    name = str(tmp_path / "empty.jsonl") if "empty" in task else task.format(one)
    with pytest.raises(InputError, match=said):
        load_task(name, **settings)


def test_fewer_questions_are_a_seeded_draw_that_a_larger_one_holds(tmp_path):
    rows = [{"question": f"Q{i}?", "answer": i} for i in range(40)]
    path = str(write_rows(tmp_path / "q.jsonl", rows))
    ten, twenty, other = (load_task(path, n=n, seed=s) for n, s in ((10, 0), (20, 0), (10, 1)))
    numbers = [question.row for question in ten.questions]
    assert numbers == sorted(numbers) != list(range(1, 11))
    assert {q.text for q in ten.questions} < {q.text for q in twenty.questions}
    assert ten.questions != other.questions
    assert ten.source == "10 of the 40 of q.jsonl"
    assert len({ten.digest, twenty.digest, other.digest}) == 3
    assert load_task(path, n=10).digest == ten.digest


def test_our_problems_are_held_out_by_their_seed():
    task = load_task("problems", n=30, seed=2)
    assert [q.text for q in task.questions] == [p.question for p in generate_problems(30, seed=3_000_000)]
    assert task.source == "problems, generated with seed 3000000"
    assert len(load_task("problems").questions) == 200
    trained_on = {p.question for p in generate_problems(300, seed=0)}
    assert not trained_on & {q.text for q in load_task("problems").questions}


def test_gsm8k_is_the_hub_sets_test_split(monkeypatch):
    rows = [{"question": "Q?", "answer": WORKED}]
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or datasets.Dataset.from_list(rows)
    )
    assert load_task("gsm8k").questions == [Question(1, "Q?", "72", 2)]
    assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]


def test_gsm8k_without_a_hub_says_that_a_file_will_do(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no way to the hub.")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        InputError, match=r"no way to the hub\. Check the connection, or name a file .*--task path"
    ):
        load_task("gsm8k")


def test_gsm_symbolic_without_its_package_says_which_extra_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(InputError, match=r"pip install 'minordpo\[symbolic\]'"):
        load_task("gsm_symbolic")


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="the extra symbolic is missing")
def test_gsm_symbolic_asks_in_the_words_of_our_prompt_and_seeds_share_nothing():
    first, second = (load_task("gsm_symbolic", n=40, seed=seed) for seed in (0, 1))
    assert len(first.questions) == 40
    assert not any("final answer" in q.text or q.text != q.text.strip() for q in first.questions)
    assert sum(q.steps is not None for q in first.questions) > 20
    assert not {q.text for q in first.questions} & {q.text for q in second.questions}
    assert load_task("gsm_symbolic", n=10).questions == first.questions[:10]


@pytest.fixture
def further_tasks():
    """A fixed set and a generator, as one function each adds them."""
    before = dict(KNOWN_TASKS)

    @known_task("sums", "three sums, 50% of them easy", source="sums[all]")
    def _sums():
        return [{"question": f"What is {i} + {i}?", "answer": 2 * i} for i in (1, 2, 3)]

    @known_task("drawn_sums", "as many as wanted")
    def _drawn_sums(n, seed):
        return ({"question": f"What is {seed} + {i}?", "answer": seed + i} for i in range(n))

    yield
    KNOWN_TASKS.clear()
    KNOWN_TASKS.update(before)


def test_a_task_is_one_function_that_load_help_and_refusals_know(further_tasks, capsys):
    task = load_task("sums", n=2, seed=0)
    assert task.source == "2 of the 3 of sums[all]"
    assert {q.answer for q in task.questions} < {"2", "4", "6"}
    generated = load_task("drawn_sums", n=3, seed=1)
    assert [q.answer for q in generated.questions] == ["2000000", "2000001", "2000002"]
    assert generated.source == "drawn_sums, generated with seed 2000000"
    assert len(load_task("drawn_sums").questions) == 200
    with pytest.raises(
        InputError, match=r"mean sums\?\).*\(gsm8k, problems, gsm_symbolic, sums, drawn_sums\)"
    ):
        load_task("sum")
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "sums (three sums, 50% of them easy), drawn_sums (as many as wanted), or a .jsonl" in said


def test_two_tasks_of_one_name_are_refused():
    with pytest.raises(ValueError, match="there are two tasks gsm8k, but a name stands for one"):
        known_task("gsm8k", "again")(list)


def test_the_docs_name_every_task():
    words = (ROOT / "docs" / "evaluate.md").read_text(encoding="utf-8")
    assert [name for name in KNOWN_TASKS if f"| `{name}` |" not in words] == []


@pytest.mark.shared
@pytest.mark.skipif(not GSM8K.exists(), reason="the data folder is not beside the checkout")
def test_every_row_of_gsm8k_is_a_question():
    questions = load_task(str(GSM8K)).questions
    assert len(questions) == len(GSM8K.read_text(encoding="utf-8").splitlines())
    assert sum(q.steps is None for q in questions) < len(questions) / 50


@pytest.mark.parametrize(
    "row", [{"question": " 12+3?\n", "answer": 15}, {"problem": " 12+3?\n", "solution": "#### 15"}]
)
def test_a_question_that_is_all_of_the_prompt_is_asked_as_training_has_it(tmp_path, row):
    file = tmp_path / "task.jsonl"
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    task = load_task(str(file))
    assert [each.text for each in task.asked_by("{question}").questions] == [" 12+3?\n"]
    assert [each.text for each in task.asked_by("Q: {question}\n").questions] == ["12+3?"]
    assert task.asked_by("Q: {question}").digest == task.digest != task.asked_by("{question}").digest
    words = byte_level(None)
    text = task.asked_by("{question}").questions[0].text
    (asked,) = question_prompts(words, [text], prompt="{question}", plain_text=True)
    pair = {"prompt": row.get("question") or row["problem"], "chosen": "15", "rejected": "16"}
    examples = examples_from_rows([pair], source="pairs").examples
    (trained,) = tokenize_examples(examples, words, options=TokenOptions(max_length=None))
    assert asked.tolist() == trained.prompt_ids.tolist()
