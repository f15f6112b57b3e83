"""The verifier `command:PROGRAM`: a program that reads and writes one JSON line an answer."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import xxhash

from minordpo.data.read.fields import shorten
from minordpo.errors import InputError, did_you_mean
from minordpo.verify.options import VerifierOptions, flag
from minordpo.verify.verdict import Asked, Groups, Verdict, Verdicts

_KEYS = ("score", "passed", "note")
_LONGEST_LINE = 1 << 20  # bytes; a verdict has a few dozen
_STDERR_READ = 4096  # bytes of its end
_SECONDS_TO_END = 5.0


class CommandVerifier:
    """A program that is started once for a stream of answers and gives each a line with its score.

    It reads {"prompt", "answer", "right", "facts"} and writes {"score"}, or {"score", "passed", "note"}, in order.

    Raises:
        InputError: no program is named.
    """

    passes = None
    compares = False

    def __init__(self, spec: str, command: str | None, options: VerifierOptions) -> None:
        try:
            words = shlex.split(command or "")
        except ValueError as error:  # an open quote
            raise InputError(
                f"--verify is {spec!r}, which cannot be split into words: {error}. Correct it"
            ) from None
        if not words:
            raise InputError(
                f"--verify is {spec!r}, which names no program. Write command:PROGRAM and its arguments"
            )
        self.spec = spec
        self._words, self._seconds = words, float(options.verify_timeout)

    def check(self, asked: Sequence[Asked]) -> None:
        """Refuse a program that is not there, and facts that JSON cannot say."""
        if shutil.which(self._words[0]) is None:
            raise InputError(
                f"--verify is {self.spec!r}, but there is no program {self._words[0]} that may be executed. Correct "
                "its name or its permissions"
            )
        for each in asked:
            self._line(each, "")

    def cost(self, groups: int, answers: int) -> str | None:
        """How many lines the program is given."""
        return f"{self._words[0]}: {groups * answers:,} lines"

    def settings(self) -> dict[str, Any]:
        """The command, and a digest of each file that it names."""
        found = [shutil.which(self._words[0]), *self._words[1:]]
        files = [Path(each) for each in found if each and os.path.isfile(each)]
        digests = [xxhash.xxh3_128_hexdigest(each.read_bytes()) for each in files if os.access(each, os.R_OK)]
        return {"verifier": "command", "command": self._words, "files": digests}

    def verdicts(self, groups: Groups) -> Verdicts:
        """What the program writes, in the order of the groups; it is ended when they are, whatever happens."""
        with self._started() as program:
            for key, asked, answers in groups:
                yield key, [program.judge(asked, self._line(asked, answer)) for answer in answers]
            program.refuse_more_lines()

    def _line(self, asked: Asked, answer: str) -> bytes:
        row = {"prompt": asked.prompt, "answer": answer, "right": asked.answer, "facts": dict(asked.facts)}
        try:
            return json.dumps(row, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{asked.where} cannot be given to --verify {self.spec}: {error}. Keep text, finite numbers, lists and "
                "objects alone in its columns"
            ) from None

    @contextlib.contextmanager
    def _started(self) -> Iterator[_Program]:
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    self._words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,  # so that what it starts can be ended with it
                )
            except OSError as error:
                raise InputError(
                    f"--verify {self.spec} cannot be started: {error.strerror or error}. Correct the program's name or "
                    "its permissions"
                ) from None
            program = _Program(self.spec, process, errors, self._seconds)
            try:
                yield program
            finally:
                program.end()


class _Program:
    def __init__(
        self, spec: str, process: subprocess.Popen[bytes], errors: IO[bytes], seconds: float
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._spec, self._process, self._errors, self._seconds = spec, process, errors, seconds
        self._input, self._output = process.stdin, process.stdout

    def judge(self, asked: Asked, line: bytes) -> Verdict:
        """The verdict that the program writes for one line.

        Raises:
            InputError: it has ended, takes too long, or writes something else.
        """
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._kill()

        timer = threading.Timer(self._seconds, give_up)  # ends a write that blocks, too
        timer.daemon = True
        timer.start()
        written = b""
        try:
            self._input.write(line)
            self._input.flush()
            written = self._output.readline(_LONGEST_LINE)
        except OSError:  # a broken pipe
            pass
        finally:
            timer.cancel()
        if written.endswith(b"\n"):
            return self._read(asked, written)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_END if not written else 0)  # for its own status
        self._kill()
        code = self._process.wait()
        if late.is_set():
            found = f"wrote no line for an answer to {asked.where} within {self._seconds:g} seconds"
            advice = f"Have it flush each line, or raise {flag('verify_timeout')}"
        elif len(written) >= _LONGEST_LINE:
            found = f"wrote a line of more than {_LONGEST_LINE:,} bytes for an answer to {asked.where}"
            advice = "Have it write one short JSON object a line"
        else:
            how = f"by signal {-code}" if code < 0 else f"with status {code}"
            found = f"ended ({how}) before it wrote a line for an answer to {asked.where}"
            advice = "Correct the program"
        raise InputError(f"--verify {self._spec} {found}{self._last_words()}. {advice}")

    def refuse_more_lines(self) -> None:
        """Raise InputError if the program, whose input ends here, has written more lines than it was given."""
        with contextlib.suppress(OSError):
            self._input.close()
        timer = threading.Timer(_SECONDS_TO_END, self._kill)
        timer.daemon = True
        timer.start()
        try:
            more = self._output.read(_LONGEST_LINE)
        finally:
            timer.cancel()
        if more.strip():
            raise InputError(
                f"--verify {self._spec} wrote more lines than it was given answers, first {_quoted(more.lstrip())}, so "
                "scores may stand beside the wrong answers. Have it write one line an answer, and all else to stderr"
            )

    def end(self) -> None:
        """End the program and all that it started."""
        self._kill()
        self._process.wait()
        for pipe in (self._input, self._output):
            with contextlib.suppress(OSError):
                pipe.close()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # its group has ended
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self, asked: Asked, written: bytes) -> Verdict:
        try:
            found = json.loads(written)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or "score" not in found:
            self._refuse(
                asked, f"wrote {_quoted(written)}", 'a JSON object with a score, such as {"score": 1}, is'
            )
        for key in found:
            if key not in _KEYS:
                near = did_you_mean(key, _KEYS)
                self._refuse(asked, f"wrote the key {shorten(key)!r}{near}", f"only {', '.join(_KEYS)} are")
        score, passed, note = found["score"], found.get("passed"), found.get("note")
        if isinstance(score, bool) or not isinstance(score, int | float) or not _finite(score):
            self._refuse(
                asked, f"wrote the score {_quoted(json.dumps(score).encode())}", "a finite number is"
            )
        if not isinstance(passed, bool | None) or not isinstance(note, str | None):
            self._refuse(
                asked, f"wrote {_quoted(written)}", "passed as true, false or null and note as text are"
            )
        return Verdict(score=float(score), passed=passed, note=note)

    def _refuse(self, asked: Asked, found: str, needed: str) -> NoReturn:
        raise InputError(
            f"--verify {self._spec} {found} for an answer to {asked.where}, but {needed} needed{self._last_words()}. "
            "Correct the program"
        )

    def _last_words(self) -> str:
        """The last line that the program wrote to stderr, in brackets of a message; empty where there is none."""
        file = self._errors.fileno()
        size = os.fstat(file).st_size
        end = os.pread(file, _STDERR_READ, max(0, size - _STDERR_READ))  # the program's place in it stays
        lines = end.decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), None)
        return "" if last is None else f" (its last line on stderr: {shorten(' '.join(last.split()), 200)})"


def _finite(score: float | int) -> bool:
    try:
        return math.isfinite(score)
    except OverflowError:  # a whole number that no float holds
        return False


def _quoted(written: bytes) -> str:
    return repr(shorten(written.decode(errors="replace").split("\n")[0].strip(), 80))
