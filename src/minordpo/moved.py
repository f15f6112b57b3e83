"""Modules that have another name now: importing the old name says the new one."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from typing import Any

# Old name → new name, both below `minordpo`. A package stands for its modules; of those only the ones are listed that
# have another name in the new package too.
MOVED = {
    "data.command": "cli.data",
    "data.corrupt": "data.make.close_pairs",
    "data.doctor": "data.checks",
    "data.files": "run_folder.files",
    "data.formats": "data.read.examples",
    "data.problems": "data.make.problems",
    "data.reading": "data.read",
    "data.reading.layouts": "data.read.recognise",
    "data.reading.parts": "data.read.layout",
    "data.symbolic": "data.make.symbolic",
    "data.worked": "data.make",
    "data.worked.sheet": "data.make.problems",
    "evaluate.against": "evaluate.answer_logps",
    "evaluate.answers": "generate.text_measures",
    "evaluate.command": "cli.evaluate",
    "evaluate.divergence": "evaluate.kl",
    "evaluate.generation": "generate.generation",
    "evaluate.kept_answers": "generate.answer_cache",
    "evaluate.prompts": "generate.prompts",
    "evaluate.results": "evaluate.compare",
    "evaluate.scores": "evaluate.scoring",
    "foreign_configs": "config.foreign",
    "sections": "config.build",
    "strict_yaml": "config.yaml",
    "study.against_kl": "evaluate.kl_plot",
    "study.alarms": "paper.alarm_study",
    "study.canvas": "figures.canvas",
    "study.claims": "paper.claims",
    "study.claims.across": "paper.claims.rules.other_settings",
    "study.claims.answers": "paper.claims.evaluated_answers",
    "study.claims.claims": "paper.claims.rules",
    "study.claims.command": "cli.paper",
    "study.claims.contrast": "paper.claims.contrast",
    "study.claims.evidence": "paper.claims.seed_table",
    "study.claims.formulas": "paper.claims.rules.formulas",
    "study.claims.judged": "paper.claims.judge",
    "study.claims.scores": "paper.claims.rules.accuracy",
    "study.claims.training": "paper.claims.rules.log_ratios",
    "study.claims.tuned": "paper.claims.rules.accuracy",
    "study.claims.verdict": "paper.claims.judge",
    "study.demo": "demo",
    "study.enough": "paper.stopping_study",
    "study.figures": "figures.training_curves",
    "study.lens": "lens.lens",
    "study.lens_drawing": "lens.drawing",
    "study.lens_planes": "lens.planes",
    "study.lens_push": "lens.gradients",
    "study.lens_run": "lens.run_pairs",
    "study.micro": "paper.worlds",
    "study.report": "report",
    "study.report.command": "cli.report",
    "study.results": "sweep.results",
    "study.sweep": "sweep",
    "study.sweep.cell": "sweep.jobs",
    "study.sweep.command": "cli.sweep",
    "study.sweep.on_world": "paper.worlds.foundation",
    "train.advice": "monitor.advice",
    "train.course": "monitor.summary",
    "train.estimate": "train.dry_run.estimate",
    "train.first_answers": "generate.answer_cache",
    "train.folder": "run_folder.ownership",
    "train.guards": "train.checks",
    "train.kept_weights": "monitor.rollback",
    "train.measure": "train.dry_run.measure",
    "train.memory": "train.row_splitting",
    "train.memory.TrainingStopped": "errors.TrainingStopped",
    "train.monitor": "monitor.health",
    "train.probe": "monitor.probe",
    "train.reference_pass": "engine.reference_pass",
    "train.reference_pass.autocast": "engine.precision.autocast",
    "train.watch": "monitor.callback",
    "train.watched": "train.monitored",
    "value_types": "config.types",
}
DIVIDED = "study"  # a package whose modules went to several others, so that it has no new name itself


def install() -> None:
    """Have Python ask this table for every module."""
    # First: where git left a folder with nothing but its __pycache__, Python would find it as an empty package.
    sys.meta_path.insert(0, _Finder)


class _Finder:
    """A finder as Python's import system asks it."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """None for a name that is not in the table.

        Raises:
            ImportError: the module has another name.
        """
        _, _, name = fullname.partition("minordpo.")
        if name in MOVED:
            new, below = MOVED[name], f"{name}."
            others = [
                f"{old.removeprefix(below)} is minordpo.{other}"
                for old, other in MOVED.items()
                if old.startswith(below)
            ]
            told = f" ({', '.join(others)})" if others else ""
            raise ImportError(f"{fullname} is now minordpo.{new}{told}", name=fullname)
        return ModuleSpec(fullname, None, is_package=True) if name == DIVIDED else None
