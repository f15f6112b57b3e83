"""Train every objective on the same pairs at two rates, and set what came out side by side.

    python benchmarks/objectives.py recipes/objectives.yaml data.train=pairs.jsonl --out runs/objectives

A finished run is not run again, one that was killed goes on; the table is printed, and written to CSV after each run.
Objectives take their default hyper-parameters unless given as `objective.beta=0.05`, which then goes to those that have
it.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

from common import machine
from minordpo.config import RunConfig, load_config
from minordpo.data.files import read_jsonl
from minordpo.errors import InputError
from minordpo.evaluate.generation import asked_line, looping, repeated_4grams
from minordpo.objectives import OBJECTIVES, hyperparameter_defaults, resolve
from minordpo.train.run import finished, run

SUMS = ("minordpo + 0.1*sft",)


def main() -> int:
    """Run what is missing; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-5, 5e-4])
    parser.add_argument("--objectives", nargs="+", default=[*OBJECTIVES, *SUMS], metavar="NAME")
    parser.add_argument("--csv", type=Path, help="where the table goes as CSV")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    planned = {
        (name, rate): arguments.out / f"{name.replace(' ', '').replace('*', 'x')}-{rate:g}"
        for name in arguments.objectives
        for rate in arguments.rates
    }
    for (name, rate), folder in planned.items():
        if arguments.table_only or finished(folder):
            continue
        try:
            run(configured(arguments, name, rate, folder), resume=folder.exists(), quiet=True)
        except (InputError, RuntimeError) as error:
            print(f"{folder}: {error}", file=sys.stderr)  # the others go on; the table leaves it out
        if arguments.csv:
            write(arguments.csv, rows(planned))
    print(table(rows(planned)))
    return 0


def configured(arguments: argparse.Namespace, name: str, rate: float, folder: Path) -> RunConfig:
    """The run's config: of the objective's hyper-parameters only those that it has."""
    terms = [part.split("*")[-1].strip() for part in name.split("+")]
    known = {key for term in terms for key in hyperparameter_defaults(term)}
    overrides = [
        each
        for each in arguments.overrides
        if not each.startswith("objective.") or each.partition("=")[0].removeprefix("objective.") in known
    ]
    own = [f"objective.name={name}", f"training.learning_rate={rate}", f"output={folder}"]
    return load_config(arguments.config, [*overrides, *own])


def rows(planned: dict[tuple[str, float], Path]) -> list[dict[str, Any]]:
    """What each finished run came to."""
    found = []
    for (_, rate), folder in planned.items():
        if not finished(folder):
            continue
        config = load_config(folder / "config.yaml", [])
        metrics = [row for _, row in read_jsonl(folder / "metrics.jsonl")]
        held_out = [row for row in metrics if "eval_loss" in row][-1]
        steps = [row for row in metrics if "loss" in row]
        answers = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
        after = [row for row in answers if row["when"] == "after"]

        def share(values: list[float], count: int = len(after)) -> float:
            return round(sum(values) / count, 4)

        found.append(
            {
                **machine(),
                "objective": str(resolve(config.objective.name, config.objective.hyper)),
                "learning_rate": rate,
                "chosen_logratio": held_out["eval_logratios/chosen"],
                "rejected_logratio": held_out["eval_logratios/rejected"],
                "accuracy": held_out["eval_rewards/accuracies"],
                "repeated_4grams": share([repeated_4grams(row["token_ids"]) for row in after]),
                "loops": share([looping(row["token_ids"]) for row in after]),
                "stops": share([row["stopped"] for row in after]),
                "asked_format": share([asked_line(row["answer"]) is not None for row in after]),
                "seconds": round(sum(row["seconds"] for row in steps), 1),
            }
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| objective | rate | chosen log-ratio | rejected | pairs ranked right | repeated 4-grams | loop | stop | "
        "asked format | seconds |",
        "|" + "---|" * 10,
    ]
    lines += [
        f"| {row['objective']} | {row['learning_rate']:g} | {row['chosen_logratio']:+.1f} | "
        f"{row['rejected_logratio']:+.1f} | {row['accuracy']:.0%} | {row['repeated_4grams']:.0%} | "
        f"{row['loops']:.0%} | {row['stops']:.0%} | {row['asked_format']:.0%} | {row['seconds']:.0f} |"
        for row in found
    ]
    return "\n".join(lines)


def write(path: Path, found: list[dict[str, Any]]) -> None:
    """The rows as CSV, whole or not at all."""
    if not found:
        return
    aside = path.with_suffix(".writing")
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    aside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
