"""Token examples as columns of an Arrow table: a million of them open at once, each read when it is asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute
import xxhash

from minordpo.data.packing import tree_size
from minordpo.data.show import common_beginning
from minordpo.data.tokens import TokenExample, TokenResponse

NOTES = ("boundary", "cut")  # what `TokenExample.notes` may hold, each a column
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("ids", pa.list_(pa.int32())),  # of all responses, one after the other
        ("scored", pa.list_(pa.bool_())),
        ("lengths", pa.list_(pa.int32())),  # of each response
        ("grades", pa.list_(pa.float64())),
        *((note, pa.string()) for note in NOTES),
        # What the tokens say, so that nobody reads all tokens to know it.
        ("key", pa.binary()),  # `example_key`
        ("size", pa.int32()),  # `tree_size`
        ("common", pa.int32()),  # `common_beginning`
        ("largest_id", pa.int32()),
    ]
)
ROWS_A_BATCH = 8192  # of the file; enough that a short column does not share its pages with tokens


def example_key(example: TokenExample) -> bytes:
    """16 bytes that stand for the tokens and masks of a prompt and its responses."""
    digest = xxhash.xxh3_128()
    for array in (example.prompt_ids, *(x for r in example.responses for x in (r.ids, r.scored))):
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def batch_of(examples: Sequence[TokenExample]) -> pa.RecordBatch:
    """The examples as rows of `SCHEMA`."""
    prompts = [example.prompt_ids for example in examples]
    responses = [[response.ids for response in example.responses] for example in examples]
    masks = [response.scored for example in examples for response in example.responses]
    lengths = [[len(ids) for ids in each] for each in responses]
    totals = [sum(each) for each in lengths]
    largest = [
        max(int(ids.max()) for ids in (prompt, *each) if len(ids))
        for prompt, each in zip(prompts, responses, strict=True)
    ]
    columns: dict[str, Any] = {
        "row": [example.row for example in examples],
        "prompt_ids": _lists(prompts, [len(ids) for ids in prompts], pa.int32()),
        "ids": _lists([ids for each in responses for ids in each], totals, pa.int32()),
        "scored": _lists(masks, totals, pa.bool_()),
        "lengths": lengths,
        "grades": [example.grades for example in examples],
        **{note: [example.notes.get(note) for example in examples] for note in NOTES},
        "key": [example_key(example) for example in examples],
        "size": [tree_size(example) for example in examples],
        "common": [common_beginning(example) for example in examples],
        "largest_id": largest,
    }
    arrays = [
        each if isinstance(each, pa.Array) else pa.array(each, SCHEMA.field(name).type)
        for name, each in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _lists(parts: Sequence[np.ndarray], lengths: Sequence[int], kind: pa.DataType) -> pa.Array:
    """One list a row, of that many values each, of parts that follow each other."""
    values = np.concatenate(parts) if len(parts) else np.empty(0)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind))


class StoredExamples(Sequence[TokenExample]):
    """Rows of a table of `SCHEMA`, in file order or as `order` says; of a file that is memory-mapped, or in memory.

    An example is made anew, of its own arrays, each time that it is asked for.
    """

    def __init__(self, table: pa.Table, *, file: Path | None = None, order: np.ndarray | None = None) -> None:
        self.table, self.file, self.order = table, file, order

    @classmethod
    def opened(cls, file: Path) -> StoredExamples:
        """The examples of an Arrow file, which is mapped and not read.

        Raises:
            pyarrow.ArrowException, OSError, ValueError: it is no such file.
        """
        table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
        if not table.schema.remove_metadata().equals(SCHEMA):
            raise ValueError("its columns are others")
        return cls(table, file=file)

    @classmethod
    def of(cls, examples: Iterable[TokenExample]) -> StoredExamples:
        """The examples, in memory; as they are where they are stored already."""
        if isinstance(examples, cls):
            return examples
        return cls(pa.Table.from_batches([batch_of(list(examples))]))

    def numbered_from(self, first: int) -> StoredExamples:
        """The same with `first` added to the rows' numbers, so that those of several sources differ."""
        if not first:
            return self
        rows = pa.chunked_array([pa.compute.add(each, first) for each in self.table.column("row").chunks])
        return StoredExamples(self.table.set_column(0, SCHEMA.field(0), rows), order=self.order)

    @classmethod
    def joined(cls, parts: Sequence[StoredExamples]) -> StoredExamples:
        """The examples of all parts, one after the other; nothing is copied."""
        starts = np.cumsum([0, *(part.table.num_rows for part in parts)])
        orders = [np.arange(len(part)) if part.order is None else part.order for part in parts]
        order = np.concatenate([start + order for start, order in zip(starts[:-1], orders, strict=True)])
        return cls(pa.concat_tables([part.table for part in parts]), order=order)

    def __reduce__(self) -> tuple[Any, ...]:
        # A loader's process that is started anew maps the same file.
        return _again, (None if self.file else self.table, self.file, self.order)

    def __len__(self) -> int:
        return self.table.num_rows if self.order is None else len(self.order)

    @overload
    def __getitem__(self, index: int) -> TokenExample: ...

    @overload
    def __getitem__(self, index: slice) -> StoredExamples: ...

    def __getitem__(self, index: int | slice) -> TokenExample | StoredExamples:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = range(len(self))[index]  # an IndexError where there is none
        place = place if self.order is None else int(self.order[place])
        batch = bisect_right(self._starts, place) - 1
        return self._batches[batch].example(place - self._starts[batch])

    def __iter__(self) -> Iterator[TokenExample]:
        return (self[i] for i in range(len(self)))

    def take(self, places: np.ndarray) -> StoredExamples:
        """Those at these places, in that order."""
        order = places if self.order is None else self.order[places]
        return StoredExamples(self.table, file=self.file, order=order)

    # ---- what the short columns say ----
    @cached_property
    def rows(self) -> np.ndarray:
        """Each example's row of its source."""
        return self._column("row")

    @cached_property
    def sizes(self) -> np.ndarray:
        """`tree_size` of each example."""
        return self._column("size")

    @cached_property
    def commons(self) -> np.ndarray:
        """`common_beginning` of each example."""
        return self._column("common")

    @cached_property
    def prompt_lengths(self) -> np.ndarray:
        """Tokens of each prompt."""
        return self._in_order(self._counted("prompts"))

    @cached_property
    def counts(self) -> np.ndarray:
        """How many responses each example has."""
        return self._in_order(self._counted("lengths"))

    @cached_property
    def response_lengths(self) -> np.ndarray:
        """Tokens of all responses, those of an example one after the other."""
        return np.concatenate([np.empty(0, np.int32), *self._of_responses("lengths")])

    @cached_property
    def grades(self) -> np.ndarray:
        """Grades of all responses, in the same order."""
        return np.concatenate([np.empty(0), *self._of_responses("grades")])

    @cached_property
    def keys(self) -> np.ndarray:
        """`example_key` of each example, 16 bytes each."""
        parts = [_bytes16(each) for each in self.table.column("key").chunks]
        return self._in_order(np.concatenate([np.empty(0, "V16"), *parts]))

    @property
    def largest_id(self) -> int:
        """The largest token id of all."""
        return int(self._column("largest_id").max())

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with one of its responses."""
        longest = np.maximum.reduceat(self.response_lengths, self._first_responses)
        return int((self.prompt_lengths + longest).max())

    @property
    def are_pairs(self) -> bool:
        """Whether every example is a pair: two responses, of the grades 1 and 0."""
        return bool((self.counts == 2).all()) and bool((self.grades.reshape(-1, 2) == (1.0, 0.0)).all())

    @property
    def padded(self) -> int:
        """Tokens of all responses in rows of their own, those of an example padded to its longest."""
        longest = np.maximum.reduceat(self.response_lengths, self._first_responses)
        return int((self.counts.astype(np.int64) * (self.prompt_lengths + longest)).sum())

    @property
    def alone(self) -> int:
        """Tokens of all responses, each behind a prompt of its own; like `tree_size` without the last one of each."""
        prompts = self.counts.astype(np.int64) * self.prompt_lengths
        return int((prompts - self.counts).sum() + self.response_lengths.sum(dtype=np.int64))

    @property
    def _first_responses(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    def _column(self, name: str) -> np.ndarray:
        return self._in_order(self.table.column(name).to_numpy())

    def _counted(self, name: str) -> np.ndarray:
        """How long the lists of a column are."""
        return np.concatenate(
            [np.empty(0, np.int32), *(np.diff(getattr(batch, name).offsets) for batch in self._batches)]
        )

    def _in_order(self, values: np.ndarray) -> np.ndarray:
        return values if self.order is None else values[self.order]

    def _of_responses(self, name: str) -> Iterator[np.ndarray]:
        """The values of a list column that has one a response."""
        parts = [getattr(batch, name) for batch in self._batches]
        values = [part.values[part.offsets[0] : part.offsets[-1]] for part in parts]
        if self.order is None or not values:
            yield from values
            return
        every, counts = np.concatenate(values), self._counted(name)
        starts, chosen = (np.cumsum(counts) - counts)[self.order], counts[self.order]
        # Places within an example count up from where its values begin.
        within = np.arange(chosen.sum()) - np.repeat(np.cumsum(chosen) - chosen, chosen)
        yield every[np.repeat(starts, chosen) + within]

    @cached_property
    def _batches(self) -> list[_Batch]:
        return [_Batch(batch) for batch in self.table.to_batches()]

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *np.cumsum([batch.rows for batch in self._batches]).tolist()][:-1]


def _again(table: pa.Table | None, file: Path | None, order: np.ndarray | None) -> StoredExamples:
    if table is None:
        assert file is not None
        table = StoredExamples.opened(file).table
    return StoredExamples(table, file=file, order=order)


class _Lists:
    """A column of lists: its values and where each list begins among them."""

    def __init__(self, column: pa.ListArray) -> None:
        self.offsets: np.ndarray = column.offsets.to_numpy()
        if column.values.type == pa.bool_():
            self.bits = np.frombuffer(column.values.buffers()[1] or b"", np.uint8)
            self.first = column.values.offset
        else:
            self.values: np.ndarray = column.values.to_numpy()

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def truths(self, row: int) -> np.ndarray:
        """The list of that row, of a column that has a bit a value."""
        start, end = int(self.offsets[row]) + self.first, int(self.offsets[row + 1]) + self.first
        bits = np.unpackbits(self.bits[start // 8 : -(-end // 8)], bitorder="little")
        return bits[start % 8 : start % 8 + end - start].astype(np.bool_)


class _Batch:
    """A batch of the table; nothing of it is read before it is asked for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.rows = len(batch)
        self.numbers = batch.column("row").to_numpy()
        self.prompts, self.ids, self.scored, self.lengths, self.grades = (
            _Lists(batch.column(name)) for name in ("prompt_ids", "ids", "scored", "lengths", "grades")
        )
        self.notes = [
            (note, batch.column(note)) for note in NOTES if batch.column(note).null_count < self.rows
        ]

    def example(self, row: int) -> TokenExample:
        """The example of that row of the batch, of arrays of its own."""
        ids, scored = self.ids[row].copy(), self.scored.truths(row)
        responses, start = [], 0
        for length in self.lengths[row].tolist():
            responses.append(TokenResponse(ids[start : start + length], scored[start : start + length]))
            start += length
        notes = {note: words for note, column in self.notes if (words := column[row].as_py()) is not None}
        grades = tuple(self.grades[row].tolist())
        return TokenExample(self.prompts[row].copy(), tuple(responses), grades, int(self.numbers[row]), notes)


def _bytes16(column: pa.BinaryArray) -> np.ndarray:
    """A column of 16 bytes a value as an array of them."""
    start = 16 * column.offset
    return np.frombuffer(column.buffers()[2] or b"", np.uint8)[start : start + 16 * len(column)].view("V16")
