"""Finished loops of a study → a CSV, what tuning chooses, the contrasts, and the figure."""

from __future__ import annotations

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import EngFormatter, PercentFormatter

from minordpo.errors import InputError
from minordpo.evaluate.kl_plot import scale_kl
from minordpo.evaluate.statistics import holm
from minordpo.figures.canvas import COLORS, MARKERS, add_legend, new_figure, write_figure
from minordpo.onpolicy.loop.table import COLUMNS
from minordpo.paper.claims.contrast import Contrast
from minordpo.paper.loops.study import Phase, Study, StudyLoop, loops_of
from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl, write_text

STYLES = ("worked", "terse")


def rows_of(study: Study, phase: Phase) -> list[dict[str, Any]]:
    """A row for each model of each loop that has ended: the loop's table, its arm, and styles of greedy answers."""
    rows = []
    for this in loops_of(study, phase):
        table = this.folder / names.LOOP_TABLE
        record = this.folder / names.LOOP_RECORD
        if not record.exists() or json.loads(record.read_text(encoding="utf-8")).get("ended") is None:
            continue
        with table.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                facts = {"phase": phase, "arm": this.arm_name, "rate": this.rate, "seed": this.seed}
                where = {"model": Path(row["model"]).relative_to(study.output).as_posix()}
                rows.append(facts | row | where | _styles(this, int(row["round"])))
    return rows


def _styles(this: StudyLoop, number: int) -> dict[str, Any]:
    """Of the greedy answers of a round's model: the share of each style, and the share that is right within it."""
    folder = this.folder / names.EVALUATION
    labels = json.loads((folder / names.EVALUATION_SETTINGS).read_text(encoding="utf-8"))["models"]
    wanted = str(this.world / "base") if number == 0 else str(this.folder / f"round-{number}")
    label = next(label for label, each in labels.items() if Path(each["path"]).is_relative_to(wanted))
    answers = [row for _, row in read_jsonl(folder / label / names.ANSWERS)]
    found: dict[str, Any] = {}
    for style in STYLES:
        own = [row["flexible_right"] for row in answers if style_of_world(row["answer"]) == style]
        found[f"{style}_share"] = len(own) / len(answers)
        found[f"{style}_right"] = statistics.fmean(own) if own else None
    return found


def style_of_world(answer: str) -> str:
    """The style of an answer in a toy world: worked over several lines, or terse."""
    return "worked" if "\n" in answer.strip() else "terse"


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows as CSV.

    Raises:
        InputError: it cannot be written.
    """
    columns = ["phase", "arm", "rate", "seed", *COLUMNS]
    columns += [f"{style}_{what}" for style in STYLES for what in ("share", "right")]
    lines = [",".join(columns)]
    for row in rows:
        values = (row.get(name) for name in columns)
        lines.append(",".join(_cell(value) for value in values))
    write_text(path, "\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return f'"{text}"' if "," in text else text


def last_rounds(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Arm → seed → the row of the last round."""
    found: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        before = found[row["arm"]].get(row["seed"])
        if before is None or int(row["round"]) > int(before["round"]):
            found[row["arm"]][row["seed"]] = row
    return found


def tuned(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of each arm the accuracy at each rate over the tuning seeds, the rate it chooses, and whether that is an edge."""
    by_rate: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if int(row["round"]) > 0 and row["flexible"]:
            by_rate[row["arm"]][row["rate"]].append(float(row["flexible"]))
    lines = []
    for arm, rates in by_rate.items():
        means = {rate: statistics.fmean(values) for rate, values in sorted(rates.items())}
        best = max(means, key=means.__getitem__)
        edge = " (an edge: try further rates)" if best in (min(means), max(means)) else ""
        shown = ", ".join(f"{rate:g}: {mean:.1%}" for rate, mean in means.items())
        lines.append(f"{arm}: {shown} → {best:g}{edge}")
    return "\n".join(lines)


def contrasts(study: Study, rows: Sequence[Mapping[str, Any]], measure: str = "flexible") -> str:
    """minordpo less each named arm after the last round, paired by seed, with exact sign-flip tests and Holm."""
    last = last_rounds(rows)
    made = []
    for other in study.contrasts:
        both = sorted(last["minordpo"].keys() & last[other].keys())
        if both:
            points = {
                seed: 100 * (float(last["minordpo"][seed][measure]) - float(last[other][seed][measure]))
                for seed in both
            }
            made.append(Contrast(what=other, by_seed=points, predicted=1, unit="points"))
    adjusted = holm([each.p for each in made])
    lines = []
    for each, p in zip(made, adjusted, strict=True):
        spread = "" if each.spread is None else f", sd {each.spread:.1f}"
        lines.append(
            f"minordpo less {each.what}: {each.mean:+.1f} points{spread}, above on {each.as_predicted} of {each.seeds} "
            f"seeds, p {each.p:.3f}, Holm {p:.3f}"
        )
    return "\n".join(lines)


def figure(rows: Sequence[Mapping[str, Any]], out: Path, *, title: str) -> None:
    """Accuracy and pass@k over generated tokens and over KL from the base: means over seeds, a line an arm.

    Raises:
        InputError: no loop has ended, or nothing can be written there.
    """
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    if not arms:
        raise InputError("no loop of this phase has ended. Run some first")
    with new_figure() as drawn:
        drawn.set_size_inches(11, 7.6)
        panels = drawn.subplots(2, 2, sharey="row")
        for place, arm in enumerate(arms):
            marker, color = MARKERS[place // len(COLORS) % len(MARKERS)], COLORS[place % len(COLORS)]
            means = _means([row for row in rows if row["arm"] == arm])
            for line, measure in zip(panels, ("flexible", "pass_at_all"), strict=True):
                for axis, across in zip(line, ("all_tokens", "kl"), strict=True):
                    axis.plot(means[across], means[measure], marker=marker, color=color, label=arm)
        for line, heading in zip(panels, ("Right, greedy", "pass@8"), strict=True):
            for axis in line:
                axis.set_title(heading, loc="left")
                axis.yaxis.set_major_formatter(PercentFormatter(1))
            line[0].xaxis.set_major_formatter(EngFormatter())
        for axis in panels[:, 1]:
            scale_kl(axis)
        panels[1][0].set_xlabel("tokens generated for training")
        panels[1][1].set_xlabel("KL from the first model, nats an answer")
        handles = panels[0][0].get_legend_handles_labels()
        add_legend(drawn, *handles, loc="outside lower left", ncols=5)
        drawn.suptitle(title, x=0.01, ha="left", fontweight="bold")
        for suffix in (".png", ".svg"):
            write_figure(drawn, out.with_suffix(suffix))


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Of each round the mean over seeds."""
    found: dict[str, list[float]] = {name: [] for name in ("all_tokens", "kl", "flexible", "pass_at_all")}
    for number in sorted({int(row["round"]) for row in rows}):
        of_round = [row for row in rows if int(row["round"]) == number]
        for name, values in found.items():
            known = [float(row[name]) for row in of_round if row[name] not in ("", None)]
            values.append(statistics.fmean(known) if known else float("nan"))
    return found
