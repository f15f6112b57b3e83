"""Sections of keys ⇄ dataclasses: overrides laid over a mapping, keys and types checked, whoever set them named."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from minordpo.config.types import fits, needed, shown
from minordpo.config.yaml import parse_yaml
from minordpo.errors import InputError

Origin = Callable[[str], str]  # dotted key → what set it, for messages: a file, or the command line

_ABSENT = parse_yaml(Path(__file__).with_name("keys.yaml").read_text(encoding="utf-8"), "keys.yaml")


def lay_over(values: dict[Any, Any], text: str) -> str:
    """Set one `section.key=value` in `values`; return its dotted key.

    Raises: InputError for text of another form, or a key inside something that is no section.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise InputError(
            f"override {text!r} is not of the form section.key=value. Write it so, as in objective.beta=0.05."
        )
    set_key(values, key, parse_yaml(value, f"override {text!r}"), said=f"override {text!r}")
    return key


def set_key(values: dict[Any, Any], key: str, value: Any, *, said: str) -> None:
    """Set the dotted `key` in `values`; `said` is what sets it, for the message.

    Raises: InputError for a key inside something that is no section.
    """
    *sections, last = key.split(".")
    node = values
    for depth, section in enumerate(sections):
        child = node.get(section)
        if child is not None and not isinstance(child, dict):
            parent = ".".join(sections[: depth + 1])
            raise InputError(
                f"{said} sets a key inside {parent}, but {parent} is {shown(child)}. "
                "Override it as a whole, or correct the key."
            )
        node[section] = dict(child or {})  # a copy: YAML aliases make two sections one object
        node = node[section]
    node[last] = value


def build(cls: Any, values: Any, prefix: str, origin: Origin) -> Any:
    """An instance of the section `cls`; `prefix` is "" or the section with its dot.

    Raises: InputError for an unknown or missing key, or a value of the wrong type; `origin` says who set it.
    """
    values = at_home({} if values is None else values)
    section = prefix.removesuffix(".")
    if not isinstance(values, dict):
        raise InputError(
            f"{origin(section)}: {section} is {shown(values)}, but a section is needed. "
            f"Give keys in it: {', '.join(section_keys(cls))}."
        )
    named = {item.name: item for item in dataclasses.fields(cls) if not item.metadata.get("rest")}
    rest = next((item for item in dataclasses.fields(cls) if item.metadata.get("rest")), None)
    others = {key: value for key, value in values.items() if key not in named}
    # Unknown keys first: a misspelt one is what makes a needed one missing.
    for key in others:
        if rest is None or not isinstance(key, str):
            raise _unknown(key, named, prefix, origin)
    if rest is not None and "verbatim" in rest.metadata:
        _check_verbatim(others, rest.metadata["verbatim"], prefix, origin, list(named))
    elif rest is not None:  # null takes a key away, as in objective.beta=null on a recipe that has a beta
        others = {key: value for key, value in others.items() if value is not None}
    built: dict[str, Any] = {} if rest is None else {rest.name: others}
    hints = _hints(cls)
    for name, item in named.items():
        key = prefix + name
        if dataclasses.is_dataclass(hints[name]):
            built[name] = build(hints[name], values.get(name), f"{key}.", origin)
        elif name in values:
            _check(values[name], hints[name], key, origin, item.metadata)
            _refuse_blank(values[name], key, origin, item)
            items = item.metadata.get("items")
            value = values[name] if items is None else _built_items(items, values[name], key, origin)
            built[name] = _in_tuple(value, hints[name])
            if "verbatim" in item.metadata and values[name] is not None:
                _check_verbatim(values[name], item.metadata["verbatim"], f"{key}.", origin, [])
        elif item.default is dataclasses.MISSING:
            raise InputError(
                f"{origin('')}: {key} is missing, but it is needed{_meaning(item.metadata)}. "
                f"Give it, on the command line as {key}=…"
            )
    return cls(**built)


def at_home(value: Any) -> Any:
    """The value with the home folder in place of a "~" that begins a path; also inside lists and mappings."""
    if isinstance(value, str | Path) and str(value).startswith("~/"):
        return type(value)(os.path.expanduser(value))
    if isinstance(value, dict):
        return {name: at_home(each) for name, each in value.items()}
    return [at_home(each) for each in value] if isinstance(value, list) else value


def _built_items(cls: Any, value: Any, key: str, origin: Origin) -> Any:
    """A list with its mappings built as `cls`; another value as it is."""
    if not isinstance(value, list):
        return value
    if not value:
        raise InputError(
            f"{origin(key)}: {key} is an empty list, but one source at least is needed. Name one."
        )
    blank = next((i for i, each in enumerate(value, 1) if isinstance(each, str) and not each.strip()), None)
    if blank is not None:
        raise InputError(f"{origin(key)}: item {blank} of {key} is blank, but a name is needed. Give one.")
    return [
        build(cls, each, f"{key}[{i}].", origin) if isinstance(each, dict) else each
        for i, each in enumerate(value, 1)
    ]


@functools.cache
def _hints(cls: Any) -> Mapping[str, Any]:
    """Its fields' types. Each lookup compiles their text anew, and a sweep asks for every run."""
    return typing.get_type_hints(cls)


def _in_tuple(value: Any, hint: Any) -> Any:
    """The value; a list, all that YAML has, as a tuple where every part of the annotation that takes one is a tuple."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    outer = {typing.get_origin(part) or part for part in (typing.get_args(hint) if union else (hint,))}
    return tuple(value) if isinstance(value, list) and tuple in outer and list not in outer else value


def _check_verbatim(
    values: Mapping[str, Any], verbatim: str, prefix: str, origin: Origin, ours: list[str]
) -> None:
    """Keys and types of a free mapping against the library's dataclass, before anything slow happens."""
    if not values:
        return
    library = library_class(verbatim)
    hints = _hints(library)
    known = [item.name for item in dataclasses.fields(library) if item.init and item.name != "output_dir"]
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key == "training.output_dir":
            raise InputError(
                f"{origin(key)}: training.output_dir is given, but the run folder is output. Use output."
            )
        if name not in known:
            raise _unknown(name, [*known, *ours], prefix, origin, verbatim)
        # Annotated as text, yet documented by its own help as taking True.
        hint = hints[name] | bool if key == "training.fsdp" else hints[name]
        _check(value, hint, key, origin, {"meaning": f"see {name} in {verbatim}"})


def library_class(verbatim: str) -> Any:
    """The class of that dotted name."""
    # Imported here: transformers takes seconds, which `minordpo --help` should not.
    module, _, name = verbatim.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _unknown(key: Any, known: Iterable[str], prefix: str, origin: Origin, verbatim: str = "") -> InputError:
    if key in _ABSENT["gone"]:
        return InputError(f"{origin(f'{prefix}{key}')}: {prefix}{key} is given, but {_ABSENT['gone'][key]}.")
    known = list(known)
    meant = _ABSENT["other_names"].get(key, "")
    close = [meant] if meant.partition(" ")[0] in known else []
    close = close or difflib.get_close_matches(str(key), known, n=1)
    if close:
        advice = f"Did you mean {prefix}{close[0]}?"
    else:
        advice = f"See the fields of {verbatim}." if verbatim else f"Known here: {', '.join(known)}."
    whose = f" nor a field of {verbatim}" if verbatim else ""
    return InputError(f"{origin(f'{prefix}{key}')}: {prefix}{key} is not a key of minordpo{whose}. {advice}")


def _check(value: Any, hint: Any, key: str, origin: Origin, about: Mapping[str, Any]) -> None:
    need, minimum = needed(hint), about.get("minimum")
    if fits(value, hint):
        if minimum is None or not isinstance(value, int) or value >= minimum:
            return
        need = f"{minimum} or more"
    raise InputError(
        f"{origin(key)}: {key} is {shown(value)}, but {need} is needed. Correct it{_meaning(about)}."
    )


def _refuse_blank(value: Any, key: str, origin: Origin, item: dataclasses.Field) -> None:
    """Refuse blank text: every text of ours names something, and an empty name would be the working folder."""
    if isinstance(value, str) and not value.strip():
        otherwise = " or null" if item.default is None else ""
        raise InputError(
            f"{origin(key)}: {key} is blank, but a name{otherwise} is needed. Give one{_meaning(item.metadata)}."
        )


def _meaning(about: Mapping[str, Any]) -> str:
    """What the key means, in brackets; dataclasses that are no config have no such words."""
    return f" ({about['meaning']})" if "meaning" in about else ""


def section_keys(cls: Any) -> list[str]:
    """What may stand in the section `cls`, for messages."""
    return [
        item.metadata["meaning"] if item.metadata.get("rest") else item.name
        for item in dataclasses.fields(cls)
    ]


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections within sections as one mapping, by dotted key."""
    return dict(dotted(values))


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values: `objective: {beta: 0.1}` is objective.beta. An empty mapping is a value."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_mapping(section: Any) -> dict[str, Any]:
    """The keys of a section, and of those in it, as YAML has them."""
    mapping: dict[str, Any] = {}
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            mapping[item.name] = as_mapping(value)
        elif "items" in item.metadata and isinstance(value, tuple):
            mapping[item.name] = [each if isinstance(each, str) else as_mapping(each) for each in value]
        elif item.metadata.get("rest"):
            mapping |= value
        else:
            mapping[item.name] = value
    return mapping
