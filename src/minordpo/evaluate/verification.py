"""A verifier over an evaluation: what it is given, what has its verdict already, and the verdicts pass by pass."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash
from tqdm import tqdm

from minordpo.errors import InputError
from minordpo.evaluate.folder import EvaluatedModel, EvaluationFolder, same_verifier
from minordpo.evaluate.tasks import Task
from minordpo.evaluate.verdicts import AnswerPlace, KeptVerdicts, clean, score
from minordpo.generate.generation import Answer
from minordpo.verify.verdict import Asked, Verdict
from minordpo.verify.verifier import Verifier

# Of each pass its file of verdicts, and of every model its answers to each question, None where one is to be made.
PassAnswers = tuple[str, Mapping[str, Sequence[Sequence[Answer | None]]]]


@dataclass(frozen=True)
class ScoredAnswers:
    """What a verifier says of the answers of one pass, by model, question and sample."""

    first: str  # the model that others are compared with
    samples: int
    verdicts: Mapping[str, list[list[Verdict]]]  # empty where the verifier compares
    # Where it compares, of each further model: 1 where its answer is better than the first model's, 0 where worse, else
    # 1/2.
    points: Mapping[str, list[list[float]]]


class Verification:
    """A verifier, the questions and the models that answer them.

    Raises:
        InputError: the verifier compares, and there is one model.
    """

    def __init__(
        self, verifier: Verifier, task: Task, named: Sequence[EvaluatedModel], folder: EvaluationFolder
    ) -> None:
        self.verifier, self._asked = verifier, task.asked
        self._labels = [model.label for model in named]
        if verifier.compares and len(named) < 2:
            raise InputError(
                f"--verify {verifier.spec} compares the answers of further models with those of the first, but one "
                "model is named. Name another, or have answers scored one by one (--judge-mode score)"
            )
        self.record = {"spec": verifier.spec, **verifier.settings(), "asked_digest": _digest(task.asked)}
        known = folder.known()
        self._before = known.get("verifier")
        labels = {*self._labels, *known.get("models", {})} if self._goes_on else set()
        self._kept = KeptVerdicts(folder.out, sorted(labels))

    @property
    def _goes_on(self) -> bool:
        """Whether the folder's verdicts are this verifier's."""
        return same_verifier(self._before, self.record)

    def check(self, passes: Sequence[PassAnswers]) -> None:
        """Have the verifier refuse what it cannot score, and say what it will take; nothing where all is scored.

        Raises:
            InputError: what `Verifier.check` refuses.
        """
        left, answers = 0, 0
        for file, given in passes:
            rows = [set() if None in texts else {one.row} for one, *texts in self._by_question(given)]
            whole = set[int]().union(*rows)
            unscored = {each.asked.row for each in self._places(file, given) if self._kept.of(each) is None}
            left = max(left, len(self._asked) - len(whole - unscored))
            answers += len(next(iter(given.values()))[0])
        if not left:
            return
        self.verifier.check(self._asked)
        others = len(self._labels) - 1
        groups = (left * answers * others, 2) if self.verifier.compares else (left, answers * (others + 1))
        if said := self.verifier.cost(*groups):
            tqdm.write(said, file=sys.stderr)

    def say_another(self) -> None:
        """Say so where the answers in the folder have another verifier's verdicts, which are taken away."""
        if self._before is None or self._goes_on:
            return
        spec, now = self._before.get("spec"), self.verifier.spec
        why = "" if spec != now else ", but its settings, its code or what it is given was another"
        tqdm.write(f"the answers were scored by {spec} before{why}; {now} scores them anew", file=sys.stderr)

    def score(self, passes: Sequence[PassAnswers]) -> list[ScoredAnswers]:
        """The verdicts of each pass; those that were not there yet are asked for and kept.

        Raises:
            InputError: a verdict cannot be had; those that came before are kept.
        """
        score([place for each in passes for place in self._places(*each)], self.verifier, self._kept)
        return [self._scored(*each) for each in passes]

    def _by_question(
        self, given: Mapping[str, Sequence[Sequence[Answer | None]]]
    ) -> Iterator[tuple[Any, ...]]:
        """Of each question what is asked, and all answers of all models to it."""
        for place, one in enumerate(self._asked):
            yield one, *(answer for label in self._labels for answer in given[label][place])

    def _places(
        self, file: str, given: Mapping[str, Sequence[Sequence[Answer | None]]]
    ) -> Iterator[AnswerPlace]:
        """Every answer that is there; in a comparison the first model's once for each further model."""
        first, *others = self._labels
        for place, one in enumerate(self._asked):
            texts = {
                label: [None if each is None else clean(each.text) for each in given[label][place]]
                for label in self._labels
            }
            for number in range(len(texts[first])):
                if not self.verifier.compares:
                    for label in self._labels:
                        if (text := texts[label][number]) is not None:
                            yield AnswerPlace(label, file, one, number, text)
                    continue
                for label in others:
                    ours, theirs = texts[label][number], texts[first][number]
                    if ours is not None and theirs is not None:
                        yield AnswerPlace(label, file, one, number, ours, (first, theirs))
                        yield AnswerPlace(first, file, one, number, theirs, (label, ours))

    def _scored(self, file: str, given: Mapping[str, Sequence[Sequence[Answer | None]]]) -> ScoredAnswers:
        first, *others = self._labels
        found: dict[tuple[str, str], list[list[Verdict]]] = {}
        for place in self._places(file, given):
            # Whose verdict it is, and beside which further model's answer.
            against = "" if place.against is None else place.against[0]
            rows = found.setdefault((place.label, against), [])
            if place.number == 0:
                rows.append([])
            verdict = self._kept.of(place)
            assert verdict is not None
            rows[-1].append(verdict)
        samples = len(given[first][0])
        if not self.verifier.compares:
            return ScoredAnswers(first, samples, {label: found[label, ""] for label in self._labels}, {})
        points = {
            label: [
                [(1 + (a.score > b.score) - (a.score < b.score)) / 2 for a, b in zip(*both, strict=True)]
                for both in zip(found[label, first], found[first, label], strict=True)
            ]
            for label in others
        }
        return ScoredAnswers(first, samples, {}, points)


def _digest(asked: Sequence[Asked]) -> str:
    """Stands for all that a verifier is given beside the answers."""
    digest = xxhash.xxh3_128()
    for one in asked:
        what = [one.row, one.prompt, one.answer, dict(one.facts)]
        digest.update(json.dumps(what, sort_keys=True, default=str).encode())
    return digest.hexdigest()
