"""Whole evaluations of tiny models: what the folder holds, going on after a kill, and what is refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.small_evaluations import QUESTIONS, command, config_of, make_world
from helpers.tiny_runs import RENAMED, moved, tiny_model, tokenizer
from minordpo.cli import main
from minordpo.data.make.close_pairs import PAPER_PROMPT
from minordpo.engine.models import load_model, save_model
from minordpo.evaluate import evaluation
from minordpo.evaluate.compare import compare_models
from minordpo.evaluate.evaluation import evaluate
from minordpo.evaluate.statistics import mean_difference_interval
from minordpo.evaluate.tasks import Question
from minordpo.generate.generation import Answer, generate_answers
from minordpo.generate.prompts import question_prompts
from minordpo.run_folder import names

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """No test writes into it."""
    return make_world(tmp_path_factory.mktemp("world"))


def rows_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_answers_are_the_models_own_to_the_papers_prompt(world, tmp_path):
    evaluate([str(world / "one")], config_of(world), out=tmp_path / "out", batch_size=2)
    prompts = question_prompts(tokenizer(), [q["question"] for q in QUESTIONS], prompt=PAPER_PROMPT)
    expected = generate_answers(load_model(str(world / "one")), tokenizer(), prompts, max_new_tokens=6)
    rows = {row["row"]: row for row in rows_of(tmp_path / "out" / "one" / names.ANSWERS)}
    assert [rows[i]["question"] for i in (1, 2, 3)] == [q["question"] for q in QUESTIONS]
    assert [rows[i]["reference"] for i in (1, 2, 3)] == ["72", "7", "7"]
    assert [(rows[i]["answer"], tuple(rows[i]["token_ids"])) for i in (1, 2, 3)] == [
        (answer.text, answer.token_ids) for answer in expected
    ]


@pytest.mark.parametrize(("gpu", "expected"), [(False, ("cpu", 32)), (True, ("cuda", 128))])
def test_unless_told_a_gpu_makes_more_answers_at_a_time(world, monkeypatch, gpu, expected):
    seen = []

    class Model:
        def to(self, device):
            seen.append(device)

    def stream(model, tokenizer, prompts, options, **_):
        seen.append(options.batch_size)
        ids = (tokenizer.eos_token_id,)
        yield from ((row, Answer("7", ids, True, 2, ids[0])) for row in range(len(prompts)))

    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr(evaluation, "load_model", lambda *_, **__: Model())
    monkeypatch.setattr(evaluation, "stream_answers", stream)
    evaluate([str(world / "one")], config_of(world))
    evaluate([str(world / "one")], config_of(world), batch_size=5)
    assert seen == [*expected, expected[0], 5]


def answering(monkeypatch, texts):
    """Let every model answer the questions of one row after another with these texts."""

    def stream(model, tokenizer, prompts, options, **_):
        for row in range(len(prompts)):
            ids = tuple(map(ord, texts[row]))
            yield row, Answer(texts[row], ids, True, len(ids) + 1, tokenizer.eos_token_id)

    monkeypatch.setattr(evaluation, "stream_answers", stream)


def test_results_say_what_is_right_by_both_parsers_and_by_steps(world, tmp_path, monkeypatch, capsys):
    answering(monkeypatch, ["So the answer is: 72 clips", "It is 7.", "ha " * 40])
    assert main(command(world, "one", out=tmp_path / "out")) == 0
    model = json.loads((tmp_path / "out" / names.RESULTS).read_text(encoding="utf-8"))["models"]["one"]
    shares = ("strict_accuracy", "flexible_accuracy", "asked_format", "looping", "stopped")
    counts = {name: (model[name]["count"], model[name]["of"]) for name in shares}
    assert counts["strict_accuracy"] == counts["asked_format"] == counts["looping"] == (1, 3)
    assert counts["flexible_accuracy"] == (2, 3)
    assert counts["stopped"] == (3, 3)
    assert model["strict_accuracy"]["low"] == pytest.approx(0.0615, abs=1e-4)  # Wilson, 1 of 3
    steps = {group: each["flexible_accuracy"]["count"] for group, each in model["by_steps"].items()}
    assert list(steps.items()) == [("1", 0), ("2", 1), ("unknown", 1)]
    kinds = {kind: example["row"] for kind, example in model["examples"].items()}
    assert kinds == {"right": 1, "right, but not in the asked format": 2, "looping": 3}
    said = capsys.readouterr().out
    assert re.search(r"one +33\.3% \[6\.1, 79\.2\] +66\.7% \[20\.8, 93\.9\] +33% +100% +33%", said), said
    text = (tmp_path / "out" / names.RESULTS_PAGE).read_text(encoding="utf-8")
    assert "| one | 33.3% \\[6.1, 79.2\\] |" in text
    assert "So the answer is: 72 clips" in text


def test_models_are_compared_with_the_first_on_the_same_questions(world, tmp_path, monkeypatch):
    answering(monkeypatch, ["So the answer is: 72", "8", "7"])
    evaluate([str(world / "one")], config_of(world), out=tmp_path / "out")
    answering(monkeypatch, ["So the answer is: 71", "7", "So the answer is: 7"])
    both = [str(world / "one"), str(world / "two")]
    results = evaluate(both, config_of(world), out=tmp_path / "out")
    strict, flexible = results["comparisons"]
    assert (strict["model"], strict["against"], strict["gained"], strict["lost"]) == ("two", "one", 1, 1)
    assert (flexible["gained"], flexible["lost"], flexible["difference"], flexible["p"]) == (1, 1, 0.0, 1.0)
    turned = evaluate(both[::-1], config_of(world), out=tmp_path / "out")
    assert turned["comparisons"][0]["against"] == "two"
    assert turned["models"]["one"] == results["models"]["one"]


def test_a_comparison_counts_only_questions_that_are_answered_differently():
    questions = [Question(row, "Q?", "7", None) for row in range(1, 6)]

    def answers(*right):
        return [Answer("So the answer is: 7" if each else "8", (5,), True, 2, 1) for each in right]

    first, other = answers(True, False, True, False, False), answers(True, True, False, False, True)
    for row in compare_models(questions, {"a": first, "b": other}):
        assert (row["model"], row["against"]) == ("b", "a")
        assert (row["gained"], row["lost"], row["p"]) == (2, 1, 1.0)
        assert row["difference"] == pytest.approx(1 / 5)
        assert (row["low"], row["high"]) == mean_difference_interval([1, 1, -1, 0, 0])
    with pytest.raises(ValueError, match="shorter"):
        compare_models(questions, {"a": first, "b": other[:-1]})


def test_what_a_model_wrote_cannot_break_out_of_the_report(world, tmp_path, monkeypatch, capsys):
    wicked = "```\n# <script>alert(1)</script>\n\x1b[31m\u202e````"
    answering(monkeypatch, [wicked, "\ud83d half", "7"])
    assert main(command(world, "one", out=tmp_path / "out")) == 0
    said, text = capsys.readouterr().out, (tmp_path / "out" / names.RESULTS_PAGE).read_text(encoding="utf-8")
    assert "\x1b" not in said + text
    assert "\u202e" not in said + text
    assert "`````text\n```\n# <script>" in text
    rows = rows_of(tmp_path / "out" / "one" / names.ANSWERS)
    assert [row["answer"] for row in rows] == [wicked, "\ud83d half", "7"]


def test_empty_and_endless_answers_are_results_and_no_errors(world, tmp_path, capsys):
    silent = tiny_model(max_position_embeddings=1024)
    endless = tiny_model(max_position_embeddings=1024)
    with torch.no_grad():
        for model, token in ((silent, tokenizer().eos_token_id), (endless, 30)):
            model.lm_head.weight.zero_()
            model.model.norm.weight.zero_()
            model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer())))
            model.lm_head.bias[token] = 9.0
    for name, model in (("silent", silent), ("endless", endless)):
        # A head's bias is no part of a saved Llama, so these two stay in memory.
        (answer, *_) = generate_answers(
            model, tokenizer(), question_prompts(tokenizer(), ["Q?"], prompt=PAPER_PROMPT), max_new_tokens=30
        )
        assert (answer.stopped, answer.text == "") == ((name == "silent"),) * 2
        results = evaluation.summarize_model(
            evaluation.load_task(str(world / "q.jsonl")).questions, [answer] * 3
        )
        assert results["empty"]["count"] == results["stopped"]["count"] == (3 if name == "silent" else 0)
        assert results["looping"]["count"] == (0 if name == "silent" else 3)


class Killed(Exception):
    pass


def test_a_killed_evaluation_goes_on_with_the_questions_that_are_missing(
    world, tmp_path, monkeypatch, capsys
):
    whole = evaluate([str(world / "one"), str(world / "two")], config_of(world), out=tmp_path / "whole")
    stream, asked = evaluation.stream_answers, []

    def dying(*given, **settings):
        for count, each in enumerate(stream(*given, **settings)):
            if count == 1:
                raise Killed
            yield each

    def counting(model, tokenizer, prompts, options, *, done):
        asked.append(len(prompts) - len(done))
        yield from stream(model, tokenizer, prompts, options, done=done)

    out, models = tmp_path / "out", [str(world / "one"), str(world / "two")]
    monkeypatch.setattr(evaluation, "stream_answers", dying)
    with pytest.raises(Killed):
        evaluate(models, config_of(world), out=out, batch_size=1)
    answers = out / "one" / names.ANSWERS
    with answers.open("a") as file:
        file.write('{"row": 3, "answer": "half a li')  # as a kill within a write leaves it
    monkeypatch.setattr(evaluation, "stream_answers", counting)
    capsys.readouterr()
    assert evaluate(models, config_of(world), out=out, batch_size=1) == whole
    assert asked == [2, 3]
    assert "one:  33%" in capsys.readouterr().err  # the bar begins where the first start ended
    assert len(rows_of(answers)) == 3
    assert evaluate(models, config_of(world), out=out) == whole
    assert asked == [2, 3]
    assert (out / names.RESULTS_PAGE).read_bytes() == (tmp_path / "whole" / names.RESULTS_PAGE).read_bytes()


def test_a_run_and_an_adapter_are_models_too_with_labels_of_their_own(world, tmp_path, monkeypatch):
    for name in ("dpo", "minordpo"):
        shutil.copytree(world / "one", tmp_path / "runs" / name / "model")
        (tmp_path / "runs" / name / "config.yaml").write_text("output: x\n")
    adapted = get_peft_model(load_model(str(world / "one")), LoraConfig(target_modules="all-linear"))
    save_model(moved(adapted, by=0.3), None, tmp_path / "adapters" / "dpo")
    models = [str(tmp_path / each) for each in ("runs/dpo", "runs/minordpo", "adapters/dpo")]
    results = evaluate(models, config_of(world), out=tmp_path / "out")
    assert list(results["models"]) == ["runs-dpo", "minordpo", "adapters-dpo"]
    assert results["models"]["minordpo"]["path"].endswith("runs/minordpo/model")
    texts = {
        label: [row["answer"] for row in rows_of(tmp_path / "out" / label / names.ANSWERS)]
        for label in results["models"]
    }
    assert texts["runs-dpo"] == texts["minordpo"] != texts["adapters-dpo"]
    more = evaluate([*models, str(world / "two")], config_of(world), out=tmp_path / "out")
    assert list(more["models"]) == ["runs-dpo", "minordpo", "adapters-dpo", "two"]


@pytest.mark.parametrize("out", [True, False])
def test_a_reference_measures_the_models_own_answers(world, tmp_path, out, capsys):
    place = tmp_path / "out" if out else None
    models = [str(world / "one"), str(world / "two")]
    results = evaluate(models, config_of(world, reference=str(world / "one")), out=place)
    own, other = (results["models"][name]["reference"] for name in ("one", "two"))
    assert own["logratio"] == pytest.approx(0, abs=1e-4)
    assert other["logratio"] > 1
    prompts = question_prompts(tokenizer(), [q["question"] for q in QUESTIONS], prompt=PAPER_PROMPT)
    two, one = (load_model(str(world / name)) for name in ("two", "one"))
    sums, tokens = [], 0
    for prompt, answer in zip(
        prompts, generate_answers(two, tokenizer(), prompts, max_new_tokens=6), strict=True
    ):
        ids = torch.tensor([*prompt, *answer.response_ids], dtype=torch.long)[None]
        tokens += answer.tokens
        with torch.no_grad():
            logps = [
                model(input_ids=ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1] for model in (two, one)
            ]
        sums.append([each.gather(1, ids[0, len(prompt) :, None]).sum().item() for each in logps])
    differences = [a - b for a, b in sums]
    assert other["logratio"] == pytest.approx(sum(differences) / 3, abs=1e-3)
    assert other["logratio_per_token"] == pytest.approx(sum(differences) / tokens, abs=1e-4)
    assert other["ref_logp_per_token"] == pytest.approx(sum(b for _, b in sums) / tokens, abs=1e-4)
    if place is not None:
        assert evaluate(models, config_of(world, reference=str(world / "one")), out=place) == results


def test_a_sampled_evaluation_draws_by_its_seed(world, tmp_path):
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        evaluate([str(world / "one")], config_of(world, temperature=1.0, seed=seed), out=tmp_path / name)
        texts.append([row["answer"] for row in rows_of(tmp_path / name / "one" / names.ANSWERS)])
    assert texts[0] == texts[1] != texts[2]
