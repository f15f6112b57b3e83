"""Grade-school arithmetic as it stands in worked solutions: exact values, and numbers written like others."""

from __future__ import annotations

import re
from fractions import Fraction

# A point counts as decimal only before a digit, so a full stop does not; "1 1/2" is one (mixed) number.
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_TOKEN = re.compile(
    rf"\s*(?:(?P<mixed>\d+\s+\d+/\d+(?![\d.]))|(?P<number>{NUMBER})|(?P<times>\\times|\\cdot|[*x×·])"
    r"|(?P<over>\\div|[/÷])|(?P<sign>[+\-−–])|(?P<open>\()|(?P<close>\))|(?P<percent>\\?%)|(?P<currency>\\?[$€£]))",
    re.ASCII,
)
MAX_LENGTH = 400  # characters; a step of a worked solution is far shorter, and the parser recurses
_MAX_DEPTH = 40


class ArithmeticProblem(ValueError):
    """The text is not an expression that can be evaluated."""


def tokenize(text: str) -> list[tuple[str, str, int]]:
    """(kind, text, start) of every token of an expression; currency signs are left out."""
    tokens, position, end = [], 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise ArithmeticProblem(f"{text[position:][:20]!r} is not arithmetic")
        if match.lastgroup != "currency":
            tokens.append((match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        position = match.end()
    return tokens


def evaluate(expression: str, replacements: dict[Fraction, Fraction] | None = None) -> Fraction:
    """The exact value of + − × ÷, parentheses, decimals, percent signs, commas and mixed numbers.

    `replacements`: numbers to read as others, by value.

    Raises: ArithmeticProblem where the text is no expression, divides by zero or is absurdly long.
    """
    if len(expression) > MAX_LENGTH:
        raise ArithmeticProblem(f"an expression of {len(expression)} characters is no step")
    return _Parser(tokenize(expression), replacements or {}).parse()


class _Parser:
    """Recursive descent: sum → product → signed → atom."""

    def __init__(self, tokens: list[tuple[str, str, int]], replacements: dict[Fraction, Fraction]) -> None:
        self.tokens, self.replacements = tokens, replacements
        self.position = self.depth = 0

    def parse(self) -> Fraction:
        value = self.sum()
        if self.position < len(self.tokens):
            raise ArithmeticProblem(f"{self.tokens[self.position][1]!r} stands where an operator is needed")
        return value

    def kind(self) -> str:
        return self.tokens[self.position][0] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        self.position += 1
        return self.tokens[self.position - 1][1]

    def sum(self) -> Fraction:
        value = self.product()
        while self.kind() == "sign":
            sign = 1 if self.take() == "+" else -1
            value += sign * self.product()
        return value

    def product(self) -> Fraction:
        value = self.signed()
        while (kind := self.kind()) in ("times", "over", "open"):  # "40(.10)" multiplies too
            if kind != "open":
                self.take()
            factor = self.signed()
            if kind == "over" and factor == 0:
                raise ArithmeticProblem("division by zero")
            value = value / factor if kind == "over" else value * factor
        return value

    def signed(self) -> Fraction:
        sign = 1
        while self.kind() == "sign":
            sign *= 1 if self.take() == "+" else -1
        return sign * self.atom()

    def atom(self) -> Fraction:
        kind = self.kind()
        if kind == "open":
            self.depth += 1
            if self.depth > _MAX_DEPTH:
                raise ArithmeticProblem("too many parentheses")
            self.take()
            value = self.sum()
            if self.kind() != "close":
                raise ArithmeticProblem("a parenthesis is not closed")
            self.take()
            self.depth -= 1
        elif kind in ("number", "mixed"):
            value = read_number(self.take())
            value = self.replacements.get(value, value)
        else:
            raise ArithmeticProblem("a number is missing")
        while self.kind() == "percent":
            self.take()
            value /= 100
        return value


def read_number(text: str) -> Fraction:
    """The exact value of "1,200", ".5", "2.50" or "1 1/2".

    Raises: ArithmeticProblem where the text is none of these.
    """
    if mixed := re.fullmatch(r"(\d+)\s+(\d+)/(\d+)", text):
        if int(mixed[3]) == 0:
            raise ArithmeticProblem("division by zero")
        return int(mixed[1]) + Fraction(int(mixed[2]), int(mixed[3]))
    if not re.fullmatch(NUMBER, text, re.ASCII) or len(text) > MAX_LENGTH:
        raise ArithmeticProblem(f"{text[:20]!r} is not a number")
    whole, _, decimals = text.replace(",", "").partition(".")
    return Fraction(int(whole + decimals), 10 ** len(decimals))


def write_like(value: Fraction, model: str) -> str | None:
    """`value` with the decimals, commas and leading zero of `model`; None where that would round it."""
    scaled = value * 10 ** len(model.partition(".")[2])
    return None if scaled.denominator != 1 or value < 0 else write_digits(scaled.numerator, model)


def write_digits(scaled: int, model: str) -> str:
    """A number counted in units of the last decimal of `model`, written like it."""
    decimals = len(model.partition(".")[2])
    digits = str(scaled).rjust(decimals + 1, "0")
    whole, fraction = (digits[:-decimals], digits[-decimals:]) if decimals else (digits, "")
    if "," in model:
        whole = f"{int(whole):,}"
    if model.startswith(".") and whole == "0":
        whole = ""
    return f"{whole}.{fraction}" if decimals else whole
