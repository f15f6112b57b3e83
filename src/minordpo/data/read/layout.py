"""`Layout`, a form that rows of data come in, and `Parts`, the parts of an example that a row gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from minordpo.data.read.accounting import Tally
from minordpo.data.read.fields import Message, Row, Text

Kind = Literal["pairs", "labelled", "ranked"]
PAIR_GRADES = (1.0, 0.0)
_TABLES = yaml.safe_load(Path(__file__).with_name("layouts.yaml").read_text(encoding="utf-8"))
OTHER_NAMES: dict[str, list[str]] = _TABLES["other_names"]
ROLES: dict[str, str] = _TABLES["roles"]
# What a chat template is given beside the messages, and the system column, whatever the layout of a chat.
OF_CHATS = ("system", "tools", "chat_template_kwargs")

REPEATED_PROMPT_NOTE = "the responses repeat the prompt's messages; the repetition was taken off"
TWO_SYSTEMS_NOTE = "there is a system turn and a different system column; the turn was used"


class Parts(NamedTuple):
    """What a row says, whatever its layout: all plain text, or all chat messages."""

    prompt: Text
    responses: tuple[Text, ...]  # best first
    grades: tuple[float, ...]
    begun: str = ""  # of plain text: what the answerer has said already, between the prompt and the responses
    tools: Any = None  # as they stand, where the layout has them elsewhere than in the column tools


Parse = Callable[
    [Row, str, Tally], Parts
]  # of a row, where it stands, and the tally of notes and unread keys


class Layout(NamedTuple):
    """One way to lay an example out in columns."""

    name: str
    kind: Kind
    required: tuple[str, ...]  # columns; one that goes by several names: "prompt or query"
    shape: str  # for people: the columns and what they hold
    parse: Parse
    is_chat: bool = False
    bare_functions: bool = False  # `tools` lists functions without the {"type": "function"} wrapper
    optional: tuple[str, ...] = ()  # columns that are read where they are, beside `OF_CHATS` of a chat
    example: Row | None = None  # a small row, from which a missing column is filled in to try a remedy

    @property
    def columns(self) -> set[str]:
        """The required columns by every name that they go by."""
        return {name for column in self.required for name in names_of(column)}

    def missing(self, columns: Iterable[str]) -> list[str]:
        """The required columns that are not among `columns`."""
        there = set(columns)
        return [column for column in self.required if there.isdisjoint(names_of(column))]

    def unread(self, row: Row, *, also: Iterable[str]) -> list[str]:
        """The columns of a row that nothing reads; `also` are read beside the layout's own."""
        read = {*self.optional, *also}
        for column in self.required:
            there = [name for name in names_of(column) if name in row]
            # Of several names the first that holds something is read.
            read |= {next((name for name in there if row[name] is not None), there[0])} if there else set()
        return [name for name in row if name not in read]

    @property
    def has_other_names(self) -> bool:
        """Whether a required column goes by several names."""
        return any(" or " in column for column in self.required)


def layout(name: str, parse: Parse) -> Layout:
    """The layout of that name in `layouts.yaml`, whose rows `parse` reads."""
    facts: dict[str, Any] = dict(_TABLES["layouts"][name])
    for columns in ("required", "optional"):
        facts[columns] = tuple(facts.get(columns, ()))
    return Layout(name=name, parse=parse, **facts)


def names_of(column: str) -> list[str]:
    """The names that a required column goes by."""
    return column.split(" or ")


def pair_parts(prompt: Text, chosen: Text, rejected: Text, *, begun: str = "") -> Parts:
    """The parts of a pair."""
    return Parts(prompt, (chosen, rejected), PAIR_GRADES, begun)


def without_repetition(prompt: Text, responses: list[Text], tally: Tally) -> list[Text]:
    """The responses, less the prompt's messages if all of them begin with these and go on."""
    count = len(prompt) if isinstance(prompt, list) else 0
    if count and all(response[:count] == prompt and len(response) > count for response in responses):
        tally[REPEATED_PROMPT_NOTE] += 1
        return [response[count:] for response in responses]
    return responses


def with_system(prompt: list[Message], system: str, tally: Tally) -> list[Message]:
    """The prompt with a system column as its first turn, unless it has a system turn."""
    if not system:
        return prompt
    if not prompt or prompt[0]["role"] != "system":
        return [{"role": "system", "content": system}, *prompt]
    if system != prompt[0].get("content"):
        tally[TWO_SYSTEMS_NOTE] += 1
    return prompt
