"""The file of sampled answers: each with its score, written as they come, read back after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minordpo.errors import InputError
from minordpo.generate.generation import Answer
from minordpo.run_folder.files import cut_half_line, read_jsonl, write_jsonl, writing
from minordpo.verify.verdict import Verdict

_ADVICE = "Free some space; the same command goes on"


@dataclass(frozen=True, kw_only=True)
class SampledAnswer:
    """One answer of one model to one prompt, and what a verifier says of it."""

    row: int  # of the prompt
    model: str  # the model's label
    sample: int  # from 0
    answer: Answer
    verdict: Verdict | None = None  # None: not scored yet

    def line(self) -> dict[str, Any]:
        """The answer as a line of the file."""
        answer = self.answer
        row = {
            "row": self.row,
            "model": self.model,
            "sample": self.sample,
            "answer": answer.text,
            "stopped": answer.stopped,
            "tokens": answer.tokens,
            "token_ids": list(answer.token_ids),
            "end_token": answer.end_token,
        }
        return row if self.verdict is None else row | _scored(self.verdict)


def _scored(verdict: Verdict) -> dict[str, Any]:
    return {"score": verdict.score, "passed": verdict.passed, "note": verdict.note}


Key = tuple[int, str, int]  # row, model, sample


class SampledAnswers:
    """The answers that stand in a file, by row, model and sample; a new one is appended.

    A line is an answer, with its score where it has one, or the scores of a model's answers to a prompt. `finish`
    writes each answer and its score into one line.

    Raises:
        InputError: the file cannot be read, or a line is neither.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: dict[Key, SampledAnswer] = {}
        if not file.exists():
            return
        cut_half_line(file)
        for line, row in read_jsonl(file):
            try:
                self._read(row)
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"line {line} of {file} is no whole answer ({error}). Take the line out; the same command makes "
                    "the answer again"
                ) from error

    def _read(self, row: Mapping[str, Any]) -> None:
        if "scores" in row:
            for each in row["scores"]:
                key = (row["row"], row["model"], each["sample"])
                self.found[key] = replace(self.found[key], verdict=_verdict(each))
            return
        for name, kind in (("answer", str), ("stopped", bool), ("tokens", int), ("sample", int)):
            if not isinstance(row[name], kind):
                raise TypeError(f"{name} is {row[name]!r}")
        answer = Answer(
            row["answer"], tuple(row["token_ids"]), row["stopped"], row["tokens"], row["end_token"]
        )
        verdict = _verdict(row) if "score" in row else None
        made = SampledAnswer(
            row=row["row"], model=row["model"], sample=row["sample"], answer=answer, verdict=verdict
        )
        self.found[made.row, made.model, made.sample] = made

    def of(self, row: int, model: str, samples: int) -> list[SampledAnswer]:
        """The first `samples` answers of a model to a prompt; all of them must be there."""
        return [self.found[row, model, sample] for sample in range(samples)]

    def add(self, answer: SampledAnswer) -> None:
        """Keep an answer; once this returns, a killed process does not lose it.

        Raises:
            InputError: it cannot be written.
        """
        # A byte-level tokenizer may leave half a character, which no file of pairs can hold.
        text = answer.answer.text.encode(errors="replace").decode()
        answer = replace(answer, answer=replace(answer.answer, text=text))
        self._append(answer.line())
        self.found[answer.row, answer.model, answer.sample] = answer

    def score(self, answers: Sequence[SampledAnswer], verdicts: Sequence[Verdict]) -> None:
        """Keep the scores of a model's answers to one prompt.

        Raises:
            InputError: they cannot be written.
        """
        scored = [replace(a, verdict=v) for a, v in zip(answers, verdicts, strict=True)]
        first = scored[0]
        scores = [{"sample": a.sample, **_scored(v)} for a, v in zip(answers, verdicts, strict=True)]
        self._append({"row": first.row, "model": first.model, "scores": scores})
        self.found |= {(each.row, each.model, each.sample): each for each in scored}

    def without_scores(self) -> None:
        """Forget every score: another verifier is to give them. The answers stay."""
        self._rewrite(replace(each, verdict=None) for each in self.found.values())

    def finish(self) -> None:
        """Write the file anew, one line an answer, ordered by prompt, model and sample."""
        self._rewrite(self.found[key] for key in sorted(self.found))

    def _rewrite(self, answers: Iterable[SampledAnswer]) -> None:
        self.found = {(each.row, each.model, each.sample): each for each in answers}
        write_jsonl(self.file, (each.line() for each in self.found.values()))

    def _append(self, line: Mapping[str, Any]) -> None:
        with writing(self.file, _ADVICE), self.file.open("a", encoding="utf-8", newline="\n") as opened:
            opened.write(json.dumps(line, ensure_ascii=False) + "\n")


def _verdict(row: Mapping[str, Any]) -> Verdict:
    return Verdict(score=row["score"], passed=row["passed"], note=row["note"])
