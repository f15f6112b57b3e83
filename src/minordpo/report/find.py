"""Folders as given → run folders, each with a label of its own, and the evaluations beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minordpo.config.yaml import parse_yaml
from minordpo.errors import InputError
from minordpo.run_folder import names
from minordpo.sweep.results import EVALUATION, FAILED

CONFIG, METRICS, PLAN = names.CONFIG, names.METRICS, names.SWEEP
_SECTIONS = ("model", "data", "objective")


@dataclass(frozen=True)
class Run:
    """A run folder: where it is, what the report calls it, what a sweep set in it."""

    folder: Path
    label: str
    config: Mapping[str, Any]  # empty where it failed before it began
    settings: Mapping[str, Any] | None = None  # by dotted key, where the run is a sweep's
    world: Mapping[str, Any] | None = None  # the micro world that a sweep put it on


@dataclass(frozen=True)
class Found:
    """What the folders hold."""

    runs: tuple[Run, ...]
    evaluations: tuple[Path, ...]  # folders with evaluation.json and results.json


def find(folders: Sequence[Path]) -> Found:
    """The runs in the folders, in the order given and by name, none twice, and the evaluations.

    A folder is a run, an evaluation, or holds such folders, at most two levels below (as a folder of sweeps does).

    Raises:
        InputError: a folder that is none, or no run in any of them.
    """
    runs: dict[Path, tuple[Path, Mapping[str, Any], Mapping[str, Any]]] = {}
    evaluations: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"{folder} is no folder, but run folders are needed. Name one, or a folder of them"
            )
        _look(folder, 2, runs, evaluations)
    if not runs:
        named = ", ".join(map(str, folders))
        of_models = ""
        if evaluations:
            of_models = (
                ", and a report is of runs; of an evaluation alone `minordpo evaluate` with --samples and --reference "
                f"draws reward against KL ({names.KL_FIGURE} in its folder)"
            )
        raise InputError(
            f"{named} holds no run (a folder with {CONFIG}){of_models}. Name a run folder, a folder of run folders or "
            "a sweep's output"
        )
    labels = _labels([folder for folder, _, _ in runs.values()])
    made = tuple(
        Run(folder, label, config, **planned)
        for (folder, config, planned), label in zip(runs.values(), labels, strict=True)
    )
    return Found(made, tuple(evaluations.values()))


def _look(folder: Path, depth: int, runs: dict[Path, Any], evaluations: dict[Path, Path]) -> None:
    if _is_evaluation(folder):
        evaluations.setdefault(folder.resolve(), folder)
        return
    if (folder / PLAN).is_file():
        depth = 2  # a sweep keeps what untuned models answered one below its runs
    config = _run_config(folder)
    if config is None and (folder / METRICS).is_file() and _planned(folder):
        raise InputError(
            f"{folder} is a run of the sweep beside it, but its {CONFIG} is not there. Put it back from a copy, or "
            "move the folder away"
        )
    if config is not None:
        runs.setdefault(folder.resolve(), (folder, config, _planned(folder)))
        if _is_evaluation(folder / EVALUATION):
            evaluations.setdefault((folder / EVALUATION).resolve(), folder / EVALUATION)
        return
    if depth:
        for each in sorted(folder.iterdir()):
            if each.is_dir() and not each.name.startswith("."):
                _look(each, depth - 1, runs, evaluations)


def _is_evaluation(folder: Path) -> bool:
    return (folder / names.EVALUATION_SETTINGS).is_file() and (folder / names.RESULTS).is_file()


def _run_config(folder: Path) -> Mapping[str, Any] | None:
    """The sections of a run's config, empty where it failed before it began; None where the folder is no run."""
    file = folder / CONFIG
    if not file.is_file():
        return {} if (folder / FAILED).is_file() else None
    config = parse_yaml(file.read_text(encoding="utf-8", errors="replace"), str(file))
    if isinstance(config, dict) and all(isinstance(config.get(name), dict) for name in _SECTIONS):
        return config
    if (folder / METRICS).is_file():
        raise InputError(
            f"{file} is no run's config, but {METRICS} beside it is a run's. Put the config back from a copy, or leave "
            "this run out"
        )
    return None


def _planned(folder: Path) -> Mapping[str, Any]:
    """What a sweep says of the run: `settings` and `world`."""
    file = folder.parent / PLAN
    if not file.is_file():
        return {}
    try:
        run = json.loads(file.read_text(encoding="utf-8"))["runs"].get(folder.name)
        if run is None:
            return {}
        world = (run.get("identity") or {}).get("world")
        return {"settings": dict(run["settings"]), "world": world if isinstance(world, dict) else None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} cannot be read ({type(error).__name__}: {error}), but the settings of the runs beside it stand "
            "there. Put it back from a copy, or name the run folders one by one outside it"
        ) from error


def _labels(folders: Iterable[Path]) -> list[str]:
    """For each folder as many of its last parts as tell it from the others."""
    parts = [each.resolve().parts for each in folders]
    labels = []
    for own in parts:
        others = [each for each in parts if each != own]
        length = 1
        while length < len(own) and any(each[-length:] == own[-length:] for each in others):
            length += 1
        labels.append("/".join(own[-length:]))
    return labels
