"""Rows → `Example`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from minordpo.data.read.few_shot import strip_examples
from minordpo.data.read.fields import Row, Text, read_template_kwargs, read_tools, say
from minordpo.data.read.layout import PAIR_GRADES, UNUSED_TOOLS_NOTE, Kind, Layout
from minordpo.data.read.pairs import TRL_TEXT
from minordpo.data.read.recognise import different_layout, recognise, unknown_layout
from minordpo.data.read.rows import Rows, open_rows, rows_of
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


def load_examples(
    source: str, *, split: str = "train", revision: str | None = None, strip_few_shot: bool = False
) -> LoadedExamples:
    """All examples of a .jsonl, .json, .parquet or .csv file, or of the hub set "org/name".

    `split` and `revision` choose within a hub set. `strip_few_shot` takes worked examples out of text prompts
    (see `strip_examples`). Empty and identical responses are kept.

    Raises: InputError for what cannot be read, by file and by row (by line in .jsonl).
    """
    return _read_all(open_rows(source, split=split, revision=revision), strip_few_shot)


def examples_from_rows(rows: Iterable[Any], *, source: str, strip_few_shot: bool = False) -> LoadedExamples:
    """All examples of a `datasets.Dataset` or a list of dicts, named `source` in messages.

    Raises: InputError for a row in no known layout, or unlike the first one (row 1).
    """
    return _read_all(rows_of(rows, source=source), strip_few_shot)


def _read_all(rows: Rows, strip_few_shot: bool) -> LoadedExamples:
    numbered, tally = rows.numbered(), Counter[str]()
    first = next(numbered, None)
    reader = ExampleReader(rows, first, strip_few_shot=strip_few_shot)
    assert first is not None
    examples = [reader.read(number, row, tally) for number, row in itertools.chain([first], numbered)]
    notes = reader.notes(tally, len(examples))
    return LoadedExamples(examples, rows.source, reader.layout.name, notes, reader.layout.kind)


class ExampleReader:
    """Rows of one source as examples; the first row decides the layout.

    Raises:
        InputError: there is no first row, or it is in no known layout.
    """

    def __init__(self, rows: Rows, first: tuple[int, Any] | None, *, strip_few_shot: bool) -> None:
        if first is None:
            raise InputError(
                f"{rows.source} holds no rows, but pairs are needed. Put at least one pair in it."
            )
        self.source, self.unit, self.lines = rows.source, rows.unit, rows.lines
        self.strip_few_shot = strip_few_shot
        self.first_where = self._where(first[0])
        row = self._columns(*first)
        layout = recognise(row, self.first_where)
        if layout is None:
            raise unknown_layout(row, self.first_where)
        if strip_few_shot and layout is not TRL_TEXT:
            raise InputError(
                f"{rows.source} is {layout.name}, strip_few_shot needs {TRL_TEXT.name} ({TRL_TEXT.shape}). "
                "Turn strip_few_shot off."
            )
        self.layout: Layout = layout

    def read(self, number: int, row: Any, tally: Counter[str]) -> Example:
        """The example of a row as `Rows.numbered` gave it; `tally` counts what was done to it.

        Raises:
            InputError: it is unlike the first row, or has a field that cannot be read.
        """
        where, row = self._where(number), self._columns(number, row)
        found = recognise(row, where)
        if found != self.layout:
            raise different_layout(row, where, found, self.layout, self.first_where)
        return _example(row, number, self.layout, where, tally, self.strip_few_shot)

    def notes(self, tally: Counter[str], rows: int) -> list[str]:
        """What was done to rows that the user should know, of that many rows."""
        return _notes(tally, rows, self.strip_few_shot)

    def _where(self, number: int) -> str:
        return f"{self.unit} {number} of {self.source}"

    def _columns(self, number: int, row: Any) -> Row:
        where = self._where(number)
        if self.lines:
            return decode_line(row, where)
        if not isinstance(row, dict):
            raise InputError(f"{where} is {say(row)}, but an object is needed. Fix or drop it.")
        return row


def _example(
    row: Row, number: int, layout: Layout, where: str, tally: Counter[str], strip_few_shot: bool
) -> Example:
    parts = layout.parse(row, where, tally)
    if strip_few_shot:
        question = strip_examples(str(parts.prompt), where)
        if question is not None:
            tally[_STRIPPED] += 1
            parts = parts._replace(prompt=question)
    if layout.is_chat:
        return Example(
            *parts,
            row=number,
            tools=read_tools(row, layout.bare_functions, where),
            template_kwargs=read_template_kwargs(row, where),
        )
    if row.get("tools") or row.get("chat_template_kwargs"):
        tally[UNUSED_TOOLS_NOTE] += 1
    return Example(*parts, row=number)


_STRIPPED = "few-shot examples stripped"


def _notes(tally: Counter[str], rows: int, strip_few_shot: bool) -> list[str]:
    stripped = tally.pop(_STRIPPED, 0)
    notes = [f"{count} of {rows} rows: {note}" for note, count in tally.items()]
    if strip_few_shot:
        notes.append(
            f"strip_few_shot took the examples, and what introduced them, out of {stripped} of {rows} "
            f"prompts; {rows - stripped} had none. Its parser is unverified on MetaMath_DPO_FewShot: "
            "look at some of the prompts"
        )
    return notes
