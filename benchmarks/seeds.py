"""What each objective comes to over the seeds of a sweep on micro worlds: a table, contrasts by seed, a figure.

    minordpo sweep recipes/paper/micro-decides.yaml --only '*-beta0.1-*' --jobs 2
    minordpo sweep recipes/paper/micro-decides.yaml --only 'sft-*' --jobs 2
    python benchmarks/seeds.py benchmarks/paper-micro-seeds.csv --add runs/paper-micro-decides \
        --figure docs/figures/paper-micro-seeds.png

--add takes the finished runs of a sweep's output into the CSV, and its untuned models as rows of their own, so that
seeds may be run one after the other, on whatever machine; a run that is there already must have come out the same.
The numbers are of one β; p is the exact paired sign-flip test over seeds, two-sided, not corrected.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from minordpo.evaluate.statistics import sign_flip_of_means
from minordpo.figures.canvas import COLORS, GREY, new_figure, write_figure
from minordpo.report.groups import rate_text
from minordpo.run_folder.files import written_whole

UNTUNED = "untuned"
ARMS = {
    UNTUNED: "untuned",
    "dpo": "DPO",
    "dpo_nll": "DPO + SFT",
    "dpop": "DPOP",
    "minordpo": "MinorDPO",
    "minor_sft": "minor-SFT",
    "sft": "SFT",
}
ACCURACY = "flexible_accuracy"
# Column → its head and how means are written.
TOLD = {
    ACCURACY: ("right, last number", "{:.0%}"),
    "strict_accuracy": ("right, asked line", "{:.0%}"),
    "eval_logratios/chosen": ("chosen", "{:+.1f}"),
    "eval_logratios/rejected": ("rejected", "{:+.1f}"),
    "eval_rewards/accuracies": ("ranked right", "{:.0%}"),
    "kl_per_sequence": ("KL an answer", "{:.1f}"),
    "retention_accuracy": ("other tasks", "{:.0%}"),
}
_TIMED = ("second", "resident", "gpu_bytes", "machine", "minordpo", "torch")  # not of what came out
_PATHS = ("model", "data")  # of the machine that a run was on
Row = dict[str, str]


def main() -> int:
    """Take in, tell, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, help="a row a run; --add writes it")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="outputs of sweeps to take in")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--figure", type=Path, help="PNG or SVG to draw")
    arguments = parser.parse_args()
    rows = _read(arguments.csv) if arguments.csv.exists() else {}
    for output in arguments.add:
        for row in [*_finished(output), *_untuned(output)]:
            problem = _difference(rows.get(row["run"]), row)
            if problem:
                print(f"{row['run']} of {output} came out otherwise: {problem}", file=sys.stderr)
                return 1
            rows.setdefault(row["run"], row)
    if arguments.add:
        _write(arguments.csv, rows)
    runs = [
        row
        for row in rows.values()
        if not row["objective.beta"] or float(row["objective.beta"]) == arguments.beta
    ]
    print("\n".join([*_table(runs), "", *_contrasts(runs)]))
    if arguments.figure:
        _draw(runs, arguments.figure)
    return 0


# ---- rows ----
def _read(file: Path) -> dict[str, Row]:
    with file.open(encoding="utf-8", newline="") as opened:
        return {row["run"]: row for row in csv.DictReader(opened)}


def _finished(output: Path) -> list[Row]:
    rows = [row for row in _read(output / "results.csv").values() if row["status"] == "finished"]
    return [{name: value for name, value in row.items() if name not in _PATHS} for row in rows]


def _untuned(output: Path) -> list[Row]:
    """A row of each world's untuned model; its seed stands at the end of the world's name."""
    found = []
    for file in sorted(output.glob(f"{UNTUNED}/*/results.json")):
        seed = re.fullmatch(r".*-seed(\d+)", file.parent.name)
        if seed is None:
            continue
        (model,) = json.loads(file.read_text(encoding="utf-8"))["models"].values()
        row = {
            "run": f"{UNTUNED}-seed{seed[1]}",
            "status": "finished",
            "objective.name": UNTUNED,
            "seed": seed[1],
        }
        row |= {"objective.beta": "", "training.learning_rate": ""}
        for name in (ACCURACY, "strict_accuracy"):
            row |= {name: repr(model[name]["share"]), f"{name}_low": repr(model[name]["low"])}
            row |= {f"{name}_high": repr(model[name]["high"]), "questions": str(model[name]["of"])}
        found.append(row)
    return found


def _difference(before: Mapping[str, str] | None, now: Mapping[str, str]) -> str:
    """The first measure that differs, in words; a run gives the same numbers again on a machine of its kind."""
    if before is None:
        return ""
    for name, value in now.items():
        if not any(each in name for each in _TIMED) and before.get(name, value) != value:
            return f"{name} {value}, not {before[name]}"
    return ""


def _write(file: Path, rows: Mapping[str, Row]) -> None:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    ordered = sorted(
        rows.values(), key=lambda row: (list(ARMS).index(row["objective.name"]), _rate(row), int(row["seed"]))
    )
    with written_whole(file) as aside, aside.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, names, restval="")
        writer.writeheader()
        writer.writerows(ordered)


def _rate(row: Mapping[str, str]) -> float:
    return float(row["training.learning_rate"] or 0)


# ---- what they say ----
def _by_seed(runs: Sequence[Row], arm: str, rate: float, measure: str = ACCURACY) -> dict[int, float]:
    """A number a seed; the untuned model's at whatever rate."""
    own = [row for row in runs if row["objective.name"] == arm and (arm == UNTUNED or _rate(row) == rate)]
    return {int(row["seed"]): float(row[measure]) for row in own if row.get(measure)}


def _rates(runs: Sequence[Row]) -> list[float]:
    return sorted({_rate(row) for row in runs} - {0.0})


def _table(runs: Sequence[Row]) -> list[str]:
    """Means over seeds, with the range of the accuracy, as Markdown."""
    lines = ["| | rate | seeds | " + " | ".join(head for head, _ in TOLD.values()) + " | at the end |"]
    lines.append("|" + "---|" * (len(TOLD) + 4))
    for rate in _rates(runs):
        for arm, name in ARMS.items():
            seeds = _by_seed(runs, arm, rate)
            if not seeds or (arm == UNTUNED and rate != _rates(runs)[0]):
                continue
            cells = [name, "" if arm == UNTUNED else rate_text(rate), str(len(seeds))]
            for measure, (_, form) in TOLD.items():
                values = list(_by_seed(runs, arm, rate, measure).values())
                text = form.format(statistics.fmean(values)) if values else ""
                text = text.replace("-", "−").replace("%", " %")
                if measure == ACCURACY:
                    text += f" ({100 * min(values):.0f} to {100 * max(values):.0f})"
                cells.append(text)
            own = [row for row in runs if row["objective.name"] == arm and _rate(row) == rate]
            healths = [row.get("health", "") for row in own]
            ends = [f"{healths.count(each)} {each}" for each in dict.fromkeys(healths) if each]
            cells.append("healthy" if set(healths) == {"healthy"} else ", ".join(ends))
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _contrasts(runs: Sequence[Row]) -> list[str]:
    """DPO less the untuned model and MinorDPO less each other arm, seed by seed, in points."""
    lines = ["| | rate | points | sd | seeds above 0 | p |", "|" + "---|" * 6]
    pairs = [("dpo", UNTUNED), *(("minordpo", arm) for arm in ARMS if arm != "minordpo")]
    for rate in _rates(runs):
        for first, second in pairs:
            ours, theirs = _by_seed(runs, first, rate), _by_seed(runs, second, rate)
            both = sorted(ours.keys() & theirs.keys())
            if len(both) < 2:
                continue
            less = [100 * (ours[seed] - theirs[seed]) for seed in both]
            mean = f"{statistics.fmean(less):+.1f}".replace("-", "−")
            cells = [
                f"{ARMS[first]} less {ARMS[second]}",
                rate_text(rate),
                mean,
                f"{statistics.stdev(less):.1f}",
            ]
            cells += [f"{sum(each > 0 for each in less)} of {len(less)}", f"{sign_flip_of_means(less):.2g}"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _draw(runs: Sequence[Row], out: Path) -> None:
    """A panel a rate: accuracy of each arm, a thin line a seed, a dash at their mean."""
    rates = _rates(runs)
    with new_figure() as figure:
        figure.set_size_inches(5.2 * len(rates), 4.2)
        axes = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
        for axis, rate in zip(axes, rates, strict=True):
            arms = [arm for arm in ARMS if _by_seed(runs, arm, rate)]
            table = {arm: _by_seed(runs, arm, rate) for arm in arms}
            for seed in sorted({seed for each in table.values() for seed in each}):
                points = [(x, 100 * table[arm][seed]) for x, arm in enumerate(arms) if seed in table[arm]]
                axis.plot(*zip(*points, strict=True), color=GREY, linewidth=0.7, alpha=0.5, zorder=1)
            for x, arm in enumerate(arms):
                values = [100 * value for value in table[arm].values()]
                color = GREY if arm == UNTUNED else COLORS[(list(ARMS).index(arm) - 1) % len(COLORS)]
                axis.plot([x] * len(values), values, linestyle="", marker="o", markersize=4, color=color)
                axis.plot([x - 0.3, x + 0.3], [statistics.fmean(values)] * 2, color=color, linewidth=3)
            axis.set_xticks(range(len(arms)), [ARMS[arm] for arm in arms], rotation=30, ha="right")
            axis.set_title(f"learning rate {rate_text(rate)}", loc="left")
            axis.set_ylim(0, 100)
        axes[0].set_ylabel("right by the last number, %")
        seeds = len({row["seed"] for row in runs})
        figure.suptitle(
            f"Accuracy of {seeds} seeds: a thin line a seed, a bar their mean",
            x=0.01,
            ha="left",
            fontweight="bold",
        )
        write_figure(figure, out)


if __name__ == "__main__":
    sys.exit(main())
