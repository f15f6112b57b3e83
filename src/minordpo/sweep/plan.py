"""A sweep's YAML → its runs: which settings each has, what it is called, which micro world it is on. Nothing runs here.

sections ─► grid and runs, multiplied out ─► cells: settings, name, whole run config, world
"""

from __future__ import annotations

import copy
import difflib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minordpo import objectives
from minordpo.config import RunConfig, read_mapping
from minordpo.config.build import Origin, as_mapping, build, lay_over, set_key
from minordpo.config.types import shown
from minordpo.config.yaml import parse_yaml
from minordpo.errors import InputError
from minordpo.evaluate.evaluation import EvaluationConfig
from minordpo.evaluate.tasks import load_task
from minordpo.objectives.resolve import RANGES
from minordpo.paper.worlds import in_sweep as on_world
from minordpo.paper.worlds.world import World, refuse_impossible
from minordpo.sweep.launch import launched_processes
from minordpo.sweep.names import cell_name, in_order, model_name, refuse_unknown_key, world_name
from minordpo.train.run import validate

SECTIONS = ("run", "world", "grid", "runs", "evaluate", "launch", "output")
# What `seed` stands for, and world.seed where there is a world.
SEEDED = ("training.seed", "training.data_seed")
UNTUNED = "untuned"  # within the output: evaluations of the models that runs start from


@dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    name: str
    settings: dict[str, Any]  # what the sweep sets, by dotted key
    config: RunConfig
    world: World | None = None
    processes: int = 1  # that train it together

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.output)


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is to run."""

    output: Path
    cells: tuple[Cell, ...]
    keys: tuple[str, ...]  # that any cell sets
    base: dict[str, Any]  # `run` and `world` as they are where nothing varies
    evaluate: dict[str, Any] | None
    notes: tuple[str, ...] = ()  # what was decided that the file does not say
    processes: int = 1  # that train a run
    allow_code: bool = False  # that a run names as its objective

    @property
    def worlds(self) -> dict[Path, World]:
        """The micro worlds by their folders, each once."""
        return {self.world_folder(each.world): each.world for each in self.cells if each.world is not None}

    def world_folder(self, world: World) -> Path:
        """Where the world is."""
        return self.output / "worlds" / world_name(world)

    def evaluation(self, cell: Cell) -> EvaluationConfig | None:
        """What is asked of the cell's model, if anything; samples are measured against the run's own reference."""
        if self.evaluate is None:
            return None
        values = dict(self.evaluate)
        if cell.world is not None:
            values = on_world.questions(values, self.world_folder(cell.world))
        if values.get("samples") and values.get("reference") is None:
            values["reference"] = cell.config.model.reference or cell.config.model.path
        return EvaluationConfig(**values)

    def untuned(self, cell: Cell) -> tuple[Path, EvaluationConfig] | None:
        """Where the model that the cell starts from is asked the same, and what; None where it cannot be.

        Only its one answer a question: there is no reference to be told from. `minordpo evaluate` reads plain folders
        and hub ids alone.
        """
        model, config = cell.config.model, self.evaluation(cell)
        if config is None or model.gguf_file or model.revision or model.trust_remote_code:
            return None
        temperature = None if config.samples else config.temperature
        name = model_name(model.path) if cell.world is None else world_name(cell.world)
        asked = replace(config, samples=0, temperature=temperature, reference=None)
        return self.output / UNTUNED / name, asked


def load_plan(path: Path, overrides: Sequence[str] = (), *, allow_code: bool = False) -> SweepPlan:
    """The runs of the sweep in a YAML file, `section.key=value` overrides laid over it; every config is checked.

    Raises:
        InputError: a key that does not exist, an empty grid, a config that no run takes, two runs that are one.
    """
    values = read_mapping(path, what="A sweep", keys=SECTIONS)
    overridden = _override(values, overrides, str(path))
    # As the messages name them: a key of a run config has no "run." before it there.
    overridden += [key.removeprefix("run.").removeprefix("grid.") for key in overridden]

    def origin(key: str) -> str:
        set_here = any(key == each or key.startswith(each + ".") for each in overridden)
        return "command line" if set_here else str(path)

    _refuse_unknown_sections(values, origin)
    sections = _run_sections(values.get("run"))
    world = None if "world" not in values else dict(_mapping(values["world"], "world", origin))
    entries = _entries(values, origin)
    settings, notes = _applicable(entries, sections, allow_code)
    if world is not None:
        notes += on_world.replaced(sections)
    output, processes = Path(values["output"]), launched_processes(values.get("launch"), origin)
    cells = [
        replace(_cell(each, sections, world, output, origin, allow_code), processes=processes)
        for each in settings
    ]
    _refuse_twins(cells, path)
    keys = in_order({key for each in settings for key in each})
    evaluate = _evaluate(values.get("evaluate"), world is not None, origin)
    base = {"run": {name: each for name, each in sections.items() if name != "output"}, "world": world}
    return SweepPlan(output, tuple(cells), tuple(keys), base, evaluate, tuple(notes), processes, allow_code)


# ---- the file ----
def _override(values: dict[Any, Any], overrides: Sequence[str], path: str) -> list[str]:
    """Lay overrides over the file; a key of the grid has dots of its own."""
    overridden = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if key.startswith("grid.") and equals:
            grid = dict(_mapping(values.get("grid"), "grid", lambda _: path))
            flat = list(_dotted(grid))
            values["grid"] = grid = dict(flat) if len(dict(flat)) == len(flat) else grid
            grid[key.removeprefix("grid.")] = parse_yaml(value, f"override {text!r}")
            overridden.append(key.strip())
            continue
        if key.startswith("run.") and isinstance(values.get("run"), str):
            values["run"] = read_mapping(Path(values["run"]))
        overridden.append(lay_over(values, text))
    return overridden


def _refuse_unknown_sections(values: Mapping[Any, Any], origin: Origin) -> None:
    for key in values:
        if key not in SECTIONS:
            close = difflib.get_close_matches(str(key), SECTIONS, n=1)
            raise InputError(
                f"{origin(str(key))}: {key} is not a section of a sweep. "
                + (f"Did you mean {close[0]}?" if close else f"Known: {', '.join(SECTIONS)}.")
            )
    for key, what in (("run", "a run config, as a file or its sections"), ("output", "the folder to write")):
        if not values.get(key):
            raise InputError(f"{origin('')}: {key} is missing, but it is needed ({what}). Give it.")
    if not isinstance(values["output"], str) or not values["output"].strip():
        raise InputError(
            f"{origin('output')}: output is {shown(values['output'])}, but text is needed. Name a folder."
        )


def _run_sections(run: Any) -> dict[str, Any]:
    if isinstance(run, str):
        return read_mapping(Path(run))
    if not isinstance(run, dict):
        raise InputError(
            f"run is {shown(run)}, but a run config is needed. Name a file, or write its sections"
        )
    return copy.deepcopy(run)


def _mapping(value: Any, name: str, origin: Origin) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(
            f"{origin(name)}: {name} is {shown(value)}, but keys with values are needed. Write them so."
        )
    return value


def _entries(values: Mapping[str, Any], origin: Origin) -> list[list[dict[str, Any]]]:
    """The grid and each of `runs`, multiplied out: the settings of each run."""
    grid = _mapping(values.get("grid"), "grid", origin)
    runs = values.get("runs") or []
    if not isinstance(runs, list):
        raise InputError(f"{origin('runs')}: runs is {shown(runs)}, but a list is needed. Begin each with -")
    entries = [_mapping(each, f"runs[{place}]", origin) for place, each in enumerate(runs)]
    if {} in entries:
        raise InputError(
            f"{origin('runs')}: runs[{entries.index({})}] is empty. Give it keys with values, or leave it out."
        )
    if not grid and not entries:
        raise InputError(
            f"{origin('grid')}: the grid is empty and there are no runs, so nothing varies. Give keys with lists of "
            "values, as in training.learning_rate: [1e-5, 1e-4], or train the one run with `minordpo train`."
        )
    named = [("grid", grid)] if grid else []
    named += [(f"runs[{place}]", each) for place, each in enumerate(entries)]
    return [_multiplied(each, where, origin) for where, each in named]


def _multiplied(entry: Mapping[str, Any], where: str, origin: Origin) -> list[dict[str, Any]]:
    lists: dict[str, list[Any]] = {}
    for key, value in _dotted(entry):
        refuse_unknown_key(key, where, origin)
        if key in lists:
            raise InputError(f"{origin(where)}: {where} gives {key} twice. Write its values in one list.")
        lists[key] = found = value if isinstance(value, list) else [value]
        if not found:
            raise InputError(
                f"{origin(f'{where}.{key}')}: {where}.{key} is an empty list, so there would be no run. Give at least "
                "one value, or leave the key out."
            )
    if "seed" in lists:
        other = next((key for key in (*SEEDED, "world.seed") if key in lists), None)
        if other is not None:
            raise InputError(
                f"{origin(where)}: {where} has seed and {other}, but seed stands for {other} too. Leave one out."
            )
    # By the seed first, so that every setting has been tried once before any is tried again.
    keys = sorted(in_order(lists), key=lambda key: key != "seed")
    return [
        dict(zip(keys, values, strict=True)) for values in itertools.product(*(lists[key] for key in keys))
    ]


def _dotted(entry: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """`objective: {beta: [0.1]}` is objective.beta; a mapping that is a value stands in a list."""
    for key, value in entry.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# ---- the cells ----
def _applicable(
    entries: list[list[dict[str, Any]]], sections: dict[str, Any], allow_code: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Settings without the hyper-parameters that their own objective lacks and another of the sweep has: those runs are
    one, not copies; and a note on each."""
    objective = sections.get("objective")
    own = objective.get("name") if isinstance(objective, dict) else None
    named = [own, *(each.get("objective.name", own) for entry in entries for each in entry)]
    known = {name: _hyperparameters(name, allow_code) for name in named if isinstance(name, str)}
    somewhere = {key for keys in known.values() for key in keys}
    found: list[dict[str, Any]] = []
    merged: dict[tuple[str, str], None] = {}
    for entry in entries:
        seen: set[str] = set()
        for settings in entry:
            name = str(settings.get("objective.name", own))
            lacking = [
                key
                for key in settings
                if key.startswith("objective.")
                and key.partition(".")[2] in somewhere - known.get(name, set())
            ]
            kept = {key: value for key, value in settings.items() if key not in lacking}
            digest = json.dumps(kept, sort_keys=True)
            if lacking and digest in seen:
                merged |= {(name, key): None for key in lacking}
                continue
            seen.add(digest)
            found.append(kept)
    notes = [
        f"{name} has no {key.removeprefix('objective.')}: one run of it, not one a value"
        for name, key in merged
    ]
    return found, notes


def _hyperparameters(name: str, allow_code: bool) -> set[str]:
    """Those of an objective or a weighted sum.

    Raises:
        InputError: there is no such objective.
    """
    return {key for *_, spec in objectives.parse(name, allow_code=allow_code) for key in spec.defaults}


def _cell(
    settings: dict[str, Any],
    sections: dict[str, Any],
    world: dict[str, Any] | None,
    output: Path,
    origin: Origin,
    allow_code: bool,
) -> Cell:
    values, name = copy.deepcopy(sections), cell_name(settings)
    places = dict(settings)
    if "seed" in places:
        seed = places.pop("seed")
        places |= dict.fromkeys(SEEDED, seed)
        places |= {} if world is None else {"world.seed": seed}
    in_world = {
        key.removeprefix("world."): places.pop(key) for key in list(places) if key.startswith("world.")
    }
    if in_world and world is None:
        raise InputError(
            f"{origin('grid')}: world.{next(iter(in_world))} varies, but there is no world. Add world: {{}} for the "
            "default one, or leave the key out."
        )
    for key, value in places.items():
        set_key(values, key, value, said=f"{origin('grid')}: the grid")
    _drop_strange_hyperparameters(values, settings, allow_code)
    made = None
    if world is not None:
        made = build(World, world | in_world, "world.", origin)
        refuse_impossible(made)
        on_world.lay_under(values, output / "worlds" / world_name(made))
    values["output"] = str(output / name)
    config = build(RunConfig, values, "", origin)
    if made is not None:
        config = on_world.within_positions(config)
    try:
        validate(config, allow_code=allow_code)
    except InputError as error:
        raise InputError(f"{origin('grid')}: {name}: {error}") from None
    return Cell(name, settings, config, made)


def _drop_strange_hyperparameters(
    values: dict[str, Any], settings: Mapping[str, Any], allow_code: bool
) -> None:
    """Where the sweep names the objective, `run`'s hyper-parameters are for those objectives that have them."""
    objective = values.get("objective")
    if not isinstance(settings.get("objective.name"), str) or not isinstance(objective, dict):
        return
    known = _hyperparameters(objective["name"], allow_code)
    for key in [each for each in objective if each in RANGES and each not in known]:
        if f"objective.{key}" not in settings:
            del objective[key]


def _refuse_twins(cells: Sequence[Cell], path: Path) -> None:
    """Two runs in one folder, or of one config in two."""
    names: dict[str, Cell] = {}
    configs: dict[str, Cell] = {}
    for cell in cells:
        other = names.setdefault(cell.name.casefold(), cell)
        if other is not cell:
            same = (
                "are both"
                if other.settings == cell.settings
                else f"({_said(other)}; {_said(cell)}) would both be"
            )
            raise InputError(
                f"{path}: two runs {same} named {cell.name}, but each needs a folder of its own. Leave one out, or "
                "change a value so that the names differ."
            )
        mapping = as_mapping(cell.config) | {"output": ""}
        other = configs.setdefault(json.dumps(mapping, sort_keys=True, default=str), cell)
        if other is not cell:
            raise InputError(
                f"{path}: {other.name} and {cell.name} have the same settings in every key. Leave one out."
            )


def _said(cell: Cell) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in cell.settings.items())


def _evaluate(given: Any, has_world: bool, origin: Origin) -> dict[str, Any] | None:
    """The section as it stands, every key checked."""
    if given is None:
        return None
    values = dict(_mapping(given, "evaluate", origin))
    config = build(EvaluationConfig, (on_world.EVALUATION if has_world else {}) | values, "evaluate.", origin)
    if not has_world and config.task in on_world.TASKS:
        raise InputError(
            f"{origin('evaluate.task')}: evaluate.task is {config.task}, which is a micro world's, but there is no "
            "world. Add a world, or name a task or a file."
        )
    try:  # refused now, not by every run
        assert config.sampled is None or config.answered is None  # both check what they are made of
        if config.task not in on_world.TASKS:
            load_task(config.task, n=config.n, seed=config.seed)
    except InputError as error:  # in the words of `minordpo evaluate`, whose options are the section's keys
        said = re.sub(r"--(\w+)", r"evaluate.\1", str(error))
        raise InputError(f"{origin('evaluate')}: {said}") from error
    return values
