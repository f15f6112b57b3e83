"""The folder of an evaluation: what was asked of which models, and the answers as they come."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import xxhash
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from minordpo.engine.models import model_folder
from minordpo.errors import InputError
from minordpo.evaluate.tasks import Question
from minordpo.generate.generation import Answer
from minordpo.generate.text_measures import asked_line, last_number, looping, repeated_4grams
from minordpo.run_folder.files import read_jsonl, written_whole

SETTINGS, ANSWERS, SAMPLES = "evaluation.json", "answers.jsonl", "samples.jsonl"
# What a model's numbers come from; a README or a training state may change.
_WEIGHTS_AND_WORDS = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".gguf")


@dataclass(frozen=True)
class Contender:
    """One model of an evaluation."""

    given: str  # as on the command line
    path: str  # what is loaded
    label: str  # in tables, and its folder's name
    identity: str  # of weights, tokenizer and template


def contenders(models: list[str], known: Mapping[str, Mapping[str, str]]) -> list[Contender]:
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
    for path, label in zip(fresh, _labels(fresh, taken=set(labels.values())), strict=True):
        labels[path] = label
    found = [Contender(m, p, labels[p], model_identity(p)) for m, p in zip(models, paths, strict=True)]
    for each in found:
        if each.label in known and known[each.label]["identity"] != each.identity:
            raise InputError(
                f"{each.path} has other weights, tokenizer or template than when its answers were made. Put back what "
                "it was, or name another --out."
            )
    return found


def _labels(paths: list[str], *, taken: set[str]) -> list[str]:
    """For each path as many of its last parts as tell it from the others; a number behind where none do."""
    parts = [[p for p in Path(path).parts if p not in ("/", ".", "..")] or [path] for path in paths]
    parts = [each[:-1] if len(each) > 1 and each[-1] == "model" else each for each in parts]
    labels: list[str] = []
    for each in parts:
        ends = ["-".join(each[-length:]) for length in range(1, len(each) + 1)]
        others = [o for o in parts if o is not each]
        alone = [
            end
            for length, end in enumerate(ends, 1)
            if not any(o[-length:] == each[-length:] for o in others)
        ]
        label = wanted = re.sub(r"[^\w.+-]+", "_", (alone or ends)[0]).strip(".") or "model"
        number = 2
        while label in taken:
            label, number = f"{wanted}-{number}", number + 1
        taken.add(label)
        labels.append(label)
    return labels


def model_identity(path: str) -> str:
    """Stands for weights, config, tokenizer and template: a digest of a folder's files, a hub id's commit."""
    folder = Path(path)
    if not folder.is_dir():
        try:
            commit = extract_commit_hash(cached_file(path, "config.json"), None)
        except (OSError, ValueError) as error:  # a name that no hub would take is a ValueError
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise InputError(
                f"model {path!r} is no folder and cannot be had from the hub: {said}. Name a model folder, an adapter "
                "folder, a run folder or a hub id such as org/name."
            ) from error
        return f"commit {commit}"
    digest = xxhash.xxh3_128()
    for file in sorted(each for each in folder.rglob("*") if each.suffix in _WEIGHTS_AND_WORDS):
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb") as opened:
            while piece := opened.read(1 << 24):
                digest.update(piece)
    base = _base_of(folder)
    if base is not None:
        digest.update(model_identity(base).encode())
    return digest.hexdigest()


def _base_of(folder: Path) -> str | None:
    """The base of an adapter folder; what is wrong with its config is said when it is loaded."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(config["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class EvaluationFolder:
    """Answers on disk, each model's in a folder of its label; with no folder they are kept in memory."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self._kept: dict[tuple[str, str], dict[Any, Answer]] = {}

    def known(self) -> dict[str, Any]:
        """What was asked there before; empty in a new folder, and in one where no model came to answer.

        Raises:
            InputError: the folder holds something else, or cannot be read.
        """
        if self.out is None or not self.out.exists():
            return {}
        file = self.out / SETTINGS
        if not file.is_file():
            if self.out.is_dir() and not any(self.out.iterdir()):
                return {}
            raise InputError(f"{self.out} exists and holds no evaluation. Name another --out.")
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            settings, models = dict(known["settings"]), dict(known["models"])
            models = {m: {name: str(models[m][name]) for name in ("path", "identity")} for m in models}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{file} cannot be read ({error}). Delete {self.out}, or name another --out."
            ) from error
        # Nothing depends on the settings of a start that was stopped or refused before its first answer.
        answered = any((self.out / m / name).is_file() for m in models for name in (ANSWERS, SAMPLES))
        return {"settings": settings, "models": models} if answered else {}

    def begin(self, settings: Mapping[str, Any], models: list[Contender]) -> None:
        """Keep the settings, and add the models to those that answered before.

        Raises:
            InputError: other settings were given before, or nothing can be written there.
        """
        if self.out is None:
            return
        known = self.known()
        if known:
            _refuse_other(self.out, known["settings"], settings)
        kept = known.get("models", {})
        kept |= {each.label: {"path": each.path, "identity": each.identity} for each in models}
        with written_whole(self.out / SETTINGS) as aside:
            text = json.dumps({"settings": settings, "models": kept}, indent=2, ensure_ascii=False)
            aside.write_text(text + "\n", encoding="utf-8")

    def answers(self, label: str) -> dict[int, Answer]:
        """The answers that a model has given, by the row of the question."""
        if self.out is None:
            return self._kept.setdefault((label, ANSWERS), {})
        return dict(self._rows(label, ANSWERS, lambda row: row["row"]))

    def samples(self, label: str) -> dict[tuple[int, int], Answer]:
        """The samples that were drawn from a model, by the row of the question and the sample's number from 0."""
        if self.out is None:
            return self._kept.setdefault((label, SAMPLES), {})
        return dict(self._rows(label, SAMPLES, lambda row: (row["row"], row["sample"])))

    def _rows(
        self, label: str, name: str, key: Callable[[dict[str, Any]], Any]
    ) -> Iterator[tuple[Any, Answer]]:
        file = cast(Path, self.out) / label / name
        if not file.exists():
            return
        _drop_torn_line(file)
        for number, row in read_jsonl(file):
            try:
                yield key(row), _answer(row)
            except (KeyError, TypeError) as error:
                raise InputError(
                    f"line {number} of {file} is no whole answer ({error}). Take the line out; the same command makes "
                    "the answer again."
                ) from error

    def add(self, label: str, question: Question, answer: Answer, *, sample: int | None = None) -> None:
        """Keep an answer, or the sample of that number; once this returns, a killed process does not lose it.

        Raises:
            InputError: it cannot be written.
        """
        name, key = (ANSWERS, question.row) if sample is None else (SAMPLES, (question.row, sample))
        if self.out is None:
            self._kept.setdefault((label, name), {})[key] = answer
            return
        line = json.dumps(_row(question, answer, sample), ensure_ascii=False) + "\n"
        file = self.out / label / name
        try:
            file.parent.mkdir(exist_ok=True)
            # A lone surrogate may come out of a byte-level tokenizer; in JSON it has an escape.
            with file.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as opened:
                opened.write(line)
        except OSError as error:
            raise InputError(
                f"{file} cannot be written ({error.strerror or error}). Free some space; the same command goes on."
            ) from error

    def finish(self, files: Mapping[str, str]) -> None:
        """Write what was made of the answers, by file name."""
        if self.out is None:
            return
        for name, text in files.items():
            with written_whole(self.out / name) as aside:
                aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def _refuse_other(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before = {"samples": 0} | dict(before)  # a folder from before there were samples
    # More samples of a question are its earlier ones and others, so their number may be raised.
    raised = {"samples"} if before["samples"] < now["samples"] else set()
    if before["samples"] == 0:
        raised.add("samples_temperature")
    if before.get("reference") is None:  # no answer depends on it, and nothing was measured against another
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


def _drop_torn_line(file: Path) -> None:
    """Cut what a killed run had half written."""
    with file.open("rb+") as opened:
        content = opened.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            opened.truncate(whole)


def _row(question: Question, answer: Answer, sample: int | None) -> dict[str, Any]:
    strict, flexible = asked_line(answer.text), last_number(answer.text)
    return {
        "row": question.row,
        **({} if sample is None else {"sample": sample}),
        "question": question.text,
        "reference": question.answer,
        "answer": answer.text,
        "strict": strict,
        "flexible": flexible,
        "strict_right": strict == question.answer,
        "flexible_right": flexible == question.answer,
        "stopped": answer.stopped,
        "looping": looping(answer.token_ids),
        "repeated_4grams": repeated_4grams(answer.token_ids),
        "tokens": answer.tokens,
        "token_ids": list(answer.token_ids),
        "end_token": answer.end_token,
    }


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(row["answer"], tuple(row["token_ids"]), row["stopped"], row["tokens"], row["end_token"])
