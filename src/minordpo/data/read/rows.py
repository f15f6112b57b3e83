"""Files, hub sets and Python's own rows → `Rows`: numbered, in order, and known by a digest before any is read."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from minordpo.data.read.fields import shorten
from minordpo.data.read.readers import PAIR_COLUMNS, READ_FILES, READERS, file_kind, plain_row
from minordpo.errors import InputError
from minordpo.run_folder.files import decode_line, opened, read_lines

_HUB_SET = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# A missing or foreign file that would pass for a hub set by its slash: "data/pairs.txt".
_FILE_SUFFIX = re.compile(
    r"\.(txt|tsv|yaml|yml|arrow|gz|zst|zip|tar|xz|pkl|pickle|pt|md|ndjson|xlsx|db)", re.I
)
_BLOCK, _BATCH = 1 << 20, 1024  # bytes of a file, and rows of a data set, that are hashed at a time


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one source, not read yet."""

    source: str  # as the user named it, for messages: "pairs.jsonl", "org/name[train]"
    numbered: Callable[
        [], Iterator[tuple[int, Any]]
    ]  # a row's number and its columns, or its line as it stands
    digest: Callable[[], tuple[str, int]]  # of the content; and how many rows there are, or nearly
    unit: str = "row"  # what its owner counts: "line" of a .jsonl file
    lines: bool = False  # rows come as lines, to be decoded


class Place(int):
    """The number of a row among those of several files; it knows the file and the number there."""

    source: str
    unit: str
    number: int

    @classmethod
    def of(cls, number: int, source: str, unit: str, own: int) -> Place:
        """The row `number` of all, which is the row or line `own` of `source`."""
        place = cls(number)
        place.source, place.unit, place.number = source, unit, own
        return place

    @property
    def where(self) -> str:
        """Where the row stands, for messages."""
        return f"{self.unit} {self.number} of {self.source}"


def open_rows(
    source: str, *, split: str = "train", revision: str | None = None, columns: Collection[str] = ()
) -> Rows:
    """The rows of a file, of all files that a pattern with * matches, in the order of their names, or of a hub set.

    Files end in .jsonl, .json, .parquet, .csv or .tsv, packed ones in .gz behind that. `split` and `revision` choose
    within the hub set "org/name". `columns` are further names that the header of a .csv file may have.

    Raises:
        InputError: it is none of these, or is not there.
    """
    if not source.strip():
        raise InputError("the name of the pairs is blank, but a file or a hub set is needed. Name one.")
    path = Path(source).expanduser()
    pattern = any(sign in source for sign in "*?[") and not path.exists()
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file_kind(file))
        example = f", for example {path / inside[0]}, or all by {path / '*'}" if inside else ""
        raise InputError(f"{source} is a directory, but one file of pairs is needed. Name the file{example}.")
    if file_kind(path) or pattern:
        if split != "train" or revision is not None:
            chosen = f"split {split!r}" if split != "train" else f"revision {revision!r}"
            raise InputError(
                f"{source} is one file and has no {chosen}, but a hub set is needed for that. "
                "Leave it out, or name another file."
            )
        if pattern:
            return _joined(source, [_file_rows(each, str(each), columns) for each in _matched(path, source)])
        if not path.exists():
            raise InputError(f"{source} does not exist, but a file of pairs is needed. {_near_file(path)}")
        return _file_rows(path, source, columns)
    if path.exists() or not _HUB_SET.fullmatch(source) or _FILE_SUFFIX.fullmatch(path.suffix):
        raise InputError(
            f"{source} is neither a hub set (org/name) nor a file that ends in {READ_FILES}. "
            "Convert the file to one of these, .jsonl for example, or correct the name."
        )
    return _hub_set(source, split, revision)


def is_file(source: str) -> bool:
    """Whether a source is named as a file or as several, not as a hub set."""
    return bool(file_kind(Path(source))) or any(sign in source for sign in "*?[")


def _file_rows(path: Path, source: str, columns: Collection[str]) -> Rows:
    kind = file_kind(path)
    digest = partial(_file_digest, path, source)
    if kind == ".jsonl":
        return Rows(source, partial(read_lines, path, source), digest, "line", lines=True)
    read: Callable[..., Any] = READERS[kind]
    if kind in (".csv", ".tsv") and columns:
        read = partial(read, columns=(*PAIR_COLUMNS, *columns))
    return Rows(source, partial(read, path, source), digest)


def _matched(path: Path, source: str) -> list[Path]:
    found = [Path(each) for each in sorted(glob.glob(str(path), recursive=True)) if Path(each).is_file()]
    if not found:
        raise InputError(f"{source} matches no file, but one at least is needed. Correct the pattern.")
    odd = next((each for each in found if not file_kind(each)), None)
    if odd is not None:
        raise InputError(
            f"{source} matches {odd}, which does not end in {READ_FILES}. Narrow the pattern, such as to *.jsonl."
        )
    return found


def _joined(source: str, parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one part after the other, numbered on."""
    lines = all(part.lines for part in parts)

    def numbered() -> Iterator[tuple[int, Any]]:
        number = 0
        for part in parts:
            for own, row in part.numbered():
                number += 1
                place = Place.of(number, part.source, part.unit, own)
                yield place, decode_line(row, place.where) if part.lines and not lines else row

    def digest() -> tuple[str, int]:
        found = [part.digest() for part in parts]
        whole = xxhash.xxh3_128()  # of the names too, which the report tells
        for part, (each, _) in zip(parts, found, strict=True):
            whole.update(f"{part.source}\0{each}\0".encode())
        return whole.hexdigest(), sum(rows for _, rows in found)

    return Rows(source, numbered, digest, lines=lines)


def rows_of(rows: Iterable[Any], *, source: str) -> Rows:
    """The rows of a `datasets.Dataset` or a list of dicts, named `source` in messages.

    Raises:
        InputError: it is neither.
    """
    is_dataset = hasattr(rows, "with_format")
    if isinstance(rows, str | bytes | Mapping):
        splits = f" with the keys {', '.join(map(str, rows))}" if isinstance(rows, Mapping) else ""
        raise InputError(
            f"{source} is a {type(rows).__name__}{splits}, but a Dataset or a list of dicts is needed. "
            "Choose one split of it, or call load_examples for a file."
        )
    plain: Any = rows.with_format(None) if is_dataset else rows  # type: ignore[attr-defined]  # a Dataset then

    def numbered() -> Iterator[tuple[int, Any]]:
        return ((number, plain_row(row, drop_null=is_dataset)) for number, row in enumerate(plain, 1))

    return Rows(source, numbered, partial(_dataset_digest if is_dataset else _rows_digest, rows))


def _hub_set(name: str, split: str, revision: str | None) -> Rows:
    import datasets  # slow to import, and files do not need it
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(name, split=split, revision=revision)
    except (OSError, ValueError, DatasetsError) as error:
        reason = shorten(" ".join(str(error).split()).rstrip("."), 200)
        raise InputError(
            f"{name} is no file, and the hub set of that name (split {split!r}, revision "
            f"{revision or 'main'!r}) could not be loaded: {reason}. Check name, split and revision, or "
            "give a file."
        ) from error
    return rows_of(rows, source=f"{name}@{revision}[{split}]" if revision else f"{name}[{split}]")


def _file_digest(path: Path, source: str) -> tuple[str, int]:
    """The digest of a file's bytes, unpacked, and of how they are read; its lines are counted on the way."""
    digest, lines, last = xxhash.xxh3_128(file_kind(path).encode()), 0, b"\n"
    with opened(path, source) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            lines += block.count(b"\n")
            last = block[-1:]
    return digest.hexdigest(), lines + (last != b"\n")


def _rows_digest(rows: Iterable[Any]) -> tuple[str, int]:
    digest, count = xxhash.xxh3_128(b"rows"), 0
    for row in rows:
        digest.update(repr(row).encode(errors="surrogatepass"))
        count += 1
    return digest.hexdigest(), count


def _dataset_digest(rows: Any) -> tuple[str, int]:
    digest, count = xxhash.xxh3_128(b"dataset"), 0
    for table in rows.with_format("arrow").iter(batch_size=_BATCH):
        for batch in table.combine_chunks().to_batches():
            digest.update(str(batch.schema.remove_metadata()).encode())
            digest.update(batch.serialize())
            count += len(batch)
    return digest.hexdigest(), count


def _near_file(path: Path) -> str:
    folder = path.parent
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f"Did you mean {folder / near[0]}?"
    return "Check the path." if folder.is_dir() else f"Check the path: there is no folder {folder} either."
