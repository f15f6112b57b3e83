"""`minordpo paper`: claims, world, loops."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from minordpo.cli.command import FOLDERS, Argument, CommandGroup, argument, command, flag
from minordpo.paper.worlds.questions import Distance, Family, Rejected, World


@command(
    "what the paper says, decided from finished runs",
    FOLDERS,
    argument("--out", "write everything as JSON, by seed too", type=Path, metavar="FILE.json"),
)
def claims(folders: list[Path], out: Path | None) -> None:
    """Decide what the MinorDPO paper says from finished runs: held, did not hold, or not decidable and what is
    missing. Each claim has a rule that was written beforehand (docs/claims.md). Seeds are the only replicates:
    below 6 of them nothing is decided that chance could decide, but direction and numbers are told.
    Runs that differ by more than objective, beta, learning rate and seed are situations of their own, each
    judged apart; the one with most runs is shown whole, the others in short and in the file. Only reads.

    Examples:
      minordpo paper claims runs/paper-micro
      minordpo paper claims runs/dpo-* runs/minordpo-* evaluation --out claims.json
    """
    from minordpo.paper.claims.judge import judge_all
    from minordpo.paper.claims.runs import gather_runs
    from minordpo.paper.claims.tables import as_text, write_json
    from minordpo.report.find import find

    gathered = gather_runs(find(folders))
    judged = judge_all(gathered)
    if out is not None:
        write_json(out, judged, gathered.said)
    print(as_text(judged, gathered.said))


def _shares(text: str) -> tuple[float, ...] | None:
    try:
        return None if text == "null" else tuple(float(each) for each in text.strip("[]").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither of the form 0.45,0.65 nor null") from None


def _option(name: str, text: str, **options: Any) -> Argument:
    """An option for a field of `World`, with its default."""
    default = getattr(World, name)
    shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
    return argument(f"--{name.replace('_', '-')}", f"{text} (default {shown})", default=default, **options)


@command(
    "make a toy world: a small base model, pairs and questions",
    argument("--out", "folder of the world", type=Path, required=True, metavar="FOLDER"),
    _option("seed", "another seed draws another base, other pairs and other questions", metavar="N"),
    _option("family", "kind of the questions", choices=get_args(Family)),
    _option(
        "distance", "how far the base's own style is from the chosen answers'", choices=get_args(Distance)
    ),
    _option("rejected", "how far the rejected answers are from the chosen ones", choices=get_args(Rejected)),
    _option("pairs", "pairs to train on", metavar="N"),
    _option(
        "base_steps",
        "most steps of the base's training; with --base-accuracy null, all its steps",
        metavar="N",
    ),
    _option(
        "base_accuracy",
        "lowest and highest share of its own questions that the base may be right in; null takes any base",
        type=_shares,
        metavar="LOW,HIGH",
    ),
    goes_on=lambda options: "the same command goes on",
)
def world(out: Path, **options: Any) -> None:
    """Make a toy world in a folder, all of it from a seed: a base model of 0.85 million weights, trained from
    nothing; close pairs to tune it on, and others held out; questions to choose settings by and to score by;
    other tasks that tuning should not unlearn. `minordpo sweep` makes such worlds by itself (docs/sweep.md).

    Examples:
      minordpo paper world --out worlds/first
      minordpo paper world --out worlds/any --base-steps 1200 --base-accuracy null
    """
    from minordpo.paper.worlds.world import describe_base, make_world

    make_world(out, World(**options))
    print(f"{out}: base, pairs.jsonl, held_out.jsonl, validation.jsonl, test.jsonl, retention.jsonl")
    print(describe_base(out))


@command(
    "does a rejected answer help that is the model's own mistake?",
    argument("study", type=Path, metavar="STUDY.yaml"),
    argument("phase", "tune chooses rates, decide compares the arms", choices=("tune", "decide")),
    argument("overrides", "keys set over STUDY.yaml", nargs="*", metavar="key=value"),
    argument("--jobs", "loops at a time (default 1)", default=1, metavar="N"),
    argument("--only", "these arms alone", nargs="+", default=[], metavar="ARM"),
    flag("--show", "run nothing; say what the loops that have ended show"),
    argument("--table", "write a row a model of each loop as CSV", type=Path, metavar="FILE.csv"),
    argument("--figure", "draw accuracy over generated tokens and over KL", type=Path, metavar="FILE.png"),
    goes_on=lambda options: "the same command goes on",
)
def loops(
    study: Path,
    phase: Any,
    overrides: list[str],
    jobs: int,
    only: list[str],
    show: bool,
    table: Path | None,
    figure: Path | None,
) -> int:
    """Run loops of own answers on toy worlds, one for each seed, arm and rate of STUDY.yaml, and compare the arms.
    The loops of a seed begin with the same answers of the same base. Loops that have ended are not run again.

    Examples:
      minordpo paper loops recipes/paper/loops/micro.yaml tune --jobs 2
      minordpo paper loops recipes/paper/loops/micro.yaml decide --show --table loops.csv --figure loops.png
    """
    from minordpo.paper.loops import tables
    from minordpo.paper.loops.run import run_study
    from minordpo.paper.loops.study import load_study

    read = load_study(study, overrides)
    failed = [] if show else run_study(study, overrides, read, phase, jobs=jobs, only=only)
    rows = tables.rows_of(read, phase)
    print(tables.tuned(rows) if phase == "tune" else tables.contrasts(read, rows))
    if table is not None:
        tables.write_rows(table, rows)
    if figure is not None:
        tables.figure(rows, figure, title=f"{len({row['seed'] for row in rows})} worlds, means")
    return 1 if failed else 0


PAPER = CommandGroup(
    name="paper",
    help="the MinorDPO paper's claims, and toy worlds to test them in",
    description="The laboratory of the MinorDPO paper.",
    commands=(claims, world, loops),
)
