"""A study of loops on a toy world whose base is hardly trained: what loops share, the arms, the tables."""

from __future__ import annotations

import csv
import importlib.util
import json

import pytest
import yaml

from helpers.places import ROOT
from helpers.tiny_runs import RENAMED
from minordpo.cli import main
from minordpo.errors import InputError
from minordpo.onpolicy.loop import loop as loops
from minordpo.paper.loops import one as one_loop
from minordpo.paper.loops import tables
from minordpo.paper.loops.one import run_one
from minordpo.paper.loops.study import StudyLoop, load_study, loops_of
from minordpo.run_folder import names
from minordpo.verify.verifier import load_verifier

pytestmark = [pytest.mark.filterwarnings(each) for each in (*RENAMED, "ignore::DeprecationWarning")]
RECIPE = ROOT / "recipes" / "paper" / "loops" / "micro.yaml"


def study_file(folder, **changes):
    """A study of hours as one of seconds, of a base that has hardly been trained."""
    values = {
        "world": {"base_steps": 2, "base_accuracy": None},
        "tuning_seeds": [1],
        "seeds": [2, 3],
        "prompts": 4,
        "loop": {
            "rounds": 1,
            "sampling": {"samples": 2, "max_new_tokens": 8, "prompts_per_round": 4, "plain_text": True},
            "pairs": {"unfinished": True},
            "evaluate": {"n": 3, "samples": 2, "prompt": "{question}\n"},
            "stop": {"least_pairs": 1},
            "run": {
                "training": {"max_steps": 1, "per_device_train_batch_size": 2, "use_cpu": True},
                "samples": {"prompts": 0},
                "monitor": {"enabled": False},
            },
        },
        "arms": {
            "minordpo": {"objective": {"name": "minordpo"}, "rates": [1e-4, 1e-3], "rate": 1e-4},
            "sft": {"objective": {"name": "sft"}, "rates": [1e-4], "rate": 1e-3, "seeds": 1},
            "rloo": {"by": "rloo", "beta": 0.05, "rates": [1e-4], "rate": 1e-4},
        },
        "contrasts": ["sft"],
        "output": str(folder / "out"),
        **changes,
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@pytest.fixture
def contrast(monkeypatch):
    """Half of what an untrained model writes is right."""

    def even(*_, **__):
        return load_verifier("helpers.own_verifiers:even", allow_code=True)

    for module in (one_loop, loops):
        monkeypatch.setattr(module, "load_verifier", even)


def one(study, arm, *, seed=2, phase="decide", rate=1e-4):
    return StudyLoop(study=study, phase=phase, arm_name=arm, seed=seed, rate=rate)


def test_the_recipe_is_a_study_whose_loops_are_all_valid():
    study = load_study(RECIPE, [])
    tuning = [*loops_of(study, "tune")]
    assert len({each.name for each in tuning}) == len(tuning) == 2 * 3 * 9
    for each in tuning:
        config = each.config()
        assert config.rounds == 1
        assert config.evaluation().samples == 0
        assert config.evaluation().task.endswith("validation.jsonl")
        assert config.training("m", RECIPE, RECIPE).training.arguments["learning_rate"] == each.rate
    rates = [f"arms.{name}.rate=1e-4" for name in study.arms]
    deciding = [*loops_of(load_study(RECIPE, rates), "decide")]
    assert len(deciding) == 8 * 5 + 3 * 4
    assert {each.config().evaluation().task.rpartition("/")[2] for each in deciding} == {"test.jsonl"}
    assert not {each.world for each in deciding} & {each.world for each in tuning}
    with pytest.raises(InputError, match="rate is not set"):
        [*loops_of(study, "decide")]


def test_an_arm_has_an_objective_or_is_rloo(tmp_path):
    for arm in (
        {"rates": [1e-4]},
        {"rates": [1e-4], "by": "rloo"},
        {"rates": [1e-4], "objective": {"name": "dpo"}, "beta": 1.0},
    ):
        with pytest.raises(InputError, match="needs an objective, or by=rloo"):
            load_study(study_file(tmp_path, arms={"x": arm}, contrasts=[]), [])
    with pytest.raises(InputError, match="no arm sfd"):
        load_study(study_file(tmp_path, contrasts=["sfd"]), [])


def test_loops_of_a_seed_begin_with_the_same_answers_and_the_base_answers_once(tmp_path, contrast):
    study = load_study(study_file(tmp_path), [])
    first, second = one(study, "minordpo"), one(study, "sft", rate=1e-3)
    for each in (first, second):
        run_one(each)
    files = [each.folder / "pairs" / "round-1.answers.jsonl" for each in (first, second)]
    assert files[0].read_bytes() == files[1].read_bytes()
    base = [each.folder / names.EVALUATION / "base" / names.SAMPLES for each in (first, second)]
    assert base[0].read_bytes() == base[1].read_bytes()
    for each in (first, second):
        assert json.loads((each.folder / names.LOOP_RECORD).read_text())["ended"]


@pytest.mark.peer
def test_rloo_draws_as_many_answers_and_leaves_a_model_that_is_asked_the_same(tmp_path, contrast):
    if importlib.util.find_spec("trl") is None:
        pytest.skip("TRL is not installed")
    study = load_study(study_file(tmp_path), [])
    this = one(study, "rloo")
    run_one(this)
    record = json.loads((this.folder / names.LOOP_RECORD).read_text())
    assert 8 <= record["rounds"][0]["sampling"]["tokens"] <= 4 * 2 * 8
    rows = [*csv.DictReader((this.folder / names.LOOP_TABLE).read_text(encoding="utf-8").splitlines())]
    assert [row["round"] for row in rows] == ["0", "1"]
    assert rows[1]["flexible"] != ""


def test_the_command_runs_what_is_left_and_tells_rates_and_contrasts(tmp_path, capsys):
    # The base is right in no question, so that every loop ends for want of contrast.
    file = study_file(
        tmp_path, arms={"minordpo": {"objective": {"name": "minordpo"}, "rates": [1e-4, 1e-3]}}, contrasts=[]
    )
    table = tmp_path / "rows.csv"
    assert main(["paper", "loops", str(file), "tune", "--table", str(table)]) == 0
    said = capsys.readouterr().out
    rows = [*csv.DictReader(table.read_text(encoding="utf-8").splitlines())]
    assert [(row["seed"], row["rate"], row["round"]) for row in rows] == [
        ("1", "0.0001", "0"),
        ("1", "0.001", "0"),
    ]
    assert said == "\n"


ROWS = [
    {"arm": arm, "rate": rate, "seed": seed, "round": number, "flexible": str(value)}
    for arm, rate, seed, number, value in (
        ("minordpo", 1e-4, 1, 0, 0.9),
        ("minordpo", 1e-4, 1, 1, 0.5),
        ("minordpo", 1e-4, 2, 1, 0.7),
        ("minordpo", 1e-3, 1, 1, 0.8),
        ("minordpo", 1e-3, 2, 1, 0.6),
        ("minordpo", 1e-2, 1, 1, 0.1),
        ("sft", 1e-4, 1, 1, 0.4),
        ("sft", 1e-4, 2, 1, 0.4),
    )
]


def test_tuning_takes_the_best_mean_over_seeds_and_says_where_it_is_an_edge():
    said = tables.tuned(ROWS)
    assert "minordpo: 0.0001: 60.0%, 0.001: 70.0%, 0.01: 10.0% → 0.001\n" in said + "\n"
    assert "sft: 0.0001: 40.0% → 0.0001 (an edge" in said


def test_contrasts_are_of_the_last_round_and_paired_by_seed(tmp_path):
    study = load_study(study_file(tmp_path), [])
    rows = [row for row in ROWS if row["rate"] == 1e-4]
    assert tables.contrasts(study, rows) == (
        "minordpo less sft: +20.0 points, sd 14.1, above on 2 of 2 seeds, p 0.500, Holm 0.500"
    )


def test_styles_of_a_world():
    assert tables.style_of_world("1+2=3\nSo the answer is: 3") == "worked"
    assert tables.style_of_world("3,4=4\n") == "terse"
