"""Evaluations by a verifier: what is measured, compared and refused."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from helpers import own_verifiers
from helpers.judges import running
from helpers.scripted_answers import script
from helpers.small_evaluations import command, config_of, make_world
from helpers.small_tokenizers import CHATML, byte_level
from helpers.tiny_runs import RENAMED, tokenizer, write_rows
from minordpo.cli import main
from minordpo.data.make.close_pairs import PAPER_PROMPT
from minordpo.errors import InputError
from minordpo.evaluate import evaluation
from minordpo.evaluate.evaluation import evaluate
from minordpo.evaluate.statistics import mean_difference_interval, mean_interval, wilson
from minordpo.evaluate.tables import markdown, table
from minordpo.evaluate.tasks import load_task
from minordpo.evaluate.verified_tasks import load_verified_task, usual_prompt
from minordpo.run_folder import names
from minordpo.verify.prompts import read_prompts
from minordpo.verify.verifier import load_verifier

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]
CAPITALS = [
    {"question": "France?", "answer": "Paris"},
    {"question": "Italy?", "answer": "Rome"},
    {"question": "Peru?", "answer": "Lima"},
]
CHATS = [{"messages": [{"role": "user", "content": text}]} for text in ("one", "two", "three", "four")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """No test writes into it."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    write_rows(folder / "capitals.jsonl", CAPITALS)
    write_rows(folder / "chats.jsonl", CHATS)
    shutil.copytree(folder / "two", folder / "three")
    return folder


@pytest.fixture(autouse=True)
def no_cache_of_before(tmp_path, monkeypatch):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    own_verifiers.calls.clear()


def verified(world, task, verifier, *models, out=None, **settings):
    config = config_of(world, task=str(world / task), **{"prompt": "{question}"} | settings)
    found = load_verifier(verifier, allow_code=True) if isinstance(verifier, str) else verifier
    results = evaluate([str(world / name) for name in models], config, verifier=found, out=out)
    for shown in (table(results), markdown(results)):  # whatever was measured can be shown
        assert f"scored by {found.spec[:8]}" in shown
    return results


def judge_of(judge, mode="score", **options):
    return load_verifier(
        f"judge:{judge.url}",
        allow_code=False,
        judge_model="m",
        judge_mode=mode,
        judge_concurrency=1,
        **options,
    )


def test_number_is_the_flexible_accuracy_of_the_same_answers(world, monkeypatch):
    script(monkeypatch, {"one": ["72", "So the answer is: 8", "7"], "two": ["It is 72.", "7", "8 or 9"]})
    results = verified(world, "q.jsonl", "number", "one", "two", prompt=PAPER_PROMPT)
    for model in results["models"].values():
        assert model["verified"]["passed"] == model["flexible_accuracy"]
        score = model["verified"]["score"]
        assert score["mean"] == model["flexible_accuracy"]["share"]
        assert (score["low"], score["high"]) == pytest.approx(wilson(2, 3))
        assert list(model["by_steps"]) == ["1", "2", "unknown"]
    (flexible,) = [row for row in results["comparisons"] if row["measure"] == "flexible_accuracy"]
    (passed,) = results["verified_comparisons"]
    assert passed["measure"] == "passed"
    assert (passed["better"], passed["same"], passed["worse"]) == (1, 1, 1)
    assert {name: passed[name] for name in ("difference", "low", "high", "p", "p_holm")} == {
        name: flexible[name] for name in ("difference", "low", "high", "p", "p_holm")
    }
    asked = verified(world, "q.jsonl", "number:asked", "one", "two", prompt=PAPER_PROMPT)
    assert [m["verified"]["passed"] for m in asked["models"].values()] == [
        model["strict_accuracy"] for model in results["models"].values()
    ]


def test_right_answers_that_are_texts_are_verified_and_nothing_is_read_as_a_number(
    world, monkeypatch, tmp_path, capsys
):
    script(monkeypatch, {"one": ["Paris", "It is Rome.", "Quito"], "two": [" Paris ", "Rome", "ha " * 40]})
    task = {"task": world / "capitals.jsonl", "verify": "regex:{answer}"}
    assert main(command(world, "one", "two", out=tmp_path / "out", **task)) == 0
    said = capsys.readouterr().out
    assert re.search(r"model +passes +stops +loops +repeated +tokens\n", said), said
    assert re.search(r"one +66\.7% \[20\.8, 93\.9\]", said), said
    assert "one, fails (row 3, reference Lima, score 0):\n    Quito\n" in said
    assert "asked line" not in said
    assert "last number" not in said
    row = json.loads((tmp_path / "out" / "two" / names.ANSWERS).read_text().splitlines()[0])
    assert row["reference"] == "Paris"
    assert not {"strict", "flexible", "strict_right"} & row.keys()
    results = verified(world, "capitals.jsonl", "exact", "one", "two", out=tmp_path / "out")
    assert {label: model["verified"]["passed"]["count"] for label, model in results["models"].items()} == {
        "one": 1,
        "two": 2,
    }
    model = results["models"]["one"]
    assert not {"strict_accuracy", "flexible_accuracy", "asked_format"} & model.keys()
    assert results["comparisons"] == []
    assert list(results["models"]["two"]["examples"]) == ["passes", "fails", "looping"]
    page = (tmp_path / "out" / names.RESULTS_PAGE).read_text(encoding="utf-8")
    assert "scored by exact" in page
    assert "| model | passes | stops |" in page
    assert "Asked as the prompts stand" in page


def test_scores_are_means_with_students_interval_and_differences_paired_by_question(world, monkeypatch):
    one, two = ["a", "bb", "ccc", "dd"], ["aaaa", "b", "ccccc", "dd"]
    script(monkeypatch, {"one": one, "two": two})
    results = verified(world, "chats.jsonl", "helpers.own_verifiers:length", "one", "two")
    score = results["models"]["one"]["verified"]["score"]
    assert (score["mean"], score["low"], score["high"]) == (2.0, *mean_interval([1.0, 2.0, 3.0, 2.0]))
    assert results["models"]["one"]["verified"] | {"score": 0} == {"score": 0, "passed": None, "undecided": 0}
    (row,) = results["verified_comparisons"]
    assert (row["measure"], row["difference"], row["of"]) == ("score", 1.0, 4)
    assert (row["better"], row["same"], row["worse"]) == (2, 1, 1)
    assert (row["low"], row["high"]) == mean_interval([3.0, -1.0, 2.0, 0.0])
    # Of the eight sums of ±3, ±1 and ±2 four are as far from 0 as 4: 6, 4, −4 and −6.
    assert (row["p"], row["p_found"]) == (4 / 8, "exact")
    assert list(results["models"]["one"]["examples"]) == ["of the highest score", "of the lowest score"]


def test_answers_of_which_nothing_is_said_are_counted_and_left_out_of_the_share(world, monkeypatch):
    script(monkeypatch, {"one": ["aa", "bb", "c", "dd"], "two": ["aa", "b", "cc", "skip"]})
    results = verified(world, "chats.jsonl", "helpers.own_verifiers:even_or_unsaid", "one", "two")
    passed = results["models"]["two"]["verified"]
    assert passed["undecided"] == 1
    assert (passed["passed"]["count"], passed["passed"]["of"]) == (2, 3)
    assert results["models"]["one"]["verified"]["undecided"] == 0
    by_measure = {row["measure"]: row for row in results["verified_comparisons"]}
    assert by_measure["passed"]["of"] == 3
    assert (by_measure["passed"]["low"], by_measure["passed"]["high"]) == mean_difference_interval([0, -1, 1])
    assert by_measure["score"]["of"] == 4


def test_own_code_runs_with_leave_alone(world, monkeypatch, capsys):
    loaded = script(monkeypatch, {"one": ["aa", "b", "cc", "dd"]})
    task = {"task": world / "chats.jsonl", "verify": "helpers.own_verifiers:even"}
    assert main(command(world, "one", **task)) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert loaded == own_verifiers.calls == []
    assert main([*command(world, "one", **task), "--allow-code"]) == 0
    assert sorted(own_verifiers.calls) == ["aa", "b", "cc", "dd"]
    assert re.search(r"one +75\.0%", capsys.readouterr().out)


def longer(asked):
    """Prefers the longer answer."""
    first, second = re.findall(r"Answer [AB]:\n```+\n(.*?)\n```", asked.text, re.DOTALL)
    return f"Better: {'A' if len(first) > len(second) else 'B' if len(second) > len(first) else 'tie'}"


def test_a_judge_compares_each_further_model_with_the_first_in_both_orders(world, monkeypatch, tmp_path):
    answers = {
        "one": ["aa", "bb", "cc", "same"],
        "two": ["a", "bbb", "dd", "same"],
        "three": ["aaa", "bbb", "ccc", "x"],
    }
    script(monkeypatch, answers)
    with running(longer) as judge:
        results = verified(world, "chats.jsonl", judge_of(judge, "pairwise"), "one", "two", "three")
        # Of two against one three pairs differ, of three against one four, of which one is the same; both orders.
        assert len(judge.asked) - 1 == 2 * (3 + 3)  # one asks whether the judge is there
    assert results["models"]["one"]["verified"] == {}
    rate = results["models"]["two"]["verified"]["win_rate"]
    assert (rate["against"], rate["won"], rate["tied"], rate["lost"], rate["share"]) == ("one", 1, 2, 1, 0.5)
    two, three = results["verified_comparisons"]
    assert (two["measure"], two["share"], two["p"]) == ("win_rate", 0.5, 1.0)
    assert (three["better"], three["same"], three["worse"], three["share"]) == (3, 0, 1, 0.75)
    assert three["p"] == 10 / 16  # a win or loss each: 3 of 4 or further, both ways
    assert three["low"] < 0.75 < three["high"]
    kinds = list(results["models"]["three"]["examples"])
    assert kinds == ["better than one's", "worse than one's"]


def test_one_model_cannot_be_compared(world, monkeypatch):
    loaded = script(monkeypatch, {})
    with running(longer) as judge, pytest.raises(InputError, match=r"but one model is named\. Name another"):
        verified(world, "chats.jsonl", judge_of(judge, "pairwise"), "one")
    assert loaded == judge.asked == []


def test_a_reward_model_gives_scores_and_equal_answers_have_equal_ones(world, monkeypatch, tmp_path):
    read = byte_level(CHATML)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=1,
        vocab_size=len(read), initializer_range=0.25, max_position_embeddings=256, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForSequenceClassification(config).save_pretrained(tmp_path / "reward")
    read.save_pretrained(tmp_path / "reward")
    script(monkeypatch, {"one": ["yes", "no", "maybe", "no"], "two": ["yes", "never", "maybe", "yes!"]})
    spec = f"reward:{tmp_path / 'reward'}"
    results = verified(world, "chats.jsonl", spec, "one", "two")
    assert results["verifier"]["verifier"] == "reward"
    (row,) = results["verified_comparisons"]
    assert (row["measure"], row["same"], row["better"] + row["worse"]) == ("score", 2, 2)
    asked = [each.asked for each in read_prompts(str(world / "chats.jsonl")).prompts]
    alone = load_verifier(spec, allow_code=False)
    pairs = zip(asked, ("yes", "no", "maybe", "no"), strict=True)
    scores = [next(alone.verdicts([(0, one, [text])]))[1][0].score for one, text in pairs]
    assert results["models"]["one"]["verified"]["score"]["mean"] == pytest.approx(np.mean(scores), abs=1e-4)


def test_samples_pass_at_k_and_have_mean_scores(world, monkeypatch, tmp_path):
    one = [["aa", "b", "c", "d"], ["a"] * 4, ["aa"] * 4, ["a", "bb", "a", "bb"]]
    two = [["aa", "bb", "c", "d"], ["a", "a", "a", "aa"], ["aa"] * 4, ["a", "bb", "a", "bb"]]
    script(monkeypatch, {"one": one, "two": two})
    results = verified(
        world, "chats.jsonl", "helpers.own_verifiers:even", "one", "two", samples=4, out=tmp_path / "out"
    )
    samples = results["models"]["one"]["samples"]
    assert samples["verified"]["passed"]["share"] == (1 + 0 + 4 + 2) / 16
    assert samples["verified"]["score"]["mean"] == (1 + 0 + 4 + 2) / 16
    chances = {k: each["share"] for k, each in samples["pass_at"]["passed"].items()}
    # Of 1, 0, 4 and 2 right of 4: 1 − C(4 − c, 2) / C(4, 2) is 1/2, 0, 1 and 5/6.
    assert chances == pytest.approx({"1": 7 / 16, "2": (1 / 2 + 0 + 1 + 5 / 6) / 4, "4": 3 / 4})
    assert samples["any_right"]["passed"]["count"] == 3
    assert samples["majority"] == {}
    rows = {row["measure"]: row for row in results["verified_sample_comparisons"]}
    assert rows.keys() == {"passed", "any_passed"}
    assert rows["passed"]["difference"] == pytest.approx(2 / 16)
    assert (rows["any_passed"]["better"], rows["any_passed"]["same"]) == (1, 3)
    page = (tmp_path / "out" / names.RESULTS_PAGE).read_text(encoding="utf-8")
    assert "| one | verifier: passes | any (pass@k) | 43.8% |" in page
    lines = (tmp_path / "out" / "one" / names.SAMPLE_VERDICTS).read_text().splitlines()
    assert {(row["row"], row["sample"]) for row in map(json.loads, lines)} == {
        (row, sample) for row in (1, 2, 3, 4) for sample in range(4)
    }


def test_samples_of_a_judge_that_compares_are_compared_one_with_one(world, monkeypatch):
    one, two = [["a", "bb"]] * 4, [["aa", "b"]] * 3 + [["aa", "bbb"]]
    script(monkeypatch, {"one": one, "two": two})
    with running(longer) as judge:
        found = judge_of(judge, "pairwise")
        results = verified(world, "chats.jsonl", found, "one", "two", samples=2)
    assert results["models"]["two"]["verified"]["win_rate"]["won"] == 4
    rate = results["models"]["two"]["samples"]["verified"]["win_rate"]
    assert (rate["won"], rate["lost"], rate["share"]) == (5, 3, 5 / 8)
    (row,) = results["verified_sample_comparisons"]
    assert (row["better"], row["same"], row["worse"]) == (1, 3, 0)


def test_what_can_be_asked_without_a_verifier_is_asked_in_the_same_words_with_one(world):
    task = str(world / "q.jsonl")
    assert usual_prompt(task) == usual_prompt("problems") == PAPER_PROMPT
    assert (
        usual_prompt(str(world / "capitals.jsonl"))
        == usual_prompt(str(world / "chats.jsonl"))
        == "{question}"
    )
    for name in (task, "problems"):
        plain = load_task(name, n=2, seed=3)
        found = load_verified_task(name, n=2, seed=3, prompt=PAPER_PROMPT, plain_text=False)
        assert (found.source, found.questions, found.digest) == (plain.source, plain.questions, plain.digest)
        assert [each.row for each in found.asked] == [each.row for each in plain.questions]
        text = PAPER_PROMPT.replace("{question}", plain.questions[0].text)
        assert found.asked[0].prompt == [{"role": "user", "content": text}]


def test_messages_are_asked_with_their_tools_and_numbers_are_read_beside(world, tmp_path, monkeypatch):
    tool = {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
    }
    rows = [
        {"prompt": CHATS[0]["messages"], "tools": [tool], "answer": "7"},
        {"prompt": "plain", "answer": 8},
    ]
    file = write_rows(tmp_path / "tools.jsonl", rows)
    task = load_verified_task(str(file), n=None, seed=0, prompt="{question}", plain_text=False)
    assert [question.answer for question in task.questions] == ["7", "8"]
    expected = read_prompts(str(file)).tokens(tokenizer())
    script(monkeypatch, {"one": ["7", "It is 8."]})
    answered, asked = evaluation.stream_answers, []

    def stream(model, tokenizer, prompts, options, **more):
        asked.extend(prompts)
        return answered(model, tokenizer, prompts, options, **more)

    monkeypatch.setattr(evaluation, "stream_answers", stream)
    results = verified(tmp_path, "tools.jsonl", "exact", world / "one")
    assert [each.tolist() for each in asked] == [each.tolist() for each in expected]
    model = results["models"]["one"]
    assert (model["verified"]["passed"]["count"], model["flexible_accuracy"]["count"]) == (1, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"task": "chats.jsonl", "verify": "exact", "prompt": "Say {question}"},
            "--prompt is given, but no row",
        ),
        (
            {"task": "chats.jsonl", "judge-mode": "score"},
            "--judge-mode is of a verifier, but there is no --verify",
        ),
        (
            {"task": "chats.jsonl", "verify": "number", "judge-mode": "score"},
            "--judge-mode is of --verify judge:",
        ),
        ({"task": "chatz.jsonl", "verify": "exact"}, "chatz.jsonl', which is neither a task"),
        ({"task": "chats.jsonl", "verify": "exact", "n": 9}, "--n is 9, but chats.jsonl has 4 questions"),
        ({"task": "chats.jsonl", "verify": "nubmer"}, "did you mean number"),
    ],
)
def test_what_cannot_be_used_is_refused_before_a_model_is_loaded(world, monkeypatch, capsys, options, said):
    loaded = script(monkeypatch, {})
    options = options | {"task": world / options["task"]}
    assert main(command(world, "one", **options)) == 2
    assert said in capsys.readouterr().err
    assert loaded == []
