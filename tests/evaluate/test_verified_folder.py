"""What an evaluation with a verifier keeps: going on, other verifiers, further models, and what is refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from helpers import own_verifiers
from helpers.judges import Sent, running
from helpers.scripted_answers import script
from helpers.small_evaluations import command, config_of, make_world
from helpers.tiny_runs import RENAMED, write_rows
from minordpo.cli import main
from minordpo.errors import InputError
from minordpo.evaluate.evaluation import evaluate
from minordpo.evaluate.kl_plot import kl_figure
from minordpo.evaluate.tables import markdown, table
from minordpo.run_folder import names
from minordpo.verify.verifier import load_verifier

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]
ROWS = [{"prompt": text} for text in ("one", "two", "three", "four")]
ANSWERS = {
    "one": ["aa", "b", "cc", "same"],
    "two": ["a", "bb", "cc", "same"],
    "three": ["aa", "bbb", "d", "x"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """No test writes into it."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    write_rows(folder / "prompts.jsonl", ROWS)
    shutil.copytree(folder / "two", folder / "three")
    return folder


@pytest.fixture(autouse=True)
def loaded(tmp_path, monkeypatch):
    """The names of the models that were loaded."""
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    own_verifiers.calls.clear()
    return script(monkeypatch, ANSWERS)


def verified(world, verifier, *models, out, task="prompts.jsonl", **settings):
    config = config_of(world, task=str(world / task), **{"prompt": "{question}"} | settings)
    found = load_verifier(verifier, allow_code=True) if isinstance(verifier, str) else verifier
    results = evaluate([str(world / name) for name in models], config, verifier=found, out=out)
    for shown in (table(results), markdown(results)):  # whatever was measured can be shown
        assert f"scored by {found.spec[:8]}" in shown
    return results


def judge_of(url, mode="pairwise"):
    return load_verifier(
        f"judge:{url}",
        allow_code=False,
        judge_model="m",
        judge_mode=mode,
        judge_concurrency=1,
        judge_retries=0,
    )


def lines_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def contents(folder):
    return {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}


EVEN = "helpers.own_verifiers:even"


def test_equal_answers_are_asked_about_once_and_every_model_keeps_its_verdicts(world, tmp_path):
    verified(world, EVEN, "one", "two", out=tmp_path / "out")
    assert sorted(own_verifiers.calls) == ["a", "aa", "b", "bb", "cc", "same"]
    for label in ("one", "two"):
        rows = {row["row"]: row for row in lines_of(tmp_path / "out" / label / names.VERDICTS)}
        assert [rows[i]["passed"] for i in (1, 2, 3, 4)] == [len(each) % 2 == 0 for each in ANSWERS[label]]
    kept = json.loads((tmp_path / "out" / names.EVALUATION_SETTINGS).read_text(encoding="utf-8"))
    assert kept["verifier"]["spec"] == kept["verifier"]["function"] == EVEN


def test_nothing_is_scored_twice_and_further_models_are_added(world, tmp_path, loaded):
    out = tmp_path / "out"
    first = verified(world, EVEN, "one", out=out)
    asked = len(own_verifiers.calls)
    assert verified(world, EVEN, "one", out=out) == first
    assert (len(own_verifiers.calls), loaded) == (asked, ["one"])
    both = verified(world, EVEN, "one", "two", out=out)
    assert own_verifiers.calls[asked:] == ["a", "bb"]  # the others are answers of the first model too
    assert loaded == ["one", "two"]
    assert both["models"]["one"] == first["models"]["one"]
    assert both == verified(world, EVEN, "one", "two", out=tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    assert whole[tmp_path / "whole" / names.RESULTS] == (out / names.RESULTS).read_bytes()


def test_a_killed_verifier_goes_on_with_what_has_no_verdict(world, tmp_path, loaded):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"no threes.*for an answer to row 3 of \S+prompts\.jsonl"):
        verified(world, "helpers.own_verifiers:fails_on_third", "one", "two", out=out)
    assert not (out / names.RESULTS).exists()
    kept = lines_of(out / "one" / names.VERDICTS)
    assert [row["row"] for row in kept] == [1, 2]
    with (out / "one" / names.VERDICTS).open("a") as file:
        file.write('{"row": 3, "score": 1')  # as a kill within a write leaves it
    own_verifiers.calls.clear()
    with pytest.raises(InputError, match="no threes"):
        verified(world, "helpers.own_verifiers:fails_on_third", "one", "two", out=out)
    assert own_verifiers.calls == []
    assert lines_of(out / "one" / names.VERDICTS) == kept
    assert loaded == ["one", "two"]


def test_another_verifier_scores_the_kept_answers_anew_without_a_model(world, tmp_path, loaded, capsys):
    out = tmp_path / "out"
    before = verified(world, EVEN, "one", "two", out=out)
    capsys.readouterr()
    results = verified(world, "regex:^a", "one", "two", out=out)
    assert f"the answers were scored by {EVEN} before; regex:^a scores them anew" in capsys.readouterr().err
    assert loaded == ["one", "two"]
    assert results["verifier"]["pattern"] == "^a"
    assert results["models"]["two"]["verified"]["passed"]["count"] == 1
    assert len(lines_of(out / "two" / names.VERDICTS)) == 4
    assert {row["note"] for row in lines_of(out / "two" / names.VERDICTS)} == {"a", None}
    assert verified(world, EVEN, "one", "two", out=out) == before


def test_a_verifier_that_refuses_leaves_the_verdicts_of_another(world, tmp_path, loaded):
    out = tmp_path / "out"
    verified(world, EVEN, "one", out=out)
    before = contents(out)
    with pytest.raises(InputError, match=r"^rows 1, 2, 3, 4 of \S+prompts\.jsonl have no right answer, but"):
        verified(world, "number", "one", out=out)
    assert contents(out) == before
    loaded.clear()
    with pytest.raises(InputError, match=r"^rows 1, 2, 3, 4 of \S+prompts\.jsonl have no right answer, but"):
        verified(world, "number", "one", out=tmp_path / "new")
    assert loaded == []
    assert not (tmp_path / "new").exists()


def test_what_a_verifier_is_given_is_told_apart_too(world, tmp_path, capsys):
    for level in (1, 2):
        write_rows(tmp_path / "prompts.jsonl", [{**row, "level": level} for row in ROWS])
        shutil.copytree(world / "one", tmp_path / "one", dirs_exist_ok=True)
        verified(tmp_path, EVEN, "one", out=tmp_path / "out")
    assert (
        f"by {EVEN} before, but its settings, its code or what it is given was another"
        in capsys.readouterr().err
    )
    assert len(own_verifiers.calls) == 8


def test_answers_without_a_verifier_are_as_they_were(world, tmp_path, loaded):
    out, config = tmp_path / "out", config_of(world)
    models = [str(world / "one"), str(world / "two")]
    evaluate(models, config, out=out)
    plain = contents(out)
    assert "verif" not in (out / names.RESULTS).read_text(encoding="utf-8")
    evaluate(models, config, verifier=load_verifier("number", allow_code=False), out=out)
    assert loaded == ["one", "two"]
    assert "verifier" in (out / names.RESULTS).read_text(encoding="utf-8")
    evaluate(models, config, out=out)
    after = contents(out)
    settings = out / names.EVALUATION_SETTINGS
    assert json.loads(after.pop(settings))["verifier"]["spec"] == "number"  # of the verdicts that are kept
    assert {file: after[file] for file in plain if file != settings} == {
        file: content for file, content in plain.items() if file != settings
    }


def longer(asked):
    """Prefers the longer answer, or gives it the higher score."""
    texts = re.findall(r"Answer(?: [AB])?:\n```+\n(.*?)\n```", asked.text, re.DOTALL)
    if len(texts) == 1:
        return f"Score: {len(texts[0])}"
    first, second = map(len, texts)
    return f"Better: {'A' if first > second else 'B' if second > first else 'tie'}"


@pytest.mark.parametrize(("mode", "requests"), [("score", 6), ("pairwise", 4)])
def test_a_judge_that_goes_down_half_way_is_asked_for_the_rest_alone(world, tmp_path, loaded, mode, requests):
    out, up = tmp_path / "out", [4]

    def half_way(asked):
        up[0] -= 1
        return longer(asked) if up[0] >= 0 else Sent(status=404)

    with running(half_way) as judge:
        with pytest.raises(InputError, match=r"gave no verdict on an answer to row \d of .*are kept"):
            verified(world, judge_of(judge.url, mode), "one", "two", out=out)
        before = lines_of(out / "one" / names.VERDICTS)
        assert before
        up[0] = 100
        judge.asked.clear()
        results = verified(world, judge_of(judge.url, mode), "one", "two", out=out)
        assert (
            len(judge.asked) == requests - 3
        )  # three were answered, and the one that asks whether it is there
        assert lines_of(out / "one" / names.VERDICTS)[: len(before)] == before
        judge.asked.clear()
        shutil.rmtree(tmp_path / "cache")  # on another machine: the folder alone is enough
        assert verified(world, judge_of(judge.url, mode), "one", "two", out=out) == results
        assert judge.asked == []
    assert verified(world, judge_of(judge.url, mode), "one", "two", out=out) == results  # the judge is gone
    assert loaded == ["one", "two"]
    (row,) = results["verified_comparisons"]
    assert (row["better"], row["same"], row["worse"]) == (1, 2, 1)


def test_comparisons_are_kept_whichever_model_is_the_first_and_whatever_is_added(world, tmp_path):
    out = tmp_path / "out"
    with running(longer) as judge:
        found = judge_of(judge.url)
        results = verified(world, found, "one", "two", out=out)
        asked = len(judge.asked)
        turned = verified(world, found, "two", "one", out=out)
        assert len(judge.asked) == asked
        rates = [each["verified_comparisons"][0]["share"] for each in (results, turned)]
        assert rates == [0.5, 0.5]
        three = verified(world, found, "one", "two", "three", out=out)
        # Equal answers ask nothing: of three others than one's, each in both orders.
        assert len(judge.asked) == asked + 2 * 3
    assert three["models"]["two"] == results["models"]["two"]
    against = [row["against"] for row in lines_of(out / "one" / names.VERDICTS)]
    assert (against.count("two"), against.count("three")) == (2, 3)


def test_a_damaged_verdict_is_named_and_asked_for_once_it_is_gone(world, tmp_path):
    out = tmp_path / "out"
    verified(world, EVEN, "one", out=out)
    file = out / "one" / names.VERDICTS
    first, *others = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text('{"row": 1, "score": "much"}\n' + "".join(others), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"^line 1 of .*verdicts\.jsonl is no whole verdict .*Take the line out"
    ):
        verified(world, EVEN, "one", out=out)
    file.write_text("".join(others), encoding="utf-8")
    own_verifiers.calls.clear()
    verified(world, EVEN, "one", out=out)
    assert len(own_verifiers.calls) == 1
    assert lines_of(file)[-1] == json.loads(first)


def test_an_answer_that_is_made_again_does_not_get_the_verdict_of_the_one_before(
    world, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    verified(world, EVEN, "one", out=out)
    file = out / "one" / names.ANSWERS
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    script(monkeypatch, ANSWERS | {"one": ["odd", "b", "cc", "same"]})
    results = verified(world, EVEN, "one", out=out)
    assert results["models"]["one"]["verified"]["passed"]["count"] == 2
    assert own_verifiers.calls[-1] == "odd"


def test_the_command_says_what_it_will_take_before_it_begins(world, tmp_path, capsys):
    with running(longer) as judge:
        options = {"task": world / "prompts.jsonl", "verify": f"judge:{judge.url}", "judge-model": "m"}
        line = command(world, "one", "two", out=tmp_path / "out", **options, **{"judge-mode": "pairwise"})
        assert main(line) == 0
    said = capsys.readouterr()
    assert f"judge: at most 8 requests at {judge.url}" in said.err
    assert re.search(r"model +win rate +won +tied +lost +stops", said.out)
    assert re.search(r"one +– +– +– +–", said.out)
    assert re.search(r"two +50\.0% \[.*\] +1 +2 +1 ", said.out)
    assert f"scored by judge:{judge.url} (m, pairwise)" in said.out


def test_reward_against_kl_is_drawn_of_what_a_verifier_says(tmp_path):
    kl = {"per_sequence": 3.0, "per_sequence_error": None, "cut": 0.0}
    scored = {"score": {"mean": 4.5, "low": None, "high": None}, "passed": None}
    results = {"models": {"one": {"samples": {"kl": kl, "verified": scored}}}}
    assert kl_figure(results, tmp_path / names.KL_FIGURE)
    assert b"Mean score" in (tmp_path / "kl.svg").read_bytes()
    results["models"]["one"]["samples"]["verified"] = {}
    assert not kl_figure(results, tmp_path / "none.png")
