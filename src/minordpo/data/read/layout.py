"""`Layout`, a form that rows of data come in, and `Parts`, the parts of an example that a row gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from minordpo.data.read.fields import Row, Text

Kind = Literal["pairs", "labelled", "ranked"]
PAIR_GRADES = (1.0, 0.0)
_TABLES = yaml.safe_load(Path(__file__).with_name("layouts.yaml").read_text(encoding="utf-8"))
OTHER_NAMES: dict[str, list[str]] = _TABLES["other_names"]
ROLES: dict[str, str] = _TABLES["llama_factory_roles"]

REPEATED_PROMPT_NOTE = "the responses repeat the prompt's messages; the repetition was taken off"
UNUSED_TOOLS_NOTE = "tools and chat_template_kwargs were not used, because the row is plain text"


class Parts(NamedTuple):
    """What a row says, whatever its layout: all plain text, or all chat messages."""

    prompt: Text
    responses: tuple[Text, ...]  # best first
    grades: tuple[float, ...]


Parse = Callable[[Row, str, Counter[str]], Parts]  # of a row, where it stands, and the tally of notes


class Layout(NamedTuple):
    """One way to lay an example out in columns."""

    name: str
    kind: Kind
    required: tuple[str, ...]  # columns; one that goes by several names: "prompt or query"
    shape: str  # for people: the columns and what they hold
    parse: Parse
    is_chat: bool = False
    bare_functions: bool = False  # `tools` lists functions without the {"type": "function"} wrapper

    @property
    def columns(self) -> set[str]:
        """The required columns by every name that they go by."""
        return {name for column in self.required for name in names_of(column)}

    def missing(self, columns: Iterable[str]) -> list[str]:
        """The required columns that are not among `columns`."""
        there = set(columns)
        return [column for column in self.required if there.isdisjoint(names_of(column))]


def layout(name: str, parse: Parse) -> Layout:
    """The layout of that name in `layouts.yaml`, whose rows `parse` reads."""
    facts = _TABLES["layouts"][name]
    return Layout(name=name, parse=parse, **facts | {"required": tuple(facts["required"])})


def names_of(column: str) -> list[str]:
    """The names that a required column goes by."""
    return column.split(" or ")


def pair_parts(prompt: Text, chosen: Text, rejected: Text) -> Parts:
    """The parts of a pair."""
    return Parts(prompt, (chosen, rejected), PAIR_GRADES)


def without_repetition(prompt: Text, responses: list[Text], tally: Counter[str]) -> list[Text]:
    """The responses, less the prompt's messages if all of them begin with these and go on."""
    count = len(prompt) if isinstance(prompt, list) else 0
    if count and all(response[:count] == prompt and len(response) > count for response in responses):
        tally[REPEATED_PROMPT_NOTE] += 1
        return [response[count:] for response in responses]
    return responses
