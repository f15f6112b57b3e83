"""Samples beside the answers: what is drawn and kept, gone on with, reported, and measured against a reference."""

from __future__ import annotations

import json
import re
import shutil
import statistics

import numpy as np
import pytest
import torch

from helpers.small_evaluations import QUESTIONS, command, config_of, make_world
from helpers.tiny_runs import RENAMED, moved, tiny_model, tokenizer
from minordpo.cli import main
from minordpo.data.make.close_pairs import PAPER_PROMPT
from minordpo.engine.models import load_model, save_model
from minordpo.errors import InputError
from minordpo.evaluate import answer_logps, evaluation, scoring
from minordpo.evaluate.evaluation import evaluate
from minordpo.evaluate.samples import compare_samples
from minordpo.evaluate.tasks import Question
from minordpo.generate.generation import Answer, Sampling, generate_answers
from minordpo.generate.prompts import question_prompts
from minordpo.run_folder import names

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]
PROMPTS = [question["question"] for question in QUESTIONS]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """No test writes into it; `near` is `one`, a little moved."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    near = moved(tiny_model(max_position_embeddings=1024), by=0.03)
    save_model(near, tokenizer(), folder / "near")
    return folder


def rows_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def strict_json(file):
    """What a strict reader makes of it: NaN is no JSON."""
    return json.loads(file.read_text(encoding="utf-8"), parse_constant=pytest.fail)


def prompts():
    return question_prompts(tokenizer(), PROMPTS, prompt=PAPER_PROMPT)


def test_samples_are_the_models_own_beside_the_same_greedy_answers(world, tmp_path):
    evaluate([str(world / "one")], config_of(world), out=tmp_path / "greedy")
    settings = config_of(world, samples=3, seed=0)
    results = evaluate([str(world / "one")], settings, out=tmp_path / "out", batch_size=4)
    greedy, out = tmp_path / "greedy" / "one", tmp_path / "out" / "one"
    assert (out / names.ANSWERS).read_bytes() == (greedy / names.ANSWERS).read_bytes()
    expected = generate_answers(
        load_model(str(world / "one")),
        tokenizer(),
        prompts(),
        samples=3,
        sampling=Sampling(temperature=1.0, seed=0),
        max_new_tokens=6,
    )
    kept = {(row["row"], row["sample"]): tuple(row["token_ids"]) for row in rows_of(out / names.SAMPLES)}
    assert kept == {(1 + i // 3, i % 3): answer.token_ids for i, answer in enumerate(expected)}
    assert len(set(kept.values())) > 3
    assert results["models"]["one"]["samples"]["each"] == 3
    assert evaluate([str(world / "one")], settings) == results | {"settings": results["settings"]}


def drawing(monkeypatch, greedy, samples):
    """Let every model answer with one text a question, and its samples be these."""

    def stream(model, tokenizer, prompts, options, **_):
        given = [[text] for text in greedy] if options.sampling is None else texts
        for row in range(len(prompts) * options.samples):
            text = given[row // options.samples][row % options.samples]
            ids = tuple(map(ord, text))
            yield row, evaluation.Answer(text, ids, True, len(ids) + 1, tokenizer.eos_token_id)

    texts = samples
    monkeypatch.setattr(evaluation, "stream_answers", stream)


# Right are 72, 7 and 7.
WRITTEN = [
    ["So the answer is: 72", "So the answer is: 71", "It is 72", "So the answer is: 71"],
    ["7", "So the answer is: 7", "8", "no"],
    ["1", "2", "3", "ha " * 40],
]


def test_chances_votes_and_means_are_those_counted_by_hand(world, tmp_path, monkeypatch, capsys):
    drawing(monkeypatch, ["72", "8", "9"], WRITTEN)
    assert main(command(world, "one", out=tmp_path / "out", samples=4)) == 0
    model = strict_json(tmp_path / "out" / names.RESULTS)["models"]["one"]
    samples = model["samples"]
    assert model["flexible_accuracy"]["count"] == 1  # the greedy pass stays what it was
    # Strictly right: 1, 1, 0 of 4; by the last number 2, 2, 0.
    assert samples["strict_accuracy"]["share"] == pytest.approx(2 / 12)
    assert samples["flexible_accuracy"]["share"] == pytest.approx(4 / 12)
    assert {k: v["share"] for k, v in samples["pass_at"]["strict_accuracy"].items()} == pytest.approx(
        {"1": 1 / 6, "2": (1 / 2 + 1 / 2) / 3, "4": 2 / 3}
    )
    assert samples["pass_at"]["flexible_accuracy"]["2"]["share"] == pytest.approx((5 / 6 + 5 / 6) / 3)
    assert [samples["any_right"][name]["count"] for name in sorted(samples["any_right"])] == [2, 2]
    # Strict votes 72 71 71, 7, none; last numbers 72 71 72 71 (the first of two), 7 7 8, 1 2 3.
    assert samples["majority"]["strict_accuracy"]["count"] == 1
    assert samples["majority"]["flexible_accuracy"]["count"] == 2
    assert samples["looping"]["share"] == pytest.approx(1 / 12)
    assert samples["asked_format"]["share"] == pytest.approx(4 / 12)
    assert samples["stopped"]["share"] == 1.0
    assert samples["strict_accuracy"]["low"] < 0.08 < 0.4 < samples["strict_accuracy"]["high"]
    said = capsys.readouterr().out
    assert "4 samples a question at temperature 1: a single sample" in said
    assert re.search(r"one +16\.7% \[.*\] +33\.3% \[.*\] +33% +100% +8%", said), said
    assert re.search(r"one +last number +any \(pass@k\) +33\.3% +55\.6% +66\.7%", said), said
    assert re.search(r"one +last number +most votes +66\.7%", said), said
    assert "log π/π_ref" not in said
    text = (tmp_path / "out" / names.RESULTS_PAGE).read_text(encoding="utf-8")
    assert "| one | last number | any (pass@k) | 33.3% | 55.6% | 66.7% |" in text
    assert "(samples: 4 at temperature 1)" in text
    assert "Most votes: whether the number" in text


def written(*texts):
    return [Answer(text, (5,), True, 2, 1) for text in texts]


def test_samples_of_two_models_are_compared_question_by_question():
    questions = [Question(i, "Q?", "7", None) for i in (1, 2, 3, 4)]
    right, wrong, loose = "So the answer is: 7", "So the answer is: 8", "It is 7"
    first = [written(wrong, wrong), written(right, wrong), written(right, right), written(wrong, wrong)]
    other = [written(right, right), written(right, right), written(wrong, right), written(loose, wrong)]
    rows = compare_samples(questions, {"a": first, "b": other})
    found = {(row["what"], row["measure"]): row for row in rows}
    assert len(rows) == 4
    assert all((row["model"], row["against"]) == ("b", "a") for row in rows)
    strict = found["samples", "strict_accuracy"]
    # 2, 1, −1 and 0 samples of 2 more. Of the eight ways to give 2, 1 and −1 signs six sum to 2 or more either way.
    assert (strict["better"], strict["worse"]) == (2, 1)
    assert strict["difference"] == pytest.approx(2 / 8)
    assert strict["p"] == strict["p_holm"] == pytest.approx(6 / 8)
    assert -1 <= strict["low"] < 0 < 1 / 4 < strict["high"] <= 1
    assert found["samples", "flexible_accuracy"]["difference"] == pytest.approx(3 / 8)
    # Any right: questions 2 and 3 of the first, all but the last of the other, which the looser parser adds.
    assert found["any", "strict_accuracy"]["difference"] == pytest.approx(1 / 4)
    assert found["any", "flexible_accuracy"]["difference"] == pytest.approx(2 / 4)
    assert found["any", "flexible_accuracy"]["p"] == pytest.approx(1 / 2)


def test_the_comparison_of_samples_is_reported(world, tmp_path, monkeypatch, capsys):
    drawing(monkeypatch, ["72", "8", "9"], WRITTEN)
    assert main(command(world, "one", "near", out=tmp_path / "out", samples=4)) == 0
    said = capsys.readouterr().out
    assert "Samples against one on the same questions" in said
    for right in ("a sample", "any of 4"):
        assert re.search(rf"near +{right} +asked line +\+0\.0 \[.*\] +0 +0 +1 +1\n", said), said
    results = strict_json(tmp_path / "out" / names.RESULTS)
    assert [row["p"] for row in results["sample_comparisons"]] == [1.0] * 4
    alone = tmp_path / "alone"
    assert main(command(world, "one", out=alone, samples=4)) == 0
    assert strict_json(alone / names.RESULTS)["sample_comparisons"] == []
    assert "Samples against" not in capsys.readouterr().out


class Killed(Exception):
    pass


def test_a_killed_evaluation_draws_only_the_samples_that_are_missing(world, tmp_path, monkeypatch, capsys):
    settings, models = config_of(world, samples=3), [str(world / "one")]
    whole = evaluate(models, settings, out=tmp_path / "whole", batch_size=1)
    stream, made = evaluation.stream_answers, []

    def watched(dies_at):
        def stream_watched(model, tokenizer, prompts, options, **more):
            for count, each in enumerate(stream(model, tokenizer, prompts, options, **more)):
                if options.samples > 1 and count == dies_at:
                    raise Killed
                made.append(each)
                yield each

        return stream_watched

    out = tmp_path / "out"
    monkeypatch.setattr(evaluation, "stream_answers", watched(4))
    with pytest.raises(Killed):
        evaluate(models, settings, out=out, batch_size=1)
    assert len(made) == 3 + 4
    with (out / "one" / names.SAMPLES).open("a") as file:
        file.write('{"row": 3, "sample": 1, "answer": "half a li')  # as a kill within a write leaves it
    monkeypatch.setattr(evaluation, "stream_answers", watched(None))
    capsys.readouterr()
    assert evaluate(models, settings, out=out, batch_size=1) == whole
    assert len(made) == 3 + 9
    assert "one, samples:  44%" in capsys.readouterr().err  # 4 of 9
    assert evaluate(models, settings, out=out) == whole
    assert len(made) == 3 + 9
    for name in (names.RESULTS, names.RESULTS_PAGE):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_samples_are_added_to_a_folder_that_has_fewer_or_none(world, tmp_path):
    models, reference = [str(world / "near")], str(world / "one")
    out, whole = tmp_path / "out", tmp_path / "whole"
    evaluate(models, config_of(world, reference=reference), out=out, batch_size=1)
    for count in (2, 4):
        grown = evaluate(models, config_of(world, samples=count, reference=reference), out=out, batch_size=1)
    assert len(rows_of(out / "near" / names.SAMPLES)) == 12
    assert grown == evaluate(
        models, config_of(world, samples=4, reference=reference), out=whole, batch_size=1
    )
    assert (out / "near" / names.SAMPLE_LOGPS).read_bytes() == (
        whole / "near" / names.SAMPLE_LOGPS
    ).read_bytes()
    before = (out / names.EVALUATION_SETTINGS).read_bytes()
    for settings, said in (
        ({"samples": 2}, r"other settings: samples was 4, not 2\. Give them"),
        ({"samples": 0}, r"samples was 4, not 0; .*samples_temperature was 1\.0, not null"),
        ({"samples": 8, "temperature": 0.5}, r"other settings: samples_temperature was 1\.0, not 0\.5"),
        ({"samples": 4, "seed": 1}, r"other settings: seed was 0, not 1"),
    ):
        with pytest.raises(InputError, match=said):
            evaluate(models, config_of(world, reference=reference, **settings), out=out)
    assert (out / names.EVALUATION_SETTINGS).read_bytes() == before


@pytest.mark.parametrize("samples", [0, 2])
def test_a_folder_from_before_there_were_samples_goes_on(world, tmp_path, samples):
    out = tmp_path / "out"
    evaluate([str(world / "one")], config_of(world), out=out)
    kept = json.loads((out / names.EVALUATION_SETTINGS).read_text(encoding="utf-8"))
    kept["settings"] = {k: v for k, v in kept["settings"].items() if not k.startswith("samples")}
    assert kept["settings"]["temperature"] == 0.0
    (out / names.EVALUATION_SETTINGS).write_text(json.dumps(kept), encoding="utf-8")
    answers = (out / "one" / names.ANSWERS).read_bytes()
    results = evaluate([str(world / "one")], config_of(world, samples=samples), out=out)
    assert (out / "one" / names.ANSWERS).read_bytes() == answers
    assert ("samples" in results["models"]["one"]) == (samples > 0)


def stock_logps(model, prompt, ids):
    whole = torch.tensor([*prompt, *ids], dtype=torch.long)[None]
    with torch.no_grad():
        logps = model(input_ids=whole).logits.double().log_softmax(-1)[0, len(prompt) - 1 : -1]
    return logps.gather(1, whole[0, len(prompt) :, None]).sum().item()


def test_kl_and_best_of_k_are_those_worked_out_from_the_files(world, tmp_path, monkeypatch):
    out = tmp_path / "out"
    models = [str(world / name) for name in ("one", "near")]
    settings = config_of(world, samples=2, reference=str(world / "one"))
    samples = evaluate(models, settings, out=out)["models"]["near"]["samples"]
    one, near = (load_model(path) for path in models)
    ratios, lengths, stopped = {}, {}, []
    for row in rows_of(out / "near" / names.SAMPLES):
        end = [] if row["end_token"] is None else [row["end_token"]]
        ids, prompt = [*row["token_ids"], *end], prompts()[row["row"] - 1]
        ratios.setdefault(row["row"], []).append(
            stock_logps(near, prompt, ids) - stock_logps(one, prompt, ids)
        )
        lengths.setdefault(row["row"], []).append(len(ids))
        stopped.append(row["stopped"])
    means = [statistics.fmean(ratios[i]) for i in (1, 2, 3)]
    tokens = [statistics.fmean(lengths[i]) for i in (1, 2, 3)]
    kl = samples["kl"]
    assert kl["per_sequence"] == pytest.approx(statistics.fmean(means), abs=1e-4)
    assert kl["per_sequence_error"] == pytest.approx(statistics.stdev(means) / 3**0.5, abs=1e-4)
    assert kl["per_token"] == pytest.approx(sum(means) / sum(tokens), abs=1e-4)
    assert kl["per_token_error"] > 0
    assert (kl["sequences"], kl["tokens"]) == (6, sum(map(sum, lengths.values())))
    assert kl["cut"] == pytest.approx(stopped.count(False) / 6)
    # The preferred of two is right: where the first has the greater ratio, those of a right first sample.
    first = [ratios[i][0] > ratios[i][1] for i in (1, 2, 3)]
    texts = [["7", "8"] if preferred else ["8", "7"] for preferred in first]
    right = [["So the answer is: 72", "8"] if first[0] else ["8", "So the answer is: 72"], *texts[1:]]
    file = out / "near" / names.SAMPLES
    rows = [row | {"answer": right[row["row"] - 1][row["sample"]]} for row in rows_of(file)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    best = evaluate(models, settings, out=out)["models"]["near"]["samples"]["best_of"]
    assert {k: v["share"] for k, v in best["flexible_accuracy"].items()} == {"1": 0.5, "2": 1.0}
    assert best["strict_accuracy"]["2"]["share"] == pytest.approx(1 / 3)


def test_a_model_that_is_the_reference_has_no_divergence_and_ranks_nothing(world, tmp_path, capsys):
    shutil.copytree(world / "one", tmp_path / "copy")
    options = {"samples": 2, "reference": world / "one"}
    assert main(command(world, tmp_path / "copy", "near", out=tmp_path / "out", **options)) == 0
    models = strict_json(tmp_path / "out" / names.RESULTS)["models"]
    own = models["copy"]["samples"]
    measured = ("per_sequence", "per_sequence_error", "per_token", "per_token_error")
    assert [own["kl"][name] for name in measured] == [0.0] * 4
    assert own["best_of"] is None
    assert models["copy"]["reference"]["logratio"] == 0.0
    assert models["near"]["samples"]["best_of"] is not None
    said = capsys.readouterr().out
    assert re.search(r"\ncopy +0\.00 ± 0\.00 +0\.0000 ± 0\.0000 +\d+%", said), said
    assert re.search(r"near +asked line +highest log π/π_ref", said), said
    assert not re.search(r"copy +asked line +highest log π/π_ref", said), said
    assert "ranks nothing" in said


def test_the_divergence_of_one_token_is_that_of_the_two_distributions(world, tmp_path):
    settings = config_of(world, samples=400, max_new_tokens=1, reference=str(world / "one"))
    kl = evaluate([str(world / "two")], settings, out=tmp_path / "out")["models"]["two"]["samples"]["kl"]
    exact = []
    one, two = (load_model(str(world / name)) for name in ("one", "two"))
    for prompt in prompts():
        ids = torch.tensor(prompt, dtype=torch.long)[None]
        with torch.no_grad():
            p, q = (m(input_ids=ids).logits[0, -1].double().log_softmax(-1) for m in (two, one))
        exact.append((p.exp() * (p - q)).sum().item())
    rows = rows_of(tmp_path / "out" / "two" / names.SAMPLE_LOGPS)
    error = np.std([row["logp"] - row["ref_logp"] for row in rows]) / len(rows) ** 0.5
    assert statistics.fmean(exact) > 5 * error  # so that a sign or a factor would show
    assert abs(kl["per_sequence"] - statistics.fmean(exact)) < 4 * error
    assert kl["per_token"] == pytest.approx(kl["per_sequence"])


def test_at_another_temperature_there_is_no_divergence_and_it_is_said(world, tmp_path, capsys):
    options = {"samples": 3, "temperature": 0.5, "reference": world / "one"}
    assert main(command(world, "near", out=tmp_path / "out", **options)) == 0
    results = strict_json(tmp_path / "out" / names.RESULTS)
    samples = results["models"]["near"]["samples"]
    assert samples["kl"] is None
    assert list(samples["best_of"]["strict_accuracy"]) == ["1", "2", "3"]
    assert (results["settings"]["temperature"], results["settings"]["samples_temperature"]) == (0.0, 0.5)
    said = " ".join(capsys.readouterr().out.split())
    assert "KL(π‖π_ref) is left out: it needs samples at temperature 1, and these are at 0.5." in said
    assert "3 samples a question at temperature 0.5: right with k of them" in said


def test_one_question_and_one_sample_are_enough_and_have_no_error(world, tmp_path, capsys):
    options = {"samples": 1, "n": 1, "reference": world / "one"}
    assert main(command(world, "near", out=tmp_path / "out", **options)) == 0
    samples = strict_json(tmp_path / "out" / names.RESULTS)["models"]["near"]["samples"]
    assert (samples["kl"]["per_sequence_error"], samples["kl"]["sequences"]) == (None, 1)
    assert list(samples["pass_at"]["strict_accuracy"]) == ["1"]
    said = capsys.readouterr().out
    assert "1 sample a question at temperature 1" in said
    assert re.search(r"near +-?\d+\.\d\d +-?\d+\.\d{4} +\d+%", said), said


def test_samples_that_do_not_fit_into_one_row_have_the_same_log_probs(world, tmp_path, monkeypatch):
    models, settings = [str(world / "near")], config_of(world, samples=5, reference=str(world / "one"))
    evaluate(models, settings, out=tmp_path / "whole")
    longest = max(map(len, prompts()))
    monkeypatch.setattr(scoring, "TOKEN_BUDGET", longest + 13)  # two samples
    examples, made = scoring.answer_examples, []
    monkeypatch.setattr(
        answer_logps, "answer_examples", lambda *given: made.extend(examples(*given)) or examples(*given)
    )
    evaluate(models, settings, out=tmp_path / "cut")
    assert len(made) > 3 + 3
    assert max(len(e.prompt_ids) + sum(len(r.ids) for r in e.responses) for e in made) <= longest + 13
    whole, cut = (rows_of(tmp_path / each / "near" / names.SAMPLE_LOGPS) for each in ("whole", "cut"))
    for name in ("row", "sample", "tokens"):
        assert [row[name] for row in cut] == [row[name] for row in whole]
    for name in ("logp", "ref_logp"):
        assert [row[name] for row in cut] == pytest.approx([row[name] for row in whole], abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": -1}, r"--samples is -1, but at least 0 is needed, which draws none\. Raise it"),
        ({"samples": 2, "temperature": 0.0}, r"temperature is 0, but samples need a number above 0"),
        ({"samples": 2, "temperature": -0.5}, r"temperature is -0\.5, but samples need a number above 0"),
        ({"samples": 2, "temperature": float("nan")}, r"temperature is nan, but samples need a number"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused_before_anything_is_made(world, tmp_path, settings, said):
    with pytest.raises(InputError, match=said):
        evaluate([str(world / "one")], config_of(world, **settings), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
