"""What can be measured on an answer's text and tokens alone (number, format, repetitions), and how it is quoted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from minordpo.data.make.arithmetic import NUMBER, ArithmeticProblem, read_number, write_digits
from minordpo.data.make.solutions import final_answer
from minordpo.run_folder import records

if TYPE_CHECKING:  # imports transformers, which tables of results can do without
    from minordpo.generate.generation import Answer

# A loop is called one where its unit is no longer than a sentence, so that no text someone meant is one.
MAX_UNIT, MIN_REPEATS, MIN_LOOP = 64, 4, 24

_SIGN, _CURRENCY = r"[+\-−–]", r"(?:[A-Z]{1,3}(?=\\?\$))?\\?[$€£]"
_VALUE = (
    r"(?:(?:(?P<before>\d+)[ ]?)?\\[dt]?frac\{(?P<top>\d+)\}\{(?P<bottom>\d+)\}"
    r"|(?P<whole>\d+)[ ]+(?P<part>\d+)/(?P<parts>\d+)(?![\d.,/])"
    rf"|(?P<number>{NUMBER})(?:[ ]?/[ ]?(?P<over>{NUMBER}))?)"
    r"(?:[ ]+(?P<scale>(?i:thousand|million|billion))\b(?!-))?"
)
_SCALES = {"": 0, "thousand": 3, "million": 6, "billion": 9}
# What may wrap a number and says nothing about it: emphasis, quotes, LaTeX.
_OPENED = r"(?:[\s\u00a0*_`\"'“”‘’]|\\[(\[]|\$?\\boxed\{)*"
_NUMBER_FIRST = re.compile(
    rf"{_OPENED}(?P<outer>{_SIGN})?\s*(?:{_CURRENCY})?\s*(?P<inner>{_SIGN})?{_VALUE}", re.ASCII
)
# A letter that stands alone at a number may multiply it ("5k", "3x"), and so may a raised figure.
_NO_UNIT = re.compile(r"[^\W\d_](?![^\W\d_])|[⁰-⁹¹²³]")
_RAISED_UNIT = re.compile(r"(?<=[A-Za-z])[²³]")
# The dash of "10-3" or "(x)-3" is an operator; a sign stands at the beginning, or after a blank, "=", "(" …
_NUMBER_IN_TEXT = re.compile(
    rf"(?:(?<![^\s=:(\[{{*$€£])(?P<sign>{_SIGN})(?:{_CURRENCY})?)?(?<![0-9]){_VALUE}", re.ASCII
)
# What a terminal would obey, line ends that only some readers know, and what reverses the text after it.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_ASKED_LINE = re.compile(r"^[ \t>*_]*So the answer is[*_]*:(?P<rest>.*)$", re.MULTILINE)


def repeated_4grams(token_ids: Sequence[int]) -> float:
    """The share of an answer's 4-grams that occurred before in it; 0.0 below five tokens."""
    grams = len(token_ids) - 3
    if grams < 2:
        return 0.0
    distinct = {tuple(token_ids[i : i + 4]) for i in range(grams)}
    return (grams - len(distinct)) / grams


def looping(token_ids: Sequence[int]) -> bool:
    """Whether an answer ends in a cycle: a unit of at most 64 tokens, repeated unchanged to the last token.

    The repetitions, the first and a cut last one included, are at least four and fill at least 24 tokens. The
    limits leave alone a rule of dashes, "1000000" and a row of equal numbers; anything that changes from one
    round to the next (a table, a count) is no cycle and shows in `repeated_4grams`.
    """
    ids = list(token_ids)
    for unit in range(1, min(MAX_UNIT, len(ids) // MIN_REPEATS) + 1):
        same = 0
        while same < len(ids) - unit and ids[-1 - same] == ids[-1 - same - unit]:
            same += 1
        if same + unit >= max(MIN_LOOP, MIN_REPEATS * unit):
            return True
    return False


def normalize_number(text: str) -> str | None:
    """The one spelling of the number that `text` is: "$1,200.50." → "1200.5"; None where it is anything else.

    Two texts have the same spelling where their numbers have the same value. A currency sign, thousands commas,
    leading and trailing zeros, emphasis and a unit of whatever words behind make no difference, and a percent
    sign is such a unit. Fractions ("3/4", "1 1/2") are divided, "2.5 million" is multiplied out. Anything with
    a second number or an equals sign is no number. Text, not a float: models write numbers of any length.
    """
    match = _NUMBER_FIRST.match(text)
    if match is None or (match["outer"] and match["inner"]):
        return None
    behind = _RAISED_UNIT.sub("", text[match.end() :])
    if _NO_UNIT.match(behind) or any(c == "=" or c.isnumeric() for c in behind):
        return None
    return _spell(match, match["outer"] or match["inner"])


def _spell(match: re.Match[str], sign: str | None) -> str | None:
    """The spelling of a match of `_VALUE`; None for a division by zero or a fraction of absurdly many digits."""
    number, above, below = match["number"], match["top"] or match["part"], match["bottom"] or match["parts"]
    shift = _SCALES[(match["scale"] or "").lower()]
    if match["over"]:
        above, below = number, match["over"]
    if below is None:
        whole, _, fraction = number.replace(",", "").partition(".")
    else:
        try:
            value = int(match["whole"] or match["before"] or 0) + read_number(above) / read_number(below)
        except (ArithmeticProblem, ValueError, ZeroDivisionError):
            return None
        decimals = _decimals(value.denominator)
        if decimals is None:
            return f"{'-' if sign not in (None, '+') else ''}{value * 10**shift}"
        written = write_digits(int(value * 10**decimals), f"0.{'0' * decimals}")
        whole, _, fraction = written.partition(".")
    fraction = fraction.ljust(shift, "0")
    whole, fraction = whole + fraction[:shift], fraction[shift:]
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    spelled = f"{whole}.{fraction}" if fraction else whole
    return f"-{spelled}" if sign not in (None, "+") and spelled != "0" else spelled


def _decimals(denominator: int) -> int | None:
    """How many decimals a fraction in lowest terms has; None where they do not end."""
    return next((n for n in range(denominator.bit_length()) if pow(10, n, denominator) == 0), None)


def asked_line(text: str) -> str | None:
    """N of the last line "So the answer is: N", normalised; None without such a line or where N is no number.

    The paper's prompt asks for this format, so it is read strictly: a line of its own, these words (emphasis
    around them allowed), and one number first in what follows, as `normalize_number` reads it.
    """
    lines = _ASKED_LINE.findall(text)
    return normalize_number(lines[-1]) if lines else None


def last_number(text: str) -> str | None:
    """The last number anywhere in the text, normalised; None where there is none."""
    last = None
    for last in _NUMBER_IN_TEXT.finditer(text):  # noqa: B007, the last one is wanted
        pass
    return None if last is None else _spell(last, last["sign"])


def bare_number(given: str) -> str | None:
    """The number that a right answer of one line is, normalised; None where it is several lines or anything else."""
    return None if "\n" in given else normalize_number(given)


def right_number(given: str) -> str | None:
    """The number of a right answer, normalised: a bare number, or that at the end of a worked solution ("#### 42")."""
    return bare_number(given) or normalize_number(final_answer(given))


def measure(answer: Answer) -> dict[str, float]:
    """What an answer is like: its share of repeated 4-grams, its length in tokens, the others 1 for yes, 0 for no."""
    return {
        records.REPEATED: repeated_4grams(answer.token_ids),
        records.LOOPING: float(looping(answer.token_ids)),
        records.STOPPED: float(answer.stopped),
        records.EMPTY: float(not answer.text.strip()),
        records.TOKENS: float(answer.tokens),
    }


def means(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each measure as the mean over the answers that have it."""
    names = dict.fromkeys(name for each in measured for name in each)
    return {name: fmean(each[name] for each in measured if name in each) for name in names}


def without_controls(text: str) -> str:
    """The text with a replacement character for all but line breaks and tabs that steers what shows it."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def fenced(text: str, language: str = "") -> str:
    """A block of Markdown whose fence is longer than any row of backticks in it, so that the text cannot end it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    plain = without_controls(text.replace("\r\n", "\n").rstrip("\n"))
    return f"{fence}{language}\n{plain}\n{fence}"
