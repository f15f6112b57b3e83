"""Annotations are checked at each call by beartype, and by jaxtyping where they name the axes of an array.

jaxtyping's own decorator binds a call's arguments anew and checks them twice, for the names of axes that one call's
arrays share. That makes a call some fifty times as long as beartype alone does, which checks all that has no axes.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping

_with_axes = jaxtyping.jaxtyped


def jaxtyped(*, typechecker: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """In place of jaxtyping's, for its import hook."""

    def checked(made: Any) -> Any:
        function = made.__dict__.get("__init__") if isinstance(made, type) else made
        if not isinstance(function, types.FunctionType):
            return made
        hints = {name: _resolved(hint, function) for name, hint in function.__annotations__.items()}
        if any(_has_axes(hint) for hint in hints.values()):
            return _with_axes(made, typechecker=typechecker)
        if not isinstance(made, type):
            return _checked(function, hints, typechecker)
        if "__dataclass_fields__" in made.__dict__ and not hasattr(function, "__wrapped__"):
            made.__init__ = _checked(function, hints, typechecker)  # type: ignore[misc]
        return made

    return checked


def _checked(function: Any, hints: dict[str, Any], typechecker: Callable[[Any], Any]) -> Any:
    written = function.__annotations__
    function.__annotations__ = hints
    made = typechecker(function)
    function.__annotations__ = written
    made.__annotations__ = written
    return made


def _resolved(hint: Any, function: Any) -> Any:
    """What the text stands for; anything where a name is not known yet or to type checkers alone."""
    try:
        holder = types.SimpleNamespace(__annotations__={"it": hint})
        return typing.get_type_hints(holder, function.__globals__, include_extras=True)["it"]
    except Exception:
        return Any


def _has_axes(hint: Any) -> bool:
    if isinstance(hint, list):  # a Callable's parameters
        return any(map(_has_axes, hint))
    return (isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)) or any(
        map(_has_axes, typing.get_args(hint))
    )
