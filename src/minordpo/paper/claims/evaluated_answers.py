"""Evaluations → what each run's model answered, beside the untuned model that answered the same questions."""

from __future__ import annotations

import json
from typing import Any

from minordpo.paper.claims import measures
from minordpo.report.evaluations import how_asked, model_named, own_first, owned, read_results
from minordpo.report.find import Found

Answers = tuple[str, Any]  # the questions' name, and what a model came to


def evaluated_answers(found: Found) -> list[tuple[dict[str, float], str]]:
    """Of each run its measures and what they are of; of more evaluations than one, of that on other questions than
    those named validation, the first by name.
    """
    of_runs: list[dict[str, Answers]] = [{} for _ in found.runs]  # by what was asked
    of_bases: dict[tuple[str, str], Any] = {}
    for folder in own_first(found):
        results = read_results(folder)
        settings = results["settings"]
        asked = json.dumps([settings["questions_digest"], *how_asked(settings)])
        for owner, model in owned(found, folder, results):
            if owner.run is None:
                of_bases.setdefault((str(model_named(str(model["path"]))), asked), model)
                continue
            name, first = of_runs[owner.run].setdefault(asked, (str(settings["questions"]), model))
            if not first.get("samples") and model.get("samples"):  # the same answers, and more of them
                of_runs[owner.run][asked] = name, {**first, "samples": model["samples"]}
    bases = [str(model_named(str((run.config.get("model") or {}).get("path")))) for run in found.runs]
    return [_measured(own, base, of_bases) for own, base in zip(of_runs, bases, strict=True)]


def _measured(
    own: dict[str, Answers], base: str, of_bases: dict[tuple[str, str], Any]
) -> tuple[dict[str, float], str]:
    ordered = sorted(own, key=lambda asked: ("validation" in own[asked][0], own[asked][0], asked))
    if not ordered:
        return {}, ""
    first, *others = ordered
    found = measures.answered(own[first][1], of_bases.get((base, first)))
    validation = next((asked for asked in others if "validation" in own[asked][0]), None)
    if validation is not None and "validation" not in own[first][0]:
        found |= {"validation_accuracy": own[validation][1]["flexible_accuracy"]["share"]}
    return found, first
