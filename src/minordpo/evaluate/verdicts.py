"""What a verifier says of the answers of an evaluation: asked for once, kept in each model's folder as it comes.

A verdict is known by the question and the text of the answer, so that equal answers have one verdict. A verifier that
compares is given each further model's answer beside the first model's, and its verdict is known by both texts: it does
not depend on which other models there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash
from tqdm import tqdm

from minordpo.errors import InputError
from minordpo.run_folder import names
from minordpo.run_folder.files import cut_half_line, read_jsonl, writing
from minordpo.verify.verdict import Asked, Verdict
from minordpo.verify.verifier import Verifier

SAME = Verdict(score=0.5, passed=None, note="the same text as the answer that it is compared with")
_Key = tuple[int, str, str]  # row, digest of the answer, and of what it is compared with ("": nothing)


@dataclass(frozen=True)
class AnswerPlace:
    """An answer whose verdict is wanted; in a comparison also what it is compared with."""

    label: str  # of the model
    file: str  # of the model's folder: VERDICTS or SAMPLE_VERDICTS
    asked: Asked
    number: int  # of the answer to this question, from 0
    text: str
    against: tuple[str, str] | None = None  # another model's label and answer

    @cached_property
    def key(self) -> _Key:
        """What the verdict is known by."""
        other = "" if self.against is None else answer_digest(self.against[1])
        return self.asked.row, answer_digest(self.text), other

    @property
    def is_tie(self) -> bool:
        """Whether the answer is compared with its own text, which needs no verifier."""
        return self.against is not None and self.against[1] == self.text

    @property
    def group(self) -> tuple[int, frozenset[str]]:
        """What answers that a verifier is given together have in common."""
        row, *texts = self.key
        return row, frozenset(texts if self.against else ())

    def line(self, verdict: Verdict) -> dict[str, Any]:
        """The verdict as a line of the file."""
        _, answer, against = self.key
        sample = {"sample": self.number} if self.file == names.SAMPLE_VERDICTS else {}
        other = {} if self.against is None else {"against": self.against[0], "against_digest": against}
        said = {"score": verdict.score, "passed": verdict.passed, "note": verdict.note}
        return {"row": self.asked.row, **sample, **said, "answer_digest": answer, **other}


class KeptVerdicts:
    """The verdicts in the folder of an evaluation, those of the models with these labels; without `out` in memory.

    Raises:
        InputError: a file of them cannot be read, or a line of it is no verdict.
    """

    def __init__(self, out: Path | None, labels: Iterable[str]) -> None:
        self._out = out
        self._found: dict[_Key, Verdict] = {}
        self._lines: set[tuple[str, str, int, str, _Key]] = set()
        for label in labels if out is not None else ():
            for name in (names.VERDICTS, names.SAMPLE_VERDICTS):
                self._read(label, name)

    def of(self, place: AnswerPlace) -> Verdict | None:
        """The verdict on an answer; None where there is none yet."""
        return SAME if place.is_tie else self._found.get(place.key)

    def keep(self, place: AnswerPlace, verdict: Verdict | None = None) -> None:
        """Keep a verdict, or the one that an equal answer has; once this returns, a killed process does not lose it.

        Raises:
            InputError: it cannot be written.
        """
        verdict = self._found[place.key] if verdict is None else verdict
        self._found[place.key] = verdict
        line = _line_of(place.label, place.file, place.line(verdict))
        if self._out is None or line in self._lines:
            return
        file = self._out / place.label / place.file
        text = json.dumps(place.line(verdict), ensure_ascii=False) + "\n"
        with writing(file, "Free some space; the same command goes on"):
            file.parent.mkdir(exist_ok=True)
            with file.open("a", encoding="utf-8", newline="\n") as opened:
                opened.write(text)
        self._lines.add(line)

    def _read(self, label: str, name: str) -> None:
        assert self._out is not None
        file = self._out / label / name
        if not file.exists():
            return
        cut_half_line(file)
        for number, row in read_jsonl(file):
            try:
                verdict = Verdict(score=row["score"], passed=row["passed"], note=row["note"])
                line = _line_of(label, name, row)
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"line {number} of {file} is no whole verdict ({error}). Take the line out; the same command asks "
                    "the verifier again"
                ) from error
            self._found[line[-1]] = verdict
            self._lines.add(line)


def _line_of(label: str, name: str, row: Mapping[str, Any]) -> tuple[str, str, int, str, _Key]:
    """What a line of a file is known by."""
    key = row["row"], row["answer_digest"], row.get("against_digest", "")
    return label, name, row.get("sample", 0), row.get("against", ""), key


def score(places: Sequence[AnswerPlace], verifier: Verifier, kept: KeptVerdicts) -> None:
    """Have the verifier score what has no verdict yet, all answers to a question together, and keep each verdict.

    Raises:
        InputError: a verdict cannot be had; those that came before are kept.
    """
    waiting: dict[tuple[int, frozenset[str]], list[AnswerPlace]] = {}
    for place in places:
        if not place.is_tie:
            waiting.setdefault(place.group, []).append(place)
    left: list[
        tuple[list[AnswerPlace], list[AnswerPlace]]
    ] = []  # of a group all, and one for each text that has no verdict
    for group in waiting.values():
        unknown = {place.key: place for place in group if kept.of(place) is None}
        if unknown and group[0].against is not None:  # both texts are needed again
            unknown = {place.key: place for place in group}
        for place in group:
            if place.key not in unknown:
                kept.keep(place)
        if unknown:
            left.append((group, list(unknown.values())))

    def groups() -> Iterator[tuple[int, Asked, Sequence[str]]]:
        for number, (_, given) in enumerate(left):
            yield number, given[0].asked, [place.text for place in given]

    unit = "comparison" if verifier.compares else "question"
    with tqdm(total=len(left), desc=f"{verifier.spec} scores", unit=unit, disable=not left) as bar:
        for number, verdicts in verifier.verdicts(groups()) if left else ():
            group, given = left[number]
            by_key = {place.key: verdict for place, verdict in zip(given, verdicts, strict=True)}
            for place in group:
                kept.keep(place, by_key.get(place.key))
            bar.update()


def clean(text: str) -> str:
    """An answer as a verifier is given it: a byte-level tokenizer may leave half a character, which few can read."""
    return text.encode(errors="replace").decode()


def answer_digest(text: str) -> str:
    """Stands for an answer in a file of verdicts."""
    return xxhash.xxh3_128_hexdigest(clean(text).encode())
