"""A sweep's file → its runs: what varies, what they are called, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.places import ROOT
from helpers.tiny_sweeps import RUN, plan_of, write_sweep
from minordpo.errors import InputError
from minordpo.sweep.names import run_name
from minordpo.sweep.plan import SweepPlan, load_plan


def names(plan: SweepPlan) -> list[str]:
    return [run.name for run in plan.runs]


def test_a_grid_is_multiplied_out_with_every_setting_tried_once_before_a_second_seed(tmp_path: Path):
    grid = {"objective.name": ["dpo", "minordpo"], "training.learning_rate": [1e-4, 0.02], "seed": [0, 1]}
    plan = plan_of(tmp_path, grid=grid)
    assert names(plan) == [
        "dpo-lr1e-4-seed0",
        "dpo-lr0.02-seed0",
        "minordpo-lr1e-4-seed0",
        "minordpo-lr0.02-seed0",
        "dpo-lr1e-4-seed1",
        "dpo-lr0.02-seed1",
        "minordpo-lr1e-4-seed1",
        "minordpo-lr0.02-seed1",
    ]
    last = plan.runs[-1].config
    assert (last.objective.name, last.objective.hyper) == ("minordpo", {"beta": 0.1})
    assert last.output == str(tmp_path / "out" / "minordpo-lr0.02-seed1")
    settings = {"learning_rate": 0.02, "seed": 1, "data_seed": 1}
    assert settings.items() <= last.training.arguments.items()


def test_runs_stand_beside_the_grid_and_multiply_their_own_lists(tmp_path: Path):
    plan = plan_of(
        tmp_path,
        grid={"objective.beta": [0.1, 0.02]},
        runs=[
            {"objective.name": "minordpo + 0.1*sft", "seed": [3, 4]},
            {"objective": {"name": "dpo"}, "data": {"limit": 5}},
        ],
    )
    assert names(plan) == [
        "beta0.1",
        "beta0.02",
        "minordpo+0.1xsft-seed3",
        "minordpo+0.1xsft-seed4",
        "dpo-data.limit5",
    ]
    assert plan.runs[-1].config.data.limit == 5


def test_an_objective_without_a_hyperparameter_has_one_run_for_all_its_values(tmp_path: Path):
    grid = {"objective.name": ["dpo", "sft"], "objective.beta": [0.1, 0.02], "seed": [0, 1]}
    plan = plan_of(tmp_path, grid=grid)
    assert sorted(names(plan)) == [
        "dpo-beta0.02-seed0",
        "dpo-beta0.02-seed1",
        "dpo-beta0.1-seed0",
        "dpo-beta0.1-seed1",
        "sft-seed0",
        "sft-seed1",
    ]
    assert plan.notes == ("sft has no beta: one run of it, not one a value",)
    assert all(run.config.objective.hyper == {} for run in plan.runs if run.name.startswith("sft"))


def test_a_name_does_not_depend_on_the_order_of_keys():
    settings = {
        "objective.name": "dpop",
        "objective.dpop_lambda": 50,
        "objective.beta": 0.1,
        "lora.r": 8,
        "training.learning_rate": 5e-7,
        "training.bf16": True,
        "seed": 2,
    }
    expected = "dpop-beta0.1-dpop_lambda50-lora.r8-bf16_true-lr5e-7-seed2"
    for seed in range(5):
        keys = random.Random(seed).sample(list(settings), len(settings))
        assert run_name({key: settings[key] for key in keys}) == expected


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (0.0001234, "1.234e-4"),
        (0.1 + 0.2, "0.30000000000000004"),
        (20.0, "20"),
        (-0.5, "-0.5"),
        (1e-300, "1e-300"),
        (None, "_null"),
        (["q_proj", "v"], "_q_proj_v"),
        ("a/b c.jsonl", "_a_b_c.jsonl"),
    ],
)
def test_a_value_is_named_as_people_write_it(value: Any, part: str):
    assert run_name({"lora.x": value}) == f"lora.x{part}"


def test_long_names_end_in_a_digest_and_stay_apart():
    long = [run_name({f"data.key{i}": "/".join([str(n)] * 40) for i in range(9)}) for n in (100, 200)]
    assert long[0] != long[1]
    assert max(map(len, long)) <= 120
    both = [run_name({"data.train": "x" * 50 + end}) for end in "ab"]
    assert both[0] != both[1]


def test_a_run_config_may_be_a_file_and_overrides_reach_into_it(tmp_path: Path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN | {"output": "elsewhere"}))
    path = write_sweep(tmp_path, run=str(tmp_path / "run.yaml"), grid={"seed": [0, 1]})
    plan = load_plan(path, ["run.training.max_steps=9", "grid.seed=[5]", f"output={tmp_path}/b"])
    assert names(plan) == ["seed5"]
    assert plan.runs[0].config.training.arguments["max_steps"] == 9
    assert plan.runs[0].config.output == f"{tmp_path}/b/seed5"


def test_the_example_of_the_help_is_a_sweep(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    found = names(load_plan(ROOT / "src" / "minordpo" / "cli" / "sweep_example.yaml"))
    assert len(found) == 8 + 8 + 4 + 2  # dpo, minordpo, sft without beta, the sum
    assert "sft-lr1e-6-seed1" in found
    assert "minordpo+0.1xsft-beta0.1-lr1e-5-seed0" in found


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"grid": {}}, "the grid is empty and there are no runs, so nothing varies"),
        (
            {"grid": {"objective.beta": []}},
            r"grid\.objective\.beta is an empty list, so there would be no run",
        ),
        ({"grid": {"seed": [0, 0]}}, "two runs are both named seed0"),
        ({"grid": {"seed": [0]}, "runs": [{"seed": 0}]}, "two runs are both named seed0"),
        (
            {"grid": {"objective.beta": [0.1]}, "runs": [{"objective.name": "minordpo"}]},
            "beta0.1 and minordpo have the same settings in every key. Leave one out",
        ),
        (
            {"grid": {"training.run_name": ["a/b", "a b"]}},
            r"two runs are both named run_name_a_b \(.*\"a/b\".*; .*\"a b\".*\), but",
        ),
        (
            {"grid": {"learning_rate": [1]}},
            r"grid has learning_rate, .* Did you mean training\.learning_rate\?",
        ),
        ({"grid": {"betta": [1]}}, r"Did you mean objective\.beta\?"),
        ({"grid": {"lr": [1]}}, r"Did you mean training\.learning_rate\?"),
        ({"grid": {"xyzzy": [1]}}, r"Write it as section\.key"),
        (
            {"grid": {"objective": ["dpo"]}},
            r"grid has objective, .* section.* Write a key of it, as objective\.",
        ),
        ({"grid": {"output": ["a"]}}, "every run gets its own folder"),
        ({"grid": {"training.learning_rat": [1]}}, r"s\.yaml: .* Did you mean training\.learning_rate\?"),
        ({"grid": {"objective.bata": [1]}}, r"no hyper-parameter 'bata' \(did you mean beta\?\)"),
        ({"grid": {"objective.name": ["dpoo"]}}, r"'dpoo', which is no objective \(did you mean dpop?\?\)"),
        ({"grid": {"training.learning_rate": ["fast"]}}, 'is "fast", but a number'),
        ({"grid": {"seed": [-1]}}, r"training\.seed is -1, but 0 or more and 4294967295 at most is needed"),
        ({"grid": {"seed": [2**70]}}, r"training\.seed is 1180591620717411303424, but"),
        (
            {"grid": {"training.learning_rate": [float("inf")]}},
            r"s\.yaml: .*training\.learning_rate is inf, but",
        ),
        ({"grid": {"training.max_steps.x": [1]}}, "the grid sets a key inside training.max_steps"),
        ({"grid": {"seed": [0], "training.seed": [1]}}, r"has seed and training\.seed"),
        (
            {"grid": {"seed": [0], "training": {"seed": [1]}, "training.seed": [2]}},
            "gives training.seed twice",
        ),
        ({"grid": [1]}, "grid is a list of 1, but a mapping or null is needed"),
        ({"runs": {"seed": 0}}, "runs is a mapping .* but a list or null is needed"),
        ({"runs": [{"seed": 0}, None]}, r"s\.yaml: runs\[1\] is null, but keys with values"),
        ({"runs": [3]}, r"runs\[0\] is 3, but keys with values are needed"),
        # A sweep that is given nothing for its runs to stand on knows no such section.
        (
            {"grid": {"seed": [0]}, "world": {}},
            r"s\.yaml: world is not a key of minordpo\. Known here: run, grid, runs",
        ),
        ({"grid": {"world.pairs": [16]}}, r"grid has world\.pairs, which is no key of a run config"),
        ({"gird": {"seed": [0]}}, r"gird is not a key of minordpo\. Did you mean grid\?"),
        ({"grid": {"seed": [0]}, "output": None}, "output is missing"),
        ({"grid": {"seed": [0]}, "output": 3}, "output is 3, but text is needed"),
        ({"grid": {"seed": [0]}, "run": None}, "run is missing"),
        ({"grid": {"objective.name": [["dpo"]]}}, r"objective\.name is a list of 1, but text is needed"),
        (
            {"grid": {"seed": [0]}, "run": RUN | {"objective": "dpo"}},
            'objective is "dpo", but a section is needed',
        ),
        ({"grid": {"seed": [0]}, "run": 3}, "run is 3, but text or a mapping is needed"),
        ({"grid": {"seed": [0]}, "run": "nowhere.yaml"}, r"nowhere\.yaml does not exist"),
        (
            {"grid": {"seed": [0]}, "evaluate": {"task": "problems", "kl_samples": 4}},
            r"Did you mean evaluate\.samples\?",
        ),
        (
            {"grid": {"seed": [0]}, "evaluate": {"task": "problems", "n": "all"}},
            r'evaluate\.n is "all", but a whole number',
        ),
        ({"grid": {"seed": [0]}, "evaluate": {"n": 4}}, r"evaluate\.task is missing"),
        (
            {"grid": {"seed": [0]}, "evaluate": {"task": "gsm9k"}},
            r"s\.yaml: evaluate\.task is 'gsm9k'.* gsm8k",
        ),
        (
            {"grid": {"seed": [0]}, "evaluate": {"task": "problems", "samples": -1}},
            r"s\.yaml: evaluate\.samples is -1",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_words(tmp_path: Path, sections: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        plan_of(tmp_path, **sections)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("grid.seed=[]", r"command line: grid\.seed is an empty list"),
        ("run.training.max_step=3", r"command line: training\.max_step is not a key"),
        ("grid.objective.beta", r"is not of the form section\.key=value"),
    ],
)
def test_a_wrong_override_is_told_from_the_file(tmp_path: Path, override: str, said: str):
    with pytest.raises(InputError, match=said):
        plan_of(tmp_path, override, grid={"seed": [0]})


def test_an_override_reaches_into_a_grid_of_sections(tmp_path: Path):
    grid = {"objective": {"beta": [0.1, 0.2]}, "seed": [0]}
    plan = plan_of(tmp_path, "grid.objective.beta=[0.3]", grid=grid)
    assert [run.settings for run in plan.runs] == [{"objective.beta": 0.3, "seed": 0}]


def test_a_sweep_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="A sweep in YAML is needed"):
        load_plan(tmp_path / "none.yaml")
