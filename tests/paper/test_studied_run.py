"""A run folder as studies see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minordpo.errors import InputError
from minordpo.paper.studied_run import read_run

LOOPS = {"looping": 1.0}
SOUND = {"looping": 0.0}


def test_a_run_folder_is_read_by_its_files(tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "model: {path: somewhere}\ndata: {train: pairs.jsonl}\nobjective: {name: dpo, beta: 0.05}\n"
        f"training: {{learning_rate: 1.0e-4}}\noutput: {folder}\n",
        encoding="utf-8",
    )
    rows = [{"step": 1, "loss": 0.7, "logratios/chosen": 0.0}, {"step": 1, "probe/looping": 0.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match=r"has no probes.jsonl. Only runs with monitor.enabled=true"):
        read_run(folder)
    probes = [{"step": 0, "answer": "7", "measures": SOUND}, {"step": 0, "answer": "8", "measures": LOOPS}]
    (folder / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in probes), encoding="utf-8")
    run = read_run(folder)
    assert run.setting == "dpo, beta 0.05, rate 0.0001" or "0.05" in run.setting
    assert [row.step for row in run.rows] == [1]
    assert run.probe(0)["looping"] == 0.5
    assert run.probe(0, prompts=1)["looping"] == 0.0
