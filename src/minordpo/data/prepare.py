"""Rows of a source → stored examples and the report on every row.

rows ─► chunks ─► by one process or several: Example ─► TokenExample ─► Arrow ─► in order into the file ─► report
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import xxhash
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from minordpo.data.checks import PreparedExamples, RowFinding, Source, finish
from minordpo.data.pool import cores, in_order
from minordpo.data.read.accounting import RowProblem, Tally, unread_of
from minordpo.data.read.examples import Example, ExampleReader, LoadedExamples
from minordpo.data.read.reading import ReadOptions
from minordpo.data.read.rows import Place, Rows
from minordpo.data.stored import NOTES, ROWS_A_BATCH, SCHEMA, StoredExamples, batch_of
from minordpo.data.template import TemplateWriter
from minordpo.data.tokens import TokenExample, TokenOptions, tokenize_examples
from minordpo.errors import InputError

CHUNK = 256  # rows that are worked on at once
# Rows from which several processes are worth their start; fewer are done before a progress bar says anything.
SEVERAL_FROM = 2000
Invalid = Literal["refuse", "drop"]


@dataclass(frozen=True, eq=False)
class _Done:
    """The results of one chunk of rows: usable examples, digests, problems and notes."""

    rows: int
    usable: pa.RecordBatch  # of `SCHEMA`
    contents: np.ndarray  # of the usable: 16 bytes for a prompt with its responses, whatever their order, …
    judgements: np.ndarray  # … and for these with their order and grades
    problems: list[tuple[int, str, str, int]]  # of the others: row, kind, words, tokens
    tally: Tally  # notes of the layout, and what is not read


@dataclass(frozen=True, eq=False)
class _Work:
    """From a chunk of rows, or of examples where there is no reader, to tokens."""

    reader: ExampleReader | None
    tokenizer: PreTrainedTokenizerBase
    options: TokenOptions

    @functools.cached_property
    def template(self) -> TemplateWriter:
        """The tokenizer's, which remembers what it has written."""
        return TemplateWriter(self.tokenizer)

    def __call__(self, chunk: list[Any]) -> _Done:
        tally = Tally()
        problems: list[tuple[int, str, str, int]] = []
        examples: list[Example] = chunk
        if self.reader is not None:
            examples = []
            for number, row in chunk:
                try:
                    examples.append(self.reader.read(number, row, tally))
                except RowProblem as problem:
                    words = f"{problem} ({number.where})" if isinstance(number, Place) else str(problem)
                    problems.append((number, problem.kind, words, problem.tokens))
        found = tokenize_examples(
            examples, self.tokenizer, options=self.options, template=self.template, tally=tally
        )
        usable = [each for each in found if isinstance(each, TokenExample)]
        contents, judgements = zip(*map(_digests, usable), strict=True) if usable else ((), ())
        return _Done(
            len(chunk),
            batch_of(usable),
            np.frombuffer(b"".join(contents), "V16"),
            np.frombuffer(b"".join(judgements), "V16"),
            sorted(
                problems
                + [
                    (example.row, each.kind, str(each), each.tokens)
                    for example, each in zip(examples, found, strict=True)
                    if isinstance(each, RowProblem)
                ]
            ),
            tally,
        )


def prepare_examples(
    loaded: LoadedExamples,
    tokenizer: PreTrainedTokenizerBase,
    options: TokenOptions,
    *,
    invalid: Invalid = "refuse",
    progress: bool = False,
) -> PreparedExamples:
    """The examples as tokens, in memory, with a report on every row; no row goes missing without a word.

    `options.overlong` decides about rows over `max_length`, `invalid` about all other rows that cannot be
    used, and, where responses are cut, about prompts that leave no room for one.

    Raises: InputError for rows that cannot be used, all of them counted, or a source in which none can.
    """
    if not loaded.examples and not loaded.problems:
        raise InputError(f"{loaded.source} has no rows, but at least one is needed. Name another file.")
    collected = _Collected()
    with _bar(len(loaded.examples), progress) as bar:
        for done in _each(_Work(None, tokenizer, options), loaded.examples, len(loaded.examples)):
            collected.add(done)
            bar.update(done.rows)
    for row, problem in loaded.problems:
        collected.refuse(row, problem.kind, str(problem), problem.tokens)
    is_text = any(isinstance(each.prompt, str) for each in loaded.examples[:1])
    tally = Tally(loaded.unread)
    tally.update(collected.tally)
    rows = collected.rows + len(loaded.problems)
    source = Source(
        loaded.source, loaded.layout, loaded.kind, [*loaded.notes], rows, unread_of(tally), is_text
    )
    examples = StoredExamples(pa.Table.from_batches(collected.batches, SCHEMA))
    return finish(source, examples, *collected.findings(examples), tokenizer, options, invalid)


def prepare_rows(
    rows: Rows,
    file: Path,
    tokenizer: PreTrainedTokenizerBase,
    options: TokenOptions,
    *,
    invalid: Invalid,
    reading: ReadOptions,
    limit: int | None,
    expected: int,
    progress: bool,
) -> PreparedExamples:
    """Read at most `limit` rows, write their tokens to an Arrow file and report on every row.

    `expected` rows are there, or nearly: from `SEVERAL_FROM` on several processes work.

    Raises:
        InputError: as `prepare_examples`, and of rows that cannot be read.
    """
    numbered = rows.numbered()
    first = next(numbered, None)
    reader = ExampleReader(rows, first, reading)
    every = itertools.islice(itertools.chain([first], numbered), limit)
    expected = expected if limit is None else min(limit, expected)
    collected = _Collected()
    with _bar(expected, progress) as bar, _writer(file) as write:
        for done in _each(_Work(reader, tokenizer, options), every, expected):
            collected.add(done, write)
            bar.update(done.rows)
        collected.write(write)
        bar.total = collected.rows  # blank lines were counted before
        bar.refresh()
    source = Source(
        rows.source,
        reader.layout.name,
        reader.layout.kind,
        reader.notes(collected.tally, collected.rows),
        collected.rows,
        unread_of(collected.tally),
        not reader.is_chat,
    )
    examples = StoredExamples.opened(file)
    return finish(source, examples, *collected.findings(examples), tokenizer, options, invalid)


def _each(work: _Work, items: Iterable[Any], expected: int) -> Iterator[_Done]:
    processes = min(cores(), -(-expected // CHUNK)) if expected >= SEVERAL_FROM else 1
    return in_order(work, _chunks(iter(items)), processes=processes)


def _chunks(items: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, CHUNK)):
        yield chunk


def _bar(rows: int, progress: bool) -> tqdm:
    return tqdm(total=rows, desc="tokenising", unit="rows", disable=not (progress and rows > SEVERAL_FROM))


@contextlib.contextmanager
def _writer(file: Path) -> Iterator[Callable[[list[pa.RecordBatch]], None]]:
    """Open an Arrow file of `datasets` and yield a function that writes batches to it as one."""
    from datasets.arrow_writer import ArrowWriter  # slow to import, and what is in the cache needs none

    with ArrowWriter(path=str(file), schema=SCHEMA) as writer:

        def write(batches: list[pa.RecordBatch]) -> None:
            table = pa.Table.from_batches(batches, SCHEMA).combine_chunks()
            writer.write_table(table, writer_batch_size=max(1, len(table)))

        yield write
        writer.finalize()


@dataclass
class _Collected:
    """The results of all chunks so far, in the order of the rows."""

    rows: int = 0
    batches: list[pa.RecordBatch] = field(default_factory=list)
    contents: list[np.ndarray] = field(default_factory=list)
    judgements: list[np.ndarray] = field(default_factory=list)
    problems: dict[str, RowFinding] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def add(self, done: _Done, write: Callable[[list[pa.RecordBatch]], None] | None = None) -> None:
        """Take a chunk in; batches are kept, or written once they are enough."""
        self.rows += done.rows
        self.batches.append(done.usable)
        self.contents.append(done.contents)
        self.judgements.append(done.judgements)
        for row, kind, words, tokens in done.problems:
            self.refuse(row, kind, words, tokens)
        self.tally.update(done.tally)
        if write is not None and sum(map(len, self.batches)) >= ROWS_A_BATCH:
            self.write(write)

    def refuse(self, row: int, kind: str, words: str, tokens: int) -> None:
        """Count a row that cannot be used."""
        self.problems.setdefault(kind, RowFinding()).add(row, words, tokens)

    def write(self, write: Callable[[list[pa.RecordBatch]], None]) -> None:
        """Write the batches that are left."""
        if self.batches:
            write(self.batches)
            self.batches = []

    def findings(self, examples: StoredExamples) -> tuple[dict[str, RowFinding], dict[str, RowFinding]]:
        """Rows that cannot be used, and rows in use that are odd or were changed; each by kind, the first met first."""
        kept: dict[str, RowFinding] = {}
        for note in NOTES:
            column = examples.table.column(note)
            places = np.flatnonzero(column.is_valid().to_numpy())
            if len(places):
                rows = examples.rows[places].tolist()
                kept[note] = RowFinding(rows, column[int(places[0])].as_py(), (0, max(rows)))
        kept |= self._repeats(examples)
        order = sorted(kept, key=lambda kind: kept[kind].rows[0])  # stable: of one row notes come first
        return self.problems, {kind: kept[kind] for kind in order}

    def _repeats(self, examples: StoredExamples) -> dict[str, RowFinding]:
        """Rows with the same prompt and responses as an earlier one: judged alike, or otherwise."""
        if not len(examples):
            return {}
        rows, found = examples.rows, dict[str, RowFinding]()
        first = _first_of_each(np.concatenate(self.judgements))
        new = first == np.arange(len(first))
        if not new.all():
            places = np.flatnonzero(~new)
            repeated = rows[places].tolist()
            found["duplicate"] = RowFinding(repeated, f"as row {rows[first[places[0]]]}", (0, max(repeated)))
        left = np.flatnonzero(new)
        first = left[_first_of_each(np.concatenate(self.contents)[left])]
        places = np.flatnonzero(first != left)
        if len(places):
            single = examples.counts[left[places[0]]] == 1
            how = "labels the same completion otherwise" if single else "has them in another order"
            other = rows[left[places]].tolist()
            words = f"row {rows[first[places[0]]]} {how}"
            found["contradiction"] = RowFinding(other, words, (0, max(other)))
        return found


def _first_of_each(digests: np.ndarray) -> np.ndarray:
    """For each digest the place of the first that equals it."""
    _, first, which = np.unique(digests.view("S16"), return_index=True, return_inverse=True)
    return first[which]


def _digests(example: TokenExample) -> tuple[bytes, bytes]:
    """Return a digest of a prompt with its responses, and one that covers their order and grades too."""
    responses = [xxhash.xxh3_128_digest(response.ids.tobytes()) for response in example.responses]
    prompt = xxhash.xxh3_128_digest(example.prompt_ids.tobytes())
    content = xxhash.xxh3_128_digest(b"".join([prompt, *sorted(responses)]))
    grades = np.array(example.grades).tobytes()
    return content, xxhash.xxh3_128_digest(b"".join([content, *responses, grades]))
