"""What every verifier can do, and which verifier a name such as "number" or "judge:http://…" stands for."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from minordpo.errors import InputError, did_you_mean
from minordpo.own_code import file_of, import_named, refuse_import
from minordpo.verify.options import VerifierOptions, read_options
from minordpo.verify.verdict import Asked, Groups, Verdicts

_FUNCTION = r"(?:[^\W\d]\w*\.)*[^\W\d]\w*:\w+"  # package.module:function
_HERE = __package__
# Name before the colon → (module and class, what --help says). A module is imported when its verifier is asked for.
KINDS: dict[str, tuple[str, str]] = {
    "number": (
        "rules.NumberVerifier",
        "number: the answer's last number is right; number:asked reads its last line",
    ),
    "exact": ("rules.ExactVerifier", "exact: the answer is the right one, white space aside"),
    "regex": (
        "pattern.RegexVerifier",
        "regex:PATTERN: the pattern is found; {answer} in it is the right answer",
    ),
    "reward": ("reward.RewardVerifier", "reward:PATH: the score of a reward model"),
    "judge": ("judge.JudgeVerifier", "judge:URL: a model behind an OpenAI-like endpoint scores or compares"),
    "command": ("command.CommandVerifier", "command:PROGRAM: a program reads and writes JSON lines"),
}
_OWN = "package.module:function: a function of your own"


@runtime_checkable
class Verifier(Protocol):
    """Scores answers to prompts."""

    spec: str  # as the user wrote it
    passes: bool | None  # whether its verdicts tell right from wrong; None: its verdicts alone show it
    # Whether a verdict depends on the other answers of its group. Then the scores of two answers are 1 and 0, or 1/2.
    compares: bool

    def check(self, asked: Sequence[Asked]) -> None:
        """Refuse, before anything slow, what would be refused later.

        Raises:
            InputError: rows that lack what the verifier needs, or a judge, program or model that cannot be had.
        """

    def cost(self, groups: int, answers: int) -> str | None:
        """A line on what `groups` prompts with `answers` answers each will take; None where it is next to nothing."""

    def settings(self) -> dict[str, Any]:
        """What changes scores, as JSON has it: two verifiers with the same settings give the same verdicts."""

    def verdicts(self, groups: Groups) -> Verdicts:
        """(key, a verdict an answer) of each (key, what was asked, answers), in whatever order they finish.

        Groups are taken one by one as they are needed, so they may still be in the making.

        Raises:
            InputError: a verdict cannot be had, with its row. Verdicts that came before are not lost.
        """


def load_verifier(spec: str, *, allow_code: bool, **options: Any) -> Verifier:
    """The verifier that `spec` names; `options` are those of `VerifierOptions` that were given, by name.

    Raises:
        InputError: no such verifier, an option that is not the verifier's, or code that may not run.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in KINDS:
        return _own_function(spec, allow_code, options)
    chosen = read_options(kind, options)
    if kind == "command" and not allow_code:
        raise InputError(
            f"--verify is {spec!r}, so a program would be started. Such code runs only with --allow-code on the "
            "command line (in Python allow_code=True). Give it if you trust that program"
        )
    module, _, name = KINDS[kind][0].partition(".")
    made = getattr(importlib.import_module(f"{_HERE}.{module}"), name)
    verifier: Verifier = made(spec, rest if colon else None, chosen)
    return verifier


def verifiers_in_words() -> str:
    """Every verifier with what it does, for --help."""
    return "; ".join([about for _, about in KINDS.values()] + [_OWN])


def _own_function(spec: str, allow_code: bool, options: dict[str, Any]) -> Verifier:
    kind = spec.partition(":")[0]
    near = did_you_mean(kind, KINDS)
    is_code = re.fullmatch(_FUNCTION, spec) is not None
    if not is_code or (near and file_of(kind) is None):
        raise InputError(
            f"--verify is {spec!r}, which is no verifier{near}. There are {', '.join(KINDS)}, and functions of your "
            "own as package.module:function. Correct the name"
        )
    read_options("a function", options)
    if not allow_code:
        refuse_import(spec, given="--verify")
    found = import_named(spec, given="--verify")
    made = importlib.import_module(f"{_HERE}.function").FunctionVerifier(spec, found)
    verifier: Verifier = made
    return verifier


__all__ = ["KINDS", "Verifier", "VerifierOptions", "load_verifier", "verifiers_in_words"]
