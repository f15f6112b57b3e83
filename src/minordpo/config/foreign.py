"""Configs of other tools, recognised: what each of their keys is called here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minordpo.config.build import library_class
from minordpo.config.yaml import parse_yaml
from minordpo.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool whose configs are flat, as `foreign.yaml` tells of it."""

    name: str
    places: Mapping[str, str]
    needless: Mapping[str, str]
    recipe: str

    @property
    def keys(self) -> set[str]:
        """All keys of it that are known here."""
        return {*self.places, *self.needless}


@functools.cache
def tools() -> tuple[Tool, ...]:
    """All tools, in the order of the file."""
    text = Path(__file__).with_name("foreign.yaml").read_text(encoding="utf-8")
    return tuple(Tool(name=name, **facts) for name, facts in parse_yaml(text, "foreign.yaml").items())


def refuse_foreign_config(values: Mapping[Any, Any], path: Path, sections: Iterable[str]) -> None:
    """Refuse a config of another tool by the tool's name; `sections` are ours, which none of theirs has.

    Raises: InputError that says for each of its keys what it is called here.
    """
    tool = _recognise(values, sections)
    if tool is None:
        return
    places = [f"{key} → {tool.places[key]}" for key in values if key in tool.places]
    others = [key for key in values if key not in tool.keys]
    library = library_class("transformers.TrainingArguments")
    training = [key for key in others if key in {item.name for item in dataclasses.fields(library)}]
    needless = [f"{key} ({tool.needless[key]})" for key in values if key in tool.needless]
    homeless = [str(key) for key in others if key not in training]
    others_by_fate = {
        "as they are, in the section training": training,
        "to be left out": needless,
        "without a place here": homeless,
    }
    parts = [f"{path} is a config of {tool.name}, but minordpo's keys stand in sections: {', '.join(places)}"]
    parts += [f"{fate}: {', '.join(keys)}" for fate, keys in others_by_fate.items() if keys]
    raise InputError(f"{'; '.join(parts)}. Write a config of these keys; {tool.recipe} is one to begin with")


def _recognise(values: Mapping[Any, Any], sections: Iterable[str]) -> Tool | None:
    """The tool with most keys that no other has; two, or one beside a key of several tools, are enough."""
    if set(sections) & values.keys():
        return None

    def own(tool: Tool) -> int:
        elsewhere = {key for other in tools() if other is not tool for key in other.keys}
        return len((tool.keys - elsewhere) & values.keys())

    likeliest = max(tools(), key=own)
    return likeliest if own(likeliest) and len(likeliest.keys & values.keys()) > 1 else None
