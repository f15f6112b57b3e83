"""Which signal on held-out pairs says best that a run is trained enough; see docs/monitor.md.

    minordpo sweep recipes/paper/stopping.yaml
    python benchmarks/stopping.py runs/enough

Leaves one setting out at a time. Runs whose accuracy falls are left in: a rule that stops them early gains.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from minordpo.paper.stopping_study import FIXED, SIGNALS, StudiedRun, is_stoppable, read_run, worth


def main() -> int:
    """Read the runs, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--tolerance", type=float, default=0.01, help="accuracy that may be lost on average")
    arguments = parser.parse_args()
    runs = [read_run(file.parent) for file in sorted(arguments.runs.glob("*/probes.jsonl"))]
    for run in runs:
        if not is_stoppable(run):
            print(
                f"{run.name} cannot be judged. Train it with held-out pairs, training.eval_strategy=steps and "
                "metrics.reference=true, and on chosen responses that end in the line 'So the answer is: N'",
                file=sys.stderr,
            )
            return 2
    if len({run.setting for run in runs}) < 2:
        print(f"{arguments.runs} holds runs of fewer than two settings", file=sys.stderr)
        return 2
    for title, kept in (
        ("all runs", runs),
        ("runs that end no less accurate than they began", [run for run in runs if not fell(run)]),
    ):
        print(f"\n{title}: {len(kept)} of {len({run.setting for run in kept})} settings\n")
        print(table(kept, arguments.tolerance))
    return 0


def fell(run: StudiedRun) -> bool:
    """Whether training cost accuracy."""
    return run.correct[max(run.correct)] < run.correct[min(run.correct)]


def table(runs: Sequence[StudiedRun], tolerance: float) -> str:
    """A row per signal, in Markdown."""
    lines = ["| stop at | steps saved | accuracy lost, points | levels chosen |", "|---|---|---|---|"]
    for signal in (FIXED, *SIGNALS):
        found = worth(runs, signal, tolerance=tolerance)
        levels = ", ".join(f"{level:g}" for level in sorted(set(found.levels)))
        lines.append(
            f"| {signal} | {found.saved:.0%} ± {found.saved_error:.0%} | "
            f"{100 * found.lost:+.1f} ± {100 * found.lost_error:.1f} | {levels} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
