"""Two processes on a CPU take the steps of one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.distributed_runs import PER_STEP, RUNS, run
from helpers.forked import fork_ranks
from helpers.tiny_runs import RENAMED, chat_rows, metric_rows, save_tiny, write_config, write_rows
from minordpo.cli import main

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def write_run(folder: Path, *, pairs_per_device: int) -> Path:
    save_tiny(folder / "base")
    write_rows(folder / "pairs.jsonl", chat_rows(9))
    training = {"per_device_train_batch_size": pairs_per_device, "adam_epsilon": 1e-4, "save_steps": 2}
    return write_config(
        folder / "config.yaml",
        base=folder / "base",
        pairs=folder / "pairs.jsonl",
        output=folder / "run",
        training=training,
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every run twice: in two processes, and in one."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    write_run(two, pairs_per_device=2)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MINORDPO_CACHE": str(two / "cache"),
        "ACCELERATE_USE_CPU": "true",
    }
    fork_ranks("helpers.distributed_runs:main", two, log=two / "said", environment=environment)
    for name in RUNS:
        run(one, name, world=1)
    return one, two


def assert_equal_rows(found: Path, expected: Path) -> None:
    for row, wanted in zip(metric_rows(found), metric_rows(expected), strict=True):
        for counted_by_row in ("tokens", "padded_tokens"):  # a row of weight 0 is computed too
            assert row.pop(counted_by_row, 0) >= wanted.pop(counted_by_row, 0) / 2
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def assert_equal_weights(found: Path, expected: Path) -> None:
    weights, wanted = load_file(found), load_file(expected)
    assert weights.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_two_processes_take_the_steps_of_one(folders, name):
    one, two = folders
    assert_equal_rows(two / name, one / name)
    assert_equal_weights(two / f"{name}.safetensors", one / f"{name}.safetensors")


@pytest.mark.parametrize("name", sorted(RUNS))
def test_what_each_response_did_is_gathered_from_both(folders, name):
    found, wanted = (
        [json.loads(line) for line in (folder / name / "responses.jsonl").read_text().splitlines()]
        for folder in folders
    )
    assert len(found) == len(wanted)
    for row, expected in zip(found, wanted, strict=True):
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            assert row[key] == value or key in ("logps", "logratios")
        for values, others in zip(row["logps"], expected["logps"], strict=True):
            assert values == pytest.approx(others, abs=2e-3)


def test_the_baseline_of_kto_is_that_of_both(folders):
    rows = [metric_rows(folder / "kto") for folder in folders]
    one, two = ([row.get("z0", row.get("eval_z0")) for row in each] for each in rows)
    assert two == pytest.approx(one, rel=1e-4, abs=1e-4)
    assert one[:2] == [0, 0]  # at the reference, and in a step of one prompt
    assert min(one[2:]) > 0.1


def test_a_step_that_leaves_a_process_without_pairs_is_among_them(folders):
    steps = [row for row in metric_rows(folders[1] / "adamw") if "loss" in row]
    assert [row["epoch"] for row in steps] == [0.5, 1.0, 1.5]
    assert RUNS["adamw"]["pairs"] % PER_STEP == 1


def test_a_run_folder_is_written_by_the_first_of_two_processes(folders, monkeypatch):
    one, two = folders
    monkeypatch.setenv("MINORDPO_CACHE", str(one / "cache"))
    assert main(["train", str(write_run(one, pairs_per_device=4))]) == 0
    assert_equal_rows(two / "run", one / "run")
    names = [
        {
            str(path.relative_to(folder))
            for path in (folder / "run").rglob("*")
            if not path.match("rng_state*")
        }
        for folder in folders
    ]
    assert names[0] == names[1]
    assert json.loads((two / "run" / "environment.json").read_text())["processes"] == 2
    assert_equal_weights(*(folder / "run" / "model" / "model.safetensors" for folder in (two, one)))
