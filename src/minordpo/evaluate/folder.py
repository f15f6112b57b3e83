"""The folder of an evaluation: what was asked of which models, and the answers as they come."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minordpo.engine.identity import model_identity
from minordpo.engine.models import model_folder
from minordpo.errors import InputError
from minordpo.evaluate.tasks import Question
from minordpo.generate.generation import Answer
from minordpo.generate.text_measures import asked_line, last_number, looping, repeated_4grams
from minordpo.run_folder import names
from minordpo.run_folder.files import cut_half_line, read_jsonl, write_text

Answers = dict[tuple[int, int], Answer]  # by the question's row and the answer's number, from 0


@dataclass(frozen=True)
class EvaluatedModel:
    """One model of an evaluation."""

    given: str  # as on the command line
    path: str  # what is loaded
    label: str  # in tables, and its folder's name
    identity: str  # of weights, tokenizer and template


def name_models(models: list[str], known: Mapping[str, Mapping[str, str]]) -> list[EvaluatedModel]:
    """The models with short labels, each of its own; `known` are those the folder holds, by label.

    Raises:
        InputError: a model is named twice, a run has none, or one has other weights than when it answered.
    """
    paths = [os.path.normpath(path) for path in map(model_folder, models)]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"the model {twice} is named twice, but each is compared once. Leave one out.")
    labels = {entry["path"]: label for label, entry in known.items()}
    fresh = [path for path in paths if path not in labels]
    labels |= zip(fresh, _labels(fresh, taken=set(labels.values())), strict=True)
    found = [EvaluatedModel(m, p, labels[p], model_identity(p)) for m, p in zip(models, paths, strict=True)]
    for model in found:
        if model.label in known and known[model.label]["identity"] != model.identity:
            raise InputError(
                f"{model.path} has other weights, tokenizer or template than when its answers were made. Put back what "
                "it was, or name another --out."
            )
    return found


def _labels(paths: list[str], *, taken: set[str]) -> list[str]:
    """For each path as many of its last parts as tell it from the others; a number behind where none do."""
    parts = [[p for p in Path(path).parts if p not in ("/", ".", "..")] or [path] for path in paths]
    parts = [each[:-1] if len(each) > 1 and each[-1] == names.MODEL else each for each in parts]
    labels: list[str] = []
    for each in parts:
        others = [other for other in parts if other is not each]
        lengths = range(1, len(each) + 1)
        alone = (n for n in lengths if not any(other[-n:] == each[-n:] for other in others))
        end = "-".join(each[-next(alone, 1) :])
        label = wanted = re.sub(r"[^\w.+-]+", "_", end).strip(".") or "model"
        number = 2
        while label in taken:
            label, number = f"{wanted}-{number}", number + 1
        taken.add(label)
        labels.append(label)
    return labels


class EvaluationFolder:
    """Answers on disk, each model's in a folder of its label; without `out` they are kept in memory alone."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self._answers: dict[tuple[str, str], Answers] = {}

    def known(self) -> dict[str, Any]:
        """What was asked there before; empty in a new folder, and in one where no model came to answer.

        Raises:
            InputError: the folder holds something else, or cannot be read.
        """
        if self.out is None or not self.out.exists():
            return {}
        file = self.out / names.EVALUATION_SETTINGS
        if not file.is_file():
            if self.out.is_dir() and not any(self.out.iterdir()):
                return {}
            raise InputError(f"{self.out} exists and holds no evaluation. Name another --out.")
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            settings, models = dict(known["settings"]), dict(known["models"])
            models = {m: {name: str(models[m][name]) for name in ("path", "identity")} for m in models}
            scored_by = {"verifier": dict(known["verifier"])} if "verifier" in known else {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file} cannot be read ({error}). Delete {self.out}, or name another --out."
            ) from error
        # Nothing depends on the settings of a start that was stopped or refused before its first answer.
        kinds = (names.ANSWERS, names.SAMPLES)
        answered = any((self.out / label / name).is_file() for label in models for name in kinds)
        return {"settings": settings, "models": models, **scored_by} if answered else {}

    def refuse_other(self, settings: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> None:
        """Nothing, where the answers of the folder are of these settings.

        `defaults` are the values of settings that did not exist yet when the folder was begun.

        Raises:
            InputError: other settings were given before.
        """
        if self.out is not None and (known := self.known()):
            _refuse_other(self.out, {**defaults, **known["settings"]}, settings)

    def begin(
        self,
        settings: Mapping[str, Any],
        models: list[EvaluatedModel],
        verifier: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep the settings, which `refuse_other` let pass, and add the models to those that answered before.

        `verifier` is what tells the verifier of the verdicts in the folder from others; verdicts of another are taken
        away first. Without one they stay.

        Raises:
            InputError: nothing can be written there.
        """
        if self.out is None:
            return
        known = self.known()
        kept = known.get("models", {})
        kept |= {model.label: {"path": model.path, "identity": model.identity} for model in models}
        now = {"settings": settings, "models": kept}
        if verifier is None:
            now |= {"verifier": known["verifier"]} if "verifier" in known else {}
        else:
            if not same_verifier(known.get("verifier"), verifier):
                for name in (names.VERDICTS, names.SAMPLE_VERDICTS):
                    for file in self.out.glob(f"*/{name}"):
                        file.unlink()
            now |= {"verifier": verifier}
        write_text(self.out / names.EVALUATION_SETTINGS, json.dumps(now, indent=2, ensure_ascii=False) + "\n")

    def answers(self, label: str, name: str) -> Answers:
        """What a model has answered so far in the file `name`: ANSWERS, or SAMPLES with several a question."""
        if (label, name) not in self._answers:
            self._answers[label, name] = {} if self.out is None else _read(self.out / label / name)
        return self._answers[label, name]

    def add(self, label: str, name: str, question: Question, number: int, answer: Answer) -> None:
        """Keep an answer to a question; once this returns, a killed process does not lose it.

        Raises:
            InputError: it cannot be written.
        """
        if self.out is not None:
            file = self.out / label / name
            line = json.dumps(_row(question, numbered(name, number), answer), ensure_ascii=False) + "\n"
            try:
                file.parent.mkdir(exist_ok=True)
                # A lone surrogate may come out of a byte-level tokenizer; in JSON it has an escape.
                with file.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as opened:
                    opened.write(line)
            except OSError as error:
                raise InputError(
                    f"{file} cannot be written ({error.strerror or error}). Free some space; the same command goes on."
                ) from error
        self.answers(label, name)[question.row, number] = answer


def _refuse_other(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    # More samples of a question are its earlier ones and others, so their number may be raised.
    raised = {"samples"} if before["samples"] < now["samples"] else set()
    if before["samples"] == 0:
        raised.add("samples_temperature")
    if before["reference"] is None:  # no answer depends on it, and nothing was measured by another
        raised |= {"reference", "reference_identity"}
    said = [
        f"{name} was {json.dumps(before.get(name))}, not {json.dumps(now[name])}"
        for name in now
        if before.get(name) != now[name] and name not in raised
    ]
    if said:
        raise InputError(
            f"{out} holds an evaluation with other settings: {'; '.join(said)}. Give them as they were, or name "
            "another --out."
        )


def same_verifier(known: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether two verifiers give the same verdicts, by what evaluation.json has of them; how they are spelled aside."""
    if known is None:
        return False
    return {**known, "spec": ""} == {**json.loads(json.dumps(now)), "spec": ""}


def numbered(name: str, number: int) -> dict[str, int]:
    """The number of an answer, as rows of the file `name` have it: where a question has several answers."""
    return {"sample": number} if name in (names.SAMPLES, names.SAMPLE_LOGPS) else {}


def _row(question: Question, sample: Mapping[str, int], answer: Answer) -> dict[str, Any]:
    reference = question.reference if question.answer is None else question.answer
    return {
        "row": question.row,
        **sample,
        "question": question.text,
        **({} if reference is None else {"reference": reference}),
        "answer": answer.text,
        **({} if question.answer is None else _read_numbers(question.answer, answer)),
        "stopped": answer.stopped,
        "looping": looping(answer.token_ids),
        "repeated_4grams": repeated_4grams(answer.token_ids),
        "tokens": answer.tokens,
        "token_ids": list(answer.token_ids),
        "end_token": answer.end_token,
    }


def _read_numbers(right: str, answer: Answer) -> dict[str, Any]:
    strict, flexible = asked_line(answer.text), last_number(answer.text)
    return {
        "strict": strict,
        "flexible": flexible,
        "strict_right": strict == right,
        "flexible_right": flexible == right,
    }


def _read(file: Path) -> Answers:
    if not file.exists():
        return {}
    cut_half_line(file)
    found = {}
    for line, row in read_jsonl(file):
        try:
            answer = Answer(
                row["answer"], tuple(row["token_ids"]), row["stopped"], row["tokens"], row["end_token"]
            )
            found[row["row"], row["sample"] if file.name == names.SAMPLES else 0] = answer
        except (KeyError, TypeError) as error:
            raise InputError(
                f"line {line} of {file} is no whole answer ({error}). Take the line out; the same command makes "
                "the answer again."
            ) from error
    return found
