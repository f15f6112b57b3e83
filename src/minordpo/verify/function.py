"""The verifier `package.module:function`: a function of the user's own."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from minordpo.data.read.fields import shorten
from minordpo.errors import InputError
from minordpo.own_code import raised
from minordpo.verify.verdict import Asked, Groups, Verdict, Verdicts, one_by_one, right_or_wrong

_FORM = "def my_check(prompt, answer, *, right, facts)"


class FunctionVerifier:
    """Calls `function(prompt, answer, right=…, facts=…)`, which returns a finite number, or true or false.

    Raises:
        InputError: it is no function, or cannot be called so.
    """

    passes = None
    compares = False

    def __init__(self, spec: str, function: Any) -> None:
        self.spec = spec
        self._function: Callable[..., Any] = function
        if not callable(function) or isinstance(function, type):
            raise InputError(
                f"--verify is {spec!r}, which is of type {type(function).__name__}, but a function is needed, as in "
                f"{_FORM}. Correct the name"
            )
        try:
            signature = inspect.signature(function)
        except ValueError:  # written in C
            return
        try:
            signature.bind("", "", right=None, facts={})
        except TypeError as error:
            raise InputError(
                f"--verify is {spec!r}, which takes {signature} ({error}), but it is called with a prompt and an "
                f"answer by place, right and facts by name. Write it as {_FORM}"
            ) from None

    def check(self, asked: Sequence[Asked]) -> None:
        """Nothing: what rows need, the function alone knows."""

    def cost(self, groups: int, answers: int) -> str | None:
        """How often the function is called."""
        return f"{self.spec}: {groups * answers:,} calls"

    def settings(self) -> dict[str, Any]:
        """The function's name, and a digest of the file in which it is written."""
        try:
            file = inspect.getsourcefile(inspect.unwrap(self._function))
            source = None if file is None else xxhash.xxh3_128_hexdigest(Path(file).read_bytes())
        except (TypeError, OSError):  # written in C, or given in a terminal
            source = None
        return {"verifier": "function", "function": self.spec, "source": source}

    def verdicts(self, groups: Groups) -> Verdicts:
        """What the function returns: true and false are right and wrong, a number is a score."""
        return one_by_one(groups, self._judge)

    def _judge(self, asked: Asked, answer: str) -> Verdict:
        try:
            found = self._function(asked.prompt, answer, right=asked.answer, facts=asked.facts)
        except (Exception, SystemExit) as error:
            raise InputError(
                f"--verify {self.spec} {raised(error)}, for an answer to {asked.where}. Correct the function"
            ) from error
        if isinstance(found, bool | np.bool_):
            return right_or_wrong(bool(found))
        if isinstance(found, numbers.Real) and np.isfinite(float(found)):
            return Verdict(score=float(found), passed=None)
        raise InputError(
            f"--verify {self.spec} returned {shorten(repr(found))} of type {type(found).__name__} for an answer to "
            f"{asked.where}, but a finite number, or true or false, is needed. Correct the function"
        )
