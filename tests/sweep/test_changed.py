"""What was changed, lost or damaged under a sweep: told in a line, with nothing deleted and nothing taken for whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.tiny_runs import write_config, write_rows
from helpers.tiny_sweeps import RUN, Pretended, pretend, swept, write_sweep
from minordpo.config import load_config
from minordpo.engine.identity import model_identity
from minordpo.errors import InputError
from minordpo.run_folder.ownership import claim, refuse_foreign
from minordpo.sweep.folder import SweepFolder
from minordpo.sweep.plan import load_plan


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return pretend(monkeypatch)


def test_a_run_whose_config_is_lost_is_neither_deleted_nor_run_again(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, grid={"seed": [0]})
    swept(tmp_path)
    run = tmp_path / "out" / "seed0"
    (run / "config.yaml").unlink()
    kept = sorted(each.name for each in run.iterdir())
    with pytest.raises(InputError, match=r"out/seed0 was trained, but its config.yaml is not there\. Put it"):
        swept(tmp_path)
    with pytest.raises(InputError, match=r"seed0 was begun with training\.max_steps 2, not 3"):
        swept(tmp_path, "run.training.max_steps=3")
    assert sorted(each.name for each in run.iterdir()) == kept
    assert pretended.done == ["seed0"]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("cost.json", '{"seconds": "long"}', "in another form than minordpo writes"),
        ("cost.json", '{"seconds"', "cost.json cannot be read"),
        ("config.yaml", "", "config.yaml is empty"),
        ("evaluation/results.json", "{}", "in another form than minordpo writes"),
    ],
)
def test_a_damaged_run_says_why_in_its_row_and_the_others_go_on(
    tmp_path: Path, pretended: Pretended, name: str, text: str, why: str
):
    write_sweep(tmp_path, grid={"seed": [0, 1]})
    swept(tmp_path, only="seed0")
    damaged = tmp_path / "out" / "seed0" / name
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_text(text)
    failed, said = swept(tmp_path)
    assert failed == 1
    assert pretended.done == ["seed0", "seed1"]
    (line,) = [each for each in said.splitlines() if each.startswith("seed0 cannot be read: ")]
    assert why in line
    results = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert [each.split(",")[:2] for each in results[1:]] == [["seed0", "unreadable"], ["seed1", "finished"]]


def test_questions_of_other_content_are_refused(tmp_path: Path, pretended: Pretended):
    questions = write_rows(tmp_path / "q.jsonl", [{"question": "1+1?", "answer": "2"}])
    write_sweep(tmp_path, grid={"seed": [0]}, evaluate={"task": str(questions)})
    swept(tmp_path)
    questions.touch()
    SweepFolder(tmp_path / "out").reconciled(load_plan(tmp_path / "s.yaml"))
    write_rows(questions, [{"question": "1+1?", "answer": "3"}])
    with pytest.raises(
        InputError, match=r"untuned model was evaluated with other content of .*q\.jsonl.* remove"
    ):
        swept(tmp_path)
    (tmp_path / "out" / "seed0" / "evaluation").mkdir()
    with pytest.raises(InputError, match=r"seed0 was evaluated with other content of .*q\.jsonl"):
        swept(tmp_path)


def test_answers_of_an_untuned_model_of_other_weights_are_refused(tmp_path: Path, pretended: Pretended):
    base, evaluate = tmp_path / "base", {"task": "problems", "n": 4}
    base.mkdir()
    (base / "config.json").write_text('{"weights": 1}')
    run = RUN | {"model": {"path": str(base)}}
    write_sweep(tmp_path, run=run, grid={"seed": [0]}, evaluate=evaluate)
    plan = load_plan(tmp_path / "s.yaml")
    asked = plan.untuned(plan.runs[0])
    assert asked is not None
    folder = SweepFolder(plan.output)
    plan.output.mkdir()
    folder.begin(plan)
    (asked[0] / "base").mkdir(parents=True)
    (asked[0] / "base" / "answers.jsonl").write_text("")
    models = {"base": {"path": str(base), "identity": model_identity(str(base))}}
    (asked[0] / "evaluation.json").write_text(json.dumps({"settings": {}, "models": models}))
    assert folder.reconciled(plan).runs == plan.runs
    (base / "config.json").write_text('{"weights": 2}')
    with pytest.raises(
        InputError, match=r"has answers of .*base as it was, .* Remove .*untuned.*asked again"
    ):
        folder.reconciled(plan)


def test_a_run_is_known_in_a_folder_that_was_moved(tmp_path: Path):
    file = write_config(tmp_path / "r.yaml", base=tmp_path, pairs=tmp_path / "p", output=tmp_path / "run")
    config = load_config(file, [])
    claim(tmp_path / "run", config, {})
    (tmp_path / "run").rename(tmp_path / "moved")
    assert refuse_foreign(tmp_path / "moved", replace(config, output=str(tmp_path / "moved")), True)
