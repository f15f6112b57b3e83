"""One process at a time in a folder: the lock goes with the process, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from minordpo.errors import InputError
from minordpo.run_folder.files import refuse_no_text, writing

_HELD: set[int] = set()


def _let_go() -> None:
    for handle in _HELD:
        os.close(handle)
    _HELD.clear()


# A forked loader's worker outlives a killed run by seconds, and would keep its lock.
os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(path: Path, *, busy: Callable[[], None] = lambda: None, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Hold the lock of a file or folder; the handle it was opened with, which child processes may inherit.

    `busy` is called once where another process holds the lock, which is then waited for; it may raise instead. On a
    file system without locks nothing is locked.

    Raises:
        OSError: the path cannot be opened.
    """
    handle = os.open(path, flags, 0o644)
    _HELD.add(handle)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                busy()
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        if handle in _HELD:  # not in a forked child
            _HELD.discard(handle)
            os.close(handle)


@contextlib.contextmanager
def only_here(folder: Path, *, doing: str = "training") -> Iterator[None]:
    """Make the folder, and keep other processes out of it.

    Of several processes that train together the first one holds the lock. A folder in which nothing was written is
    taken away again.

    Raises:
        InputError: the folder cannot be made, or another process is `doing` something in it.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    refuse_no_text(folder)

    def busy() -> None:
        raise InputError(
            f"another process is {doing} in {folder}. Wait until it has ended, or name another output"
        )

    with contextlib.ExitStack() as stack:
        with writing(f"output {folder}", "Name another output"):
            folder.mkdir(parents=True, exist_ok=True)
            handle = stack.enter_context(locked(folder, busy=busy))
        try:
            yield
        finally:
            if handle in _HELD:
                with contextlib.suppress(OSError):  # only an empty folder goes
                    folder.rmdir()
