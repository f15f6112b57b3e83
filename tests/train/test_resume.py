"""A run that is killed, wherever, and gone on with, ends as the same run: byte for byte."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.forked import Forked
from helpers.tiny_runs import (
    RENAMED,
    chat_rows,
    measured_rows,
    metric_rows,
    save_tiny,
    write_config,
    write_rows,
)
from minordpo.cli import main

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def environment(folder: Path) -> dict[str, str]:
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MINORDPO_CACHE": str(folder / "cache")}
    return {**os.environ, **quiet}


def set_up(folder: Path, name: str, **sections: Any) -> Path:
    """A config of 9 steps in 3 shuffled epochs, with checkpoints each second step."""
    if not (folder / "base").exists():
        save_tiny(folder / "base")
        write_rows(folder / "pairs.jsonl", chat_rows(9))
    training = {
        "max_steps": -1,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 3,
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "warmup_steps": 2,
    }
    return write_config(
        folder / f"{name}.yaml",
        base=folder / "base",
        pairs=folder / "pairs.jsonl",
        output=folder / name,
        **{"training": training} | sections,
    )


def assert_same_run(found: Path, expected: Path) -> None:
    assert metric_rows(found) == metric_rows(expected)
    names = {each.name for each in (expected / "model").glob("*.safetensors")}
    assert names
    for name in names:
        assert (found / "model" / name).read_bytes() == (expected / "model" / name).read_bytes()
    for name in ("samples.jsonl", "probes.jsonl"):
        assert (found / name).read_bytes() == (expected / name).read_bytes()
    kept = [sorted(each.name for each in (folder / "checkpoints").iterdir()) for folder in (found, expected)]
    assert kept[0] == kept[1]


LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0}


def test_a_run_killed_again_and_again_ends_as_the_uninterrupted_one(tmp_path):
    jobs: list[tuple[list[str], tuple[str, int] | None]] = []
    points: dict[str, list[tuple[str, int]]] = {
        "full": [
            ("during_a_step", 6),  # the last checkpoint is in the middle of an epoch
            ("during_a_checkpoint", 6),
            ("during_a_line_of_metrics", 8),  # the last checkpoint is at the end of an epoch
            ("before_the_last_answers", 0),  # training itself is over
        ],
        "adapter": [
            ("during_a_step", 2),  # there are rows of steps, and no checkpoint yet
            ("during_a_step", 6),
            ("during_a_checkpoint", 8),
        ],
    }
    for name, killed in points.items():
        lora = {"lora": LORA} if name == "adapter" else {}
        jobs.append((["train", str(set_up(tmp_path, f"{name}-whole", **lora))], None))
        command = ["train", str(set_up(tmp_path, name, **lora))]
        resumed = [*command, "--resume"]
        jobs += zip([command] + [resumed] * len(killed), [*killed, None], strict=True)
    log, ended = tmp_path / "said.txt", tmp_path / "ended.json"
    done = Forked("helpers.killed_runs:main", jobs, ended, log=log, environment=environment(tmp_path))
    assert done.wait() == 0, log.read_text()[-3000:]
    expected = [-signal.SIGKILL if where else 0 for _, where in jobs]
    assert json.loads(ended.read_text()) == expected, log.read_text()[-3000:]
    for name in ("full", "adapter"):
        whole = metric_rows(tmp_path / f"{name}-whole")
        assert [row["step"] for row in whole if "loss" in row] == list(range(1, 10))
        assert [row["step"] for row in whole if "eval_loss" in row] == [4, 8, 9]
        assert_same_run(tmp_path / name, tmp_path / f"{name}-whole")


def test_a_command_killed_from_outside_is_gone_on_with(tmp_path, monkeypatch):
    many = {"training": {"max_steps": 40, "save_steps": 15}}
    for name in ("killed", "whole"):
        set_up(tmp_path, name, **many)
    command, log = ["train", str(tmp_path / "killed.yaml")], tmp_path / "said.txt"
    process = Forked("minordpo.cli:main", command, log=log, environment=environment(tmp_path))
    metrics, deadline = tmp_path / "killed" / "metrics.jsonl", time.monotonic() + 120
    while process.status() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_bytes().count(b"\n") >= 20:
            break
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert main(["train", str(tmp_path / "killed.yaml"), "--resume"]) == 0
    assert main(["train", str(tmp_path / "whole.yaml")]) == 0
    assert len(measured_rows(tmp_path / "whole")) == 41
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    config = str(set_up(tmp_path, "run", training={"max_steps": 1}))
    assert main(["train", config, "--resume"]) == 0  # nothing to go on with: it starts
    before = {each: each.stat().st_mtime_ns for each in (tmp_path / "run").rglob("*")}
    capsys.readouterr()
    assert main(["train", config, "--resume"]) == 0
    assert "is a finished run; there is nothing to resume" in capsys.readouterr().out
    assert {each: each.stat().st_mtime_ns for each in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_a_run_is_not_gone_on_with_on_other_data_or_from_other_weights(tmp_path, monkeypatch, capsys, kind):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    lora = {"lora": LORA} if kind == "adapter" else {}
    config = set_up(tmp_path, "run", training={"max_steps": 2, "save_steps": 1}, **lora)
    command = ["train", str(config), "--resume"]
    assert main(command) == 0
    shutil.rmtree(tmp_path / "run" / "model")  # as if it had been killed before the end
    settings = yaml.safe_load(config.read_text())
    pairs, base = Path(settings["data"]["train"]), Path(settings["model"]["path"])
    for file, other in (
        (pairs, pairs.read_bytes().replace(b"hello", b"howdy", 1)),
        (base / "model.safetensors", b""),
    ):
        before = file.read_bytes()
        if other:
            file.write_bytes(other)
        else:
            save_tiny(base, seed=5)
        said = "the tokens of its pairs" if other else "the weights of model.path"
        assert main(command) == 2
        assert f"run was started from other data or weights: {said}" in capsys.readouterr().err
        file.write_bytes(before)
    assert main(command) == 0


def test_a_finished_run_with_another_config_is_not_taken_for_this_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    config = str(set_up(tmp_path, "run", training={"max_steps": 1}))
    assert main(["train", config]) == 0
    assert main(["train", config, "training.max_steps=2", "--resume"]) == 2
    assert "was started with another config (max_steps: 1, not max_steps: 2)" in capsys.readouterr().err


def test_answers_cut_off_are_refused_by_their_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    config = str(set_up(tmp_path, "run", training={"max_steps": 1}))
    assert main(["train", config]) == 0
    shutil.rmtree(tmp_path / "run" / "model")
    samples = tmp_path / "run" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes()[:-30])
    assert main(["train", config, "--resume"]) == 2
    assert re.search(r"line 4 of .*samples.jsonl is not JSON", capsys.readouterr().err)
