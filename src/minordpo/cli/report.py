"""`minordpo report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from minordpo.cli.command import FOLDERS, argument, command


@command(
    "runs side by side, as one page and figures",
    FOLDERS,
    argument("--out", "folder to write (default: DIR/report)", type=Path, metavar="FOLDER"),
    argument(
        "--pairs",
        "load each finished run's model and reference, and keep its first N held-out pairs token by token in its "
        "folder (pair_tokens.jsonl); later reports need no model",
        type=int,
        metavar="N",
    ),
)
def report(folders: list[Path], **options: Any) -> None:
    """Make one HTML page of one run or many, which opens without a network, and its figures as PNG and SVG:
    log-ratios while training, how much push is left, scores by beta, reward against KL, health over time, a
    table, answers to the same question side by side, and single pairs with each token coloured by its
    log-ratio. Runs that differ by nothing but their seed are drawn as one line with a range.

    Of the rounds of a loop the page has its table and figure too.

    Files are read only (metrics.jsonl, samples.jsonl, probes.jsonl, evaluations of `minordpo evaluate`), so a
    run that is going on shows what it has. docs/report.md says what the page holds.

    Examples:
      minordpo report runs/first
      minordpo report runs --pairs 6
      minordpo report runs/dpo runs/minordpo evaluation --out comparison
    """
    from minordpo.onpolicy.loop.section import loop_section
    from minordpo.paper.claims.tables import claims_section
    from minordpo.report.page import report
    from minordpo.run_folder import names as on_disk

    sections = [loop_section, claims_section]
    out = report(folders, sections=sections, say=lambda text: print(text, file=sys.stderr), **options)
    names = sorted(each.stem for each in (out / on_disk.FIGURES).glob("*.png"))
    print(f"{out / 'index.html'}: written")
    if names:
        print(f"{out / on_disk.FIGURES}: {', '.join(names)}, each as PNG and SVG")
