"""Sampling with tiny models: the files, resuming, scoring anew, pairing anew, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest

from helpers import own_verifiers
from helpers.short_answers import save_short_answers
from helpers.tiny_runs import RENAMED, write_rows
from minordpo.cli import main
from minordpo.data.read.examples import load_examples
from minordpo.errors import InputError
from minordpo.onpolicy import sample_files, sampling
from minordpo.onpolicy.pairing import PairingOptions
from minordpo.onpolicy.sample_files import SampleFiles
from minordpo.onpolicy.sampling import SamplingConfig, sample
from minordpo.verify.verifier import load_verifier

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]
PROMPTS = [{"prompt": text, "answer": "7"} for text in ("one", "two and two", "three and more of it")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two models and a file of prompts; no test writes into it."""
    folder = tmp_path_factory.mktemp("world")
    for steps, name in ((40, "one"), (30, "two")):
        save_short_answers(folder / name, [row["prompt"] for row in PROMPTS], steps=steps)
    write_rows(folder / "prompts.jsonl", PROMPTS)
    return folder


def config(world, **options):
    defaults = {"prompts": str(world / "prompts.jsonl"), "samples": 4, "max_new_tokens": 8}
    return SamplingConfig(**{**defaults, **options})


@pytest.fixture
def verifier():
    own_verifiers.calls.clear()
    return load_verifier("helpers.own_verifiers:even", allow_code=True)


def draw(world, out, verifier, *models, pairing=None, **options):
    batch_size = options.pop("batch_size", 4)
    pairing = pairing or PairingOptions(kind="all")
    return sample(
        [str(world / each) for each in models or ("one",)],
        config(world, **options),
        verifier,
        pairing,
        out,
        batch_size=batch_size,
    )


def answers_of(out):
    file = SampleFiles(out).answers
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def content(out):
    return [(row["row"], row["model"], row["sample"], row["token_ids"]) for row in answers_of(out)]


def test_the_files_hold_every_answer_with_its_score_and_pairs_that_load(world, tmp_path, verifier):
    out = tmp_path / "pairs.jsonl"
    summary = draw(world, out, verifier)
    rows = answers_of(out)
    assert [(row["row"], row["sample"]) for row in rows] == [(r, s) for r in (1, 2, 3) for s in range(4)]
    assert all(row["score"] == float(len(row["answer"]) % 2 == 0) for row in rows)
    pairs = load_examples(str(out))
    assert pairs.kind == "pairs"
    assert len(pairs.examples) == summary.facts["rows"] > 0
    score = {(PROMPTS[row["row"] - 1]["prompt"], row["answer"]): row["score"] for row in rows}
    for pair in pairs.examples:
        assert [score[pair.prompt, text] for text in pair.responses] == [1.0, 0.0]
    report = json.loads(SampleFiles(out).report.read_text(encoding="utf-8"))
    assert report["models"]["one"]["answers"] == 12
    assert report["models"]["one"]["pass_rate"] == pytest.approx(sum(row["score"] for row in rows) / 12)


def test_neither_the_batch_size_nor_another_model_beside_changes_an_answer(world, tmp_path, verifier):
    for name, models, batch in (("a", ("one",), 1), ("b", ("one",), 12), ("c", ("two", "one"), 5)):
        draw(world, tmp_path / f"{name}.jsonl", verifier, *models, batch_size=batch)
    first, second, third = (content(tmp_path / f"{name}.jsonl") for name in "abc")
    assert first == second == [row for row in third if row[1] == "one"]
    assert len(third) == 24


def test_a_killed_sampling_goes_on_to_the_same_files(world, tmp_path, verifier, monkeypatch):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    draw(world, whole, verifier)
    stream, made = sampling.stream_answers, []

    def killed(*arguments, **options):
        for answer in stream(*arguments, **options):
            if len(made) == 5:
                raise KeyboardInterrupt
            made.append(answer)
            yield answer

    monkeypatch.setattr(sampling, "stream_answers", killed)
    with pytest.raises(KeyboardInterrupt):
        draw(world, cut, verifier)
    assert not cut.exists()
    assert len(answers_of(cut)) == 5
    monkeypatch.setattr(sampling, "stream_answers", stream)
    draw(world, cut, verifier)
    assert cut.read_bytes() == whole.read_bytes()
    assert SampleFiles(cut).answers.read_bytes() == SampleFiles(whole).answers.read_bytes()


def test_nothing_is_made_twice_and_pairs_can_be_made_anew(world, tmp_path, verifier, monkeypatch):
    out = tmp_path / "pairs.jsonl"
    draw(world, out, verifier)
    before, asked = out.read_bytes(), len(own_verifiers.calls)
    monkeypatch.setattr(sampling, "load_model", None)
    draw(world, out, verifier)
    assert out.read_bytes() == before
    draw(world, out, verifier, pairing=PairingOptions(format="labelled"))
    assert load_examples(str(out)).kind == "labelled"
    assert len(own_verifiers.calls) == asked


def test_more_samples_and_more_prompts_go_on_from_those_that_are_there(world, tmp_path, verifier):
    grown, at_once = tmp_path / "grown.jsonl", tmp_path / "once.jsonl"
    draw(world, grown, verifier, samples=2, limit=2)
    draw(world, grown, verifier)
    draw(world, at_once, verifier)
    assert grown.read_bytes() == at_once.read_bytes()
    assert content(grown) == content(at_once)


def test_another_verifier_scores_the_same_answers_anew(world, tmp_path, verifier, monkeypatch, capsys):
    out = tmp_path / "pairs.jsonl"
    draw(world, out, verifier)
    before = content(out)
    monkeypatch.setattr(sampling, "load_model", None)
    with pytest.raises(InputError, match="would have no rows"):
        draw(world, out, load_verifier("number", allow_code=False))
    assert "scores them anew" in capsys.readouterr().out
    assert content(out) == before
    assert {row["score"] for row in answers_of(out)} == {0.0}


def test_scores_that_came_before_a_failing_row_are_kept(world, tmp_path, verifier):
    out = tmp_path / "pairs.jsonl"
    broken = load_verifier("helpers.own_verifiers:fails_on_third", allow_code=True)
    with pytest.raises(InputError, match=r"no threes, for an answer to row 3"):
        draw(world, out, broken)
    assert len(own_verifiers.calls) == 8
    with pytest.raises(InputError, match="row 3"):
        draw(world, out, broken)
    assert len(own_verifiers.calls) == 8  # the first two prompts are not scored again


def test_a_verifier_that_scores_everything_alike_is_named(world, tmp_path, capsys):
    alike = load_verifier("helpers.own_verifiers:alike", allow_code=True)
    out = tmp_path / "pairs.jsonl"
    with pytest.raises(InputError, match="would have no rows"):
        draw(world, out, alike)
    assert "every answer has the score 0.5" in capsys.readouterr().out
    assert not out.exists()
    assert len(answers_of(out)) == 12


def test_pairs_from_one_model_to_another(world, tmp_path, verifier):
    out = tmp_path / "pairs.jsonl"
    options = PairingOptions(kind="all", pair_from=(str(world / "two"), "one"))
    draw(world, out, verifier, "one", "two", pairing=options)
    by_text = {(row["row"], row["answer"]): set() for row in answers_of(out)}
    for row in answers_of(out):
        by_text[row["row"], row["answer"]].add(row["model"])
    pairs = load_examples(str(out)).examples
    rows = {each["prompt"]: number for number, each in enumerate(PROMPTS, 1)}
    assert pairs
    for pair in pairs:
        chosen, rejected = (by_text[rows[pair.prompt], text] for text in pair.responses)
        assert "two" in chosen
        assert "one" in rejected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 0}, "--samples is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"max_new_tokens": 99999}, "positions"),
        ({"prompt": "no place"}, r"no \{question\}"),
        ({"prompts": "nowhere.jsonl"}, "does not exist"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(world, tmp_path, verifier, options, said):
    with pytest.raises(InputError, match=said):
        draw(world, tmp_path / "pairs.jsonl", verifier, **options)
    assert not any(tmp_path.iterdir())


def test_other_settings_than_those_of_the_answers_are_refused(world, tmp_path, verifier):
    out = tmp_path / "pairs.jsonl"
    draw(world, out, verifier)
    before = out.read_bytes()
    for other in ({"seed": 1}, {"temperature": 0.5}, {"max_new_tokens": 9}):
        with pytest.raises(InputError, match="other settings: " + next(iter(other))):
            draw(world, out, verifier, **other)
    shutil.copytree(world, tmp_path / "world")
    write_rows(tmp_path / "world" / "prompts.jsonl", [*PROMPTS[:2], {"prompt": "other", "answer": "7"}])
    with pytest.raises(InputError, match="holds answers to other prompts"):
        draw(tmp_path / "world", out, verifier)
    assert out.read_bytes() == before


def test_answers_of_another_backend_are_refused_and_an_earlier_version_s_are_those_of_transformers(
    world, tmp_path, verifier
):
    out = tmp_path / "pairs.jsonl"
    draw(world, out, verifier)
    settings = SampleFiles(out).settings
    kept = json.loads(settings.read_text(encoding="utf-8"))
    assert kept["settings"].pop("backend") == "transformers"
    settings.write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(InputError, match='backend was "transformers", not "vllm"'):
        draw(world, out, verifier, backend="vllm")
    draw(world, out, verifier)


def test_a_backend_whose_program_is_missing_is_refused(world, tmp_path, verifier, monkeypatch):
    monkeypatch.setenv("MINORDPO_VLLM", str(tmp_path / "vllm"))
    with pytest.raises(InputError, match=r"MINORDPO_VLLM names .*vllm, which is no program"):
        draw(world, tmp_path / "pairs.jsonl", verifier, backend="vllm")
    with pytest.raises(InputError, match="--backend is 'other', but it is one of transformers, vllm"):
        draw(world, tmp_path / "pairs.jsonl", verifier, backend="other")
    with pytest.raises(InputError, match=r"temperature is 0\.001, but vLLM draws at 0\.01 at least"):
        draw(world, tmp_path / "pairs.jsonl", verifier, backend="vllm", temperature=0.001)


def test_a_file_of_somebody_else_is_not_replaced(world, tmp_path, verifier):
    out = tmp_path / "pairs.jsonl"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        draw(world, out, verifier)
    assert out.read_text() == "mine"
    with pytest.raises(InputError, match="does not end in"):
        draw(world, tmp_path / "pairs.csv", verifier)
    with pytest.raises(InputError, match="there is no folder"):
        draw(world, tmp_path / "missing" / "pairs.jsonl", verifier)


def test_two_processes_do_not_sample_to_one_file_but_to_two(world, tmp_path, verifier):
    with sample_files.alone(SampleFiles(tmp_path / "a.jsonl")):
        with pytest.raises(InputError, match="another process is sampling"):
            draw(world, tmp_path / "a.jsonl", verifier)
        draw(world, tmp_path / "b.jsonl", verifier)
    assert not [*tmp_path.glob(".*")]


def test_pair_from_must_name_models(world, tmp_path, verifier):
    with pytest.raises(InputError, match="--pair-from names three"):
        draw(world, tmp_path / "p.jsonl", verifier, pairing=PairingOptions(pair_from=("three", "one")))


def test_a_model_that_pair_from_does_not_name_is_refused_before_it_answers(world, tmp_path, verifier):
    options = PairingOptions(pair_from=("one", "two"))
    save_short_answers(tmp_path / "three", ["one"], steps=1)
    with pytest.raises(InputError, match=r"so those of .*three would be of no use"):
        draw(world, tmp_path / "p.jsonl", verifier, "one", "two", tmp_path / "three", pairing=options)
    assert not own_verifiers.calls


@pytest.mark.parametrize("spec", ["reward:{}", "judge:http://127.0.0.1:9"])
def test_labels_of_scores_alone_need_a_threshold_before_anything_is_scored(world, tmp_path, spec):
    options = {"judge_model": "m"} if spec.startswith("judge") else {}
    scores = load_verifier(spec.format(world / "one"), allow_code=False, **options)
    with pytest.raises(InputError, match="only gives scores, but labelled answers are desirable or not"):
        draw(world, tmp_path / "p.jsonl", scores, pairing=PairingOptions(format="labelled"))
    assert [*tmp_path.iterdir()] == []


def test_a_prompt_that_leaves_no_room_is_named_by_its_row(world, tmp_path, verifier):
    long = {"prompt": "one " * 2000}
    (tmp_path / "prompts.jsonl").write_text(
        f"{json.dumps(PROMPTS[0])}\n\n{json.dumps(PROMPTS[0])}\n{json.dumps(long)}\n", encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"row 4 of .*prompts\.jsonl has .* tokens and max_new_tokens is 8"):
        draw(world, tmp_path / "p.jsonl", verifier, prompts=str(tmp_path / "prompts.jsonl"))


def test_right_answers_are_needed_where_they_are_compared(world, tmp_path, verifier):
    write_rows(tmp_path / "prompts.jsonl", [{"prompt": "one"}])
    with pytest.raises(InputError, match=r"row 1 of \S+prompts\.jsonl has no right answer"):
        draw(
            world,
            tmp_path / "p.jsonl",
            load_verifier("number", allow_code=False),
            prompts=str(tmp_path / "prompts.jsonl"),
        )


def test_the_command_writes_the_pairs_and_says_what_came_of_them(world, tmp_path, capsys):
    out = tmp_path / "pairs.jsonl"
    arguments = ["data", "sample", str(world / "one"), "--prompts", str(world / "prompts.jsonl")]
    arguments += ["--verify", "helpers.own_verifiers:even", "--allow-code", "--samples", "4"]
    arguments += ["--max-new-tokens", "8", "--pairs", "all", "--out", str(out)]
    code = main(arguments)
    said = capsys.readouterr().out
    assert code == 0
    assert "3 prompts" in said
    assert f"{out}: {len(load_examples(str(out)).examples)} rows" in said


def test_the_command_refuses_code_that_is_not_allowed(world, tmp_path, capsys):
    arguments = ["data", "sample", str(world / "one"), "--prompts", str(world / "prompts.jsonl")]
    arguments += ["--verify", "helpers.own_verifiers:even", "--out", str(tmp_path / "p.jsonl")]
    assert main(arguments) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_another_column_for_a_function_scores_the_answers_anew(world, tmp_path, monkeypatch, capsys):
    (tmp_path / "column_checks.py").write_text(
        "def short(prompt, answer, *, right, facts):\n    return len(answer) < facts['limit']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own, out, prompts = (
        load_verifier("column_checks:short", allow_code=True),
        tmp_path / "pairs.jsonl",
        tmp_path / "prompts.jsonl",
    )
    for limit in (3, 4):
        write_rows(prompts, [{**row, "limit": limit} for row in PROMPTS])
        draw(world, out, own, prompts=str(prompts), samples=8)
        assert all(row["passed"] == (len(row["answer"]) < limit) for row in answers_of(out))
    assert "a column that it is given was another" in capsys.readouterr().out


def test_other_prompts_beside_the_answers_are_refused_in_words(world, tmp_path, verifier):
    out, prompts = tmp_path / "pairs.jsonl", tmp_path / "prompts.jsonl"
    write_rows(prompts, PROMPTS[:2])
    draw(world, out, verifier, prompts=str(prompts))
    write_rows(prompts, PROMPTS)
    with pytest.raises(InputError, match="holds answers to other prompts"):
        draw(world, out, verifier, prompts=str(prompts))


def test_calls_are_foretold_only_where_answers_have_no_score(world, tmp_path, verifier, capsys):
    out = tmp_path / "pairs.jsonl"
    draw(world, out, verifier, limit=2)
    assert "8 calls" in capsys.readouterr().out
    draw(world, out, verifier)
    assert "4 calls" in capsys.readouterr().out
    draw(world, out, verifier)
    assert "calls" not in capsys.readouterr().out


def test_a_repeated_prompt_with_another_right_answer_is_warned_of(world, tmp_path, verifier):
    prompts = tmp_path / "prompts.jsonl"
    write_rows(prompts, [*PROMPTS, PROMPTS[0], {**PROMPTS[1], "answer": "8"}])
    facts = draw(world, tmp_path / "pairs.jsonl", verifier, prompts=str(prompts)).facts
    assert (facts["prompts"]["repeated"], facts["prompts"]["contradicted"]) == (2, 1)
    assert any("1 rows have a prompt that stood before" in each for each in facts["warnings"])


def test_pairs_from_a_model_to_itself_are_refused(world, tmp_path, verifier):
    options = PairingOptions(pair_from=(str(world / "two"), "two"))
    with pytest.raises(InputError, match=r"names the model .*two twice"):
        draw(world, tmp_path / "pairs.jsonl", verifier, "one", "two", pairing=options)


def test_rows_of_an_earlier_start_are_named_where_none_came(world, tmp_path, verifier):
    out = tmp_path / "pairs.jsonl"
    draw(world, out, verifier)
    with pytest.raises(InputError, match="still holds the rows of an earlier start"):
        draw(world, out, load_verifier("helpers.own_verifiers:alike", allow_code=True))


def test_a_cut_answer_is_never_desirable_nor_ranked(world, tmp_path, verifier):
    out = tmp_path / "pairs.jsonl"
    options = PairingOptions(format="labelled", unfinished=True)
    made = draw(world, out, verifier, pairing=options, max_new_tokens=2, samples=16)
    answers = answers_of(out)
    cut = {(PROMPTS[row["row"] - 1]["prompt"], row["answer"]) for row in answers if not row["stopped"]}
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {row["label"] for row in rows if (row["prompt"], row["completion"]) in cut} <= {False}
    assert any(row["passed"] and not row["stopped"] for row in answers)
    assert made.facts["left_out"]["cut by the length limit"] > 0


@pytest.mark.parametrize("wrong", [{"answer": 5}, {"score": float("nan")}, {"tokens": "3"}])
def test_an_answer_of_a_wrong_type_is_named_with_its_line(world, tmp_path, verifier, wrong):
    out = tmp_path / "pairs.jsonl"
    draw(world, out, verifier)
    rows = answers_of(out)
    rows[1] |= wrong
    SampleFiles(out).answers.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2 of .* is no whole answer"):
        draw(world, out, verifier)
