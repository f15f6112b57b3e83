"""A wrong intermediate result carried through the rest of a solution, or the reason why it cannot be.

Numbers stand in the text without saying where they come from. A number counts as derived from the changed
result only where nothing else in the row could be its source; in doubt the row is not used.
"""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import yaml

from minordpo.data.make.arithmetic import ArithmeticProblem, evaluate, read_number, write_like
from minordpo.data.make.solutions import Solution, Step, Unusable, find_numbers, find_plain_steps

AMBIGUOUS = "a changed result could be confused with another number"
INEXACT = "a later step's arithmetic does not hold to begin with"
UNEVEN = "a later result would become negative or uneven"
UNREACHED = "the final answer does not follow from the recognised steps"
CONTRADICTED = "another equation of the text would no longer hold"

_NUMBERS = yaml.safe_load(Path(__file__).with_name("numbers.yaml").read_text(encoding="utf-8"))
_WORDS = {word: Fraction(value) for value, words in _NUMBERS["words"].items() for word in words.split()}
# Numbers that a step may use with no source but a unit; they count as such where that unit is named.
_CONSTANTS = {
    Fraction(value): re.compile(units, re.IGNORECASE) for value, units in _NUMBERS["constants"].items()
}


class Edit(NamedTuple):
    """Text that takes the place of the characters from `start` to `end`."""

    start: int
    end: int
    text: str


def apply_edits(text: str, edits: list[Edit]) -> str:
    """`text` with every edit made; they are in order and do not overlap."""
    pieces, position = [], 0
    for edit in edits:
        pieces += [text[position : edit.start], edit.text]
        position = edit.end
    return "".join((*pieces, text[position:]))


def propagate_change(solution: Solution, step: Step, replacement: str) -> tuple[list[Edit], str] | Unusable:
    """The edits that carry `replacement` for the result of `step` to the end, and the new final answer."""
    changed = _recompute(solution, step, replacement)
    if isinstance(changed, Unusable):
        return changed
    for value, (_, born) in changed.items():
        if _has_other_source(solution, value, born):
            return Unusable(AMBIGUOUS, f"{_say(value)} in {_around(solution, born)}")
    edits = _rewrite(solution.text, step, replacement, changed)
    answers = find_numbers(solution.answer)
    if isinstance(edits, Unusable):
        return edits
    if len(answers) != 1 or answers[0][0] not in changed:
        return Unusable(UNREACHED, f"{solution.answer} from {_around(solution, step)}")
    value, start, end = answers[0]
    answer = write_like(changed[value][0], solution.answer[start:end])
    if answer is None:
        return Unusable(UNEVEN, f"the answer {_say(changed[value][0])} for {solution.answer}")
    before, after = find_plain_steps(solution.text), find_plain_steps(apply_edits(solution.text, edits))
    # The changed step is the only equation that may stop to hold.
    if len(after) != len(before) - any(plain.start == step.start for plain in before):
        return Unusable(CONTRADICTED, _around(solution, step))
    return edits, solution.answer[:start] + answer + solution.answer[end:]


Changes = dict[Fraction, tuple[Fraction, Step]]  # the value that was → the value now, the step it comes from


def _recompute(solution: Solution, step: Step, replacement: str) -> Changes | Unusable:
    changed: Changes = {step.value: (read_number(replacement), step)}
    for later in solution.steps:
        if later.start <= step.start:
            continue
        new_values = {old: new for old, (new, _) in changed.items()}
        try:
            after = evaluate(later.expression, new_values) * (100 if later.percent else 1)
        except ArithmeticProblem:
            return Unusable(UNEVEN, f"{later.expression} would divide by zero")
        if after != later.value and not later.holds():
            return Unusable(INEXACT, f"{later.expression} is not {_say(later.value)}")
        if later.value in changed and changed[later.value][0] != after:
            return Unusable(AMBIGUOUS, f"{_say(later.value)} is the result of two steps")
        if after == later.value:
            continue
        if write_like(after, solution.text[later.start : later.end]) is None:
            return Unusable(UNEVEN, f"{_say(after)} for {_around(solution, later)}")
        changed.setdefault(later.value, (after, later))
    return changed


def _has_other_source(solution: Solution, value: Fraction, born: Step) -> bool:
    """Whether `value` stands in the row before the step that computes it, or needs no source at all."""
    if value in _CONSTANTS and _CONSTANTS[value].search(f"{solution.question} {solution.text}"):
        return True
    earlier = f"{solution.question}\n{solution.text[: born.start]}"
    return any(
        known in (value, value * 100, value / 100)  # a share may be written as a percentage
        for known in itertools.chain((number for number, _, _ in find_numbers(earlier)), _read_words(earlier))
    )


def _rewrite(text: str, step: Step, replacement: str, changed: Changes) -> list[Edit] | Unusable:
    """Edits for every number, from the changed one on, that is one of the changed results."""
    edits = [Edit(step.start, step.end, replacement)]
    for number, start, end in find_numbers(text):
        if start <= step.start:
            continue
        if number in changed:
            new, born = changed[number]
            written = write_like(new, text[start:end])
            if start < born.start:  # announced before it is computed, so _has_other_source refused it
                return Unusable(AMBIGUOUS, _say(number))
            if written is None:
                return Unusable(UNEVEN, f"{_say(new)} for {text[start:end]}")
            edits.append(Edit(start, end, written))
        elif number * 100 in changed or number / 100 in changed:
            return Unusable(AMBIGUOUS, f"{_say(number)} may be a percentage of a changed result")
    if any(word in changed for word in _read_words(text[step.end :])):
        return Unusable(AMBIGUOUS, "a changed result may be spelled out in words")
    return edits


def _read_words(text: str) -> list[Fraction]:
    return [_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _WORDS]


def _say(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):g}"


def _around(solution: Solution, step: Step) -> str:
    return f"{step.expression} = {solution.text[step.start : step.end]}"
