"""Folders as given → run folders, each with a label of its own, and the evaluations beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minordpo.config.yaml import parse_yaml
from minordpo.errors import InputError
from minordpo.run_folder import names
from minordpo.sweep.results import readable

_SECTIONS = ("model", "data", "objective")


@dataclass(frozen=True)
class FoundRun:
    """A run folder: where it is, what the report calls it, what a sweep set in it."""

    folder: Path
    label: str
    config: Mapping[str, Any]  # empty where it failed before it began
    settings: Mapping[str, Any] | None = None  # by dotted key, where the run is a sweep's
    world: Mapping[str, Any] | None = None  # the micro world that a sweep put it on


@dataclass(frozen=True)
class Found:
    """What the folders hold."""

    runs: tuple[FoundRun, ...]
    evaluations: tuple[Path, ...]  # folders with evaluation.json and results.json


def find(folders: Sequence[Path]) -> Found:
    """The runs in the folders, in the order given and by name, none twice, and the evaluations.

    A folder is a run, an evaluation, or holds such folders, at most two levels below (as a folder of sweeps does).

    Raises:
        InputError: a folder that is none, or no run in any of them.
    """
    runs: dict[Path, FoundRun] = {}
    evaluations: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"{folder} is no folder, but run folders are needed. Name one, or a folder of them"
            )
        _collect(folder, 2, runs, evaluations)
    if not runs:
        given, of_models = ", ".join(map(str, folders)), ""
        if evaluations:
            of_models = (
                ", and a report is of runs; of an evaluation alone `minordpo evaluate` with --samples and --reference "
                f"draws reward against KL ({names.KL_FIGURE} in its folder)"
            )
        raise InputError(
            f"{given} holds no run (a folder with {names.CONFIG}){of_models}. Name a run folder, a folder of run "
            "folders or a sweep's output"
        )
    labelled = zip(runs.values(), _labels(list(runs)), strict=True)
    return Found(tuple(replace(run, label=label) for run, label in labelled), tuple(evaluations.values()))


def _collect(folder: Path, depth: int, runs: dict[Path, FoundRun], evaluations: dict[Path, Path]) -> None:
    """Add what the folder is, or what it holds at most `depth` levels below; the runs have no labels yet."""
    if _is_evaluation(folder):
        evaluations.setdefault(folder.resolve(), folder)
        return
    config = _run_config(folder)
    if config is not None:
        runs.setdefault(folder.resolve(), FoundRun(folder, "", config, **_planned(folder)))
        if _is_evaluation(own := folder / names.EVALUATION):
            evaluations.setdefault(own.resolve(), own)
        return
    if (folder / names.METRICS).is_file() and _planned(folder):
        raise InputError(
            f"{folder} is a run of the sweep beside it, but its {names.CONFIG} is not there. Put it back from a copy, "
            "or move the folder away"
        )
    if (folder / names.SWEEP).is_file():
        depth = 2  # a sweep keeps what untuned models answered one below its runs
    if depth:
        for each in sorted(folder.iterdir()):
            if each.is_dir() and not each.name.startswith("."):
                _collect(each, depth - 1, runs, evaluations)


def _is_evaluation(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (names.EVALUATION_SETTINGS, names.RESULTS))


def _run_config(folder: Path) -> Mapping[str, Any] | None:
    """The sections of a run's config, empty where it failed before it began; None where the folder is no run."""
    file = folder / names.CONFIG
    if not file.is_file():
        return {} if (folder / names.FAILED).is_file() else None
    config = parse_yaml(file.read_text(encoding="utf-8", errors="replace"), str(file))
    if isinstance(config, dict) and all(isinstance(config.get(name), dict) for name in _SECTIONS):
        return config
    if (folder / names.METRICS).is_file():
        raise InputError(
            f"{file} is no run's config, but {names.METRICS} beside it is a run's. Put the config back from a copy, or "
            "leave this run out"
        )
    return None


def _planned(folder: Path) -> Mapping[str, Any]:
    """What a sweep says of the run: `settings` and `world`."""
    file = folder.parent / names.SWEEP
    if not file.is_file():
        return {}
    advice = "Put it back from a copy, or name the run folders one by one outside it"
    with readable(file, f"The settings of the runs beside it stand there. {advice}"):
        run = json.loads(file.read_text(encoding="utf-8"))["runs"].get(folder.name)
        if run is None:
            return {}
        world = (run.get("identity") or {}).get("world")
        return {"settings": dict(run["settings"]), "world": world if isinstance(world, dict) else None}


def _labels(folders: Sequence[Path]) -> list[str]:
    """For each folder as many of its last parts as tell it from the others."""
    parts = [folder.parts for folder in folders]
    return [
        next(
            "/".join(own[-n:])
            for n in range(1, len(own) + 1)
            if [each[-n:] for each in parts].count(own[-n:]) == 1
        )
        for own in parts
    ]
