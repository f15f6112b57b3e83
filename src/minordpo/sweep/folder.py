"""A sweep's output folder: sweep.json says what each run is made of, so that the same command goes on and another is
refused; results.csv and results.parquet hold a row a run.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import xxhash

from minordpo.config import RunConfig
from minordpo.config.build import as_mapping, flatten
from minordpo.engine.models import model_folder
from minordpo.errors import InputError
from minordpo.evaluate.folder import EvaluationFolder, model_identity
from minordpo.run_folder import names
from minordpo.run_folder.files import written_whole
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.ownership import finished, refuse_unwritable
from minordpo.sweep.names import in_order
from minordpo.sweep.plan import Cell, SweepPlan
from minordpo.sweep.results import COLUMNS, EVALUATION, FAILED, RETENTION, run_row, write_results
from minordpo.version import __version__

PLAN = "sweep.json"
_SMALL = 1 << 20  # bytes; of larger files of a model, its weights, the size stands for the content
_OF_A_MODEL = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".gguf")
State = Literal["done", "failed", "begun", "new"]


class SweepFolder:
    """What a sweep has on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digests: dict[str, str | None] = {}
        self._rows: dict[str, dict[str, Any]] = {}

    # ---- whose folder it is ----
    def reconciled(self, plan: SweepPlan) -> SweepPlan:
        """The plan with the names under which its runs are known here; nothing is written.

        Raises:
            InputError: the folder is something else or another sweep's, or the settings, data or model of a run that
                has begun have changed; one that failed before it had trained a step may be corrected.
        """
        refuse_unwritable(self.path)
        known = self._known()
        if known is None:
            return plan
        runs = known["runs"]
        identities = {self._digest(run["identity"]): name for name, run in runs.items()}
        cells, changed = [], []
        for cell in plan.cells:
            identity = self.identity(cell)
            name = identities.get(self._digest(identity))
            if name is not None:
                config = dataclasses.replace(cell.config, output=str(self.path / name))
                cells.append(dataclasses.replace(cell, name=name, config=config))
                continue
            before = runs.get(cell.name, {}).get("identity")
            if before is not None and _has_begun(cell.folder):
                changed.append(f"{cell.name} was begun with {_difference(before, identity)}")
            cells.append(cell)
        begun = [name for name in runs if _has_begun(self.path / name)]
        ours = {cell.name for cell in cells} & set(begun)
        if begun and not ours and known["base"] != plan.base:
            raise InputError(
                f"{self.path} holds another sweep ({_counted(len(begun))}, {begun[0]} among them), of which this one "
                "has no run. Name another output"
            )
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise InputError(
                f"{self.path} holds this sweep with other settings: {changed[0]}{more}. Put them back, or name another "
                "output; a grid may gain runs and lose them"
            )
        self._refuse_other_questions(known, plan)
        self._refuse_other_untuned(plan)
        return dataclasses.replace(plan, cells=tuple(cells))

    def _known(self) -> dict[str, Any] | None:
        """What sweep.json says; None in a new folder."""
        file = self.path / PLAN
        if not file.is_file():
            if self.path.is_dir() and any(each.suffix != ".partial" for each in self.path.iterdir()):
                raise InputError(f"{self.path} exists and holds no sweep. Name another output")
            return None
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            runs = {name: {"identity": dict(run["identity"]), **run} for name, run in known["runs"].items()}
            questions = known.get("questions")
            return {
                "runs": runs,
                "base": known["base"],
                "evaluate": known["evaluate"],
                "questions": questions if isinstance(questions, str) else None,
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file} cannot be read ({type(error).__name__}: {error}). Put it back from a copy, or name another "
                "output; the run folders beside it are whole"
            ) from error

    def _refuse_other_questions(self, known: Mapping[str, Any], plan: SweepPlan) -> None:
        before, content = known["evaluate"], known["questions"]
        if before is None or plan.evaluate is None:
            return
        names = sorted({*before, *plan.evaluate})
        key = next((name for name in names if before.get(name) != plan.evaluate.get(name)), None)
        if key is not None:
            with_what = (
                f"was evaluated with evaluate.{key} {json.dumps(before.get(key))}, not "
                f"{json.dumps(plan.evaluate.get(key))}"
            )
        elif content is not None and content != _questions(plan):
            with_what = f"was evaluated with other content of {plan.evaluate['task']}"
        else:
            return
        asked = [cell for cell in plan.cells if (cell.folder / EVALUATION).exists()]
        if asked:
            raise InputError(
                f"{self.path}: {asked[0].name} {with_what}, and rows are to be compared. Put it back, or evaluate the "
                "runs by `minordpo evaluate`"
            )
        # It is asked before the runs are, so a sweep that was stopped early has its answers alone.
        untuned = [each[0] for cell in plan.cells if (each := plan.untuned(cell)) is not None]
        if any(each.exists() for each in untuned):
            raise InputError(
                f"{self.path}: the untuned model {with_what}, and the runs are to be compared with it. Put it back, or "
                f"remove {untuned[0].parent}, so that it is asked again"
            )

    def _refuse_other_untuned(self, plan: SweepPlan) -> None:
        """Answers of an untuned model are those of its present weights, or nothing is to be told against them."""
        models = {
            asked[0]: cell.config.model.path
            for cell in plan.cells
            if (asked := plan.untuned(cell)) is not None
        }
        for folder, model in models.items():
            path = Path(model_folder(model))
            if not path.is_dir():  # a hub id, or a world that is to be made
                continue
            for before in EvaluationFolder(folder).known().get("models", {}).values():
                if before["identity"] != model_identity(str(path)):
                    raise InputError(
                        f"{folder} has answers of {model} as it was, and it has other weights, tokenizer or template "
                        f"now. Remove {folder}, so that it is asked again, or put the model back"
                    )

    def identity(self, cell: Cell) -> dict[str, Any]:
        """What a run's numbers come from: its config, its world, the content of its data and model files.

        Of files over a MiB, weights, the size stands for the content; each run's environment.json has their digest.
        """
        config = as_mapping(cell.config)
        del config["output"]
        if cell.world is not None:
            model = config["model"]
            model |= {name: None for name in ("path", "reference") if model[name] == cell.config.model.path}
            config["data"] = config["data"] | {"train": None, "eval": None}
        identity = {
            "config": config,
            "world": None if cell.world is None else dataclasses.asdict(cell.world),
            "files": {} if cell.world is not None else self._files(cell.config),
        }
        if cell.processes > 1:  # a step has the pairs of all
            identity["launch"] = {"processes": cell.processes}
        return json.loads(self._digest(identity))  # as it is read back, to be compared with that

    def _files(self, config: RunConfig) -> dict[str, str]:
        named = (config.data.train, config.data.eval, config.model.path, config.model.reference)
        found = {}
        for path in [each for each in named if isinstance(each, str)]:
            if path not in self._digests:
                self._digests[path] = _content(path)
            digest = self._digests[path]
            if digest is not None:
                found[path] = digest
        return found

    @staticmethod
    def _digest(identity: Mapping[str, Any]) -> str:
        return json.dumps(identity, sort_keys=True, default=str)

    def begin(self, plan: SweepPlan) -> None:
        """Write the plan down; runs that are no longer in the grid stay known where they have begun.

        Raises:
            InputError: nothing can be written there.
        """
        known = self._known() or {"runs": {}, "evaluate": None}
        runs = {name: run for name, run in known["runs"].items() if (self.path / name).exists()}
        for cell in plan.cells:
            identity = self.identity(cell)
            if cell.name in runs and runs[cell.name]["identity"] != identity and cell.folder.exists():
                shutil.rmtree(cell.folder)  # it never trained, and nothing else is replaced (`reconciled`)
            runs[cell.name] = {"settings": cell.settings, "identity": identity}
        text = {
            "minordpo": __version__,
            "base": plan.base,
            "evaluate": plan.evaluate if plan.evaluate is not None else known["evaluate"],
            "questions": _questions(plan) or known.get("questions"),
            "runs": runs,
        }
        with written_whole(self.path / PLAN) as aside:
            aside.write_text(json.dumps(text, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    # ---- how far each run is ----
    def state(self, cell: Cell, plan: SweepPlan) -> State:
        """A run is done with its model written and, where questions are asked, its answers there.

        Raises:
            InputError: the run has trained, and its config.yaml is lost.
        """
        if (cell.folder / FAILED).exists():
            return "failed"
        if not (cell.folder / "config.yaml").exists():
            if _has_trained(cell.folder):
                raise InputError(
                    f"{cell.folder} was trained, but its config.yaml is not there. Put it back from a copy, or remove "
                    "the folder, so that it runs again"
                )
            return "new"
        answered = plan.evaluate is None or (cell.folder / EVALUATION / "results.json").exists()
        retained = plan.evaluate is None or cell.world is None or (cell.folder / RETENTION).exists()
        return "done" if finished(cell.folder) and answered and retained else "begun"

    def fail(self, cell: Cell, error: str) -> None:
        """Keep why a run failed, in its folder."""
        cell.folder.mkdir(parents=True, exist_ok=True)
        with written_whole(cell.folder / FAILED) as aside:
            aside.write_text(error + "\n", encoding="utf-8")

    def rows(self, changed: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """A row of every run that has begun, with the settings it was given; those `changed` are read anew, or all.

        A run whose files cannot be read says why, as one that failed does, and the others go on.
        """
        runs = (self._known() or {"runs": {}})["runs"]
        for name in runs if changed is None else changed:
            folder = self.path / name
            self._rows.pop(name, None)
            if (folder / "config.yaml").exists() or (folder / FAILED).exists():
                # A run that failed before it began has no config to read them from.
                try:
                    row = run_row(folder)
                except InputError as error:
                    row = dict.fromkeys(COLUMNS) | {"run": name, "status": "unreadable", "error": str(error)}
                self._rows[name] = row | runs[name]["settings"]
        return [self._rows[name] for name in runs if name in self._rows]

    def write_results(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """results.csv and results.parquet."""
        runs = (self._known() or {"runs": {}})["runs"]
        keys = in_order({key for run in runs.values() for key in run["settings"]})
        write_results(self.path, rows, keys)


def _has_begun(folder: Path) -> bool:
    """Whether a run has left anything there but its failure before it had trained a step."""
    claimed = (folder / "config.yaml").exists() and not (folder / FAILED).exists()
    return claimed or _has_trained(folder)


def _has_trained(folder: Path) -> bool:
    """Whether there is anything that steps leave, whatever else is lost."""
    trained = MetricsFile(folder / names.METRICS).last_step() is not None
    stepped = (folder / names.CHECKPOINTS).exists() or trained
    return stepped or (folder / names.MODEL).exists()


def _questions(plan: SweepPlan) -> str | None:
    """Stands for the content of the file of questions; None where they are of no file."""
    task = (plan.evaluate or {}).get("task")
    return _content(task) if isinstance(task, str) and Path(task).expanduser().is_file() else None


def _content(path: str) -> str | None:
    """Stands for the content of a file or model folder; None for what is neither, a hub id."""
    file = Path(path).expanduser()
    digest = xxhash.xxh3_128()
    if file.is_file():
        with file.open("rb") as opened:
            while piece := opened.read(1 << 24):
                digest.update(piece)
        return digest.hexdigest()
    if not file.is_dir():
        return None
    for each in sorted(Path(model_folder(str(file))).iterdir()):
        if each.suffix in _OF_A_MODEL and each.is_file():
            size = each.stat().st_size
            digest.update(f"{each.name} {size}".encode())
            digest.update(each.read_bytes() if size <= _SMALL else b"")
    return digest.hexdigest()


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first key that differs, in words."""
    old, new = flatten(before), flatten(now)
    key = next(key for key in sorted({*old, *new}) if old.get(key) != new.get(key))
    part, _, name = key.partition(".")
    if part == "files":
        return f"other content of {name}"
    name = name if part == "config" else key
    return f"{name} {json.dumps(old.get(key))}, not {json.dumps(new.get(key))}"


def _counted(runs: int) -> str:
    return f"{runs} run{'' if runs == 1 else 's'}"
