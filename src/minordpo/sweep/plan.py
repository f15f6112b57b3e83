"""A sweep's YAML → its run plans: what each run sets, what it is called, what it stands on. Nothing runs here.

sections ─► grid and runs, multiplied out ─► run plans: settings, name, whole run config, foundation
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
from minordpo.run_folder import names
from minordpo.sweep.foundation import Extension, Foundation
from minordpo.sweep.launch import launched_processes
from minordpo.sweep.names import in_order, model_name, refuse_unknown_key, run_name
from minordpo.train.run import validate

SEEDED = ("training.seed", "training.data_seed")  # what `seed` stands for, and a foundation's seed


@dataclass(frozen=True)
class RunPlan:
    """One run of a sweep."""

    name: str
    settings: dict[str, Any]  # what the sweep sets, by dotted key
    config: RunConfig
    foundation: Foundation | None = None
    processes: int = 1  # that train it together

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.output)


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is to run."""

    output: Path
    runs: tuple[RunPlan, ...]
    keys: tuple[str, ...]  # that any run sets
    base: dict[str, Any]  # `run` and the foundation's section as they are where nothing varies
    evaluate: dict[str, Any] | None
    notes: tuple[str, ...] = ()  # what was decided that the file does not say
    processes: int = 1  # that train a run
    extension: Extension = None
    allow_code: bool = False  # that a run names as its objective

    @property
    def foundations(self) -> list[Foundation]:
        """What the runs stand on, each once."""
        return list(dict.fromkeys(run.foundation for run in self.runs if run.foundation is not None))

    def evaluation(self, run: RunPlan) -> EvaluationConfig | None:
        """What is asked of the run's model, if anything; samples are measured against the run's own reference."""
        if self.evaluate is None:
            return None
        values = dict(self.evaluate) if run.foundation is None else run.foundation.asked(self.evaluate)
        if values.get("samples") and values.get("reference") is None:
            values["reference"] = run.config.model.reference or run.config.model.path
        return EvaluationConfig(**values)

    def untuned_models(self) -> dict[Path, str]:
        """The models that runs start from and that can be asked, by the folders of their evaluations."""
        return {asked[0]: run.config.model.path for run in self.runs if (asked := self.untuned(run))}

    def untuned(self, run: RunPlan) -> tuple[Path, EvaluationConfig] | None:
        """Where the model that the run starts from is asked the same, and what; None where it cannot be.

        Only its one answer a question: there is no reference to be told from. `minordpo evaluate` reads plain folders
        and hub ids alone.
        """
        model, config = run.config.model, self.evaluation(run)
        if config is None or model.gguf_file or model.revision or model.trust_remote_code:
            return None
        name = model_name(model.path) if run.foundation is None else run.foundation.folder.name
        temperature = None if config.samples else config.temperature
        asked = replace(config, samples=0, temperature=temperature, reference=None)
        return self.output / names.UNTUNED / name, asked


def load_plan(
    path: Path, overrides: Sequence[str] = (), *, extension: Extension = None, allow_code: bool = False
) -> SweepPlan:
    """The runs of the sweep in a YAML file, `section.key=value` overrides laid over it; every config is checked.

    Raises:
        InputError: a key that does not exist, an empty grid, a config that no run takes, two runs that are one.
    """
    known = ("run", *([] if extension is None else [extension.section]))
    known += ("grid", "runs", "evaluate", "launch", "output")
    values = read_mapping(path, what="A sweep", keys=known)
    overridden = _override(values, overrides, str(path))
    # As the messages name them: a key of a run config has no "run." before it there.
    overridden += [key.removeprefix("run.").removeprefix("grid.") for key in overridden]

    def origin(key: str) -> str:
        set_here = any(key == each or key.startswith(each + ".") for each in overridden)
        return "command line" if set_here else str(path)

    _refuse_unknown_sections(values, known, origin)
    sections = _run_sections(values.get("run"))
    base: dict[str, Any] = {"run": {name: each for name, each in sections.items() if name != "output"}}
    if extension is not None and extension.section in values:
        base[extension.section] = dict(_mapping(values[extension.section], extension.section, origin))
    entries = _entries(values, origin, extension)
    settings, notes = _applicable(entries, sections, allow_code)
    if extension is not None and extension.section in base:
        places = [key.split(".") for key in extension.stands_for]
        given = [f"{section}.{key}" for section, key in places if key in (sections.get(section) or {})]
        notes += [f"the {extension.kind} stands in place of run's {', '.join(given)}"] if given else []
    output, processes = Path(values["output"]), launched_processes(values.get("launch"), origin)
    runs = [_run(each, base, output, origin, extension, allow_code) for each in settings]
    runs = [replace(each, processes=processes) for each in runs]
    _refuse_twins(runs, path)
    return SweepPlan(
        output,
        tuple(runs),
        tuple(in_order({key for each in settings for key in each})),
        base,
        _evaluate(values.get("evaluate"), runs[0].foundation, extension, origin),
        tuple(notes),
        processes,
        extension,
        allow_code,
    )


# ---- the file ----
def _override(values: dict[Any, Any], overrides: Sequence[str], path: str) -> list[str]:
    """Lay overrides over the file; a key of the grid has dots of its own."""
    overridden = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if key.startswith("grid.") and equals:
            grid = dict(_mapping(values.get("grid"), "grid", lambda _: path))
            flat = list(dotted(grid))
            values["grid"] = grid = dict(flat) if len(dict(flat)) == len(flat) else grid
            grid[key.removeprefix("grid.")] = parse_yaml(value, f"override {text!r}")
            overridden.append(key.strip())
            continue
        if key.startswith("run.") and isinstance(values.get("run"), str):
            values["run"] = read_mapping(Path(values["run"]))
        overridden.append(lay_over(values, text))
    return overridden


def _refuse_unknown_sections(values: Mapping[Any, Any], known: Sequence[str], origin: Origin) -> None:
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            advice = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(known)}."
            raise InputError(f"{origin(str(key))}: {key} is not a section of a sweep. {advice}")
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


def _entries(values: Mapping[str, Any], origin: Origin, extension: Extension) -> list[list[dict[str, Any]]]:
    """The grid and each of `runs`, multiplied out: the settings of each run."""
    grid = _mapping(values.get("grid"), "grid", origin)
    runs = values.get("runs") or []
    if not isinstance(runs, list):
        raise InputError(f"{origin('runs')}: runs is {shown(runs)}, but a list is needed. Begin each with -")
    named = {"grid": grid} if grid else {}
    for place, each in enumerate(runs):
        named[f"runs[{place}]"] = entry = _mapping(each, f"runs[{place}]", origin)
        if not entry:
            raise InputError(
                f"{origin('runs')}: runs[{place}] is empty. Give it keys with values, or leave it out."
            )
    if not named:
        raise InputError(
            f"{origin('grid')}: the grid is empty and there are no runs, so nothing varies. Give keys with lists of "
            "values, as in training.learning_rate: [1e-5, 1e-4], or train the one run with `minordpo train`."
        )
    return [_multiplied(each, where, origin, extension) for where, each in named.items()]


def _multiplied(
    entry: Mapping[str, Any], where: str, origin: Origin, extension: Extension
) -> list[dict[str, Any]]:
    lists: dict[str, list[Any]] = {}
    for key, value in dotted(entry):
        refuse_unknown_key(key, where, origin, extension)
        if key in lists:
            raise InputError(f"{origin(where)}: {where} gives {key} twice. Write its values in one list.")
        lists[key] = found = value if isinstance(value, list) else [value]
        if not found:
            raise InputError(
                f"{origin(f'{where}.{key}')}: {where}.{key} is an empty list, so there would be no run. Give at least "
                "one value, or leave the key out."
            )
    seeded = SEEDED if extension is None else (*SEEDED, f"{extension.section}.seed")
    if "seed" in lists and (other := next((key for key in seeded if key in lists), None)):
        raise InputError(
            f"{origin(where)}: {where} has seed and {other}, but seed stands for {other} too. Leave one out."
        )
    # By the seed first, so that every setting has been tried once before any is tried again.
    keys = sorted(in_order(lists), key=lambda key: key != "seed")
    return [
        dict(zip(keys, values, strict=True)) for values in itertools.product(*(lists[key] for key in keys))
    ]


def dotted(entry: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """`objective: {beta: [0.1]}` is objective.beta; a mapping that is a value stands in a list."""
    for key, value in entry.items():
        if isinstance(value, dict) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# ---- the run plans ----
def _applicable(
    entries: list[list[dict[str, Any]]], sections: dict[str, Any], allow_code: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Settings without the hyper-parameters that their own objective lacks and another of the sweep has: those runs are
    one, not copies; and a note on each."""
    objective = sections.get("objective")
    own = objective.get("name") if isinstance(objective, dict) else None
    named = [own, *(each.get("objective.name", own) for entry in entries for each in entry)]
    known = {name: _hyperparameters(name, allow_code) for name in named if isinstance(name, str)}
    somewhere = {f"objective.{key}" for keys in known.values() for key in keys}
    found: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    for entry in entries:
        seen: set[str] = set()
        for settings in entry:
            name = str(settings.get("objective.name", own))
            has = {f"objective.{key}" for key in known.get(name, ())}
            lacking = [key for key in settings if key in somewhere - has]
            kept = {key: value for key, value in settings.items() if key not in lacking}
            digest = json.dumps(kept, sort_keys=True)
            if lacking and digest in seen:
                for key in lacking:
                    hyper = key.removeprefix("objective.")
                    notes[f"{name} has no {hyper}: one run of it, not one a value"] = None
            else:
                seen.add(digest)
                found.append(kept)
    return found, list(notes)


def _hyperparameters(name: str, allow_code: bool) -> set[str]:
    """Those of an objective or a weighted sum; raise InputError if there is no such objective."""
    return set(objectives.parse(name, allow_code=allow_code).hyper)


def _run(
    settings: dict[str, Any],
    base: dict[str, Any],
    output: Path,
    origin: Origin,
    extension: Extension,
    allow_code: bool,
) -> RunPlan:
    values, name, foundation = copy.deepcopy(base["run"]), run_name(settings), None
    section = "" if extension is None else extension.section
    places = dict(settings)
    if "seed" in places:
        seeded = (*SEEDED, f"{section}.seed") if section in base else SEEDED
        places |= dict.fromkeys(seeded, places.pop("seed"))
    own = {key: places.pop(key) for key in list(places) if section and key.startswith(f"{section}.")}
    if own and section not in base:
        raise InputError(
            f"{origin('grid')}: {next(iter(own))} varies, but there is no {section}. Add {section}: {{}} for the "
            "default one, or leave the key out."
        )
    for key, value in places.items():
        set_key(values, key, value, said=f"{origin('grid')}: the grid")
    _drop_strange_hyperparameters(values, settings, allow_code)
    if extension is not None and section in base:
        given = base[section] | {key.removeprefix(f"{section}."): value for key, value in own.items()}
        foundation = extension.described(given, output, origin)
    values["output"] = str(output / name)
    config = build(RunConfig, values, "", origin) if foundation is None else foundation.config(values, origin)
    try:
        validate(config, allow_code=allow_code)
    except InputError as error:
        raise InputError(f"{origin('grid')}: {name}: {error}") from None
    return RunPlan(name, settings, config, foundation)


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


def _refuse_twins(runs: Sequence[RunPlan], path: Path) -> None:
    """Raise InputError if two runs have one folder, or one config in two."""
    by_name: dict[str, RunPlan] = {}
    by_config: dict[str, RunPlan] = {}
    for run in runs:
        other = by_name.setdefault(run.name.casefold(), run)
        if other is not run:
            said = f"({_said(other)}; {_said(run)}) would both be"
            raise InputError(
                f"{path}: two runs {'are both' if other.settings == run.settings else said} named {run.name}, but each "
                "needs a folder of its own. Leave one out, or change a value so that the names differ."
            )
        config = as_mapping(run.config) | {"output": ""}
        other = by_config.setdefault(json.dumps(config, sort_keys=True, default=str), run)
        if other is not run:
            raise InputError(
                f"{path}: {other.name} and {run.name} have the same settings in every key. Leave one out."
            )


def _said(run: RunPlan) -> str:
    return ", ".join(f"{key} {json.dumps(value)}" for key, value in run.settings.items())


def _evaluate(
    given: Any, foundation: Foundation | None, extension: Extension, origin: Origin
) -> dict[str, Any] | None:
    """The section as it stands, every key checked."""
    if given is None:
        return None
    values = dict(_mapping(given, "evaluate", origin))
    unless_told = {} if foundation is None else foundation.evaluation
    config = build(EvaluationConfig, unless_told | values, "evaluate.", origin)
    of_foundation = extension is not None and config.task in extension.tasks
    if extension is not None and of_foundation and foundation is None:
        raise InputError(
            f"{origin('evaluate.task')}: evaluate.task is {config.task}, which is a {extension.kind}'s, but there is "
            f"no {extension.section}. Add a {extension.section}, or name a task or a file."
        )
    try:  # refused now, not by every run
        assert config.sampled is None or config.answered is None  # both check what they are made of
        if not of_foundation:
            load_task(config.task, n=config.n, seed=config.seed)
    except InputError as error:  # in the words of `minordpo evaluate`, whose options are the section's keys
        said = re.sub(r"--(\w+)", r"evaluate.\1", str(error))
        raise InputError(f"{origin('evaluate')}: {said}") from error
    return values
