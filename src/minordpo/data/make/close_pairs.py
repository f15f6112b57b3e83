"""Close pairs from worked solutions: the rejected one differs from the chosen one in the result of one step.

The paper tunes on such pairs (§4: MetaMath_DPO_FewShot), since their closeness is what breaks DPO.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from minordpo.data.make.arithmetic import write_digits
from minordpo.data.make.close_report import CorruptReport
from minordpo.data.make.propagate import UNEVEN, Edit, apply_edits, propagate_change
from minordpo.data.make.solutions import Solution, Unusable, read_solution
from minordpo.errors import InputError
from minordpo.run_folder.files import read_jsonl, refuse_existing, write_jsonl

PAPER_PROMPT = (
    "You are a helpful assistant. Please answer follow question step by step and give final answer in a "
    "separate line using the brief format So the answer is: . Below is the question:\n{question}"
)
PAPER_ENDING = "So the answer is: {answer}"


@dataclass(frozen=True)
class CorruptedResult:
    """The number that was changed: `chosen[char:]` begins with `original`."""

    original: str
    replacement: str
    step: int  # counted from 1
    char: int


@dataclass(frozen=True)
class ClosePair:
    """A question with its right answer, and two worked solutions that differ in one result."""

    question: str
    answer: str
    chosen: str
    rejected: str
    changed: CorruptedResult

    def row(self, *, prompt: str, chat: bool) -> dict[str, Any]:
        """The pair in TRL's layout of chat messages, or of plain text."""
        texts = {
            "prompt": prompt.replace("{question}", self.question),
            "chosen": self.chosen,
            "rejected": self.rejected,
        }
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        was, became, step, char = dataclasses.astuple(self.changed)
        return {
            **({key: [{"role": roles[key], "content": texts[key]}] for key in texts} if chat else texts),
            "question": self.question,
            "answer": self.answer,
            "changed": {"from": was, "to": became, "step": step, "char": char},
        }


def corrupt_row(
    row: dict[str, Any],
    *,
    seed: int = 0,
    ending: str = PAPER_ENDING,
    propagate: bool = False,
    where: str = "the row",
) -> ClosePair | Unusable:
    """The close pair of one row, the same for the same seed and row; or why there is none.

    Chosen is the solution without annotations, ending with `ending`. Rejected differs in the result of one
    step before the last. With `propagate`, later steps and the answer follow from that result.

    Raises: InputError where the columns are unknown or `ending` has no place for the answer.
    """
    _require_place(ending, "answer", "ending")
    solution = read_solution(row, where)
    if isinstance(solution, Unusable):
        return solution
    numbered = enumerate(solution.steps[:-1], 1)
    steps = [(number, step) for number, step in numbered if step.value != solution.answer_value]
    if not steps:
        return _explain_no_step(solution)
    # Seeded by the row's own content, so that rows added before it do not change its pair.
    content = "\0".join((str(seed), solution.question, solution.text, solution.answer))
    rng = random.Random(int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big"))
    rng.shuffle(steps)
    problem = None
    for number, step in steps:
        original = solution.text[step.start : step.end]
        for replacement in plausible_numbers(original, rng, avoid=solution.answer_value):
            if not propagate:
                edits, answer = [Edit(step.start, step.end, replacement)], solution.answer
            else:
                outcome = propagate_change(solution, step, replacement)
                if isinstance(outcome, Unusable):
                    problem = problem or outcome
                    if outcome.reason != UNEVEN:
                        break  # no other wrong number would help this step
                    continue
                edits, answer = outcome
            return ClosePair(
                question=solution.question,
                answer=solution.answer,
                chosen=_finish(solution.text, ending, solution.answer),
                rejected=_finish(apply_edits(solution.text, edits), ending, answer),
                changed=CorruptedResult(original, replacement, number, step.start),
            )
    return problem or Unusable("no plausible wrong number was found", solution.text[:60])


def _explain_no_step(solution: Solution) -> Unusable:
    example = " ".join(solution.text.split())[:80]
    if not solution.steps:
        return Unusable("no step with a result is recognised", example)
    if len(solution.steps) == 1:
        return Unusable("only one step is recognised, and the final one is never changed", example)
    return Unusable("every result before the last equals the final answer", example)


def _finish(text: str, ending: str, answer: str) -> str:
    return f"{text.rstrip()}\n{ending.replace('{answer}', answer)}"


def plausible_numbers(original: str, rng: random.Random, *, avoid: Fraction | None) -> list[str]:
    """Wrong numbers that a slip could give, positive and written like `original`, the likeliest first.

    A near miss in the last digit that is not a trailing zero, an error in the digit before it, two digits
    swapped or one misread. Those of the same length come first, so that length rarely tells the pair apart.
    """
    digits = original.replace(",", "").replace(".", "").lstrip("0") or "0"
    scale = 10 ** len(original.partition(".")[2])
    count = int(digits)
    unit = 10 ** (len(digits) - len(digits.rstrip("0"))) if count else 1
    slips = [count + sign * size * unit for size in (1, 2, 3) for sign in (1, -1)]
    carries = [count + sign * 10 * unit for sign in (1, -1)]
    if unit > 1:
        carries += [count + sign * unit // 10 for sign in (1, -1)]
    swaps = [
        int(digits[:i] + digits[i + 1] + digits[i] + digits[i + 2 :])
        for i in range(len(digits) - 1)
        if digits[i + 1] != "0" or i > 0
    ]
    misreadings = [
        int(digits[:i] + str(digit) + digits[i + 1 :])
        for i in range(len(digits.rstrip("0")))
        for digit in range(1, 10)
    ]
    kinds = [slips, carries, swaps, misreadings]
    rng.shuffle(kinds)
    for kind in kinds:
        rng.shuffle(kind)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*kinds))
    avoided = (count, None if avoid is None else avoid * scale)
    numbers = dict.fromkeys(number for number in in_turn if number and number > 0 and number not in avoided)
    texts = [write_digits(number, original) for number in numbers]
    return sorted(texts, key=lambda text: len(text) != len(original))


def corrupt_file(
    source: Path,
    out: Path,
    *,
    seed: int = 0,
    ending: str = PAPER_ENDING,
    propagate: bool = False,
    prompt: str = PAPER_PROMPT,
    chat: bool = True,
    overwrite: bool = False,
) -> CorruptReport:
    """The report on the close pairs written to `out`, one for every usable row of `source`, both .jsonl.

    Raises: InputError where a file cannot be read or written, a line is broken, the columns are unknown, a
    template lacks its place, or no row is usable.
    """
    _require_place(ending, "answer", "ending")
    _require_place(prompt, "question", "prompt")
    refuse_existing(out, overwrite=overwrite)
    if out.exists() and source.exists() and out.samefile(source):
        raise InputError(
            f"{out} is both read and written, but it holds the solutions. Name another file to write."
        )
    report = CorruptReport(source.name, out.name)

    def pairs() -> Iterator[dict[str, Any]]:
        for line, row in read_jsonl(source):
            where = f"line {line} of {source}"
            pair = corrupt_row(row, seed=seed, ending=ending, propagate=propagate, where=where)
            report.read += 1
            if isinstance(pair, Unusable):
                report.add_unusable(pair, line)
                continue
            same_length = len(pair.changed.original) == len(pair.changed.replacement)
            report.add_pair(pair.chosen, pair.rejected, same_length=same_length)
            yield pair.row(prompt=prompt, chat=chat)
        if not report.usable:
            raise _nothing_usable(source, report)

    write_jsonl(out, pairs())
    return report


def _nothing_usable(source: Path, report: CorruptReport) -> InputError:
    if not report.read:
        return InputError(f"{source} holds no row, but worked solutions are needed. Name another file.")
    ((reason, _),) = report.unusable.most_common(1)
    return InputError(
        f"None of the {report.read} rows of {source} gives a close pair; the commonest reason: {reason} "
        f"({report.examples[reason]}). Steps are needed in GSM8K's <<48/2=24>> or as 48 / 2 = 24 in the text."
    )


def _require_place(template: str, field: str, name: str) -> None:
    if f"{{{field}}}" not in template:
        raise InputError(
            f"The {name} is {template!r}, which has no {{{field}}} in it. "
            f"Write {{{field}}} where the {field} belongs."
        )
