"""Close pairs: one number apart, and everything else as the solution had it."""

import itertools
import json
import random
import re
import statistics
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.places import SHARED
from minordpo.data.make.close_pairs import (
    PAPER_PROMPT,
    ClosePair,
    corrupt_file,
    corrupt_row,
    plausible_numbers,
)
from minordpo.data.make.problems import generate_problems
from minordpo.data.make.solutions import Unusable, find_plain_steps
from minordpo.errors import InputError

GSM8K = SHARED / "data" / "gsm8k" / "train.jsonl"
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")

ROLLS = {
    "question": "Ines bakes 4 trays of 17 rolls, gives 39 away and sells the rest for $3 each. How much?",
    "answer": "She bakes 4 * 17 = <<4*17=68>>68 rolls.\nOf the 68 rolls 68-39 = <<68-39=29>>29 are left.\n"
    "They bring 29 * 3 = $<<29*3=87>>87.\n#### 87",
}
PINNED = ("29", "28", 2, 53)


def pair_of(row, **options):
    pair = corrupt_row(row, **options)
    assert isinstance(pair, ClosePair), pair
    return pair


def reason_of(row, **options):
    outcome = corrupt_row(row, **options)
    assert isinstance(outcome, Unusable), outcome
    return outcome.reason


def test_the_chosen_text_is_the_solution_without_annotations_and_with_the_ending():
    assert pair_of(ROLLS).chosen == (
        "She bakes 4 * 17 = 68 rolls.\nOf the 68 rolls 68-39 = 29 are left.\nThey bring 29 * 3 = $87.\n"
        "So the answer is: 87"
    )


def test_another_ending_stands_in_both_texts():
    pair = pair_of(ROLLS, ending="#### {answer}")
    assert pair.chosen.endswith("$87.\n#### 87")
    assert pair.rejected.endswith("$87.\n#### 87")


def test_exactly_the_named_number_differs():
    places = Counter()
    for seed in range(200):
        pair = pair_of(ROLLS, seed=seed)
        change = pair.changed
        before, after = pair.chosen[: change.char], pair.chosen[change.char + len(change.original) :]
        assert pair.chosen == before + change.original + after
        assert pair.rejected == before + change.replacement + after
        assert change.original != change.replacement
        assert before.endswith(("4 * 17 = ", "68-39 = "))
        places[change.step] += 1
    assert set(places) == {1, 2}  # never the third, which is the answer
    assert min(places.values()) > 60


def test_a_result_that_equals_the_final_answer_is_never_changed():
    row = {"question": "q", "answer": "2+3 = <<2+3=5>>5\n4*5 = <<4*5=20>>20\n20/4 = <<20/4=5>>5\n#### 5"}
    assert {pair_of(row, seed=seed).changed.original for seed in range(60)} == {"20"}


def test_the_last_result_is_never_changed_even_where_the_answer_is_rounded():
    row = {"question": "q", "answer": "5*13 = 65 and 65*0.9 = <<65*0.9=58.5>>58.5, so 59.\n#### 59"}
    assert {pair_of(row, seed=seed).changed.original for seed in range(60)} == {"65"}


def test_the_pair_depends_on_the_seed_and_the_row_alone(tmp_path):
    rows = [problem.row() for problem in generate_problems(20, seed=1)]
    alone = [pair_of(row, seed=5) for row in rows]
    assert [pair_of(row, seed=5) for row in reversed(rows)] == alone[::-1]
    assert [pair_of(row, seed=6) for row in rows] != alone


def test_the_pair_of_a_row_is_the_same_on_every_machine():
    change = pair_of(ROLLS, seed=0).changed
    assert (change.original, change.replacement, change.step, change.char) == PINNED


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "p", "solution": "First 12 x 3 = 36 pens.\nThen 36 + 5 = 41 pens.\n#### 41"},
        {"query": "p", "response": "12*3=36. So 36+5=41.\n#### 41\nThe answer is: 41"},
        {
            "instruction": "p",
            "input": "",
            "output": r"$12 \times 3 = 36$, so $36 + 5 = \boxed{41}$. The answer is: 41",
        },
        {"question": "p", "answer": "In week 2 12*3 = $36 pens. 36+4 = 40, 40+1 = 41\nThe answer is 41."},
    ],
)
def test_steps_are_found_in_plain_text_and_other_columns(row):
    if "instruction" in row:  # the boxed number is no plain result, so a third step is needed to have two
        row = row | {"output": row["output"].replace("so $36", "so $36 - 1 = 35$ and $36")}
    pair = pair_of(row)
    assert pair.answer == "41"
    assert pair.changed.original in ("36", "35", "40")
    assert len(re.findall("answer is", pair.chosen)) == 1
    assert "####" not in pair.chosen


@pytest.mark.parametrize(
    ("text", "results"),
    [
        ("48/2 = 24 clips", [24]),
        ("2x = 4 * 3 and x = 6", []),
        ("so 3 + 4 = 8", []),  # it does not hold
        ("6 * 2 = 3 * 4 = 12", [12]),
        ("Cost: $5*3 = $15, tax 20% * 15 = 3", [15, 3]),
        ("40% + 20% = 60%", [60]),
        ("page 3 = 3", []),
        ("box 3*4 = 12", [12]),
        ("X - 3*4 = 12", []),  # what is left of the equals sign is not 3*4
        ("1,200 + 300 = 1,500.", [1500]),
        ("3 + 4 = 7\n- 2 * 5 = 10", [7]),
    ],
)
def test_plain_steps_are_those_whose_arithmetic_holds(text, results):
    found = [step.value for step in find_plain_steps(text)]
    assert found[: len(results)] == results
    assert len(found) == len(results)


def test_a_long_line_of_digits_costs_no_time():
    assert find_plain_steps("1 + " * 50_000 + "x") == []


def test_a_page_of_digits_is_no_number():
    digits = "7" * 5000
    row = {
        "question": f"q {digits}",
        "answer": f"3+4 = {digits}, 3+4 = 7\n7 * 2 = 14 <<1={digits}>>{digits}\n#### 14",
    }
    assert pair_of(row, propagate=False).changed.original == "7"
    assert pair_of(row | {"question": "q"}).chosen.count(digits) == 2


def test_commas_decimals_and_currency_stay():
    row = {
        "question": "q",
        "answer": "A $<<1200*3=3600>>3,600 car, 2.5+.05 = $<<2.5+.05=2.55>>2.55 more, <<5*.15=.75>>.75.\n"
        "1+1=<<1+1=2>>2\n#### 2",
    }
    shapes = {"3,600": r"\d,\d{3}", "2.55": r"\d\.\d\d", ".75": r"\.\d\d"}
    seen = set()
    for seed in range(100):
        change = pair_of(row, seed=seed).changed
        assert re.fullmatch(shapes[change.original], change.replacement), change
        seen.add(change.original)
    assert seen == set(shapes)


@given(
    st.from_regex(
        r"(0|[1-9][0-9]{0,2}(,[0-9]{3}){1,2}|[1-9][0-9]{0,6})(\.[0-9]{1,2})?|\.[0-9]{1,2}", fullmatch=True
    ),
    st.integers(0, 99),
)
def test_a_wrong_number_is_positive_different_and_of_the_same_length_first(original, seed):
    value = Fraction(original.replace(",", ""))
    numbers = plausible_numbers(original, random.Random(seed), avoid=Fraction(7))
    assert numbers
    assert len(numbers) == len(set(numbers))
    for number in numbers:
        assert Fraction(number.replace(",", "")) not in (value, 7)
        assert Fraction(number.replace(",", "")) > 0
        assert len(number.partition(".")[2]) == len(original.partition(".")[2])
    assert len(numbers[0]) == len(original)


def test_a_propagated_change_reaches_every_later_step_and_the_answer():
    outcomes = {pair_of(ROLLS, seed=seed, propagate=True).rejected for seed in range(60)}
    assert len(outcomes) > 10
    for rejected in outcomes:
        found = re.fullmatch(
            r"She bakes 4 \* 17 = (\d+) rolls\.\nOf the (\d+) rolls (\d+)-39 = (\d+) are left\.\n"
            r"They bring (\d+) \* 3 = \$(\d+)\.\nSo the answer is: (\d+)",
            rejected,
        )
        assert found, rejected
        baked, again, operand, left, factor, product, answer = map(int, found.groups())
        assert baked == again == operand
        assert left == factor
        assert product == answer == left * 3 != 87
        assert (baked == 68) != (left == baked - 39 and baked != 68)  # one step is wrong, the others follow


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        # 17 stands in the question too, so the later 17 need not be the result
        ("5+12 = <<5+12=17>>17\n17*3 = <<17*3=51>>51\n#### 51", "could be confused"),
        ("5*13 = <<5*13=65>>65\n3*14 = <<3*14=42>>42\n#### 42", "does not follow"),
        ("5*13 = <<5*13=65>>65\n65/65 = <<65/65=2>>2\n#### 2", "arithmetic does not hold|does not follow"),
        ("5*13 = <<5*13=65>>65\n60-65+55 = <<60-65+55=50>>50\nthat is 65% of it\n#### 51", "does not follow"),
        ("5*13 = <<5*13=65>>65, 0.65 of all\n65+3 = <<65+3=68>>68\n#### 68", "could be confused"),
        ("He eats 65 as 5*13 = <<5*13=65>>65\n65+3 = <<65+3=68>>68\n#### 68", "could be confused"),
        ("65% is 13/20 = <<13/20=0.65>>0.65\n0.65*200 = <<0.65*200=130>>130\n#### 130", "could be confused"),
        ("5+3 = <<5+3=8>>8\nThe eight and 8+20 = <<8+20=28>>28\n#### 28", "could be confused"),
        ("5*13 = <<5*13=65>>65\n60+5 = <<60+5=65>>65\n65+3 = <<65+3=68>>68\n#### 68", "could be confused"),
        ("5*13 = <<5*13=65>>65\n65*2+9 = 130+9 = <<65*2+9=139>>139\n#### 139", "another equation"),
        ("5*13 = <<5*13=65>>65\n65/64.5 = <<65/64.5=1>>1\n#### 1", "arithmetic does not hold"),
    ],
)
def test_what_cannot_be_propagated_has_a_reason(answer, reason):
    row = {"question": "There are 17 pens and 3 boxes.", "answer": answer}
    for seed in range(10):
        assert re.search(reason, reason_of(row, seed=seed, propagate=True))
    pair_of(row)  # without propagation the same row is fine


def test_an_uneven_result_is_not_propagated():
    # No number near 11 makes n / 22 a number with one decimal.
    row = {"question": "48 pens.", "answer": "5+6 = <<5+6=11>>11\n11/22 = <<11/22=0.5>>0.5\n#### 0.5"}
    assert "uneven" in reason_of(row, propagate=True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("5*13 = <<5*13=65>>65", "no final answer"),
        ("It is clear.\n#### 65", "no step"),
        ("5*13 = <<5*13=65>>65\n#### 65", "only one step"),
        ("60+5 = <<60+5=65>>65\n5*13 = <<5*13=65>>65\n#### 65", "every result before the last equals"),
        ("The first has <<12=12>>12 and the other <<13=13>>13.\n#### 25", "no step"),
        (None, "not text"),
        ("\ud83d 60+5 = 65, 65+1=66\n#### 66", "half a character"),
    ],
)
def test_rows_without_a_close_pair_have_a_reason(answer, reason):
    assert reason in reason_of({"question": "q", "answer": answer})


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_paper_prompt_is_the_papers():
    assert PAPER_PROMPT == (
        "You are a helpful assistant. Please answer follow question step by step and give final answer "
        "in a separate line using the brief format So the answer is: . Below is the question:\n{question}"
    )


def test_a_file_of_pairs_is_trl_chat_with_the_change_beside_it(tmp_path):
    source = write_rows(tmp_path / "worked.jsonl", [ROLLS])
    corrupt_file(source, tmp_path / "pairs.jsonl", seed=2)
    row = json.loads((tmp_path / "pairs.jsonl").read_text(encoding="utf-8"))
    pair = pair_of(ROLLS, seed=2)
    assert row == {
        "prompt": [{"role": "user", "content": PAPER_PROMPT.replace("{question}", ROLLS["question"])}],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "question": ROLLS["question"],
        "answer": "87",
        "changed": {
            "from": pair.changed.original,
            "to": pair.changed.replacement,
            "step": pair.changed.step,
            "char": pair.changed.char,
        },
    }


def test_without_chat_the_three_are_plain_text(tmp_path):
    source = write_rows(tmp_path / "worked.jsonl", [ROLLS])
    corrupt_file(source, tmp_path / "pairs.jsonl", chat=False, prompt="Q: {question}\nA: ")
    row = json.loads((tmp_path / "pairs.jsonl").read_text(encoding="utf-8"))
    assert row["prompt"] == f"Q: {ROLLS['question']}\nA: "
    assert (row["chosen"], row["rejected"]) == (pair_of(ROLLS).chosen, pair_of(ROLLS).rejected)


def test_the_report_counts_every_row_and_says_why_one_was_left_out(tmp_path):
    no_step = {"question": "q", "answer": "It is clear.\n#### 65"}
    source = write_rows(tmp_path / "worked.jsonl", [ROLLS, no_step, no_step])
    report = corrupt_file(source, tmp_path / "pairs.jsonl")
    pair = pair_of(ROLLS)
    assert (report.read, report.usable, report.unusable) == (3, 1, {"no step with a result is recognised": 2})
    original, replacement = pair.changed.original, pair.changed.replacement
    assert report.distances == [sum(a != b for a, b in zip(original, replacement, strict=True))]
    assert report.percents == [pytest.approx(100 * report.distances[0] / len(pair.chosen))]
    text = str(report)
    assert re.search(r"rows read +3\n +close pairs written +1 +\(33\.3 %\)\n +rows left out +2\n", text)
    assert re.search(r"2  no step with a result is recognised\n +line 2: It is clear\.", text)
    assert "changed number as long as before: 100.0 %" in text


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('{"question": "q", "answer": "a"', {}, "line 1 of .* is not JSON"),
        (
            '{"text": "q", "label": "a"}',
            {},
            "line 1 of .* has the columns text, label, but a question is needed",
        ),
        (
            '{"question": "q", "label": "a"}',
            {},
            "but a worked solution is needed in one named solution, response",
        ),
        (
            '{"question": "q", "answer": "a"}',
            {},
            r"None of the 1 rows of .* gives a close pair; .* no final answer",
        ),
        ("\n", {}, "holds no row"),
        (json.dumps(ROLLS), {"ending": "The answer is 5"}, r"The ending is .* no \{answer\}"),
        (json.dumps(ROLLS), {"prompt": "Think."}, r"The prompt is 'Think\.', which has no \{question\}"),
    ],
)
def test_what_the_user_can_fix_is_refused_and_nothing_is_written(tmp_path, content, options, message):
    source = tmp_path / "worked.jsonl"
    source.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        corrupt_file(source, tmp_path / "pairs.jsonl", **options)
    assert list(tmp_path.iterdir()) == [source]


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"worked\.jsonl cannot be read"):
        corrupt_file(tmp_path / "worked.jsonl", tmp_path / "pairs.jsonl")


def test_the_source_is_never_overwritten(tmp_path):
    source = write_rows(tmp_path / "worked.jsonl", [ROLLS])
    with pytest.raises(InputError, match="is both read and written"):
        corrupt_file(source, source, overwrite=True)
    with pytest.raises(InputError, match="exists already"):
        corrupt_file(source, source)
    assert json.loads(source.read_text(encoding="utf-8")) == ROLLS


def test_every_generated_problem_gives_a_close_pair_and_most_a_propagated_one():
    rows = [problem.row() for problem in generate_problems(108, seed=8)]
    for row in rows:
        pair_of(row)
    propagated = [corrupt_row(row, propagate=True) for row in rows]
    assert sum(isinstance(pair, ClosePair) for pair in propagated) > 0.8 * len(rows)
    for pair in propagated:
        if isinstance(pair, ClosePair):
            assert _wrong_equations(pair.chosen) == 0
            assert _wrong_equations(pair.rejected) == 1
            last = NUMBER.findall(pair.rejected)[-2:]
            assert last[0] == last[1] or pair.rejected.count(last[1]) > 1  # the answer is in its last step
            assert pair.rejected.splitlines()[-1] != pair.chosen.splitlines()[-1]


def _wrong_equations(text):
    """Equations "a + b = c" of a text that Python finds wrong; digits and operators only, so eval is safe."""
    equations = re.findall(r"(\d[\d+*/ -]*[+*/-][\d+*/ -]*\d) = \$?(\d+)", text)
    return sum(eval(left) != int(right) for left, right in equations)


@pytest.mark.shared
@pytest.mark.skipif(not GSM8K.exists(), reason="the shared data folder is not beside this checkout")
def test_on_gsm8k_exactly_one_number_differs_and_the_ending_never_does(tmp_path):
    with GSM8K.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, 1500)]
    report = corrupt_file(write_rows(tmp_path / "worked.jsonl", rows), tmp_path / "pairs.jsonl", seed=1)
    assert report.usable > 0.94 * len(rows)
    assert statistics.median(report.distances) == 1
    solutions = {row["question"].strip(): row["answer"] for row in rows}
    for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        chosen, rejected = pair["chosen"][0]["content"], pair["rejected"][0]["content"]
        text, answer = re.sub("<<.*?>>", "", solutions[pair["question"]]).rsplit("\n#### ", 1)
        assert chosen == f"{text.rstrip()}\nSo the answer is: {answer}"
        assert chosen.splitlines()[-1] == rejected.splitlines()[-1]
        numbers = list(zip(NUMBER.findall(chosen), NUMBER.findall(rejected), strict=True))
        assert [both for both in numbers if both[0] != both[1]] == [
            (pair["changed"]["from"], pair["changed"]["to"])
        ]
        assert NUMBER.sub("#", chosen) == NUMBER.sub("#", rejected)
