"""Tokens of a file put into a cache by a process of its own: `Forked("helpers.cached_data:main", …)`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

from helpers.tiny_runs import tokenizer
from minordpo.data import cache, prepare
from minordpo.data.read.rows import open_rows
from minordpo.data.tokens import TokenOptions


def main(file: str, folder: str, log: str, *, killed_after: int = 0, slowly: bool = False) -> None:
    """Several processes make the tokens; this one is killed with that many chunks done.

    What it makes, and the ids of its children then, go to `log`.
    """
    prepare.SEVERAL_FROM, prepare.CHUNK, prepare.cores = 1, 3, lambda: 2  # type: ignore[assignment]
    make, add = cache.prepare_rows, prepare._Collected.add
    done = 0

    def making(*args: Any, **options: Any) -> Any:
        with Path(log).open("a") as said:
            said.write("made\n")
        if slowly:
            time.sleep(0.5)
        return make(*args, **options)

    def adding(self: Any, *args: Any) -> None:
        nonlocal done
        add(self, *args)
        done += 1
        if done == killed_after:
            self.write(args[-1])
            Path(log).write_text(" ".join(str(child.pid) for child in multiprocessing.active_children()))
            os.kill(os.getpid(), signal.SIGKILL)

    cache.prepare_rows = making  # type: ignore[assignment]
    prepare._Collected.add = adding  # type: ignore[method-assign]
    made = cache.cached_examples(
        open_rows(file), tokenizer(), TokenOptions(max_length=None), cache=Path(folder)
    )
    print(len(made.examples))


def killed(file: str, folder: str, log: str) -> None:
    main(file, folder, log, killed_after=3)


def slow(file: str, folder: str, log: str) -> None:
    main(file, folder, log, slowly=True)
