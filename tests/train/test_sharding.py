"""FSDP2 in two processes takes the steps of one, and its run ends with a whole model, answers and a way to go on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from helpers.forked import fork_ranks
from helpers.sharded_runs import ADAPTER, RUNS, run
from helpers.tiny_runs import (
    RENAMED,
    chat_rows,
    measured_rows,
    metric_rows,
    moved,
    save_tiny,
    tokenizer,
    write_config,
    write_rows,
)
from minordpo.cli import main
from minordpo.engine.models import load_model
from minordpo.run_folder.files import read_jsonl

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

LORA = {"lora": ADAPTER}

# Whole runs by the command line; "sharded_files" are torch's distributed checkpoints, a file a process.
COMMANDS: dict[str, dict[str, Any]] = {
    "full_sharded_files": {"state_dict_type": "SHARDED_STATE_DICT"},
    "lora_on_sft": LORA,
}


def write_run(folder: Path, name: str, *, world: int) -> Path:
    sections = dict(COMMANDS[name])
    training: dict[str, Any] = {
        "per_device_train_batch_size": 4 // world,
        "adam_epsilon": 1e-4,
        "max_steps": 4,
        "save_steps": 2,
    }
    fsdp = {"version": 2, "state_dict_type": sections.pop("state_dict_type", "FULL_STATE_DICT")}
    if world > 1:
        training |= {"fsdp": True, "fsdp_config": fsdp}
    base = folder / ("sft" if name == "lora_on_sft" else "base")
    return write_config(
        folder / f"{name}.yaml",
        base=base,
        pairs=folder / "pairs.jsonl",
        output=folder / name,
        training=training,
        **sections,
    )


def prepare(folder: Path) -> None:
    save_tiny(folder / "base")
    write_rows(folder / "pairs.jsonl", chat_rows(9))
    torch.manual_seed(0)
    sft = get_peft_model(load_model(str(folder / "base")), LoraConfig(task_type="CAUSAL_LM", **ADAPTER))
    moved(sft, by=0.02)
    sft.save_pretrained(folder / "sft")
    tokenizer().save_pretrained(folder / "sft")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every run twice: sharded over two processes, and whole in one."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for folder, world in ((one, 1), (two, 2)):
        prepare(folder)
        for name in COMMANDS:
            write_run(folder, name, world=world)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MINORDPO_CACHE": str(two / "cache"),
        "ACCELERATE_USE_CPU": "true",
    }
    fork_ranks("helpers.sharded_runs:main", two, log=two / "said", environment=environment)
    for name in RUNS:
        run(one, name, world=1)
    return one, two


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def assert_equal_rows(found: Path, expected: Path) -> None:
    for row, wanted in zip(measured_rows(found), measured_rows(expected), strict=True):
        for counted_by_row in ("tokens", "padded_tokens"):  # a row of weight 0 is computed too
            assert row.pop(counted_by_row, 0) >= wanted.pop(counted_by_row, 0) / 2
        assert row == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def assert_equal_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_sharded_weights_take_the_steps_of_whole_ones(folders, name):
    one, two = folders
    assert_equal_rows(two / name, one / name)
    assert_equal_weights(*(load_file(folder / f"{name}.safetensors") for folder in (two, one)))


def test_the_best_weights_of_a_sharded_run_are_those_that_it_ends_with(folders):
    two = folders[1]
    rows = [row for row in metric_rows(two / "best_adapter") if "eval_loss" in row]
    best = max(rows[:-1], key=lambda row: row["eval_loss"])
    assert best["step"] < 3
    saved = load_file(two / "best_adapter" / f"checkpoint-{best['step']}" / "adapter_model.safetensors")
    ended = load_file(two / "best_adapter.safetensors")
    assert_equal_weights({name.replace(".default", ""): value for name, value in ended.items()}, saved)


@pytest.mark.parametrize("name", sorted(RUNS))
def test_each_process_holds_and_steps_its_own_share_of_the_weights(folders, name):
    facts = json.loads((folders[1] / f"{name}.json").read_text())
    assert facts["kind"].startswith("FSDP")
    assert sum(facts["held"]) == facts["all"]
    assert max(facts["held"]) < 0.6 * facts["all"]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_sharded_run_ends_in_the_folder_of_a_whole_one(folders, name, monkeypatch):
    one, two = folders
    monkeypatch.setenv("MINORDPO_CACHE", str(one / "cache"))
    assert main(["train", str(one / f"{name}.yaml")]) == 0
    whole, sharded = one / name, two / f"{name}-whole"
    assert_equal_rows(sharded, whole)
    assert_equal_weights(weights_of(sharded / "model"), weights_of(whole / "model"))
    # Nothing can be answered between steps from weights in shards, so the monitor has log-ratios alone.
    assert not any("probe/looping" in row for row in metric_rows(sharded))
    for part, beside in (("", {"probes.jsonl"}), ("model", set())):
        names = [{each.name for each in (folder / part).iterdir()} for folder in (sharded, whole)]
        assert names[0] == names[1] - beside
    answers = [list(read_jsonl(folder / "samples.jsonl")) for folder in (sharded, whole)]
    assert answers[0] == answers[1]
    assert {row["when"] for _, row in answers[0]} == {"before", "after"}
    assert "ended in a loop" in (sharded / "model" / "README.md").read_text()
    if "lora" not in name:
        configs = [json.loads((folder / "model" / "config.json").read_text()) for folder in (sharded, whole)]
        for config in configs:
            del config["use_cache"]  # the Trainer switches it off in the model that it trains
        assert configs[0] == configs[1]
    load_model(str(sharded / "model"))


@pytest.mark.parametrize("kind", ["ended", "resumed"])
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_resumed_sharded_run_ends_as_the_uninterrupted_one(folders, name, kind):
    again, whole = (folders[1] / f"{name}-{each}" for each in (kind, "whole"))
    assert metric_rows(again) == metric_rows(whole)
    assert (again / "samples.jsonl").read_text() == (whole / "samples.jsonl").read_text()
    found, wanted = weights_of(again / "model"), weights_of(whole / "model")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[each], value) for each, value in wanted.items())
