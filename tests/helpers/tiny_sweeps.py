"""Sweeps in milliseconds: a YAML of few lines, runs that are only pretended, workers that are this process."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from minordpo.config import dump_config
from minordpo.errors import InputError, TrainingStopped
from minordpo.sweep import sweep as sweeping
from minordpo.sweep.foundation import Extension
from minordpo.sweep.jobs import AnyJob, FoundationJob, UntunedJob
from minordpo.sweep.plan import SweepPlan, load_plan
from minordpo.sweep.workers import Event, Workers

CURSED, WRECKING = 666.0, 7.0  # learning rates of pretended runs that fail, and that collapse
RUN: dict[str, Any] = {
    "model": {"path": "base"},
    "data": {"train": "pairs.jsonl"},
    "objective": {"name": "minordpo", "beta": 0.1},
    "training": {"max_steps": 2, "per_device_train_batch_size": 4, "use_cpu": True, "learning_rate": 1e-3},
    "samples": {"prompts": 2, "max_new_tokens": 4},
    "monitor": {"prompts": 2, "max_new_tokens": 4},
}


def write_sweep(folder: Path, **sections: Any) -> Path:
    """A sweep's file that writes to `folder`/out; a section None is left out."""
    values = {"run": RUN, "output": str(folder / "out")} | sections
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump({name: each for name, each in values.items() if each is not None}))
    return path


def plan_of(folder: Path, *overrides: str, extension: Extension = None, **sections: Any) -> SweepPlan:
    """The plan of such a file."""
    return load_plan(write_sweep(folder, **sections), overrides, extension=extension)


def swept(folder: Path, *overrides: str, **options: Any) -> tuple[int, str]:
    """How many failed, and what was said, of the file that stands there."""
    said: list[str] = []
    failed = sweeping.sweep(folder / "s.yaml", overrides, say=said.append, **options)
    return failed, "\n".join(said)


def table(folder: Path) -> dict[str, dict[str, str]]:
    """results.csv of such a sweep, by the runs' names."""
    return {row["run"]: row for row in _rows(folder / "out")}


def _rows(output: Path) -> list[dict[str, str]]:
    with (output / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Pretended:
    """Does jobs by writing what a run leaves, and remembers which."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, job: AnyJob, say: Callable[[str], None]) -> None:
        self.done.append(job.name)
        if isinstance(job, FoundationJob):
            values, made = job.foundation.values, job.foundation.folder
            if values.pairs == CURSED:
                raise InputError("such a world cannot be made")
            (made / "base").mkdir(parents=True)
            (made / "base" / "trained.json").write_text(
                '{"steps": 2, "right": 0.5, "asked": 8, "seconds": 30}'
            )
            (made / "world.json").write_text(json.dumps(dataclasses.asdict(values)))
            return
        if isinstance(job, UntunedJob):
            if job.evaluation.seed == CURSED:
                raise InputError("such questions cannot be asked")
            job.folder.mkdir(parents=True)
            (job.folder / "results.json").write_text("{}")
            return
        say("training")
        folder = Path(job.config.output)
        (folder / "failed.txt").unlink(missing_ok=True)
        rate = job.config.training.arguments["learning_rate"]
        if rate == CURSED:
            raise InputError("this rate is cursed. Lower it")
        for name in ("model", "figures"):
            (folder / name).mkdir(parents=True)
        rows: list[dict[str, Any]] = [{"step": 1, "loss": 0.7, "seconds": 2.0}]
        if rate == WRECKING:
            rows.append({"step": 1, "event": "health", "health": "collapsed"})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "config.yaml").write_text(dump_config(job.config))
        (folder / "cost.json").write_text('{"seconds": 3.0}')
        (folder / "figures" / "rewards.png").write_bytes(b"")


class InThisProcess(Workers):
    """In place of `Workers`: a job is done when it is given, and told of afterwards."""

    def __init__(self, do: Any, count: int, logs: Path, *, processes: int) -> None:
        self.do, self._environments = do, [{}] * count
        self.told: list[Event] = []

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *exception: object) -> None: ...

    @property
    def busy(self) -> int:
        return len({event.job.name for event in self.told})

    def give(self, job: Any) -> None:
        try:
            self.do(job, lambda text: self.told.append(Event(job, "doing", text)))
            self.told.append(Event(job, "done"))
        except (InputError, TrainingStopped) as error:
            self.told.append(Event(job, "failed", str(error)))

    def events(self, timeout: float) -> list[Event]:
        told, self.told = self.told, []
        return told


def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """Sweeps of this test only pretend."""
    pretended = Pretended()
    monkeypatch.setattr(sweeping, "do_job", pretended)
    monkeypatch.setattr(sweeping, "Workers", InThisProcess)
    return pretended


@dataclasses.dataclass(frozen=True)
class Begun:
    """A copy of a sweep's folder, which another version has written, as the working folder."""

    pretended: Pretended
    extension: Extension
    before: list[dict[str, str]]  # rows of results.csv

    def swept(self, *overrides: str, **options: Any) -> tuple[int, str]:
        """How many failed, and what was said."""
        said: list[str] = []
        path = Path("sweep.yaml")
        failed = sweeping.sweep(path, overrides, extension=self.extension, say=said.append, **options)
        return failed, "\n".join(said)

    def rows_are_as_before(self) -> bool:
        """Whether results.csv has the same values in every column that it had."""
        return [{key: row[key] for key in self.before[0]} for row in _rows(Path("out"))] == self.before


def copy_begun(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, extension: Extension = None
) -> Begun:
    """Copy the sweep and go there; runs are only pretended."""
    shutil.copytree(source, folder)
    monkeypatch.chdir(folder)
    return Begun(pretend(monkeypatch), extension, _rows(Path("out")))
