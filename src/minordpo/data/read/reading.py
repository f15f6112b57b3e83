"""How rows are read: which columns are which, what becomes of text rows and of a system column beside them."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from minordpo.data.read.accounting import Tally
from minordpo.data.read.fields import Message, Row, Text, listed
from minordpo.data.read.layout import OF_CHATS, Parts, with_system
from minordpo.data.read.recognise import LAYOUTS
from minordpo.errors import InputError

READ_COLUMNS = {*OF_CHATS, *(name for layout in LAYOUTS for name in (*layout.columns, *layout.optional))}
_DIALOGUE = re.compile(r"\s*\n\n(Human|Assistant):")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options of the config's `data` that say how rows are read."""

    columns: tuple[
        tuple[str, str | None], ...
    ] = ()  # our column and the file's, None: there is no such column
    text_as: Literal["text", "chat"] = "text"
    text_system: Literal["unread", "before"] = "unread"
    strip_few_shot: bool = False

    @classmethod
    def of(cls, columns: Mapping[str, str | None] | None, **options: object) -> ReadOptions:
        """The options with `columns` as a config has them."""
        return cls(columns=tuple(sorted((columns or {}).items())), **options)  # type: ignore[arg-type]

    @property
    def given_names(self) -> list[str]:
        """The file's columns that are named."""
        return [theirs for _, theirs in self.columns if theirs is not None]

    def __post_init__(self) -> None:
        for ours, theirs in self.columns:
            if ours not in READ_COLUMNS:
                near = difflib.get_close_matches(ours, READ_COLUMNS, 1)
                hint = f"Did you mean {near[0]}?" if near else "Columns that are read stand in docs/data.md."
                raise InputError(f"data.columns names the column {ours!r}, which no layout has. {hint}")
            if theirs is not None and [each for _, each in self.columns].count(theirs) > 1:
                raise InputError(
                    f"data.columns reads {theirs!r} as two columns, but a column is one thing. Leave one of them out."
                )


def renamed(row: Row, columns: Mapping[str, str | None], where: str) -> Row:
    """The row with the columns that are meant under our names; one that stood under such a name goes by "NAME (own)".

    Raises:
        InputError: the row has no such column.
    """
    theirs = {old: new for new, old in columns.items() if old is not None}
    for old, new in theirs.items():
        if old not in row:
            near = difflib.get_close_matches(old, list(row), 1)
            hint = f"Did you mean {near[0]}?" if near else "Correct data.columns, or the row."
            there = f"its columns: {listed(list(row))}"
            raise InputError(
                f"{where} has no column {old!r}, which is to be read as {new!r} ({there}). {hint}"
            )
    moved: Row = {}
    for name, value in row.items():
        if name in theirs:
            moved[theirs[name]] = value
        else:
            moved[f"{name} (own)" if name in columns else name] = value
    return moved


def as_chat(parts: Parts, system: str) -> Parts:
    """Text parts as turns: the prompt is the user's, or the turns of a Human/Assistant dialogue.

    What the answerer has begun to say becomes the beginning of each answer, since a prompt cannot end with it.
    """
    prompt, dialogue = _turns(str(parts.prompt))
    begun = parts.begun
    if begun and isinstance(parts.prompt, str):
        prompt[-1]["content"] = prompt[-1]["content"].removesuffix("\n")
    responses: list[Text] = []
    for response in parts.responses:
        said = str(response).removeprefix(" ") if dialogue else str(response)
        responses.append([{"role": "assistant", "content": begun + said}])
    return parts._replace(prompt=with_system(prompt, system, Tally()), responses=tuple(responses), begun="")


def _turns(prompt: str) -> tuple[list[Message], bool]:
    """The turns of a prompt, and whether it is a Human/Assistant dialogue that the assistant goes on with."""
    found = list(_DIALOGUE.finditer(f"\n\n{prompt.lstrip()}"))
    text = f"\n\n{prompt.lstrip()}"
    whole = found and found[0].start() == 0 and found[0][1] == "Human" and found[-1][1] == "Assistant"
    if not whole or text[found[-1].end() :].strip():
        return [{"role": "user", "content": prompt}], False
    roles = {"Human": "user", "Assistant": "assistant"}
    turns: list[Message] = []
    for label, following in itertools.pairwise(found):
        turns.append({"role": roles[label[1]], "content": text[label.end() : following.start()].strip()})
    return turns, True
