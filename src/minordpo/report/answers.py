"""What models wrote: samples.jsonl, probes.jsonl and evaluations → answers of several models to the same question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minordpo.errors import InputError
from minordpo.report.evaluations import owned, read_results
from minordpo.report.find import Found
from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl
from minordpo.run_folder.metrics_file import StepLines

QUESTIONS = 20  # of each source
TEXT = 1500  # characters of an answer or a question
LOOKS = 9  # of a run; the first and the last among them
BUDGET = 2_500_000  # characters of all answers together; the page is to open at once
SOURCES = {
    "samples": "held-out prompts, before and after training",
    "evaluation": "questions of the evaluation",
    "probes": "prompts that the monitor looked at while training",
}


@dataclass(frozen=True)
class _Said:
    """One answer, and to what."""

    question: str
    run: int | None  # the model that the runs were tuned from has none
    when: str  # "before", "after", "step 12"
    step: int
    text: str
    stopped: bool
    tokens: int
    right: bool | None = None
    reference: str | None = None


def gather_answers(found: Found) -> tuple[list[dict[str, Any]], list[str]]:
    """The questions of each source with the answers of all runs, and what was left out, in words.

    Raises:
        InputError: a file that cannot be read, or a line that is no answer.
    """
    read = {"samples": _samples(found), "evaluation": _evaluated(found), "probes": _looked(found)}
    sources = [
        {"key": key, "title": SOURCES[key], "questions": _questions(said)}
        for key, said in ((key, list(said)) for key, said in read.items())
        if said
    ]
    return sources, _cap(sources)


def _cap(sources: Sequence[dict[str, Any]]) -> list[str]:
    """Drop questions from the end until all fits; what was dropped, in words."""
    most, said = QUESTIONS, []
    counts = {source["key"]: len(source["questions"]) for source in sources}
    while True:
        for source in sources:
            source["questions"] = source["questions"][:most]
        size = sum(
            len(answer["text"]) for source in sources for q in source["questions"] for answer in q["answers"]
        )
        if size <= BUDGET or most == 1:
            break
        most = max(1, most // 2)
    for source in sources:
        left, there = counts[source["key"]], len(source["questions"])
        if left > there:
            said.append(f"Of {left} {source['title']}, the first {there} are shown.")
    texts = [a for source in sources for q in source["questions"] for a in q["answers"]]
    cut = sum(answer["cut"] for answer in texts)
    if cut:
        said.append(f"{cut} of {len(texts)} answers are cut at {TEXT} characters.")
    return said


def _questions(said: Iterable[_Said]) -> list[dict[str, Any]]:
    """By question, in the order in which they come; equal answers before training are one."""
    questions: dict[str, dict[str, Any]] = {}
    for each in said:
        question = questions.setdefault(
            each.question, {"text": _cut(each.question), "reference": each.reference, "answers": []}
        )
        answer = {
            "runs": [] if each.run is None else [each.run],
            "when": each.when,
            "step": each.step,
            "text": _cut(each.text),
            "cut": len(each.text) > TEXT,
            "stopped": each.stopped,
            "tokens": each.tokens,
            "right": each.right,
        }
        same = next((a for a in question["answers"] if _is_untuned(a, answer)), None)
        if same is None:
            question["answers"].append(answer)
        else:
            same["runs"] += answer["runs"]
    return list(questions.values())


def _is_untuned(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one["when"] == other["when"] == "before" and one["text"] == other["text"]


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else text[:TEXT] + " …"


def _samples(found: Found) -> Iterator[_Said]:
    for place, run in enumerate(found.runs):
        file = run.folder / names.SAMPLES
        for number, row in _lines(file):
            when = str(row.get("when"))
            yield _said(row, f"line {number} of {file}", "prompt", place, when, int(when == "after"))


def _looked(found: Found) -> Iterator[_Said]:
    for place, run in enumerate(found.runs):
        file = run.folder / names.PROBES
        rows = StepLines(file).lines()  # as it grows while a run goes on, its last line may be torn
        steps = _some(sorted({row["step"] for row in rows}))
        asked: dict[Any, Any] = {}
        for row in rows:
            prompt = asked.setdefault(row.get("prompt"), row.get("asked", f"prompt {row.get('prompt')}"))
            if row["step"] in steps:
                when = "before" if row["step"] == 0 else f"step {row['step']}"
                where = f"step {row['step']} of {file}"
                yield _said({**row, "prompt": prompt}, where, "prompt", place, when, row["step"])


def _some(steps: Sequence[int]) -> set[int]:
    """At most `LOOKS` of them, evenly taken."""
    if len(steps) <= LOOKS:
        return set(steps)
    return {steps[round(i * (len(steps) - 1) / (LOOKS - 1))] for i in range(LOOKS)}


def _evaluated(found: Found) -> Iterator[_Said]:
    for folder in found.evaluations:
        for owner, _ in owned(found, folder, read_results(folder)):
            file = folder / owner.label / names.ANSWERS
            when = "before" if owner.run is None else "after"
            for number, row in _lines(file):
                yield _said(
                    row, f"line {number} of {file}", "question", owner.run, when, int(owner.run is not None)
                )


def _lines(file: Path) -> list[tuple[int, dict[str, Any]]]:
    return list(read_jsonl(file)) if file.exists() else []


_NEEDED: dict[str, type] = {"answer": str, "stopped": bool, "tokens": int}


def _said(row: Mapping[str, Any], where: str, question: str, run: int | None, when: str, step: int) -> _Said:
    """The answer of a row; of an evaluation's also whether it is right.

    Raises:
        InputError: what an answer needs is not there.
    """
    wrong = [name for name, kind in {question: str, **_NEEDED}.items() if not isinstance(row.get(name), kind)]
    if wrong:
        raise InputError(
            f"{where} has {wrong[0]}={row.get(wrong[0])!r}, but an answer needs {question}, answer, stopped and "
            "tokens. Drop the line, or leave the folder out"
        )
    judged = "strict_right" in row
    return _Said(
        row[question],
        run,
        when,
        step,
        row["answer"],
        row["stopped"],
        row["tokens"],
        bool(row["strict_right"] or row.get("flexible_right")) if judged else None,
        str(row["reference"]) if "reference" in row else None,
    )
