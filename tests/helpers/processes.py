"""What becomes of processes, waited for."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minordpo import cli


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it comes true within half a minute."""
    for _ in range(600):
        if true():
            return True
        time.sleep(0.05)
    return False


def gone(process: int) -> bool:
    """Whether it has ended; a zombie has."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def command_into(pipe: Path, arguments: list[str]) -> int:
    """Do minordpo's command in this process; what it prints goes to the pipe, at the end what is left, as by Python."""
    writing = os.open(pipe, os.O_WRONLY)
    os.dup2(writing, 1)
    os.close(writing)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    status = cli.main(arguments)
    sys.stdout.flush()
    return status
