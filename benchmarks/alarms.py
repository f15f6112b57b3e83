"""How well the monitor announces a broken text: thresholds fitted on half of the settings, told on the other.

    minordpo sweep recipes/paper/alarms.yaml
    python benchmarks/alarms.py runs/alarms --csv benchmarks/alarms.csv

Each run was watched closely (many prompts, often); what is judged is a monitor as users have it, which sees --prompts
of them, as often as --every says. --also names run folders of another world that nothing was fitted on; those of
--fit-also are in every half that thresholds are fitted on.
"""

from __future__ import annotations

import argparse
import collections
import csv
import dataclasses
import functools
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import alarm_study as A
from common import machine
from minordpo.monitor.health import Thresholds
from minordpo.paper.stopping_study import StudiedRun, read_run
from minordpo.run_folder.files import written_whole
from minordpo.run_folder.records import CHOSEN_LOGRATIO

Alarm = Callable[[StudiedRun], int | None]


def main() -> int:
    """Read the runs, fit, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="run folders of another world")
    parser.add_argument(
        "--fit-also", type=Path, nargs="*", default=[], help="run folders that are always fitted on"
    )
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--every", default="auto", type=lambda text: text if text == "auto" else int(text))
    parser.add_argument("--seed", type=int, default=0, help="of the halving that is told")
    parser.add_argument("--halvings", type=int, default=50, help="others, for the spread")
    parser.add_argument("--csv", type=Path, help="where a row per run goes")
    arguments = parser.parse_args()
    runs = [read_run(file.parent) for file in sorted(arguments.runs.glob("*/probes.jsonl"))]
    if len({run.setting for run in runs}) < 2:
        print(f"{arguments.runs} holds runs of fewer than two settings: nothing to fit on", file=sys.stderr)
        return 2
    known = [read_run(folder) for folder in arguments.fit_also]
    study = Study(runs, known, arguments.prompts, arguments.every)
    print(study.kinds())
    thresholds, c = study.report(arguments.seed, arguments.halvings)
    others = [read_run(folder) for folder in arguments.also]
    if others:
        print("\nanother world, nothing fitted on it\n" + study.table(others, thresholds, c))
    if arguments.csv is not None:
        study.write(arguments.csv, [*runs, *known, *others], thresholds, c)
    return 0


class Study:
    """The runs, and where each candidate would have raised the alarm."""

    def __init__(
        self, runs: Sequence[StudiedRun], known: Sequence[StudiedRun], prompts: int, every: int | str
    ) -> None:
        self.halved, self.runs = runs, [*runs, *known]
        self.prompts, self.every = prompts, every
        self.broke = [A.broke_at(run) for run in self.runs]
        self._ours = functools.cache(lambda thresholds: [self.ours(thresholds)(run) for run in self.runs])
        self._trivial = functools.cache(lambda c: [A.trivial_alarm_at(run, c) for run in self.runs])
        self._seen: dict[StudiedRun, Any] = {}  # by run: another world may have the same names

    def ours(self, thresholds: Thresholds) -> Alarm:
        """The monitor with these thresholds."""

        def alarm(run: StudiedRun) -> int | None:
            if run not in self._seen:
                self._seen[run] = A.as_seen(run, prompts=self.prompts, every=self.every)
            return A.alarm_at(self._seen[run], thresholds)

        return alarm

    def kinds(self) -> str:
        """What the runs are."""
        found = collections.Counter(
            "broken" if broke else "sound, chosen below the reference" if A.was_displaced(run) else "sound"
            for run, broke in zip(self.runs, self.broke, strict=True)
        )
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.items()))
        settings = len({run.setting for run in self.halved})
        besides = (
            f" and {len(self.runs) - len(self.halved)} besides" if len(self.runs) > len(self.halved) else ""
        )
        return f"{len(self.halved)} runs of {settings} settings{besides}: {kinds}"

    def fit(self, seed: int) -> tuple[Thresholds, float, list[int]]:
        """The best of both alarms on one half, and the other half's places."""
        one, other = A.halves(self.halved, seed)
        one += range(len(self.halved), len(self.runs))
        ours = A.best(A.candidates(), self._ours, self.broke, one)
        trivial = A.best(A.TRIVIAL, self._trivial, self.broke, one)
        return ours, trivial, other

    def report(self, seed: int, halvings: int) -> tuple[Thresholds, float]:
        """Print what the fitted alarms were worth on the other half, and how much that hangs on the halving."""
        thresholds, c, other = self.fit(seed)
        changed = {
            name: value
            for name, value in dataclasses.asdict(thresholds).items()
            if value != getattr(Thresholds(), name)
        }
        print(f"fitted thresholds: {changed or 'those of today'}; trivial alarm: c = {c:g} nats")
        judged = self.table([self.runs[place] for place in other], thresholds, c)
        print(f"\nthe half that nothing was fitted on\n{judged}")
        spread: dict[str, list[float]] = collections.defaultdict(list)
        for each in range(1, halvings + 1):
            fitted, level, rest = self.fit(each)
            broke = [self.broke[place] for place in rest]
            for name, alarms in (
                ("monitor, fitted", self._ours(fitted)),
                ("monitor, thresholds of today", self._ours(Thresholds())),
                ("log-ratio < −c", self._trivial(level)),
            ):
                spread[name].append(A.tally(broke, [alarms[place] for place in rest]).youden)
        for name, values in spread.items():
            tenths = statistics.quantiles(values, n=10)
            print(
                f"{name}: announced − false alarms, {halvings} halvings: median {statistics.median(values):+.2f}, "
                f"middle 80 % {tenths[0]:+.2f} to {tenths[-1]:+.2f}"
            )
        return thresholds, c

    def table(self, runs: Sequence[StudiedRun], thresholds: Thresholds, c: float) -> str:
        """What each alarm is worth on these runs, in Markdown."""
        broke = [A.broke_at(run) for run in runs]
        rows = ["| alarm | announced | when | false alarms |", "|---|---|---|---|"]
        named: list[tuple[str, Alarm]] = [
            ("monitor, fitted", self.ours(thresholds)),
            ("monitor, thresholds of today", self.ours(Thresholds())),
            (f"log-ratio < −{c:g}", lambda run: A.trivial_alarm_at(run, c)),
        ]
        rows += [
            f"| {name} | {A.tally(broke, [alarm(run) for run in runs]).words()} |" for name, alarm in named
        ]
        return "\n".join(rows)

    def write(self, path: Path, runs: Sequence[StudiedRun], thresholds: Thresholds, c: float) -> None:
        """A row per run."""
        rows = [self._row(run, thresholds, c) for run in runs]
        with written_whole(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def _row(self, run: StudiedRun, thresholds: Thresholds, c: float) -> dict[str, Any]:
        last = run.probe(max(run.probes))
        shown = ("repeated_4grams", "looping", "stopped", "correct")
        return {
            **machine(),
            "run": run.name,
            "configuration": run.setting,
            "steps": run.steps,
            "broke_at": A.broke_at(run),
            "displaced": A.was_displaced(run),
            "alarm_fitted": self.ours(thresholds)(run),
            "alarm_today": self.ours(Thresholds())(run),
            "alarm_trivial": A.trivial_alarm_at(run, c),
            "chosen_logratio": run.rows[-1].values.get(CHOSEN_LOGRATIO),
            **{name: last.get(name) for name in shown},
        }


if __name__ == "__main__":
    sys.exit(main())
