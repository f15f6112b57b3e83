"""Reading and writing .jsonl: a broken line is named, an output is either whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from minordpo.errors import InputError


def refuse_existing(path: Path, *, overwrite: bool = False) -> None:
    """Nothing, where `path` may be written.

    Raises: InputError where it exists and may not be overwritten, or is not a plain file.
    """
    if path.is_dir() or (path.exists() and not path.is_file()):
        raise InputError(
            f"{path} is not a plain file, so rows cannot be written to it. Name a new .jsonl file."
        )
    if path.exists() and not overwrite:
        raise InputError(
            f"{path} exists already and would be replaced. Name another file or allow it with overwrite."
        )


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """The number of rows written, one JSON object a line; `path` is whole or untouched whatever happens.

    Raises: InputError where the folder is missing, the disk is full or nothing may be written there.
    """
    if not path.parent.is_dir():
        raise InputError(
            f"{path} cannot be written: there is no folder {path.parent}. Create it or name another file."
        )
    written = 0
    with written_whole(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(_encode(row, path, written + 1))
            written += 1
        file.flush()
        os.fsync(file.fileno())
    return written


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which becomes it at the end, whole; after an error nothing is left.

    Raises:
        InputError: it cannot be written.
    """
    # Beside the target, since a rename is atomic only within one file system.
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        os.replace(aside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        if not isinstance(error, OSError):
            raise
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}). Free some space, check the "
            "permissions or name another file."
        ) from error


def _encode(row: Mapping[str, Any], path: Path, number: int) -> str:
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{path} cannot be written: row {number} holds half a character (the surrogate "
            f"\\u{ord(line[error.start]):04x}), but whole Unicode text is needed. Repair or drop that row."
        ) from None
    return line + "\n"


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line number (from 1) and the object of every line that is not blank.

    Raises: InputError where the file cannot be read, or a line is not one JSON object in UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip(b" \t\r\n\xef\xbb\xbf"):
                    yield number, _decode(line, f"line {number} of {path}")
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}). Name a .jsonl file that can be."
        ) from error


def _decode(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8 (byte {error.start}), but UTF-8 is needed. Convert the file."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is not JSON ({error}), but one JSON object a line is needed. Fix it."
        ) from None
    if not isinstance(row, dict):
        raise InputError(
            f"{where} is a JSON {type(row).__name__}, but one object a line is needed. Write one row a line."
        )
    return row


def write_text(path: Path, text: str) -> None:
    """Write the text in UTF-8, whole or not at all; half a character, which UTF-8 lacks, is written as its escape.

    Raises:
        InputError: it cannot be written.
    """
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")
