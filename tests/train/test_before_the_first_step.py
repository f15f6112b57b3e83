"""What a run does before its first step that another run has done already, and what it has no need of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import minordpo
from helpers.tiny_runs import RENAMED, chat_rows, save_tiny, write_rows
from minordpo.config import RunConfig
from minordpo.config.build import build
from minordpo.engine import reference, row_floor
from minordpo.train.run import run

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def test_runs_of_one_command_share_one_reference_pass(tmp_path, monkeypatch):
    """As the demo's: other objectives and rates, the same pairs, held-out ones too."""
    save_tiny(tmp_path / "base")
    write_rows(tmp_path / "pairs.jsonl", chat_rows(10)[:8])
    write_rows(tmp_path / "held.jsonl", chat_rows(10)[8:])
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    passes = []
    for module in (reference, row_floor):
        plain = module.packed_logps
        monkeypatch.setattr(
            module, "packed_logps", lambda *given, plain=plain: passes.append(1) or plain(*given)
        )
    counts = []
    for place, (name, rate) in enumerate([("dpo", 1e-5), ("dpo", 1e-3), ("minordpo", 1e-3)]):
        sections = {
            "model": {"path": str(tmp_path / "base")},
            "data": {"train": str(tmp_path / "pairs.jsonl"), "eval": str(tmp_path / "held.jsonl")},
            "objective": {"name": name},
            "training": {
                "learning_rate": rate,
                "per_device_train_batch_size": 4,
                "max_steps": 2,
                "save_strategy": "no",
                "use_cpu": True,
                "disable_tqdm": True,
            },
            "samples": {"prompts": 0},
            "monitor": {"enabled": False},
            "output": str(tmp_path / f"run-{place}"),
        }
        run(build(RunConfig, sections, "", lambda key: "the test"), quiet=True)
        counts.append(len(passes))
    assert counts[0] > 0
    assert counts == [counts[0]] * 3


def test_a_run_imports_matplotlib_when_it_draws_and_not_before():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, minordpo.train.run; print('matplotlib' in sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(Path(minordpo.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
