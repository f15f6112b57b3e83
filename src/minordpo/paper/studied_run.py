"""A finished run as studies judge it again: its rows, its probes prompt by prompt, and whether its text is broken."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minordpo.config import load_config
from minordpo.errors import InputError
from minordpo.monitor.probe import means
from minordpo.objectives import resolve
from minordpo.run_folder import names, records
from minordpo.run_folder.files import read_jsonl
from minordpo.run_folder.metrics_file import MetricsFile

# Where the text of a run is called broken: rises over step 0, over ALL its prompts, of shares and of nats a token under
# the reference; the latter also beyond the data's chosen answers. Set before any run was made.
BROKEN = {records.LOOPING: 0.25, records.REPEATED: 0.2, records.EMPTY: 0.25, records.REFERENCE_NLL: 0.6}


@dataclass(frozen=True, eq=False)
class StudiedRun:
    """The rows of metrics.jsonl without probes, and the probes prompt by prompt."""

    name: str
    setting: str  # what it shares with the runs that differ in their seed alone
    rows: list[records.StepRow]
    probes: dict[int, list[dict[str, Any]]]  # step → an answer's measures each
    held_out: list[records.EvaluationRow] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return max(row.step for row in self.rows)

    def probe(self, step: int, prompts: int | None = None) -> dict[str, float]:
        """Means over the first prompts of one probe; over all of them without a number."""
        return means(self.probes[step][:prompts])

    @functools.cached_property
    def correct(self) -> dict[int, float]:
        """Step → share of right answers, where answers can be checked."""
        shares = {step: self.probe(step).get(records.CORRECT) for step in self.probes}
        return {step: share for step, share in shares.items() if share is not None}

    def lost(self, step: int) -> float:
        """The accuracy at the end less that at the last probe up to this step."""
        known = max(each for each in self.correct if each <= step)
        return self.correct[max(self.correct)] - self.correct[known]


def read_run(folder: Path, setting: str | None = None) -> StudiedRun:
    """A run folder as studies see it; runs that differ in their seed alone share the setting.

    Raises:
        InputError: the folder has no probes.
    """
    file = folder / names.PROBES
    if not file.exists():
        raise InputError(f"{folder} has no probes.jsonl. Only runs with monitor.enabled=true can be studied")
    config = load_config(folder / names.CONFIG, [])
    objective = resolve(config.objective.name, config.objective.hyper)
    rate = float(config.training.arguments["learning_rate"])
    rows = MetricsFile(folder / names.METRICS).rows()
    probes: dict[int, list[dict[str, Any]]] = {}
    for _, row in read_jsonl(file):
        probes.setdefault(int(row["step"]), []).append(dict(row["measures"]))
    steps, held_out = records.of_kind(rows, records.StepRow), records.of_kind(rows, records.EvaluationRow)
    return StudiedRun(folder.name, setting or f"{objective}, rate {rate:g}", steps, probes, held_out)


def by_setting(runs: Sequence[StudiedRun]) -> dict[str, list[StudiedRun]]:
    """The runs of each setting, sorted by its name."""
    return {
        name: [run for run in runs if run.setting == name] for name in sorted({run.setting for run in runs})
    }


def is_broken(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a text is broken that was not before training; measures that one of both lacks say nothing."""
    known = [name for name in BROKEN if before.get(name) is not None and now.get(name) is not None]
    taught = before.get(records.CHOSEN_NLL)
    return any(
        now[name] - before[name] >= BROKEN[name]
        for name in known
        # Not a new style, no less likely than what is taught.
        if not (name == records.REFERENCE_NLL and taught is not None and now[name] <= taught)
    )
