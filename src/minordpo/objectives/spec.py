"""What an objective is besides its formula: which data it takes, what it needs, what its hyper-parameters may be."""

from __future__ import annotations

import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from minordpo.objectives.late import Tensor

# Kinds of data, as `data.read` names them.
PAIRS, LABELLED, RANKED = frozenset({"pairs"}), frozenset({"labelled"}), frozenset({"ranked"})


@dataclass(frozen=True)
class Range:
    """The values a hyper-parameter may take: numbers, whole ones only, or true and false."""

    lowest: float = -math.inf
    highest: float = math.inf
    open_below: bool = False  # the lowest itself is refused
    open_above: bool = False
    kind: type = float

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of them."""
        if self.kind is bool:
            return isinstance(value, bool)
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
            return False
        if not abs(value) <= sys.float_info.max:
            return False
        above = value > self.lowest if self.open_below else value >= self.lowest
        below = value < self.highest if self.open_above else value <= self.highest
        return above and below

    def __str__(self) -> str:
        if self.kind is bool:
            return "true or false"
        words = "a whole number" if self.kind is int else "a number"
        if self.lowest > -math.inf:
            words += f" {'above' if self.open_below else 'at least'} {self.lowest:g}"
        if self.highest < math.inf:
            joint = " and" if self.lowest > -math.inf else ""
            words += f"{joint} {'below' if self.open_above else 'at most'} {self.highest:g}"
        return words


# The annotation of a hyper-parameter says its range; plain float, int and bool are any number, any whole one, a switch.
Positive = Annotated[float, Range(0.0, open_below=True)]
NotNegative = Annotated[float, Range(0.0)]
Share = Annotated[float, Range(0.0, 1.0, open_below=True, open_above=True)]
UpToOne = Annotated[float, Range(0.0, 1.0, open_below=True)]
Smoothing = Annotated[float, Range(0.0, 0.5, open_above=True)]
Count = Annotated[int, Range(1.0, kind=int)]


@dataclass(frozen=True, eq=False)
class Spec:
    """An objective: its function, the kinds of data it takes, and its needs.

    The function takes `PairLogps` if pairs are all that it can use and no other tokens, else `ResponseLogps`. Its
    hyper-parameters are its keyword-only arguments, whose annotations say their ranges. Its docstring begins with the
    formula; its sections Assumes, Usual and Source say what it assumes about preferences, which hyper-parameters are
    usual, and where it is from.
    """

    function: Callable[..., Tensor]
    data: frozenset[str] = PAIRS
    _: KW_ONLY
    # Its loss is made of reference log-probs; None: a user's function, not tried yet.
    reference: bool | None = True
    mismatched: bool = False  # … and of responses paired with another prompt of the step
    alternatives: bool = False  # … and of other tokens' than the rejected response's; it sees single ones too
    undesirable: bool = True  # it has a use for labelled responses that are undesirable
    # Metrics of its own, by name: scalars of the whole step, which each `ResponseLogps` of the step says alike.
    reports: Mapping[str, Callable[[Any], Tensor]] = field(default_factory=dict)
    # Of an objective on pairs with a term that a log-ratio switches on: the nats of log-ratio there, 0 where it is off.
    gate: Callable[..., Tensor] | None = None
    # What the lens draws: the axes where there is no reference, the hyper-parameter that its curves vary (unless told
    # beta, or else the first number), and in words what the drawing takes for granted.
    axes: Literal["means", "sums"] = "means"
    varied: str | None = None
    drawn_for: str = ""

    @property
    def takes_pairs(self) -> bool:
        """Whether the function takes `PairLogps`."""
        return self.data == PAIRS and not self.alternatives

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The hyper-parameters and their defaults: the keyword-only arguments and nothing else."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """The range of each hyper-parameter, by its annotation."""
        # Those of the log-probs are left alone: to know what they stand for takes torch.
        written = getattr(self.function, "__annotations__", {})
        own = types.SimpleNamespace(__annotations__={k: written[k] for k in self.defaults if k in written})
        scope = getattr(inspect.unwrap(self.function), "__globals__", {})
        try:
            hints = typing.get_type_hints(own, scope, include_extras=True)
        except (NameError, TypeError, AttributeError):  # annotations that only a type checker can read
            hints = {}
        return {name: _range(hints.get(name), default) for name, default in self.defaults.items()}

    @property
    def main(self) -> str | None:
        """The hyper-parameter that matters most, if there is a number."""
        numbers = [name for name, each in self.ranges.items() if each.kind is float]
        return self.varied or ("beta" if "beta" in numbers else next(iter(numbers), None))

    @property
    def formula(self) -> str:
        """The first line of the function's docstring; without one, what it is called."""
        first, *_ = (self.function.__doc__ or "").strip().splitlines() or [self.name]
        return first

    @property
    def name(self) -> str:
        """What the function is called."""
        return name_of(self.function)

    @property
    def assumes(self) -> str:
        """What it assumes about preferences, as its docstring says; maybe nothing."""
        return self._section("Assumes")

    @property
    def usual(self) -> str:
        """Usual hyper-parameters, as its docstring says; maybe nothing."""
        return self._section("Usual")

    @property
    def source(self) -> str:
        """Where it is from, as its docstring says; else the function's full name."""
        module = getattr(self.function, "__module__", None)
        return self._section("Source") or f"{self.name} of {module}"

    def _section(self, title: str) -> str:
        found = re.search(
            rf"^\s*{title}: (.*?)(?=\n\s*(?:Assumes: |Usual: |Source: |\n)|\Z)",
            self.function.__doc__ or "",
            re.MULTILINE | re.DOTALL,
        )
        return " ".join(found[1].split()).rstrip(".") if found else ""

    def losses(self, logps: Any, hyper: dict[str, Any]) -> Tensor:
        """The loss of each prompt of a `ResponseLogps`."""
        return self.function(logps.pairs() if self.takes_pairs else logps, **hyper)


def name_of(function: Any) -> str:
    """What a function is called; of another thing, its type."""
    return getattr(function, "__name__", type(function).__name__)


def _range(hint: Any, default: Any) -> Range:
    """What an annotation allows; without one, any number or, where the default is true or false, these."""
    for each in getattr(hint, "__metadata__", ()):
        if isinstance(each, Range):
            return each
    return Range(kind=bool if hint is bool or isinstance(default, bool) else int if hint is int else float)


def by_name(*specs: Spec) -> dict[str, Spec]:
    """A table of objectives, under the names of their functions.

    Raises:
        TypeError: a docstring lacks what help, docs and lens show; at import, so that who adds one is told at once.
    """
    for each in specs:
        without_docstrings = sys.flags.optimize > 1  # python -OO
        if not (each.assumes and each.usual) and not without_docstrings:
            raise TypeError(f"the docstring of objective {each.name} needs lines Assumes: … and Usual: …")
    return {each.name: each for each in specs}
