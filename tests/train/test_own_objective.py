"""Runs with an objective of the user's own: in Python, from a file with --allow-code, and read without importing it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor
from torch.nn.functional import logsigmoid

from helpers.tiny_runs import (
    RENAMED,
    arguments,
    metric_rows,
    save_tiny,
    text_rows,
    tiny_model,
    token_pairs,
    tokenizer,
    trainer,
    write_config,
    write_rows,
)
from helpers.tiny_sweeps import plan_of, pretend, write_sweep
from minordpo.cli import main
from minordpo.errors import InputError
from minordpo.monitor.advice import advise
from minordpo.objectives import PairLogps
from minordpo.report.find import find
from minordpo.report.gather import gather
from minordpo.sweep import jobs, launch
from minordpo.sweep.launch import train_by_processes
from minordpo.sweep.results import run_row
from minordpo.sweep.sweep import sweep
from minordpo.train.trainer import PreferenceTrainer

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def tilted(logps: PairLogps, *, beta: float = 0.1, tilt: float = 1.0) -> Tensor:
    """−log σ(β (chosen_logratio − tilt · rejected_logratio))."""
    return -logsigmoid(beta * (logps.chosen_logratios - tilt * logps.rejected_logratios))


def own_trainer(folder: Path, objective: Any, **hyper: Any) -> PreferenceTrainer:
    return PreferenceTrainer(
        tiny_model(),
        objective=objective,
        args=arguments(folder),
        train_dataset=token_pairs(8),
        processing_class=tokenizer(),
        **hyper,
    )


def test_a_function_trains_as_the_built_in_objective_of_its_formula_does(tmp_path):
    own = own_trainer(tmp_path / "own", tilted, beta=0.5)
    own.train()
    trainer(tmp_path / "dpo", objective="dpo", beta=0.5).train()
    assert metric_rows(tmp_path / "own") == metric_rows(tmp_path / "dpo")
    assert (own.objective.name, own.objective.hyper) == ("tilted", {"beta": 0.5, "tilt": 1.0})
    advice = advise(own.objective, rate=1e-3, pairs=True)
    assert advice.startswith(
        "Try a higher objective.beta (now 0.5), a lower training.learning_rate (now 0.001)"
    )


def test_a_function_without_a_reference_needs_none(tmp_path):
    def likelier(logps: PairLogps) -> Tensor:
        return logps.rejected_mean_logps - logps.chosen_mean_logps

    made = own_trainer(tmp_path, likelier, measure_reference=False)
    made.train()
    assert made.reference is None
    assert "logratios/chosen" not in metric_rows(tmp_path)[0]
    with pytest.raises(InputError, match="the objective tilted is made of reference log-probs"):
        own_trainer(tmp_path / "b", tilted, measure_reference=False)


def test_a_wrong_function_is_refused_before_the_model_is_read(tmp_path):
    def mean(logps: PairLogps) -> Tensor:
        return -logps.chosen_logratios.mean()

    with pytest.raises(InputError, match=r"objective mean returned a tensor of shape \(\)"):
        PreferenceTrainer("nowhere", objective=mean, train_dataset=[])
    with pytest.raises(InputError, match=r"tilted has no hyper-parameter 'tlit' \(did you mean tilt\?\)"):
        PreferenceTrainer("nowhere", objective=tilted, train_dataset=[], tlit=1.0)
    with pytest.raises(InputError, match="--allow-code"):
        PreferenceTrainer("nowhere", objective="own_module:tilted", train_dataset=[])


# ---- named in a file ----
NAME = "own_module:tilted"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a module that says when it is imported, a model, pairs and a config."""
    (tmp_path / "own_module.py").write_text(
        "from torch.nn.functional import logsigmoid\n"
        "open(__file__ + '.imported', 'a').close()\n"
        "def tilted(logps, *, beta: float = 0.1, tilt: float = 1.0):\n"
        '    """−log σ(β (chosen_logratio − tilt · rejected_logratio)).\n\n    Source: a test.\n    """\n'
        "    return -logsigmoid(beta * (logps.chosen_logratios - tilt * logps.rejected_logratios))\n"
    )
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "base")
    write_rows(tmp_path / "pairs.jsonl", text_rows(10))
    write_config(
        tmp_path / "config.yaml",
        base=tmp_path / "base",
        pairs=tmp_path / "pairs.jsonl",
        output=tmp_path / "run",
        objective={"name": NAME, "beta": 0.2},
    )
    yield tmp_path
    sys.modules.pop("own_module", None)


def imported(folder: Path) -> bool:
    """Whether the module has been imported since this was asked last."""
    sys.modules.pop("own_module", None)
    mark = folder / "own_module.py.imported"
    was = mark.exists()
    mark.unlink(missing_ok=True)
    return was


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--resume"]])
def test_without_the_option_nothing_is_imported_and_what_would_be_is_said(folder, capsys, more):
    assert main(["train", "config.yaml", *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"minordpo: objective.name is '{NAME}', so the module own_module ({folder}/own_module.py)"
    )
    assert "runs only with --allow-code on the command line" in said
    assert said.count("\n") == 1
    assert not imported(folder)
    assert not (folder / "run").exists()


def test_no_key_of_a_file_grants_it(folder, capsys):
    for key in ("objective.allow_code=true", "allow_code=true", "training.allow_code=true"):
        assert main(["train", "config.yaml", key]) == 2
    assert not imported(folder)


def test_a_run_with_the_option_is_whole_and_is_read_without_it(folder, capsys):
    assert main(["train", "config.yaml", "--dry-run", "--allow-code"]) == 0
    assert main(["train", "config.yaml", "--allow-code"]) == 0
    assert imported(folder)
    run = folder / "run"
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert f"`{NAME}` with beta = 0.2, tilt = 1.0, a loss for each prompt:" in card
    assert "−log σ(β (chosen_logratio − tilt · rejected_logratio))\n\nSource: a test." in card
    assert run_row(run)["objective"] == f"{NAME}, beta 0.2"
    data = gather(find([run]))
    assert json.dumps(data["runs"][0]["settings"]) == f'"{NAME}, beta 0.2"'
    assert data["runs"][0]["beta"] == 0.2
    capsys.readouterr()
    assert main(["lens", "--run", "run", "--out", "moved.png"]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert main(["lens", "--run", "run", "--objective", "dpo", "--out", "dpo.png"]) == 0
    assert not imported(folder)
    assert main(["lens", "--run", "run", "--out", "moved.png", "--allow-code"]) == 0
    assert imported(folder)
    assert (folder / "moved.png").exists()


# ---- sweeps ----
GRID = {"objective.name": ["dpo", NAME], "objective.tilt": [1.0, 2.0]}


def test_a_sweep_needs_the_option_too_and_gives_it_to_its_runs(folder, monkeypatch, capsys):
    path = write_sweep(folder, grid=GRID)
    for more in ([], ["--dry-run"]):
        assert main(["sweep", str(path), *more]) == 2
        assert "runs only with --allow-code" in capsys.readouterr().err
    assert not imported(folder)
    pretended = pretend(monkeypatch)
    sweep(path, allow_code=True)
    names = ["dpo", "own_module_tilted-tilt1", "own_module_tilted-tilt2"]
    assert [name for name in pretended.done if not name.startswith("untuned")] == names
    rows = yaml.safe_load((folder / "out" / "sweep.json").read_text())
    assert list(rows["runs"]) == names


def test_the_job_of_a_run_has_the_option_where_the_sweep_has(folder, monkeypatch):
    seen: list[bool] = []
    monkeypatch.setattr(jobs, "run", lambda config, **options: seen.append(options["allow_code"]))
    (run,) = plan_of(folder, grid={"seed": [0]}).runs
    for allowed in (True, False):
        jobs.do_job(jobs.RunJob(run.name, None, run.config, allow_code=allowed), print)
    assert seen == [True, False]


def test_launched_processes_are_given_the_option(folder, monkeypatch):
    script = "import sys; print(sys.argv)"
    monkeypatch.setattr(launch, "_TORCHRUN", ("-c", script))
    plan = plan_of(folder, grid={"seed": [0]}, launch={"processes": 2})
    for allowed in (True, False):
        train_by_processes(plan.runs[0].config, 2, folder / "logs", print, allow_code=allowed)
        said = (folder / "logs" / "seed0.txt").read_text().splitlines()[-1]
        assert ("--allow-code" in said) is allowed
