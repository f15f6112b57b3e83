"""A prompt with worked examples → its last question alone."""

from __future__ import annotations

import re

from minordpo.data.read.fields import shorten
from minordpo.errors import InputError

# (question label, answer label); each stands at the beginning of a line, "###" and "**" before it or not.
_LABELS = (
    ("Question", "Answer"),
    ("Question", "Solution"),
    ("Problem", "Solution"),
    ("Problem", "Answer"),
    ("Q", "A"),
    ("Instruction", "Response"),
)
# MetaMath's solutions end so, GSM8K's in "#### N".
_LAST_LINE_OF_SOLUTION = re.compile(r"^(?:.*\bthe answer is\b[^?\n]*|#{4} .*)$", re.IGNORECASE | re.MULTILINE)
_ANSWER_LABEL = re.compile(r"\b(?i:answer|solution|response) ?\d* ?:|\bA: ")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def strip_examples(prompt: str, where: str) -> str | None:
    """The last question of `prompt`, as it stands with its labels; None if no example stands before it.

    An introduction to the examples goes too. MinorDPO's authors made `abacusai/MetaMath_DPO_FewShot` zero-shot
    (footnote 3 of the paper). UNVERIFIED on that set, of which no row was at hand: known are labelled questions and
    answers, and solutions that end in "The answer is: N" or "#### N". Another prompt of several paragraphs, or with
    an answer label in a line, is refused.

    Raises: InputError if the examples cannot be told from the question.
    """
    labelled = [found for labels in _LABELS if (found := _find_labels(prompt, *labels))]
    if not labelled:
        return _strip_unlabelled(prompt, where)
    # Of nested forms ("Question:" in "### Instruction:") the outer one begins first; of forms that begin at
    # one place, the one that also finds the answers has the most labels.
    found = min(labelled, key=lambda labels: (labels[0].start(), -len(labels)))
    kinds = [label.lastgroup for label in found]
    questions = [label for label in found if label.lastgroup == "question"]
    last = questions[-1]
    if kinds != (["question", "answer"] * len(questions))[: len(kinds)] or kinds[0] != "question":
        raise _refusal(prompt, where, "questions and answers that do not alternate")
    end = found[-1].start() if kinds[-1] == "answer" else len(prompt)
    if not prompt[last.end() : end].strip():
        raise _refusal(prompt, where, "a last question without words")
    if len(questions) > 1:
        return prompt[last.start() :]
    before = prompt[: last.start()]
    if _ANSWER_LABEL.search(before) or _LAST_LINE_OF_SOLUTION.search(before):
        raise _refusal(prompt, where, "one labelled question after what may be unlabelled examples")
    return None


def _find_labels(prompt: str, question: str, answer: str) -> list[re.Match[str]]:
    """The labels of one form in order of appearance; none unless a question is among them."""
    pattern = rf"^[ \t]*(?:#+ *|\*\*)?(?:(?P<question>{question})|(?P<answer>{answer})) ?\d* ?:"
    found = list(re.finditer(pattern, prompt, re.IGNORECASE | re.MULTILINE))
    return found if any(label.lastgroup == "question" for label in found) else []


def _strip_unlabelled(prompt: str, where: str) -> str | None:
    solutions = list(_LAST_LINE_OF_SOLUTION.finditer(prompt))
    if solutions:
        question = prompt[solutions[-1].end() :].lstrip()
        if not question:
            raise _refusal(prompt, where, "an end that is an answer, not a question")
        return question
    if _ANSWER_LABEL.search(prompt) or _BLANK_LINE.search(prompt.strip()):
        raise _refusal(prompt, where, "several paragraphs or an answer label, but no known form")
    return None


def _refusal(prompt: str, where: str, found: str) -> InputError:
    forms = ", ".join(f'"{question}:"/"{answer}:"' for question, answer in _LABELS)
    return InputError(
        f"{where}: the prompt {shorten(prompt)!r} has {found}, but strip_few_shot needs examples and a last "
        f'question labelled at line starts ({forms}), or solutions that end in "The answer is: N". '
        "Take the examples out of the file, or turn strip_few_shot off."
    )
