"""Evaluations → what each run's model answered, beside the untuned model that answered the same questions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from minordpo.paper.claims import measures
from minordpo.report.evaluations import how_asked, model_named, own_first, owned, read_results
from minordpo.report.find import Found


class EvaluatedAnswers:
    """The models' answers by whose they are and what was asked."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._of_runs: dict[int, dict[str, tuple[str, Any]]] = {}
        self._of_bases: dict[tuple[str, str], Any] = {}
        for folder in own_first(found):
            results = read_results(folder)
            settings = results["settings"]
            asked = json.dumps([settings["questions_digest"], *how_asked(settings)])
            for owner, model in owned(found, folder, results):
                if owner.run is None:
                    self._of_bases.setdefault((str(model_named(str(model["path"]))), asked), model)
                    continue
                answers = self._of_runs.setdefault(owner.run, {})
                name, first = answers.setdefault(asked, (str(settings["questions"]), model))
                if not first.get("samples") and model.get("samples"):  # the same answers, and more of them
                    answers[asked] = name, {**first, "samples": model["samples"]}

    def of(self, place: int) -> tuple[dict[str, float], str]:
        """The measures of the run at that place, and what they are of; of more evaluations than one, of that on other
        questions than those named validation, the first by name.
        """
        own = self._of_runs.get(place, {})
        if not own:
            return {}, ""
        base = str(model_named(str((self._found.runs[place].config.get("model") or {}).get("path"))))
        first, *others = sorted(own, key=lambda asked: (_validates(own[asked][0]), own[asked][0], asked))
        found = measures.answered(own[first][1], self._of_bases.get((base, first)))
        validation = next((asked for asked in others if _validates(own[asked][0])), None)
        if validation is not None and not _validates(own[first][0]):
            found |= {"validation_accuracy": own[validation][1]["flexible_accuracy"]["share"]}
        return found, first


def asked_otherwise(keyed: Sequence[tuple[str, str]]) -> list[bool]:
    """Of each key and questions whether these are others than most of that key; no questions are no others."""
    counts: dict[str, Counter[str]] = {}
    for key, questions in keyed:
        if questions:
            counts.setdefault(key, Counter())[questions] += 1
    return [bool(questions) and questions != counts[key].most_common(1)[0][0] for key, questions in keyed]


def _validates(questions: str) -> bool:
    return "validation" in questions
