"""A run folder belongs to one process at a time, and can be written."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from minordpo.errors import InputError

_HELD: set[int] = set()


def _let_go() -> None:
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


# A forked loader's worker outlives a killed run by seconds, and would keep its lock.
os.register_at_fork(after_in_child=_let_go)


def refuse_unwritable(folder: Path) -> None:
    """Refuse an output folder that could not be made or written, without making it.

    Raises:
        InputError: a file is in the way, nothing may be written there, or the system does not take such a name.
    """
    try:
        above = existing_above(folder)
        is_folder = above.is_dir()
    except OSError as error:
        raise InputError(
            f"{str(folder)[:200]} cannot be written: {error.strerror}. Name another output"
        ) from error
    if above == folder.absolute() and not is_folder:
        raise InputError(f"{folder} exists and is not a run folder. Name another output")
    if not is_folder:
        raise InputError(f"{folder} cannot be written: {above} is a file. Name another output")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written: {above} allows no writing. Name another output")


def existing_above(folder: Path) -> Path:
    """The folder itself where it exists, else the nearest thing on its path that does."""
    path = folder.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


@contextlib.contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps other processes out of it; the lock goes with the process, however it ends.

    Of several processes that train together the first one holds the lock. A folder in which nothing was written is
    taken away again.

    Raises:
        InputError: the folder cannot be made, or another process trains in it.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        _HELD.add(handle)
    except OSError as error:
        raise InputError(
            f"output {folder} cannot be written: {error.strerror}. Name another output"
        ) from error
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"another process is training in {folder}. Wait until it has ended, or name another output"
                ) from error
        yield
    finally:
        if handle in _HELD:  # not in a forked child
            with contextlib.suppress(OSError):  # only an empty folder goes
                folder.rmdir()
            _HELD.discard(handle)
            os.close(handle)
