"""A sweep's YAML → its run plans: what each run sets, what it is called, what it stands on. Nothing runs here.

sections ─► grid and runs, multiplied out ─► run plans: settings, name, whole run config, foundation
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minordpo import objectives
from minordpo.config import RunConfig, read_mapping
from minordpo.config.build import Origin, as_mapping, build, dotted, lay_over, section_keys, set_key
from minordpo.config.types import shown
from minordpo.config.yaml import parse_yaml
from minordpo.errors import InputError
from minordpo.evaluate.evaluation import EvaluationConfig
from minordpo.evaluate.tasks import load_task
from minordpo.objectives.resolve import RANGES
from minordpo.run_folder import names
from minordpo.sweep.foundation import Extension, Foundation
from minordpo.sweep.launch import LaunchConfig
from minordpo.sweep.names import in_order, refuse_unknown_key, run_name, slug
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
        name = slug(model.path) if run.foundation is None else run.foundation.folder.name
        temperature = None if config.samples else config.temperature
        asked = replace(config, samples=0, temperature=temperature, reference=None)
        return self.output / names.UNTUNED / name, asked


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """The sections of a sweep's file, beside that of what its runs may stand on."""

    run: str | dict[str, Any] = field(metadata={"meaning": "a run config, as a file or its sections"})
    grid: dict[str, Any] | None = None
    runs: list | None = None
    evaluate: dict[str, Any] | None = None
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    output: str = field(metadata={"meaning": "the folder to write"})


def load_plan(
    path: Path, overrides: Sequence[str] = (), *, extension: Extension = None, allow_code: bool = False
) -> SweepPlan:
    """The runs of the sweep in a YAML file, `section.key=value` overrides laid over it; every config is checked.

    Raises:
        InputError: a key that does not exist, an empty grid, a config that no run takes, two runs that are one.
    """
    known: Any = SweepFile
    if extension is not None:
        section = (extension.section, dict[str, Any] | None, None)
        known = dataclasses.make_dataclass(
            "SweepFile", [section], bases=(SweepFile,), kw_only=True, frozen=True
        )
    values = read_mapping(path, what="A sweep", keys=section_keys(known))
    overridden = _override(values, overrides)
    # As the messages name them: a key of a run config has no "run." before it there.
    overridden += [key.removeprefix("run.").removeprefix("grid.") for key in overridden]

    def origin(key: str) -> str:
        set_here = any(key == each or key.startswith(each + ".") for each in overridden)
        return "command line" if set_here else str(path)

    file: SweepFile = build(known, values, "", origin)
    sections = read_mapping(Path(file.run)) if isinstance(file.run, str) else copy.deepcopy(file.run)
    base: dict[str, Any] = {"run": {name: each for name, each in sections.items() if name != "output"}}
    if extension is not None and extension.section in values:
        base[extension.section] = values[extension.section] or {}
    maker = _RunMaker(base, Path(file.output), origin, extension, allow_code)
    settings, notes = maker.applicable(maker.entries(file))
    if values.get("launch") == {}:
        raise InputError(f"{origin('launch')}: launch.processes is missing. Give it, or no launch at all.")
    processes = file.launch.processes
    runs = tuple(replace(maker.run(each), processes=processes) for each in settings)
    _refuse_twins(runs, path)
    return SweepPlan(
        maker.output,
        runs,
        base,
        maker.evaluate(file.evaluate, runs[0].foundation),
        (*notes, *maker.replaced()),
        processes,
        extension,
        allow_code,
    )


def _override(values: dict[Any, Any], overrides: Sequence[str]) -> list[str]:
    """Lay overrides over the file; a key of the grid has dots of its own."""
    overridden = []
    for text in overrides:
        key, equals, value = text.partition("=")
        grid = values.get("grid") or {}
        if key.startswith("grid.") and equals and isinstance(grid, dict):
            flat = list(dotted(grid))
            grid = dict(flat) if len(dict(flat)) == len(flat) else grid
            values["grid"] = grid | {key.removeprefix("grid."): parse_yaml(value, f"override {text!r}")}
            overridden.append(key.strip())
            continue
        if key.startswith("run.") and isinstance(values.get("run"), str):
            values["run"] = read_mapping(Path(values["run"]))
        overridden.append(lay_over(values, text))
    return overridden


@dataclass(frozen=True)
class _RunMaker:
    """Makes the runs of a sweep's file."""

    base: dict[str, Any]  # as in `SweepPlan`
    output: Path
    origin: Origin
    extension: Extension
    allow_code: bool

    @property
    def section(self) -> str:
        """The section of what runs may stand on; empty where there is no such section."""
        return "" if self.extension is None else self.extension.section

    # ---- what each run sets ----
    def entries(self, file: SweepFile) -> list[list[dict[str, Any]]]:
        """The grid and each of `runs`, multiplied out: the settings of each run."""
        named: dict[str, Any] = {"grid": file.grid} if file.grid else {}
        named |= {f"runs[{place}]": each for place, each in enumerate(file.runs or [])}
        for where, each in named.items():
            if not isinstance(each, dict) or not each:
                raise InputError(
                    f"{self.origin('runs')}: {where} is {shown(each)}, but keys with values are needed. Write them so, "
                    "or leave it out."
                )
        if not named:
            raise InputError(
                f"{self.origin('grid')}: the grid is empty and there are no runs, so nothing varies. Give keys with "
                "lists of values, as in training.learning_rate: [1e-5, 1e-4], or train the one run with `minordpo "
                "train`."
            )
        return [self._multiplied(each, where) for where, each in named.items()]

    def _multiplied(self, entry: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
        lists: dict[str, list[Any]] = {}
        for key, value in dotted(entry):
            refuse_unknown_key(key, where, self.origin, self.extension)
            if key in lists:
                raise InputError(
                    f"{self.origin(where)}: {where} gives {key} twice. Write its values in one list."
                )
            lists[key] = found = value if isinstance(value, list) else [value]
            if not found:
                raise InputError(
                    f"{self.origin(f'{where}.{key}')}: {where}.{key} is an empty list, so there would be no run. Give "
                    "at least one value, or leave the key out."
                )
        seeded = (*SEEDED, f"{self.section}.seed")
        if "seed" in lists and (other := next((key for key in seeded if key in lists), None)):
            raise InputError(
                f"{self.origin(where)}: {where} has seed and {other}, but seed stands for {other} too. Leave one out."
            )
        # By the seed first, so that every setting has been tried once before any is tried again.
        keys = sorted(in_order(lists), key=lambda key: key != "seed")
        products = itertools.product(*(lists[key] for key in keys))
        return [dict(zip(keys, values, strict=True)) for values in products]

    def applicable(self, entries: list[list[dict[str, Any]]]) -> tuple[list[dict[str, Any]], list[str]]:
        """Settings without the hyper-parameters that their own objective lacks and another of the sweep has: those runs
        are one, not copies; and a note on each."""
        objective = self.base["run"].get("objective")
        own = objective.get("name") if isinstance(objective, dict) else None
        named = [own, *(each.get("objective.name", own) for entry in entries for each in entry)]
        known = {name: self._hyperparameters(name) for name in named if isinstance(name, str)}
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

    def _hyperparameters(self, name: str) -> set[str]:
        """Those of an objective or a weighted sum; raise InputError if there is no such objective."""
        return set(objectives.parse(name, allow_code=self.allow_code).hyper)

    # ---- the run plans ----
    def run(self, settings: dict[str, Any]) -> RunPlan:
        """The run with those settings."""
        values, name, foundation = copy.deepcopy(self.base["run"]), run_name(settings), None
        on_foundation, own = self.section in self.base, f"{self.section}."
        places = dict(settings)
        if "seed" in places:
            places |= dict.fromkeys((*SEEDED, *[f"{own}seed"] * on_foundation), places.pop("seed"))
        ours = {key.removeprefix(own): places.pop(key) for key in [*places] if key.startswith(own)}
        if ours and not on_foundation:
            raise InputError(
                f"{self.origin('grid')}: {own}{next(iter(ours))} varies, but there is no {self.section}. Add "
                f"{self.section}: {{}} for the default one, or leave the key out."
            )
        for key, value in places.items():
            set_key(values, key, value, said=f"{self.origin('grid')}: the grid")
        self._drop_strange_hyperparameters(values, settings)
        values["output"] = str(self.output / name)
        if self.extension is not None and on_foundation:
            given = self.base[self.section] | ours
            foundation = self.extension.described(given, self.output, self.origin)
            config = foundation.config(values, self.origin)
        else:
            config = build(RunConfig, values, "", self.origin)
        try:
            validate(config, allow_code=self.allow_code)
        except InputError as error:
            raise InputError(f"{self.origin('grid')}: {name}: {error}") from None
        return RunPlan(name, settings, config, foundation)

    def _drop_strange_hyperparameters(self, values: dict[str, Any], settings: Mapping[str, Any]) -> None:
        """Where the sweep names the objective, `run`'s hyper-parameters are for those objectives that have them."""
        objective = values.get("objective")
        if not isinstance(settings.get("objective.name"), str) or not isinstance(objective, dict):
            return
        known = self._hyperparameters(objective["name"])
        for key in [each for each in objective if each in RANGES and each not in known]:
            if f"objective.{key}" not in settings:
                del objective[key]

    def replaced(self) -> list[str]:
        """A note on the keys of `run` that a foundation sets, where there are any."""
        if self.extension is None or self.section not in self.base:
            return []
        there = dict(dotted(self.base["run"]))
        given = [key for key in self.extension.stands_for if key in there]
        return [f"the {self.extension.kind} stands in place of run's {', '.join(given)}"] if given else []

    def evaluate(self, given: dict[str, Any] | None, foundation: Foundation | None) -> dict[str, Any] | None:
        """The section as it stands, every key checked."""
        if given is None:
            return None
        unless_told = {} if foundation is None else foundation.evaluation
        config = build(EvaluationConfig, unless_told | given, "evaluate.", self.origin)
        kind = self.extension.kind if self.extension and config.task in self.extension.tasks else ""
        if kind and foundation is None:
            raise InputError(
                f"{self.origin('evaluate.task')}: evaluate.task is {config.task}, which is a {kind}'s, but there is no "
                f"{self.section}. Add a {self.section}, or name a task or a file."
            )
        try:  # refused now, not by every run
            config.drawn()
            if not kind:
                load_task(config.task, n=config.n, seed=config.seed)
        except InputError as error:
            # In the words of `minordpo evaluate`, whose options are the section's keys.
            said = re.sub(r"--(\w+)", r"evaluate.\1", str(error))
            raise InputError(f"{self.origin('evaluate')}: {said}") from error
        return given


def _refuse_twins(runs: Sequence[RunPlan], path: Path) -> None:
    """Raise InputError if two runs have one folder, or one config in two."""
    by_name: dict[str, RunPlan] = {}
    by_config: dict[str, RunPlan] = {}
    for run in runs:
        other = by_name.setdefault(run.name.casefold(), run)
        if other is not run:
            settings = "; ".join(json.dumps(each.settings, ensure_ascii=False) for each in (other, run))
            raise InputError(
                f"{path}: two runs are both named {run.name} ({settings}), but each needs a folder of its own. Leave "
                "one out, or change a value so that the names differ."
            )
        config = as_mapping(run.config) | {"output": ""}
        other = by_config.setdefault(json.dumps(config, sort_keys=True, default=str), run)
        if other is not run:
            raise InputError(
                f"{path}: {other.name} and {run.name} have the same settings in every key. Leave one out."
            )
