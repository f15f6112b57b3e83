"""`minordpo sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minordpo.cli.command import ALLOW_CODE, argument, command, flag


@command(
    "many runs from one file, side by side, into one table",
    argument("sweep", "what is run", type=Path, metavar="SWEEP.yaml"),
    argument("overrides", "override a key of it", nargs="*", metavar="section.key=value"),
    argument(
        "--jobs",
        "runs side by side (default: one a GPU, or one); cores are shared, and GPUs where N is larger",
        type=int,
        metavar="N",
    ),
    argument("--only", "only runs whose name matches, as 'dpo-*-seed0'", metavar="PATTERN"),
    flag("--retry", "run again what has failed"),
    flag("--dry-run", "check everything, list what would run, estimate its time"),
    ALLOW_CODE,
    parts=lambda: {"example": Path(__file__).with_name("sweep_example.yaml").read_text(encoding="utf-8")},
    goes_on=lambda options: "the same command goes on",
)
def sweep(sweep: Path, overrides: list[str], **options: Any) -> int:
    """Train every run of SWEEP.yaml, ask its model questions if told to, and write a row a run to results.csv.
    Each run is an ordinary run folder in the output. Runs that share model and data share one reference pass.
    A run that fails is written down and the others go on; a collapsed run is a result. The same command goes
    on where a sweep was stopped or killed, and a grid may gain runs (docs/sweep.md).

    SWEEP.yaml:

    <example>
    world: {family: chain, distance: full, pairs: 3840, base_steps: 2600} in place of run's model and data makes
    micro worlds, one a seed: a small base model, pairs, questions, and other tasks that it should not unlearn.

    Examples:
      minordpo sweep sweep.yaml --dry-run
      minordpo sweep sweep.yaml --jobs 4
      minordpo sweep sweep.yaml --only 'minordpo-*' --retry
      minordpo sweep sweep.yaml run.training.max_steps=20 'grid.seed=[0]' output=runs/try
    """
    from minordpo.paper.worlds.foundation import MicroWorld
    from minordpo.sweep.sweep import sweep as run_sweep

    return 1 if run_sweep(sweep, overrides, extension=MicroWorld, **options) else 0
