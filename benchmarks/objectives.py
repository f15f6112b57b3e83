"""Train every objective on the same pairs at two rates, and set what came out side by side.

    python benchmarks/objectives.py recipes/objectives.yaml data.train=pairs.jsonl --out runs/objectives

A finished run is not run again, one that was killed goes on, and rows that the CSV has already, from another machine
perhaps, stay in it and are not run again either. Several commands may share --out, each with objectives of its own.
Objectives take their default hyper-parameters unless given as `objective.beta=0.05`, which then goes to those that have
it.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from common import machine
from minordpo.config import RunConfig, load_config
from minordpo.errors import InputError
from minordpo.generate.text_measures import asked_line, looping, repeated_4grams
from minordpo.objectives import OBJECTIVES, parse, resolve
from minordpo.run_folder.files import read_jsonl
from minordpo.train.run import finished, run

SUMS = ("minordpo + 0.1*sft",)
UNTUNED = ("untuned", 0.0)


def main() -> int:
    """Run what is missing; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-4, 1e-3])
    parser.add_argument("--objectives", nargs="+", default=[*OBJECTIVES, *SUMS], metavar="NAME")
    parser.add_argument("--csv", type=Path, help="where the table goes as CSV")
    parser.add_argument("--table-only", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    planned = {
        (name, rate): arguments.out / f"{name.replace(' ', '').replace('*', 'x')}-{rate:g}"
        for name in arguments.objectives
        for rate in arguments.rates
    }
    before = read(arguments.csv)
    for (name, rate), folder in planned.items():
        if arguments.table_only or finished(folder) or (label(arguments, name), rate) in before:
            continue
        try:
            run(configured(arguments, name, rate, folder), resume=folder.exists(), quiet=True)
        except (InputError, RuntimeError) as error:
            print(f"{folder}: {error}", file=sys.stderr)  # the others go on; the table leaves it out
        write(arguments.csv, planned)
    print(table(write(arguments.csv, planned)))
    return 0


def configured(arguments: argparse.Namespace, name: str, rate: float, folder: Path) -> RunConfig:
    """The run's config: of the objective's hyper-parameters only those that it has."""
    known = parse(name).hyper
    overrides = [
        each
        for each in arguments.overrides
        if not each.startswith("objective.") or each.partition("=")[0].removeprefix("objective.") in known
    ]
    own = [f"objective.name={name}", f"training.learning_rate={rate}", f"output={folder}"]
    return load_config(arguments.config, [*overrides, *own])


def label(arguments: argparse.Namespace, name: str) -> str:
    """The objective as the table names it, with its hyper-parameters."""
    config = configured(arguments, name, arguments.rates[0], arguments.out)
    return str(resolve(config.objective.name, config.objective.hyper))


def rows(planned: dict[tuple[str, float], Path]) -> dict[tuple[str, float], dict[str, Any]]:
    """What each finished run came to, and first what the untuned model answers."""
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for (_, rate), folder in planned.items():
        if not finished(folder):
            continue
        config = load_config(folder / "config.yaml", [])
        name = str(resolve(config.objective.name, config.objective.hyper))
        metrics = [row for _, row in read_jsonl(folder / "metrics.jsonl")]
        held_out = [row for row in metrics if "eval_loss" in row][-1]
        seconds = [row["seconds"] for row in metrics if "seconds" in row]
        answers = [row for _, row in read_jsonl(folder / "samples.jsonl")]
        before, after = ([row for row in answers if row["when"] == when] for when in ("before", "after"))
        nothing = {"chosen_logratio": 0.0, "rejected_logratio": 0.0, "accuracy": "", "seconds_a_step": ""}
        found.setdefault(UNTUNED, _row(*UNTUNED, nothing, before))
        values = {
            "chosen_logratio": held_out["eval_logratios/chosen"],
            "rejected_logratio": held_out["eval_logratios/rejected"],
            "accuracy": held_out["eval_rewards/accuracies"],
            "seconds_a_step": round(statistics.median(seconds), 2),  # a pause of the machine is no step
        }
        found[name, rate] = _row(name, rate, values, after)
    return found


def _row(name: str, rate: float, values: dict[str, Any], answers: list[dict[str, Any]]) -> dict[str, Any]:
    def share(each: list[float]) -> float:
        return round(sum(each) / len(answers), 4)

    return {
        **machine(),
        "objective": name,
        "learning_rate": rate,
        **values,
        "answers": len(answers),
        "repeated_4grams": share([repeated_4grams(row["token_ids"]) for row in answers]),
        "loops": share([looping(row["token_ids"]) for row in answers]),
        "stops": share([row["stopped"] for row in answers]),
        "asked_format": share([asked_line(row["answer"]) is not None for row in answers]),
    }


def table(found: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| objective | rate | chosen log-ratio | rejected | pairs ranked right | repeated 4-grams | loop | stop | "
        "asked format | s a step |",
        "|" + "---|" * 10,
    ]
    for row in found:
        trained = row["accuracy"] != ""
        shares = [f"{float(row[name]):.0%}" for name in ("repeated_4grams", "loops", "stops", "asked_format")]
        cells = [
            row["objective"],
            f"{float(row['learning_rate']):g}" if trained else "",
            f"{float(row['chosen_logratio']):+.1f}",
            f"{float(row['rejected_logratio']):+.1f}",
            f"{float(row['accuracy']):.0%}" if trained else "",
            *shares,
            f"{float(row['seconds_a_step']):.0f}" if trained else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def read(path: Path | None) -> dict[tuple[str, float], dict[str, Any]]:
    """The rows of a CSV by objective and rate; none where there is no file yet."""
    if path is None or not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {(row["objective"], float(row["learning_rate"])): row for row in csv.DictReader(file)}


def write(path: Path | None, planned: dict[tuple[str, float], Path]) -> list[dict[str, Any]]:
    """The CSV's rows with those of the finished runs, sorted; written whole or not at all."""
    kept, fresh = read(path), rows(planned)
    # A row keeps the date and the machine it was measured on.
    both = {**{key: row for key, row in fresh.items() if key not in kept}, **kept}
    found = [both[key] for key in sorted(both, key=_order)]
    if path is not None and found:
        aside = path.with_suffix(f".{os.getpid()}.writing")
        with aside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
        aside.replace(path)
    return found


def _order(key: tuple[str, float]) -> tuple[int, str, float]:
    """The untuned model, then the objectives as they are listed everywhere."""
    name, rate = key
    listed = (UNTUNED[0], *OBJECTIVES)
    plain = name.split(",")[0]
    return (listed.index(plain) if plain in listed else len(listed), name, rate)


if __name__ == "__main__":
    sys.exit(main())
