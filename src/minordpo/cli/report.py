"""`minordpo report`: its arguments and what it prints. What is slow to import is imported when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command does and takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Make one HTML page of one run or many, which opens without a network, and its figures as PNG and SVG:\n"
        "log-ratios while training, how much push is left, scores by beta, reward against KL, health over time, a\n"
        "table, answers to the same question side by side, and single pairs with each token coloured by its\n"
        "log-ratio. Runs that differ by nothing but their seed are drawn as one line with a range.\n\n"
        "Files are read only (metrics.jsonl, samples.jsonl, probes.jsonl, evaluations of `minordpo evaluate`), so a\n"
        "run that is going on shows what it has. docs/report.md says what the page holds."
    )
    parser.epilog = (
        "Examples:\n"
        "  minordpo report runs/first\n"
        "  minordpo report runs --pairs 6\n"
        "  minordpo report runs/dpo runs/minordpo evaluation --out comparison"
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="run folder, folder of run folders, sweep's output, or an evaluation of such runs",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder to write (default: DIR/report)")
    parser.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help="load each finished run's model and reference, and keep its first N held-out pairs token by token in its "
        "folder (pair_tokens.jsonl); later reports need no model",
    )


def report_command(arguments: argparse.Namespace) -> None:
    """Make the report, and say where it is."""
    from minordpo.paper.claims.tables import claims_section
    from minordpo.report.page import report

    out = report(
        arguments.folders,
        out=arguments.out,
        pairs=arguments.pairs,
        sections=[claims_section],
        say=lambda text: print(text, file=sys.stderr),
    )
    names = sorted(each.stem for each in (out / "figures").glob("*.png"))
    print(f"{out / 'index.html'}: written")
    if names:
        print(f"{out / 'figures'}: {', '.join(names)}, each as PNG and SVG")
