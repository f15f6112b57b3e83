"""Whole evaluations that are refused or stopped: one line that says what to do, and nothing is lost."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass

import pytest

from helpers.small_evaluations import command, config_of, make_world
from helpers.small_tokenizers import byte_level, metaspace
from helpers.tiny_runs import save_tiny, tiny_model, tokenizer, write_rows
from minordpo.cli import main
from minordpo.engine.models import save_model
from minordpo.errors import InputError
from minordpo.evaluate import evaluation
from minordpo.evaluate.evaluation import EvaluationConfig, evaluate
from minordpo.run_folder import names
from minordpo.run_folder.lock import only_here


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """No test writes into it."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            {"max_new_tokens": 7},
            r"other settings: max_new_tokens was 6, not 7\. Give them as they were, or name",
        ),
        ({"seed": 1, "dtype": "bfloat16"}, r'seed was 0, not 1; dtype was "float32", not "bfloat16"'),
        ({"n": 2}, r"n was null, not 2; questions was .*; questions_digest was"),
        ({"prompt": "Q: {question}"}, r'prompt was "You are .*", not "Q: \{question\}"'),
        ({"temperature": 1.0}, r"temperature was 0\.0, not 1\.0"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_key_by_key(world, tmp_path, setting, said):
    out = tmp_path / "out"
    evaluate([str(world / "one")], config_of(world), out=out)
    before = {each: each.read_bytes() for each in out.rglob("*") if each.is_file()}
    with pytest.raises(InputError, match=said):
        evaluate([str(world / "one")], config_of(world, **setting), out=out)
    assert {each: each.read_bytes() for each in out.rglob("*") if each.is_file()} == before


@dataclass(frozen=True, kw_only=True)
class LaterConfig(EvaluationConfig):
    """The settings of a later version, which has one more."""

    shots: int = 0


def later(world, **settings):
    return LaterConfig(**asdict(config_of(world)) | settings)


def test_a_setting_that_came_later_leaves_a_begun_folder_valid_at_its_default_alone(world, tmp_path):
    models, out = [str(world / "one")], tmp_path / "out"
    evaluate(models, config_of(world, n=2), out=out)
    with pytest.raises(InputError, match=r"other settings: shots was 0, not 2\. Give them"):
        evaluate(models, later(world, n=2, shots=2), out=out)
    evaluate(models, later(world, n=2), out=out)
    kept = json.loads((out / names.EVALUATION_SETTINGS).read_text(encoding="utf-8"))
    assert kept["settings"]["shots"] == 0
    with pytest.raises(InputError, match=r"other settings: shots was 0, not 2\. Give them"):
        evaluate(models, later(world, n=2, shots=2), out=out)
    evaluate(models, config_of(world, n=2), out=out)  # by the earlier version again


@pytest.mark.parametrize(
    ("key", "setting", "said"),
    [
        ("plain_text", {"plain_text": True}, "plain_text was false, not true"),
        ("dtype", {"dtype": "bfloat16"}, 'dtype was "float32", not "bfloat16"'),
        ("temperature", {"temperature": 1.0}, r"temperature was 0\.0, not 1\.0"),
        ("reference", {}, None),
    ],
)
def test_a_key_that_an_earlier_version_did_not_keep_counts_as_its_default(
    world, tmp_path, key, setting, said
):
    models, out = [str(world / "one")], tmp_path / "out"
    evaluate(models, config_of(world), out=out)
    file = out / names.EVALUATION_SETTINGS
    kept = json.loads(file.read_text(encoding="utf-8"))
    del kept["settings"][key]
    file.write_text(json.dumps(kept), encoding="utf-8")
    if said is not None:
        with pytest.raises(InputError, match=said):
            evaluate(models, config_of(world, **setting), out=out)
    evaluate(models, config_of(world), out=out)


def test_settings_of_a_start_that_made_no_answer_bind_nobody(world, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(evaluation, "load_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            evaluate([str(world / "two")], config_of(world), out=tmp_path / "out")
    assert (tmp_path / "out" / names.EVALUATION_SETTINGS).is_file()
    results = evaluate([str(world / "one")], config_of(world, n=2), out=tmp_path / "out")
    assert results["models"]["one"]["stopped"]["of"] == 2
    with pytest.raises(InputError, match=r"n was 2, not null"):
        evaluate([str(world / "one")], config_of(world), out=tmp_path / "out")


def test_a_reference_may_be_named_later_and_not_be_exchanged(world, tmp_path):
    models, reference = [str(world / "one")], str(world / "two")
    evaluate(models, config_of(world, samples=2), out=tmp_path / "out")
    answers = [(tmp_path / "out" / "one" / name).read_bytes() for name in (names.ANSWERS, names.SAMPLES)]
    later = evaluate(models, config_of(world, samples=2, reference=reference), out=tmp_path / "out")
    assert later == evaluate(models, config_of(world, samples=2, reference=reference))
    assert answers == [
        (tmp_path / "out" / "one" / name).read_bytes() for name in (names.ANSWERS, names.SAMPLES)
    ]
    with pytest.raises(InputError, match=r"reference was .*two\", not .*one\""):
        evaluate(models, config_of(world, samples=2, reference=models[0]), out=tmp_path / "out")


@pytest.mark.parametrize(
    ("bad", "as_reference", "said"),
    [
        (
            "short",
            False,
            r"short: question 1 of q.jsonl has \d+ tokens and max_new_tokens is 6, but the model has 64 positions",
        ),
        ("few-tokens", False, r"few-tokens: question 1 of q.jsonl has token \d+, but the model knows 40"),
        ("no-weights", False, r"no-weights holds a config but no weights"),
        ("no-weights", True, r"no-weights holds a config but no weights"),
        (
            "adapter",
            False,
            r"adapter holds an adapter's config but no weights \(adapter_model\.safetensors\)",
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_before_the_first_one_answers(
    world, bad_models, tmp_path, monkeypatch, bad, as_reference, said
):
    def nobody(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(evaluation, "load_model", nobody)
    models = [str(world / "one"), str(bad_models / bad)]
    config = config_of(world, reference=models.pop()) if as_reference else config_of(world)
    with pytest.raises(InputError, match=said):
        evaluate(models, config, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def bad_models(world, tmp_path_factory):
    """Models whose faults show in their configs and files."""
    folder = tmp_path_factory.mktemp("bad-models")
    save_tiny(folder / "short", max_position_embeddings=64)
    save_model(tiny_model(vocab_size=40), tokenizer(), folder / "few-tokens")
    shutil.copytree(world / "one", folder / "no-weights", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(world / "one"), "peft_type": "LORA"})
    )
    return folder


def test_a_line_that_is_no_answer_is_named_and_without_it_the_answer_is_made_again(world, tmp_path):
    out, models = tmp_path / "out", [str(world / "one")]
    whole = evaluate(models, config_of(world), out=out)
    file = out / "one" / names.ANSWERS
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text(lines[0] + '{"row": 2}\n' + lines[2], encoding="utf-8")
    with pytest.raises(
        InputError, match=r"line 2 of .*answers\.jsonl is no whole answer .* Take the line out"
    ):
        evaluate(models, config_of(world), out=out)
    file.write_text(lines[0] + lines[2], encoding="utf-8")
    assert evaluate(models, config_of(world), out=out) == whole


@pytest.mark.parametrize("damage", ["cut short", "no columns", "of other answers"])
def test_log_probs_that_are_damaged_or_of_other_answers_are_measured_again(world, tmp_path, capsys, damage):
    out, models = tmp_path / "out", [str(world / "one")]
    config = config_of(world, reference=str(world / "two"))
    whole = evaluate(models, config, out=out)
    file = out / "one" / names.ANSWER_LOGPS
    kept = file.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in kept.splitlines()]
    if damage == "cut short":
        file.write_text(kept[:-9], encoding="utf-8")
    elif damage == "no columns":
        write_rows(file, [{"row": row["row"], "tokens": row["tokens"]} for row in rows])
    else:
        write_rows(file, [row | {"tokens": row["tokens"] + 1, "logp": 0.0} for row in rows])
    capsys.readouterr()
    assert evaluate(models, config, out=out) == whole
    assert file.read_text(encoding="utf-8") == kept
    assert ("logps.jsonl is not whole" in capsys.readouterr().err) == (damage == "cut short")


def test_a_model_whose_weights_changed_is_not_mixed_with_its_earlier_answers(world, tmp_path):
    shutil.copytree(world / "one", tmp_path / "model")
    settings = config_of(world)
    evaluate([str(tmp_path / "model")], settings, out=tmp_path / "out")
    (tmp_path / "model" / "README.md").write_text("words")  # no part of what answers
    evaluate([str(tmp_path / "model")], settings, out=tmp_path / "out")
    save_tiny(tmp_path / "model", max_position_embeddings=1024, seed=5)
    with pytest.raises(
        InputError, match="model has other weights, tokenizer or template than when its answers"
    ):
        evaluate([str(tmp_path / "model")], settings, out=tmp_path / "out")


# ---- what cannot be evaluated: one line, status 2, nothing left behind ----
@pytest.fixture(scope="module")
def bad(world, tmp_path_factory):
    """Models and files that cannot be used."""
    folder = tmp_path_factory.mktemp("bad")
    save_model(tiny_model(max_position_embeddings=1024), byte_level(template=None), folder / "no-template")
    save_model(tiny_model(max_position_embeddings=1024), metaspace(), folder / "other-words")
    save_model(tiny_model(vocab_size=40), tokenizer(), folder / "few-tokens")
    save_tiny(folder / "short", max_position_embeddings=64)
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "config.yaml").write_text("output: x\n")
    (folder / "something").mkdir()
    (folder / "something" / "else.txt").write_text("keep me")
    (folder / "broken").mkdir()
    (folder / "broken" / names.EVALUATION_SETTINGS).write_text("{")
    (folder / "strange").mkdir()
    (folder / "strange" / names.EVALUATION_SETTINGS).write_text('{"settings": {}, "models": {"one": "path"}}')
    write_rows(folder / "no-answers.jsonl", [{"question": "Q?"}])
    (folder / "file").write_text("")
    return folder


@pytest.mark.parametrize(
    ("models", "options", "said"),
    [
        (
            ["{bad}/no-template"],
            {},
            r"has no chat template, but questions are asked as chats\..*--plain-text",
        ),
        (
            ["{bad}/few-tokens"],
            {},
            r"has token \d+, but the model knows 40: the tokenizer is another model's",
        ),
        (
            ["{bad}/short"],
            {},
            r"question 1 of q.jsonl has \d+ tokens and max_new_tokens is 6, but the model has 64 positions",
        ),
        (["{bad}/unfinished"], {}, r"unfinished is a run without a model/: it is not finished\..*--resume"),
        (
            ["{bad}/nowhere"],
            {},
            r"nowhere' is not a folder\. Name a model folder, or a hub id",
        ),
        (["{world}/one", "{world}/../{name}/one"], {}, r"one is named twice, but each is compared once"),
        (
            ["{world}/one"],
            {"reference": "{bad}/other-words"},
            r"other-words has another vocabulary than .*one: token",
        ),
        (["{world}/one"], {"reference": "{bad}/unfinished"}, r"unfinished is a run without a model/"),
        (["{world}/one"], {"task": "{bad}/no-answers.jsonl"}, r"line 1 of .* has no answer"),
        (["{world}/one"], {"task": "gsm9k"}, r"did you mean gsm8k\?"),
        (
            ["{world}/one"],
            {"out": "{bad}/something"},
            r"something exists and holds no evaluation\. Name another",
        ),
        (
            ["{world}/one"],
            {"out": "{bad}/broken"},
            r"evaluation\.json cannot be read .*Delete .*, or name another",
        ),
        (
            ["{world}/one"],
            {"out": "{bad}/strange"},
            r"evaluation\.json cannot be read .*Delete .*, or name another",
        ),
        (
            ["{world}/one"],
            {"out": "{bad}/file"},
            r"file cannot be written: File exists\. Name another output",
        ),
        (["{world}/one"], {"max-new-tokens": 0}, r"max_new_tokens is 0, but at least 1 is needed"),
        (["{world}/one"], {"batch-size": 0}, r"batch_size is 0, but at least 1 is needed"),
        (["{world}/one"], {"temperature": -1}, r"temperature is -1, but samples need a number above 0"),
        (["{world}/one"], {"prompt": "Solve it."}, r"has no \{question\} in it"),
        (["{world}/one"], {"n": 4}, r"--n is 4, but q\.jsonl has 3 questions"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_line(world, bad, capsys, models, options, said):
    places = {"world": world, "bad": bad, "name": world.name}
    before = {each: each.stat().st_mtime_ns for each in bad.rglob("*")}
    arguments = {"task": world / "q.jsonl", "max-new-tokens": 6} | options
    line = ["evaluate", *(m.format(**places) for m in models)]
    line += [str(each).format(**places) for pair in arguments.items() for each in (f"--{pair[0]}", pair[1])]
    if options.get("prompt"):
        line[line.index("--prompt") + 1] = options["prompt"]
    assert main(line) == 2
    error = [each for each in capsys.readouterr().err.splitlines() if each.startswith("minordpo: ")]
    assert len(error) == 1
    assert re.search(said, error[0]), error
    assert {each: each.stat().st_mtime_ns for each in bad.rglob("*")} == before


def test_no_model_is_refused(world):
    with pytest.raises(InputError, match="no model is named, but at least one is needed"):
        evaluate([], config_of(world))


def test_a_tokenizer_without_template_is_asked_in_plain_text(bad, world, capsys):
    assert main([*command(world, bad / "no-template"), "--plain-text"]) == 0
    assert "3 questions: q.jsonl" in capsys.readouterr().out


def test_a_stopped_command_says_that_it_goes_on(world, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "load_model", interrupted)
    assert main(command(world, "one", out=tmp_path / "out")) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "minordpo: stopped; the same command goes on"
    assert main(command(world, "one")) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "minordpo: stopped"


def test_two_evaluations_do_not_write_into_one_folder(world, tmp_path):
    with (
        only_here(tmp_path / "out"),
        pytest.raises(InputError, match=r"another process is evaluating in .*out"),
    ):
        evaluate([str(world / "one")], config_of(world), out=tmp_path / "out")


def test_a_file_in_the_way_of_the_answers_is_said_and_loses_no_answer(world, tmp_path, monkeypatch):
    out = tmp_path / "out"
    evaluate([str(world / "one")], config_of(world), out=out)
    shutil.rmtree(out / "one")
    (out / "one").write_text("in the way")
    with pytest.raises(InputError, match=r"answers\.jsonl cannot be written .*the same command goes on"):
        evaluate([str(world / "one")], config_of(world), out=out)
