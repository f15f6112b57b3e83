"""Whole runs of models that cannot run packed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.plain_models import PLAIN
from helpers.tiny_runs import RENAMED, chat_rows, metric_rows, save_tiny, write_config, write_rows
from minordpo.cli import main

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def set_up(folder: Path, architecture: str, **sections: Any) -> Path:
    save_tiny(folder / "base", architecture=architecture, **PLAIN[architecture])
    write_rows(folder / "rows.jsonl", chat_rows(10))
    return write_config(
        folder / "config.yaml",
        base=folder / "base",
        pairs=folder / "rows.jsonl",
        output=folder / "run",
        **sections,
    )


@pytest.mark.parametrize("architecture", ["Qwen3_5", "Mamba2"])
def test_twenty_steps_teach_the_pairs_and_the_run_says_what_sharing_off_costs(tmp_path, capsys, architecture):
    config = set_up(tmp_path, architecture, training={"max_steps": 20, "learning_rate": 3e-3})
    assert main(["train", str(config), "objective.name=dpo"]) == 0
    said = capsys.readouterr().out
    line = f"{architecture}ForCausalLM has linear_attention layers, whose state runs along a row: each response is"
    assert said.count(line) == 1
    steps = [row for row in metric_rows(tmp_path / "run") if "loss" in row]
    assert len(steps) == 20
    assert steps[0]["largest_logratio"] == 0.0
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert all(0 < row["tokens"] <= row["padded_tokens"] for row in steps)
    samples = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(samples) == 4
    score = [
        "score",
        str(tmp_path / "run"),
        "--pairs",
        str(tmp_path / "rows.jsonl"),
        "--out",
        str(tmp_path / "s.jsonl"),
    ]
    assert main([*score, "--reference", str(tmp_path / "base")]) == 0
    assert "each response is computed by itself" in capsys.readouterr().err
    rows = [json.loads(row) for row in (tmp_path / "s.jsonl").read_text(encoding="utf-8").splitlines()]
    assert np.mean([row["chosen_logratio"] - row["rejected_logratio"] for row in rows]) > 1


def test_tokens_of_a_step_are_those_that_are_computed(tmp_path):
    packed, plain = ({}, {})
    for name, found in (("Llama", packed), ("Lfm2", plain)):
        folder = tmp_path / name
        folder.mkdir()
        settings = {"objective": {"name": "minordpo"}, "training": {"max_steps": 1}}
        if name == "Llama":
            save_tiny(folder / "base")
            write_rows(folder / "rows.jsonl", chat_rows(10))
            paths = {"base": folder / "base", "pairs": folder / "rows.jsonl", "output": folder / "run"}
            config = write_config(folder / "config.yaml", **paths, **settings)
        else:
            config = set_up(folder, name, **settings)
        assert main(["train", str(config)]) == 0
        found |= next(row for row in metric_rows(folder / "run") if "loss" in row)
    assert packed["tokens"] < plain["tokens"] <= plain["padded_tokens"] == packed["padded_tokens"]


def test_a_dry_run_says_it_too(tmp_path, capsys):
    assert main(["train", str(set_up(tmp_path, "Mamba2")), "--dry-run"]) == 0
    assert "each response is computed by itself" in capsys.readouterr().out


def test_an_adapter_trains_and_is_exported(tmp_path):
    config = set_up(tmp_path, "Lfm2", lora={"r": 4, "target_modules": ["in_proj", "w1"]})
    assert main(["train", str(config)]) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    score = ["score", str(tmp_path / "run"), "--pairs", str(tmp_path / "rows.jsonl"), "--out"]
    assert main([*score, str(tmp_path / "s.jsonl"), "--reference", str(tmp_path / "out")]) == 0
    rows = [json.loads(row) for row in (tmp_path / "s.jsonl").read_text(encoding="utf-8").splitlines()]
    assert max(abs(row["chosen_logratio"]) for row in rows) < 1e-3
