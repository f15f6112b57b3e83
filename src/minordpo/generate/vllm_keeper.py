"""A script that runs a program for as long as its own standard input is open, and ends all that the program started.

The program that starts this script may be killed at any time. Its end of the pipe closes then, too.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading

_SECONDS_TO_END = 15.0


def keep(words: list[str]) -> int:
    """Run the program until it ends or standard input does; return its exit status."""
    program = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    watcher = threading.Thread(target=_end_with_input, args=(program,), daemon=True)
    watcher.start()
    status = program.wait()
    _signal(program, signal.SIGKILL)  # what it left running
    return status


def _end_with_input(program: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1 << 10):
        pass
    _signal(program, signal.SIGTERM)
    try:
        program.wait(_SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        _signal(program, signal.SIGKILL)


def _signal(program: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # its group has ended
        os.killpg(program.pid, number)


if __name__ == "__main__":
    status = keep(sys.argv[1:])
    sys.exit(status if status >= 0 else 128 - status)
