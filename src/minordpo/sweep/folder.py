"""A sweep's output folder: sweep.json says what each run is made of, so that the same command goes on and another is
refused; results.csv holds a row a run.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from minordpo.config.build import build
from minordpo.engine.identity import model_identity
from minordpo.engine.models import model_folder
from minordpo.errors import InputError
from minordpo.evaluate.evaluation import EvaluationConfig
from minordpo.evaluate.folder import EvaluationFolder
from minordpo.run_folder import names
from minordpo.run_folder.files import is_left_over, readable, write_text
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.ownership import finished, refuse_unwritable
from minordpo.sweep.foundation import Extension
from minordpo.sweep.identity import content_of, difference, digest_of, identity_of, normalised
from minordpo.sweep.names import in_order
from minordpo.sweep.plan import RunPlan, SweepPlan
from minordpo.sweep.results import COLUMNS, run_row, write_results
from minordpo.version import __version__

State = Literal["done", "failed", "begun", "new"]


class SweepFolder:
    """What a sweep has on disk."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, path / names.SWEEP
        self._content_of = functools.cache(content_of)  # of model and data, which runs share
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
        stored = self._identities(known, plan.extension)
        by_identity = {digest_of(identity): name for name, identity in stored.items()}
        runs, changed = [], []
        for run in plan.runs:
            identity = self.identity(run)
            name = by_identity.get(digest_of(identity))
            if name is not None:
                run = replace(run, name=name, config=replace(run.config, output=str(self.path / name)))
            elif run.name in stored and _has_begun(run.folder):
                changed.append(f"{run.name} was begun with {difference(stored[run.name], identity)}")
            runs.append(run)
        begun = [name for name in known["runs"] if _has_begun(self.path / name)]
        ours = {run.name for run in runs}.intersection(begun)
        if begun and not ours and self._is_another(known["base"], plan):
            raise InputError(
                f"{self.path} holds another sweep ({len(begun)} run{'s' * (len(begun) != 1)}, {begun[0]} among them), "
                "of which this one has no run. Name another output"
            )
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise InputError(
                f"{self.path} holds this sweep with other settings: {changed[0]}{more}. Put them back, or name another "
                "output; a grid may gain runs and lose them"
            )
        self._refuse_other_questions(known, plan)
        self._refuse_other_untuned(plan)
        return replace(plan, runs=tuple(runs))

    def _known(self) -> dict[str, Any] | None:
        """What sweep.json says; None in a new folder."""
        if not self._file.is_file():
            if self.path.is_dir() and not all(map(is_left_over, self.path.iterdir())):
                raise InputError(f"{self.path} exists and holds no sweep. Name another output")
            return None
        advice = "Put it back from a copy, or name another output; the run folders beside it are whole"
        with readable(self._file, advice):
            known = json.loads(self._file.read_text(encoding="utf-8"))
            parts = [known["base"]["run"], *(run["identity"]["config"] for run in known["runs"].values())]
            if not all(isinstance(part, dict) for part in parts):
                raise TypeError("a config is no mapping")
            return {"questions": None, "minordpo": None} | known | {"evaluate": known["evaluate"]}

    def _identities(self, known: Mapping[str, Any], extension: Extension) -> dict[str, dict[str, Any]]:
        """The stored identities as this version has them.

        Raise InputError if a run that has begun has a key that this version lacks; runs that have not are left out.
        """
        found = {}
        for name, run in known["runs"].items():
            try:
                found[name] = self._normalised(run["identity"], extension, f", {name}")
            except InputError as error:
                if _has_begun(self.path / name):
                    raise InputError(
                        f"{error} The run was begun by minordpo {known['minordpo']}: go on with that version, or name "
                        "another output"
                    ) from error
        return found

    def _normalised(self, stored: Mapping[str, Any], extension: Extension, whose: str = "") -> dict[str, Any]:
        return normalised(stored, extension, lambda _: f"{self._file}{whose}")

    def _is_another(self, base: Mapping[str, Any], plan: SweepPlan) -> bool:
        """Whether a sweep of that base is another than the plan's."""
        return self._normalised(base, plan.extension) != self._normalised(plan.base, plan.extension)

    def _refuse_other_questions(self, known: Mapping[str, Any], plan: SweepPlan) -> None:
        if known["evaluate"] is None or plan.evaluate is None:
            return
        foundation, content, task = plan.runs[0].foundation, _questions(plan), plan.evaluate.get("task", "")
        unless_told = {} if foundation is None else foundation.evaluation

        def asked(keys: dict[str, Any], of_file: str | None) -> dict[str, Any]:
            config = build(EvaluationConfig, unless_told | keys, "evaluate.", lambda _: str(self._file))
            return {"evaluate": asdict(config), "files": {task: of_file}}

        before = asked(known["evaluate"], known["questions"] or content)
        now = asked(plan.evaluate, content)
        if before == now:
            return
        what = difference(before, now)
        answered = [run.name for run in plan.runs if (run.folder / names.EVALUATION).exists()]
        if answered:
            raise InputError(
                f"{self.path}: {answered[0]} was evaluated with {what}, and rows are to be compared. Put it back, or "
                "evaluate the runs by `minordpo evaluate`"
            )
        # The untuned model is asked before the runs are, so a sweep that was stopped early has its answers alone.
        if any(folder.exists() for folder in plan.untuned_models()):
            raise InputError(
                f"{self.path}: the untuned model was evaluated with {what}, and the runs are to be compared with it. "
                f"Put it back, or remove {self.path / names.UNTUNED}, so that it is asked again"
            )

    def _refuse_other_untuned(self, plan: SweepPlan) -> None:
        """Raise InputError if an untuned model has answered with other weights than it has now."""
        for folder, model in plan.untuned_models().items():
            path = Path(model_folder(model))
            if not path.is_dir():  # a hub id, or a foundation that is to be made
                continue
            for before in EvaluationFolder(folder).known().get("models", {}).values():
                if before["identity"] != model_identity(str(path)):
                    raise InputError(
                        f"{folder} has answers of {model} as it was, and it has other weights, tokenizer or template "
                        f"now. Remove {folder}, so that it is asked again, or put the model back"
                    )

    def identity(self, run: RunPlan) -> dict[str, Any]:
        """What the run's numbers come from, as sweep.json has it."""
        return identity_of(run, self._content_of)

    def begin(self, plan: SweepPlan) -> None:
        """Write the plan down; runs that are no longer in the grid stay known where they have begun."""
        known = self._known() or {"runs": {}, "evaluate": None, "questions": None}
        stored = self._identities(known, plan.extension)
        runs = {name: run for name, run in known["runs"].items() if (self.path / name).exists()}
        for run in plan.runs:
            identity = self.identity(run)
            if run.name in runs and stored.get(run.name) != identity:
                shutil.rmtree(run.folder)  # it never trained, and nothing else is replaced (`reconciled`)
            runs[run.name] = {"settings": run.settings, "identity": identity}
        text = {
            "minordpo": __version__,
            "base": plan.base,
            "evaluate": plan.evaluate if plan.evaluate is not None else known["evaluate"],
            "questions": _questions(plan) or known["questions"],
            "runs": runs,
        }
        write_text(self._file, json.dumps(text, indent=1, ensure_ascii=False) + "\n")

    # ---- how far each run is ----
    def state(self, run: RunPlan, plan: SweepPlan) -> State:
        """A run is done with its model written and, where questions are asked, its answers there.

        Raise InputError if the run has trained, and its config.yaml is lost.
        """
        if (run.folder / names.FAILED).exists():
            return "failed"
        if not (run.folder / names.CONFIG).exists():
            if _has_trained(run.folder):
                raise InputError(
                    f"{run.folder} was trained, but its config.yaml is not there. Put it back from a copy, or remove "
                    "the folder, so that it runs again"
                )
            return "new"
        wanted = [] if plan.evaluate is None else [run.folder / names.EVALUATION / names.RESULTS]
        if wanted and run.foundation is not None:
            wanted.append(run.folder / names.RETENTION)
        return "done" if finished(run.folder) and all(each.exists() for each in wanted) else "begun"

    def fail(self, run: RunPlan, error: str) -> None:
        """Keep why a run failed, in its folder."""
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text(run.folder / names.FAILED, error + "\n")

    def results(self, changed: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Write results.csv, and return its rows: one of every run that has begun, with the settings it was given.

        Those `changed` are read anew, or all. A run whose files cannot be read says why, as one that failed does, and
        the others go on.
        """
        known = self._known() or {"runs": {}}
        settings = {name: run["settings"] for name, run in known["runs"].items()}
        for name in settings if changed is None else changed:
            folder = self.path / name
            self._rows.pop(name, None)
            if (folder / names.CONFIG).exists() or (folder / names.FAILED).exists():
                # A run that failed before it began has no config to read them from.
                try:
                    row = run_row(folder)
                except InputError as error:
                    row = dict.fromkeys(COLUMNS) | {"run": name, "status": "unreadable", "error": str(error)}
                self._rows[name] = row | settings[name]
        rows = [self._rows[name] for name in settings if name in self._rows]
        write_results(self.path, rows, in_order({key for each in settings.values() for key in each}))
        return rows


def _has_begun(folder: Path) -> bool:
    """Whether a run has left anything there but its failure before it had trained a step."""
    claimed = (folder / names.CONFIG).exists() and not (folder / names.FAILED).exists()
    return claimed or _has_trained(folder)


def _has_trained(folder: Path) -> bool:
    """Whether there is anything that steps leave, whatever else is lost."""
    left = any((folder / name).exists() for name in (names.CHECKPOINTS, names.MODEL))
    return left or MetricsFile(folder / names.METRICS).last_step() is not None


def _questions(plan: SweepPlan) -> str | None:
    """Stands for the content of the file of questions; None where they are of no file."""
    task = (plan.evaluate or {}).get("task")
    return content_of(task) if isinstance(task, str) and Path(task).expanduser().is_file() else None
