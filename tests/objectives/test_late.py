"""Formulas in a process that has imported them before torch."""

import os
import subprocess
import sys
from pathlib import Path

import minordpo

CODE = """
import sys
from minordpo import objectives
from minordpo.objectives.describe import describe_objectives
assert "minordpo  " in describe_objectives() and "above 0" in describe_objectives()
assert "torch" not in sys.modules and "jaxtyping" not in sys.modules

def halved(logps, *, beta: float = 0.5):
    return -beta * (logps.chosen_logratios - logps.rejected_logratios)

own = objectives.resolve(halved, {"beta": 0.25})
assert own.reference
import torch
logps = objectives.ResponseLogps(
    *(torch.tensor(each) for each in ([-3.0, -7.0], [-4.0, -5.0], [2, 3], [0, 0], [1.0, 0.0]))
)
for objective in (own, objectives.resolve("minordpo", {"beta": 1.0}), objectives.resolve("hinge", {"beta": 1.0})):
    print(float(objectives.gradient(objective, logps).losses))
try:
    objectives.resolve(lambda logps: 3.0, {})
except objectives.resolve.__globals__["InputError"] as error:
    print(error)
"""


def test_formulas_that_are_imported_before_torch_compute_the_same():
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, "PYTHONPATH": str(Path(minordpo.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    own, minor, hinge, refused = done.stdout.splitlines()
    # The log-ratios are 1 and −2: −0.25 · 3, −log σ(1) and max(0, 1 − 3).
    assert (own, hinge) == ("-0.75", "0.0")
    assert abs(float(minor) - 0.31326) < 1e-5
    assert "returned" in refused
