"""`minordpo sweep`: its arguments. What is slow to import is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """\
run: recipes/minordpo-smollm2.yaml       # or the sections of a run config; its output is not used
grid:
  objective.name: [dpo, minordpo, sft]
  objective.beta: [0.02, 0.1]            # sft has none, so there is one run of it, not two
  training.learning_rate: [1e-6, 1e-5]
  seed: [0, 1]                           # all that a seed redraws: training.seed, training.data_seed, world.seed
runs:                                    # more runs beside the grid; lists multiply here too
  - {objective.name: minordpo + 0.1*sft, objective.beta: 0.1, training.learning_rate: 1e-5, seed: [0, 1]}
evaluate: {task: problems, n: 100, max_new_tokens: 256}     # optional; keys as the options of `minordpo evaluate`
launch: {processes: 8}                   # optional: each run is trained by torchrun, in so many processes
output: runs/rates
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command does and takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Train every run of SWEEP.yaml, ask its model questions if told to, and write a row a run to results.csv and\n"
        "results.parquet. Each run is an ordinary run folder in the output. Runs that share model and data share one\n"
        "reference pass. A run that fails is written down and the others go on; a collapsed run is a result.\n"
        "The same command goes on where a sweep was stopped or killed, and a grid may gain runs (docs/sweep.md).\n\n"
        f"SWEEP.yaml:\n\n{EXAMPLE}\n"
        "world: {family: chain, distance: full, pairs: 3840, base_steps: 2600} in place of run's model and data makes\n"
        "micro worlds, one a seed: a small base model, pairs, questions, and other tasks that it should not unlearn."
    )
    parser.epilog = (
        "Examples:\n"
        "  minordpo sweep sweep.yaml --dry-run\n"
        "  minordpo sweep sweep.yaml --jobs 4\n"
        "  minordpo sweep sweep.yaml --only 'minordpo-*' --retry\n"
        "  minordpo sweep sweep.yaml run.training.max_steps=20 'grid.seed=[0]' output=runs/try"
    )
    parser.add_argument("sweep", type=Path, metavar="SWEEP.yaml", help="what is run")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override a key of it")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs side by side (default: one a GPU, or one); cores are shared, and GPUs where N is larger",
    )
    parser.add_argument("--only", metavar="PATTERN", help="only runs whose name matches, as 'dpo-*-seed0'")
    parser.add_argument("--retry", action="store_true", help="run again what has failed")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, list what would run, estimate its time"
    )


def sweep_command(arguments: argparse.Namespace) -> int:
    """Sweep; 1 where runs have failed."""
    from minordpo.paper.worlds.foundation import MicroWorld
    from minordpo.sweep.sweep import sweep

    failed = sweep(
        arguments.sweep,
        arguments.overrides,
        extension=MicroWorld,
        jobs=arguments.jobs,
        only=arguments.only,
        retry=arguments.retry,
        dry_run=arguments.dry_run,
    )
    return 1 if failed else 0
