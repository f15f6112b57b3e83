"""Rows → `Example`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from minordpo.data.read.accounting import (
    RowProblem,
    Tally,
    Unread,
    is_empty,
    is_media,
    once,
    refuse_media,
    refuse_places,
    unread_of,
)
from minordpo.data.read.few_shot import strip_examples
from minordpo.data.read.fields import (
    Row,
    Text,
    read_optional_text,
    read_template_kwargs,
    read_tools,
    say,
)
from minordpo.data.read.layout import OF_CHATS, PAIR_GRADES, Kind, Layout, Parts, with_system
from minordpo.data.read.pairs import IMPLICIT_TEXT, TRL_TEXT
from minordpo.data.read.reading import ReadOptions, as_chat, renamed
from minordpo.data.read.recognise import recognise, refuse_unknown_prompt, usual_names
from minordpo.data.read.remedy import different_layout, unknown_layout
from minordpo.data.read.rows import Place, Rows, open_rows, rows_of
from minordpo.errors import InputError
from minordpo.run_folder.files import decode_line


@dataclass(frozen=True, eq=False)
class Example:
    """A prompt and graded responses to it, all plain text or all chat messages.

    A pair has two responses, the chosen one of grade 1 and the rejected one of grade 0; a labelled response is one of
    grade 1 (desirable) or 0; n ranked ones are of the grades n - 1 to 0, best first.
    """

    prompt: Text
    responses: tuple[Text, ...]
    grades: tuple[float, ...]
    row: int  # 1-based row of the source (the line, for .jsonl)
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """What to call the responses in messages."""
        if len(self.responses) == 1:
            return ("completion",)
        if self.grades == PAIR_GRADES:
            return ("chosen response", "rejected response")
        return tuple(f"response of rank {rank}" for rank in range(1, len(self.responses) + 1))


@dataclass(frozen=True, eq=False)
class LoadedExamples:
    """All examples of one source, in file order, and what the source was."""

    examples: list[Example]
    source: str  # as the user named it, for messages: "pairs.jsonl", "org/name[train]"
    layout: str  # the layout recognised, in words: "TRL text", "LLaMA-Factory ShareGPT", …
    notes: list[str] = field(default_factory=list)  # what was done to rows that the user should know
    kind: Kind = "pairs"  # what the layout holds
    unread: dict[Unread, int] = field(default_factory=dict)  # in how many rows it is not empty
    # Rows that cannot be used, by number; only where these are asked for, else the first one is raised.
    problems: list[tuple[int, RowProblem]] = field(default_factory=list)


def load_examples(
    source: str,
    *,
    split: str = "train",
    revision: str | None = None,
    reading: ReadOptions | None = None,
    invalid: Literal["refuse", "drop"] = "refuse",
) -> LoadedExamples:
    """All examples of a file of rows, or of the hub set "org/name".

    `split` and `revision` choose within a hub set; `reading` says how rows are read. Empty and identical responses are
    kept. A row that holds an image, a tie and the like is left to `prepare_examples` where `invalid` is "drop".

    Raises: InputError for what cannot be read, by file and by row (by line in .jsonl).
    """
    reading = reading or ReadOptions()
    rows = open_rows(source, split=split, revision=revision, columns=reading.given_names)
    return _read_all(rows, reading, invalid)


def examples_from_rows(
    rows: Iterable[Any],
    *,
    source: str,
    reading: ReadOptions | None = None,
    invalid: Literal["refuse", "drop"] = "refuse",
) -> LoadedExamples:
    """All examples of a `datasets.Dataset` or a list of dicts, named `source` in messages.

    Raises: InputError for a row in no known layout, or unlike the first one (row 1).
    """
    return _read_all(rows_of(rows, source=source), reading or ReadOptions(), invalid)


def _read_all(rows: Rows, reading: ReadOptions, invalid: str) -> LoadedExamples:
    numbered, tally = rows.numbered(), Tally()
    first = next(numbered, None)
    reader = ExampleReader(rows, first, reading)
    assert first is not None
    examples, problems = [], []
    for number, row in itertools.chain([first], numbered):
        try:
            examples.append(reader.read(number, row, tally))
        except RowProblem as problem:
            if invalid == "refuse":
                raise problem.at(reader.place(number)) from None
            problems.append((number, problem))
    notes = reader.notes(tally, len(examples) + len(problems))
    return LoadedExamples(
        examples, rows.source, reader.layout.name, notes, reader.layout.kind, unread_of(tally), problems
    )


class ExampleReader:
    """Rows of one source as examples; the first row decides the layout, and which columns are which.

    Raises:
        InputError: there is no first row, or it is in no known layout.
    """

    def __init__(self, rows: Rows, first: tuple[int, Any] | None, reading: ReadOptions) -> None:
        if first is None:
            raise InputError(
                f"{rows.source} holds no rows, but pairs are needed. Put at least one pair in it."
            )
        self.source, self.unit, self.lines = rows.source, rows.unit, rows.lines
        self.reading = reading
        self.first_where = self.place(first[0])
        self._renames: dict[str, str | None] = dict(reading.columns)
        row = self._columns(*first)
        usual = usual_names(row)
        self._usual = {ours: theirs for ours, theirs in usual.items() if ours not in self._renames}
        if self._usual:
            self._renames |= self._usual
            row = self._columns(*first)
        layout = recognise(row, self.first_where)
        if layout is None:
            raise unknown_layout(row, self.first_where)
        if reading.strip_few_shot and layout is not TRL_TEXT:
            raise InputError(
                f"{rows.source} is {layout.name}, strip_few_shot needs {TRL_TEXT.name} ({TRL_TEXT.shape}). "
                "Turn strip_few_shot off."
            )
        self.layout: Layout = layout
        # Columns of a row → those that are not read, with what is told of each; None for one that may hold media.
        self._others: dict[tuple[str, ...], list[tuple[str, Unread | None]]] = {}
        self._found = Tally()  # of the row that is read now

    def read(self, number: int, row: Any, tally: Tally) -> Example:
        """The example of a row as `Rows.numbered` gave it; `tally` counts what was done to it, and what is not read.

        Raises:
            RowProblem: it holds what cannot be trained on.
            InputError: it is unlike the first row, or has a field that cannot be read.
        """
        where, row = self.place(number), self._columns(number, row)
        layout = recognise(row, where)
        if layout != self.layout:
            raise different_layout(row, where, layout, self.layout, self.first_where)
        found = self._found
        if found:
            found.clear()
        if isinstance(number, Place):
            found[f"they stand in {number.source}"] += 1
        self._count_unread(row, where, tally)
        example = self._example(row, number, where, found)
        if found:
            once(tally, found)
        return example

    def notes(self, tally: Tally, rows: int) -> list[str]:
        """What was done to rows that the user should know, of that many rows; what is unread is told apart."""
        return [*self._notes_of_columns(), *_notes(tally, rows, self.reading.strip_few_shot)]

    def _notes_of_columns(self) -> list[str]:
        notes = [f"the column {theirs} was read as {ours}" for ours, theirs in self._usual.items()]
        if self.layout.is_chat and self.reading.text_as == "chat":
            notes.append("the rows are chats already, so data.text_as=chat changed nothing")
        if self.is_chat and self.reading.text_system == "before":
            notes.append(
                "the rows are chats, whose system column is a turn: data.text_system changed nothing"
            )
        return notes

    def place(self, number: int) -> str:
        """Where a row stands, for messages."""
        return number.where if isinstance(number, Place) else f"{self.unit} {number} of {self.source}"

    @property
    def is_chat(self) -> bool:
        """Whether the examples are chats."""
        return self.layout.is_chat or self.reading.text_as == "chat"

    def _columns(self, number: int, row: Any) -> Row:
        where = self.place(number)
        if self.lines:
            row = decode_line(row, where)
        elif not isinstance(row, dict):
            raise InputError(f"{where} is {say(row)}, but an object is needed. Fix or drop it.")
        return renamed(row, self._renames, where) if self._renames else row

    def _count_unread(self, row: Row, where: str, tally: Tally) -> None:
        """Count the columns that are not read and not empty; refuse one that holds media."""
        columns = tuple(row)
        others = self._others.get(columns)
        if others is None or self.layout.has_other_names:
            others = self._others[columns] = [
                (name, None if is_media(name) else Unread(f"column {name}", self._advice(name)))
                for name in self.layout.unread(row, also=self._also_read())
            ]
        for name, unread in others:
            value = row[name]
            if value.isspace() or not value if type(value) is str else is_empty(value):
                continue
            if unread is None:
                raise refuse_media(name, say(value))
            tally[unread] += 1
        if others and self.layout is IMPLICIT_TEXT and "prompt" not in self._renames:
            refuse_unknown_prompt(row, [name for name, _ in others], where)

    def _also_read(self) -> tuple[str, ...]:
        if self.is_chat:
            return OF_CHATS
        return ("system",) if self.reading.text_system == "before" else ()

    def _advice(self, column: str) -> str:
        if column in OF_CHATS:  # of rows of text
            before = ", and data.text_system=before puts it before the prompt" if column == "system" else ""
            return f"the rows are text: data.text_as=chat gives it to the chat template{before}"
        if column.lower() in _SYSTEMS and "system" not in self._renames:
            return f"data.columns.system={column} makes it the system turn"
        return ""

    def _example(self, row: Row, number: int, where: str, tally: Tally) -> Example:
        parts = self.layout.parse(row, where, tally)
        if self.reading.strip_few_shot:
            question = strip_examples(str(parts.prompt), where)
            if question is not None:
                tally[_STRIPPED] += 1
                parts = parts._replace(prompt=question)
        _refuse_places(parts)
        if not self.is_chat:
            return Example(self._text_prompt(parts, row, where), parts.responses, parts.grades, row=number)
        system = read_optional_text(row, "system", where)
        if not self.layout.is_chat:
            parts = as_chat(parts, system)
        elif system:
            assert isinstance(parts.prompt, list)
            parts = parts._replace(prompt=with_system(parts.prompt, system, tally))
        tools = {"tools": parts.tools} if parts.tools else row
        return Example(
            parts.prompt,
            parts.responses,
            parts.grades,
            row=number,
            tools=read_tools(tools, self.layout.bare_functions, where),
            template_kwargs=read_template_kwargs(row, where),
        )

    def _text_prompt(self, parts: Parts, row: Row, where: str) -> str:
        prompt = f"{parts.prompt}{parts.begun}"
        if self.reading.text_system == "before":
            system = read_optional_text(row, "system", where)
            return f"{system}\n\n{prompt}" if system else prompt
        return prompt


def _refuse_places(parts: Parts) -> None:
    for i, content in enumerate((parts.prompt, *parts.responses)):
        texts = (content,) if isinstance(content, str) else [turn.get("content", "") for turn in content]
        for text in texts:
            if "<" in text:  # most are done with this look
                refuse_places(text, f"answer {i}" if i else "the prompt")


_STRIPPED = "few-shot examples stripped"
_SYSTEMS = ("system_prompt", "system_message", "system_instruction", "sys")


def _notes(tally: Tally, rows: int, strip_few_shot: bool) -> list[str]:
    stripped = tally.pop(_STRIPPED, 0)
    notes = [f"{count} of {rows} rows: {note}" for note, count in tally.items() if isinstance(note, str)]
    if strip_few_shot:
        notes.append(
            f"strip_few_shot took the examples, and what introduced them, out of {stripped} of {rows} "
            f"prompts; {rows - stripped} had none. Its parser is unverified on MetaMath_DPO_FewShot: "
            "look at some of the prompts"
        )
    return notes
