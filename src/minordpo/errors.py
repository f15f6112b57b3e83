"""Everything that a user may meet as an error, and the hint at a name that is meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What was given, what is needed, what to do, in one line.

    The command line prints it without a traceback and exits with status 2.
    """


class TrainingStopped(RuntimeError):
    """Training cannot go on: a loss or gradient that is not finite, or a single prompt that does not fit in memory.

    The command line prints it without a traceback and exits with status 1.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest to a wrong one, in brackets for a message; empty where none is near."""
    by_lower_case = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f" (did you mean {by_lower_case[close[0]]}?)" if close else ""


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, or the error's class where it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
