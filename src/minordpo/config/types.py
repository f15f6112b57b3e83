"""Values from YAML against Python type annotations: do they fit, what is needed, how a message shows them."""

from __future__ import annotations

import enum
import json
import types
import typing
from typing import Any, Literal


def fits(value: Any, hint: Any) -> bool:
    """Whether a value read from YAML is of the annotated type: a list may be a tuple, text an enum value."""
    outer, inner = typing.get_origin(hint), typing.get_args(hint)
    if outer in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in _alternatives(hint))
    if hint is Any:
        return True
    if outer is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if outer in (list, tuple):
        parts = [part for part in inner if part is not Ellipsis]
        return isinstance(value, list) and all(any(fits(each, part) for part in parts) for each in value)
    if outer is dict:
        keys, values = inner
        if not isinstance(value, dict):
            return False
        return all(fits(k, keys) and fits(v, values) for k, v in value.items())
    if hint is float:
        return type(value) in (int, float) and value == value  # NaN, which no setting can mean, is not itself
    if hint in (int, str, bool, list, dict, type(None)):
        return type(value) is hint
    if issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    return isinstance(value, dict)  # a nested library config, which the library builds from a mapping


def needed(hint: Any) -> str:
    """The annotated type in words: "a whole number or null"."""
    words = {Any: "anything", int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    said = []
    for part in _alternatives(hint):
        outer, inner = typing.get_origin(part), typing.get_args(part)
        if outer is Literal:
            said += [str(choice) for choice in inner]
        elif part is type(None):
            said.append("null")
        elif (outer or part) in (list, tuple):
            said.append("a list" + (f" of {needed(inner[0])}" if outer is list or Ellipsis in inner else ""))
        elif part is int and float in _alternatives(hint):
            continue  # "a number" says it
        elif part in words:
            said.append(words[part])
        elif isinstance(part, type) and issubclass(part, enum.Enum):
            choices = [str(member.value) for member in part]
            said += choices if len(choices) <= 12 else [*choices[:11], "…"]  # there are 44 optimizers
        else:
            said.append("a mapping")
    return " or ".join(dict.fromkeys(said))


def shown(value: Any) -> str:
    """A value as a message shows it, short."""
    if isinstance(value, dict):
        return f"a mapping ({', '.join(map(str, value)) or 'empty'})"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 60 else f"{text[:57]}…"


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The parts of a union; `str` beside an enum is left out, as the text it means is a value of the enum."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return (hint,)
    parts = typing.get_args(hint)
    has_enum = any(isinstance(part, type) and issubclass(part, enum.Enum) for part in parts)
    return tuple(part for part in parts if not (has_enum and part is str))
