"""`minordpo claims`: its arguments and what it prints. What is slow to import is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command does and takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Decide what the MinorDPO paper says from finished runs: held, did not hold, or not decidable and what is\n"
        "missing. Each claim has a rule that was written beforehand (docs/claims.md). Seeds are the only replicates:\n"
        "below 6 of them nothing is decided that chance could decide, but direction and numbers are told.\n"
        "Runs that differ by more than objective, beta, learning rate and seed are situations of their own, each\n"
        "judged apart; the one with most runs is shown whole, the others in short and in the files. Only reads."
    )
    parser.epilog = (
        "Examples:\n"
        "  minordpo claims runs/paper-micro\n"
        "  minordpo claims runs/dpo-* runs/minordpo-* evaluation --out claims.json --csv claims.csv"
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="run folder, folder of run folders, sweep's output, or an evaluation of such runs",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write everything as JSON, by seed too")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write a row a claim and situation")


def claims_command(arguments: argparse.Namespace) -> None:
    """Judge, print, and write what is asked for."""
    from minordpo.errors import InputError
    from minordpo.paper.claims.judge import judge_all
    from minordpo.paper.claims.runs import gather_runs
    from minordpo.paper.claims.tables import as_text, write_csv, write_json
    from minordpo.report.find import find

    if (
        arguments.out is not None
        and arguments.csv is not None
        and arguments.out.resolve() == arguments.csv.resolve()
    ):
        raise InputError(f"--out and --csv are both {arguments.out}. Name another file for one of them")
    gathered = gather_runs(find(arguments.folders))
    judged = judge_all(gathered)
    if arguments.out is not None:
        write_json(arguments.out, judged, gathered.said)
    if arguments.csv is not None:
        write_csv(arguments.csv, judged)
    print(as_text(judged, gathered.said))
