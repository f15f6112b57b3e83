"""A data file → its rows, numbered as its owner would count them."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minordpo.data.read.fields import listed, say, shorten
from minordpo.data.read.layout import OTHER_NAMES
from minordpo.data.read.llama_factory import LABEL_NAMES
from minordpo.data.read.recognise import LAYOUTS
from minordpo.errors import InputError
from minordpo.run_folder.files import json_fault, opened, read_jsonl

NumberedRows = Iterator[tuple[int, Any]]
_BOM = b"\xef\xbb\xbf"
PAIR_COLUMNS = tuple(
    sorted(
        {column for layout in LAYOUTS for column in layout.columns}
        | {other for others in OTHER_NAMES.values() for other in others}
    )
)
# CSV knows text alone, so the labels of labelled responses have to be read out of it, …
_TRUTH: dict[str, Any] = {"true": True, "false": False, "1": 1, "0": 0}
# … and the numbers that say which response is better.
_NUMBERS = frozenset(
    [
        "better_response_id",
        "labels",
        "overall_preference",
        "preference_strength",
        "score_0",
        "score_1",
        "choice",
    ]
)


def plain_row(row: Any, *, drop_null: bool) -> Any:
    """A row of Python values; its nulls stay where they are whole columns, so that they can be reported."""
    if not isinstance(row, Mapping):
        return row
    return {column: _plain_values(value, drop_null=drop_null) for column, value in row.items()}


def _plain_values(value: Any, *, drop_null: bool) -> Any:
    """`value` with arrays as lists; without the keys that are null, if Arrow may have put them there.

    Arrow gives every struct of a column the same keys, and null to those that a row lacked. A key that was
    null in the first place cannot be told from these.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {
            key: _plain_values(inner, drop_null=drop_null)
            for key, inner in value.items()
            if inner is not None or not drop_null
        }
    if isinstance(value, list | tuple):
        return [_plain_values(inner, drop_null=drop_null) for inner in value]
    return value


def read_json(path: Path, source: str) -> NumberedRows:
    """The objects of a list, which is the whole file or its "data"."""
    with opened(path, source) as file:
        text = "".join(_decode(raw, number, source) for number, raw in enumerate(file, 1))
    if not text.strip():
        return
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        at = f"line {error.lineno} of {source}" if isinstance(error, json.JSONDecodeError) else source
        hint = " It looks like one object a line: name it .jsonl." if "Extra data" in str(error) else ""
        raise InputError(
            f"{at} is not JSON ({json_fault(error)}), but one list of objects is needed. Fix the file.{hint}"
        ) from None
    del text  # a generator's frame would hold it until the last row
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise InputError(
            f'{source} holds {say(rows)}, but a list of objects, or {{"data": [objects]}}, is needed. '
            "Wrap the rows in [ ]."
        )
    yield from enumerate(rows, 1)


def read_parquet(path: Path, source: str) -> NumberedRows:
    """The rows of a Parquet file, a batch of them in memory at a time."""
    import pyarrow as pa  # slow to import, and the other files do not need it
    import pyarrow.parquet as pq

    with opened(path, source) as file:
        number = 0
        try:
            if not file.read(1):
                return
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, plain_row(row, drop_null=True)
        except (pa.ArrowException, OSError) as error:
            reason = shorten(" ".join(str(error).split()), 120)
            after = f" after row {number}" if number else ""
            raise InputError(
                f"{source} cannot be read as Parquet{after} ({reason}), but a whole Parquet file is needed. "
                "Write or download it again, or name it by what it is."
            ) from None


def read_csv(
    path: Path, source: str, *, columns: Collection[str] = PAIR_COLUMNS, between: str = ","
) -> NumberedRows:
    """The records below the header, which has one of these columns; a record may span lines."""
    with opened(path, source) as file, _fields_of_any_length():
        records = csv.reader(
            (_decode(raw, n, source) for n, raw in enumerate(file, 1)), delimiter=between, strict=True
        )
        try:
            header = next((record for record in records if record), None)
            if header is None:
                return
            _check_header(header, source, columns)
            number = 0
            for record in records:
                if not record:
                    continue
                number += 1
                if len(record) != len(header):
                    raise InputError(
                        f"row {number} of {source} (line {records.line_num}) has {len(record)} fields, but "
                        f"the header has {len(header)}. Put fields that hold {_BETWEEN[between]} or line ends in "
                        '"quotes".'
                    )
                yield number, {name: _value(name, text) for name, text in zip(header, record, strict=True)}
        except csv.Error as error:
            raise InputError(
                f"line {records.line_num} of {source} is not CSV ({error}), but fields between {_BETWEEN[between]}, in "
                "double quotes if need be, are needed. Fix the line, or save the file as .jsonl."
            ) from None


_BETWEEN = {",": "commas", "\t": "tabs"}
READERS: dict[str, Callable[[Path, str], NumberedRows]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".tsv": functools.partial(read_csv, between="\t"),
}
READ_FILES = f"{', '.join(READERS)} or .jsonl.gz"


def file_kind(path: Path) -> str:
    """The key of `READERS` that a file's name ends in, .gz behind it or not; empty if there is none."""
    name = path.name.lower().removesuffix(".gz")
    kind = Path(name).suffix
    return kind if kind in READERS else ""


def _value(column: str, text: str) -> Any:
    if column in LABEL_NAMES:
        return _TRUTH.get(text.lower(), text)
    if column in _NUMBERS:
        with contextlib.suppress(ValueError):
            number = float(text)
            return int(number) if number == int(number) else number
    return text


def _check_header(header: list[str], source: str, columns: Collection[str]) -> None:
    if not set(columns) & set(header):
        such = "prompt,chosen,rejected" if columns is PAIR_COLUMNS else ",".join(columns)
        raise InputError(
            f"the first line of {source} is {listed(header)}, but a header with column names is needed. "
            f"Put the column names, such as {such}, in its first line."
        )
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise InputError(
            f"the header of {source} has {listed(twice)} more than once, but one column of a name is needed. "
            "Rename or drop the others."
        )


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Without the csv module's limit of 128 KiB a field, which long conversations pass; it is the whole process's."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _decode(raw: bytes, number: int, source: str) -> str:
    """A line as text, less the mark that some editors put in front of UTF-8 files."""
    if number == 1 and raw.startswith(_BOM):
        raw = raw[len(_BOM) :]
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"line {number} of {source} is not UTF-8 (0x{raw[error.start]:02x} at byte {error.start + 1}), "
            "but UTF-8 text is needed. Save the file as UTF-8."
        ) from None
