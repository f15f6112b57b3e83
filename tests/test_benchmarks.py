"""Benchmarks are run rarely; what they import from the package is there all the same."""

from __future__ import annotations

import ast
import csv
import importlib
import os
import subprocess
import sys

import pytest

from helpers.places import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_benchmark_imports_is_there(script):
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith(("minordpo", "helpers"))
        ):
            module = importlib.import_module(node.module)
            for name in node.names:
                found = hasattr(module, name.name) or importlib.import_module(f"{node.module}.{name.name}")
                assert found, f"{node.module}.{name.name}"


@pytest.mark.peer
def test_the_gpu_script_runs_to_its_end_at_toy_size(tmp_path):
    pytest.importorskip("trl")
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        "--toy",
        "--rounds",
        "1",
        "--minutes",
        "3",
    ]
    path = {"PYTHONPATH": str(ROOT / "src"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, env=os.environ | path
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "gpu.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["right"] for row in rows if row["limit"]] == ["True", "True"]
    measured = {(row["section"], row["who"]) for row in rows if row["measure"] == "speed"}
    who = ("minordpo", "trl", "minordpo over trl")
    assert measured == {(f"toy, {work}", each) for work in ("gsm8k", "few-shot") for each in who}
    computed = [float(row["value"]) for row in rows if (row["who"], row["measure"]) == (who[2], "computed")]
    assert len(computed) == 2
    assert max(computed) < 1


def test_the_gpu_script_ends_when_its_time_is_up():
    command = [sys.executable, "-c", "import gpu, time; gpu.Clock(0.01); time.sleep(60)"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT / "benchmarks",
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'benchmarks'}"},
    )
    assert done.returncode == 1
    assert done.stdout == "the time is up: what is missing from the CSV was not measured\n"
