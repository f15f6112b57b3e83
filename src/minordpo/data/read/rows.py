"""Files, hub sets and Python's own rows → `Rows`: numbered, in order, and known by a digest before any is read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from minordpo.data.read.fields import shorten
from minordpo.data.read.readers import READERS, plain_row
from minordpo.errors import InputError
from minordpo.run_folder.files import read_lines

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


def open_rows(source: str, *, split: str = "train", revision: str | None = None) -> Rows:
    """The rows of a .jsonl, .json, .parquet or .csv file, or of the hub set "org/name".

    `split` and `revision` choose within a hub set.

    Raises:
        InputError: it is none of these, or is not there.
    """
    if not source.strip():
        raise InputError("the name of the pairs is blank, but a file or a hub set is needed. Name one.")
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix.lower() in READERS)
        example = f", for example {path / inside[0]}" if inside else ""
        raise InputError(f"{source} is a directory, but one file of pairs is needed. Name the file{example}.")
    if suffix in READERS:
        if split != "train" or revision is not None:
            chosen = f"split {split!r}" if split != "train" else f"revision {revision!r}"
            raise InputError(
                f"{source} is one file and has no {chosen}, but a hub set is needed for that. "
                "Leave it out, or name another file."
            )
        if not path.exists():
            raise InputError(f"{source} does not exist, but a file of pairs is needed. {_near_file(path)}")
        if suffix == ".jsonl":
            digest = partial(_file_digest, path, source)
            return Rows(source, partial(read_lines, path, source), digest, "line", lines=True)
        return Rows(source, partial(READERS[suffix], path, source), partial(_file_digest, path, source))
    if path.exists() or not _HUB_SET.fullmatch(source) or _FILE_SUFFIX.fullmatch(suffix):
        raise InputError(
            f"{source} is neither a hub set (org/name) nor a file that ends in {', '.join(READERS)}. "
            "Convert the file to one of these, .jsonl for example, or correct the name."
        )
    return _hub_set(source, split, revision)


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
    """The digest of a file's bytes and of how they are read; its lines are counted on the way."""
    digest, lines, last = xxhash.xxh3_128(path.suffix.lower().encode()), 0, b"\n"
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                lines += block.count(b"\n")
                last = block[-1:]
    except OSError as error:
        raise InputError(
            f"{source} cannot be read ({error.strerror or error}), but a readable file is needed. Check its "
            "permissions, or name another."
        ) from error
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
