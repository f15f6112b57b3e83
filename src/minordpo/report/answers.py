"""What models wrote: samples.jsonl, probes.jsonl and evaluations → answers of several models to the same question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minordpo.errors import InputError
from minordpo.evaluate.verdicts import answer_digest
from minordpo.report.curves import WORDS, evenly
from minordpo.report.evaluations import owned, read_results
from minordpo.report.find import Found
from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl, readable
from minordpo.run_folder.metrics_file import StepLines

QUESTIONS = 20  # of each source
TEXT = 1500  # characters of an answer or a question
MOST_PROBES = 9  # of a run; the first and the last among them
BUDGET = 2_500_000  # characters of all answers together; the page is to open at once
# The question, its reference answer where there is one, and an answer as the report shows it.
Said = tuple[str, str | None, dict[str, Any]]


def gather_answers(found: Found) -> tuple[list[dict[str, Any]], list[str]]:
    """The questions of each source with the answers of all runs, and what was left out, in words.

    Raises:
        InputError: a file cannot be read, or a line is no answer.
    """
    said = {"samples": _samples(found), "evaluation": _evaluated(found), "probes": _probed(found)}
    sources = [
        {"key": key, "title": WORDS["sources"][key], "questions": questions}
        for key, each in said.items()
        if (questions := _questions(each))
    ]
    return sources, _cap(sources)


def _cap(sources: Sequence[dict[str, Any]]) -> list[str]:
    """Drop questions from the end until all fits; what was dropped, in words."""
    most, counts = QUESTIONS, [len(source["questions"]) for source in sources]
    while True:
        for source in sources:
            source["questions"] = source["questions"][:most]
        answers = [a for source in sources for question in source["questions"] for a in question["answers"]]
        if most == 1 or sum(len(answer["text"]) for answer in answers) <= BUDGET:
            break
        most = max(1, most // 2)
    said = [
        f"Of {count} {source['title']}, the first {len(source['questions'])} are shown."
        for source, count in zip(sources, counts, strict=True)
        if count > len(source["questions"])
    ]
    cut = sum(answer["cut"] for answer in answers)
    return [*said, f"{cut} of {len(answers)} answers are cut at {TEXT} characters."] if cut else said


def _questions(said: Iterable[Said]) -> list[dict[str, Any]]:
    """By question, in the order in which they come; equal answers before training are one."""
    questions: dict[str, dict[str, Any]] = {}
    for text, reference, answer in said:
        shown: dict[str, Any] = {"text": _cut(text), "reference": reference, "answers": []}
        answers = questions.setdefault(text, shown)["answers"]
        same = [a for a in answers if a["when"] == answer["when"] == "before" and a["text"] == answer["text"]]
        if same:
            same[0]["runs"] += answer["runs"]
        else:
            answers.append(answer)
    return list(questions.values())


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else text[:TEXT] + " …"


def _samples(found: Found) -> Iterator[Said]:
    for place, run in enumerate(found.runs):
        for where, row in _rows(run.folder / names.SAMPLES):
            when = str(row.get("when"))
            yield _said(row, where, "prompt", place, when, int(when == "after"))


def _probed(found: Found) -> Iterator[Said]:
    for place, run in enumerate(found.runs):
        file = run.folder / names.PROBES
        rows = StepLines(file).lines()  # as it grows while a run goes on, its last line may be torn
        steps = sorted({row["step"] for row in rows})
        shown = {steps[at] for at in evenly(len(steps), MOST_PROBES)}
        asked: dict[Any, Any] = {}
        for row in rows:
            step, prompt = row["step"], row.get("prompt")
            question = asked.setdefault(prompt, row.get("asked", f"prompt {prompt}"))
            if step in shown:
                when = f"step {step}" if step else "before"
                row = {**row, "prompt": question}
                yield _said(row, f"step {step} of {file}", "prompt", place, when, step)


def _evaluated(found: Found) -> Iterator[Said]:
    for folder in found.evaluations:
        results = read_results(folder)
        for owner, _ in owned(found, folder, results):
            tuned = owner.run is not None
            verdicts = _verdicts(folder, owner.label, results)
            for where, row in _rows(folder / owner.label / names.ANSWERS):
                said = _said(row, where, "question", owner.run, "after" if tuned else "before", int(tuned))
                verdict = verdicts.get((row.get("row"), answer_digest(row["answer"])))
                yield (*said[:2], said[2] | ({} if verdict is None else {"verdict": verdict}))


def _verdicts(folder: Path, label: str, results: Mapping[str, Any]) -> dict[tuple[Any, str], str]:
    """What the verifier of the results says of a model's answers, in words, by row and answer."""
    found = {}
    first = next(iter(results["models"]))
    for where, row in _rows(folder / label / names.VERDICTS) if results["verifier"] else ():
        with readable(folder / label / names.VERDICTS, f"Drop the line ({where}), or leave the folder out"):
            against, score, passed = row.get("against"), row["score"], row["passed"]
            if against is not None:
                ways = {1.0: "better than", 0.0: "worse than"}
                said = f"{ways.get(score, 'a tie with')} {against}'s"
            else:
                said = f"score {score:g}" if passed is None else "passes" if passed else "fails"
            if against in (None, first):
                found[row["row"], row["answer_digest"]] = said
    return found


def _rows(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a file, each with where it stands; none of a file that is not there."""
    return [(f"line {n} of {file}", row) for n, row in read_jsonl(file)] if file.exists() else []


def _said(row: Mapping[str, Any], where: str, question: str, run: int | None, when: str, step: int) -> Said:
    """The answer of a row; of an evaluation's also whether it is right. The untuned model is no run."""
    needed: dict[str, type] = {question: str, "answer": str, "stopped": bool, "tokens": int}
    wrong = [name for name, kind in needed.items() if not isinstance(row.get(name), kind)]
    if wrong:
        raise InputError(
            f"{where} has {wrong[0]}={row.get(wrong[0])!r}, but an answer needs {question}, answer, stopped and "
            "tokens. Drop the line, or leave the folder out"
        )
    judged = "strict_right" in row
    answer = {
        "runs": [] if run is None else [run],
        "when": when,  # "before", "after", "step 12"
        "step": step,
        "text": _cut(row["answer"]),
        "cut": len(row["answer"]) > TEXT,
        "stopped": row["stopped"],
        "tokens": row["tokens"],
        "right": bool(row["strict_right"] or row.get("flexible_right")) if judged else None,
    }
    return row[question], str(row["reference"]) if "reference" in row else None, answer
