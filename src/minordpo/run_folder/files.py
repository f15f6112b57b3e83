"""Reading and writing .jsonl: a broken line is named, an output is either whole or not there."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from safetensors import SafetensorError

from minordpo.errors import InputError

_ASIDE = ".partial"


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
        for written, row in enumerate(rows, 1):
            file.write(_encode(row, path, written))
        file.flush()
        os.fsync(file.fileno())
    return written


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file or folder to write in place of `path`, which becomes it at the end; after an error nothing is left of it.

    A folder that is replaced must not exist, or be empty.

    Raises:
        OSError: the file cannot be written.
    """
    # Beside the target, since a rename is atomic only within one file system.
    aside = path.with_name(f".{path.name}.{os.getpid()}{_ASIDE}")
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        raise


@contextlib.contextmanager
def writing(what: object, advice: str) -> Iterator[None]:
    """While `what` is written: an error of the system is told of it, with advice.

    Raises:
        InputError: it cannot be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        said = getattr(error, "strerror", None) or error
        raise InputError(f"{what} cannot be written: {said}. {advice}") from error


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """As `replacing`, with an error that a user can read.

    Raises:
        InputError: the file cannot be written.
    """
    with (
        writing(path, "Free some space, check the permissions or name another file"),
        replacing(path) as aside,
    ):
        yield aside


@contextlib.contextmanager
def written_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `out` at the end; after an error `out` is as it was.

    Raises:
        InputError: it cannot be written.
    """
    before = out.with_name(f".{out.name}.{os.getpid()}.before")
    advice = "Free some space, check the permissions or name another folder"
    try:
        with writing(out, advice), replacing(out) as aside:
            aside.mkdir(parents=True)
            yield aside
            if out.exists():
                os.replace(out, before)
    finally:
        if before.exists() and not out.exists():  # interrupted between the two
            os.replace(before, out)
        shutil.rmtree(before, ignore_errors=True)


def is_left_over(path: Path) -> bool:
    """Whether a killed process left this behind while it wrote; versions before 0.2 ended such names in .writing."""
    return path.suffix in (_ASIDE, ".writing")


def write_text(path: Path, text: str) -> None:
    """Write the text in UTF-8, whole or not at all; half a character, which UTF-8 lacks, is written as its escape.

    Raises:
        InputError: it cannot be written.
    """
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def sync(path: Path) -> None:
    """Have the system write a file, or every file below a folder, through to the disk."""
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def refuse_no_text(path: Path) -> None:
    """Raise InputError if the path is no text that a file system takes."""
    name = str(path)
    if "\0" in name or name != name.encode(errors="replace").decode():
        raise InputError(f"{name[:200]!r} cannot be written: such a name is no text. Name another output")


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


@contextlib.contextmanager
def readable(path: Path, advice: str, *, otherwise: str = "cannot be read") -> Iterator[None]:
    """While what minordpo has written is read: what goes wrong because it is damaged is told of `path`, with advice.

    Raises:
        InputError: a file is not there, or not as minordpo writes it.
    """
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise InputError(f"{path} {otherwise} ({type(error).__name__}: {error}). {advice}") from error


def read_jsonl(path: Path, source: str = "") -> Iterator[tuple[int, dict[str, Any]]]:
    """The line number (from 1) and the object of every line that is not blank; `source` is its name in messages.

    Raises: InputError where the file cannot be read, or a line is not one JSON object in UTF-8.
    """
    source = source or str(path)
    for number, line in read_lines(path, source):
        yield number, decode_line(line, f"line {number} of {source}")


def cut_half_line(path: Path) -> None:
    """Take away what a killed process had half written at the end of a file of lines."""
    with path.open("rb+") as opened:
        content = opened.read()
        if not content.endswith(b"\n"):
            opened.truncate(content.rfind(b"\n") + 1)


def read_lines(path: Path, source: str) -> Iterator[tuple[int, bytes]]:
    """The number (from 1) and the bytes of every line that is not blank; `source` is the file's name in messages.

    A file whose name ends in .gz is unpacked as it is read.

    Raises: InputError where the file cannot be read.
    """
    with opened(path, source) as file:
        for number, line in enumerate(file, 1):
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                yield number, line


@contextlib.contextmanager
def opened(path: Path, source: str) -> Iterator[BinaryIO]:
    """The file, open for reading bytes; unpacked where its name ends in .gz. `source` is its name in messages.

    Raises: InputError where the file cannot be read or unpacked.
    """
    try:
        with path.open("rb") as file:
            if path.suffix.lower() != ".gz":
                yield file
                return
            with gzip.open(file, "rb") as unpacked:
                yield cast(BinaryIO, unpacked)
    except (
        GeneratorExit
    ):  # whoever read it has stopped, perhaps as Python ends and what is named below is gone
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{source} cannot be unpacked ({error}), but a whole gzip file is needed. Write or download it again, or "
            "name it by what it is."
        ) from error
    except OSError as error:
        raise InputError(
            f"{source} cannot be read ({error.strerror or error}), but a readable file is needed. Check its "
            "permissions and that it is a file, or name another."
        ) from error


def decode_line(line: bytes, where: str) -> dict[str, Any]:
    """The object of a line of .jsonl, which stands at `where`.

    Raises: InputError where it is not one JSON object in UTF-8.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8 (0x{line[error.start]:02x} at byte {error.start + 1}), but UTF-8 text is "
            "needed. Save the file as UTF-8."
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where} is not JSON ({json_fault(error)}), but one JSON object a line is needed. Fix or drop the "
            "line; if the file is one JSON list, name it .json."
        ) from None
    if not isinstance(row, dict):
        what, hint = json.dumps(row)[:40], "Fix or drop it"
        if isinstance(row, list):
            what, hint = "a JSON list", "If the file is one JSON list, name it .json"
        raise InputError(f"{where} is {what}, but one object a line is needed. {hint}.")
    return row


def json_fault(error: ValueError | RecursionError) -> str:
    """What is wrong with a JSON text and where, in brackets of a message."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)[:80]
    bit = error.doc[max(error.pos - 20, 0) : error.pos + 20].strip()
    return f"column {error.colno}: {error.msg}, near {bit!r}"
