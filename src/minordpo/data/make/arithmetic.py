"""Grade-school arithmetic as it stands in worked solutions: exact values, and numbers written like others."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

# A point counts as decimal only before a digit, so a full stop does not; "1 1/2" is one (mixed) number.
NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_TOKEN = re.compile(
    rf"\s*(?:(?P<mixed>\d+\s+\d+/\d+(?![\d.]))|(?P<number>{NUMBER})|(?P<times>\\times|\\cdot|[*x×·])"
    r"|(?P<over>\\div|[/÷])|(?P<sign>[+\-−–])|(?P<open>\()|(?P<close>\))|(?P<percent>\\?%)|(?P<currency>\\?[$€£]))",
    re.ASCII,
)
MAX_LENGTH = 400  # characters; a step of a worked solution is far shorter, and the parser recurses
_MAX_PARENTHESES = 40
# By kind of token; a percent sign as an attribute, which like it stands behind its number and binds closest.
_IN_PYTHON = {"times": "*", "over": "/", "open": "(", "close": ")", "percent": ".percent"}
_ENDS = ("number", "mixed", "percent", "close")  # kinds of token that an operand may end with
_OPERATORS: dict[type[ast.AST], Callable[..., Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip


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
    tokens = tokenize(expression)
    if sum(kind == "open" for kind, _, _ in tokens) > _MAX_PARENTHESES:
        raise ArithmeticProblem("too many parentheses")
    # Python's grammar says what belongs together; its numbers would be inexact, so names stand in for ours.
    written: list[str] = []
    numbers: dict[str, Fraction] = {}
    before = ""
    for kind, text, _ in tokens:
        if kind in ("number", "mixed"):
            value, name = read_number(text), f"n{len(numbers)}"
            numbers[name] = (replacements or {}).get(value, value)
            written.append(name)
        else:
            if kind == "open" and before in _ENDS:  # "40(.10)" multiplies too
                written.append("*")
            written.append(_IN_PYTHON.get(kind) or ("+" if text == "+" else "-"))
        before = kind
    try:
        return _value_of(ast.parse(" ".join(written), mode="eval").body, numbers)
    except SyntaxError:
        raise ArithmeticProblem(f"{expression!r} is not arithmetic") from None
    except ZeroDivisionError:
        raise ArithmeticProblem("division by zero") from None


def _value_of(node: ast.expr, numbers: dict[str, Fraction]) -> Fraction:
    match node:
        case ast.Name(name):
            return numbers[name]
        case ast.Attribute(whole):
            return _value_of(whole, numbers) / 100
        case ast.UnaryOp(sign, value):
            return _OPERATORS[type(sign)](_value_of(value, numbers))
        case ast.BinOp(left, sign, right):
            return _OPERATORS[type(sign)](_value_of(left, numbers), _value_of(right, numbers))
    raise ArithmeticProblem("a number is missing")  # between parentheses


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
