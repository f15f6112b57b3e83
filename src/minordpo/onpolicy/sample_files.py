"""The files of one sampling: the data, and beside it the answers, the settings and the report."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minordpo.errors import InputError
from minordpo.run_folder import names
from minordpo.run_folder.files import write_text, writing
from minordpo.run_folder.lock import locked


@dataclass(frozen=True)
class SampleFiles:
    """The files of one sampling: the data, and beside it the answers, the settings and the report."""

    out: Path

    def _beside(self, ending: str) -> Path:
        return self.out.with_name(self.out.name.removesuffix(".jsonl") + ending)

    @property
    def answers(self) -> Path:
        return self._beside(names.BESIDE_ANSWERS)

    @property
    def settings(self) -> Path:
        return self._beside(names.BESIDE_SETTINGS)

    @property
    def report(self) -> Path:
        return self._beside(names.BESIDE_REPORT)

    @property
    def lock(self) -> Path:
        return self.out.with_name(f".{self.out.name.removesuffix('.jsonl')}{names.BESIDE_LOCK}")


@contextlib.contextmanager
def alone(files: SampleFiles) -> Iterator[None]:
    """Keep other processes away while the files of `out` are written, by a file that goes at the end."""
    lock = files.lock

    def busy() -> None:
        raise InputError(
            f"another process is sampling to {files.out}. Wait until it has ended, or name another --out"
        )

    with contextlib.ExitStack() as stack:
        with writing(lock, "Check the permissions or name another --out"):
            handle = stack.enter_context(locked(lock, busy=busy, flags=os.O_RDWR | os.O_CREAT))
        if not lock.exists() or not os.path.samestat(os.fstat(handle), lock.stat()):
            busy()  # the process that held it has just taken it away
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def known_settings(files: SampleFiles) -> dict[str, Any]:
    """The settings and models that the answers were made with before; empty where nothing was."""
    if not files.settings.exists():
        if files.answers.exists():
            raise InputError(
                f"{files.answers} holds answers, but {files.settings} is gone, which says of which settings they are. "
                "Put it back, or name another --out"
            )
        return {}
    try:
        known = json.loads(files.settings.read_text(encoding="utf-8"))
        dict(known["settings"]), dict(known["models"]), dict(known["verifier"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{files.settings} cannot be read ({error}). Delete it with its answers, or name another --out"
        ) from error
    return dict(known) if files.answers.exists() else {}


def seconds_before(files: SampleFiles) -> dict[str, float]:
    """Seconds of the earlier starts that ended; starts that were stopped are not counted."""
    try:
        report = json.loads(files.report.read_text(encoding="utf-8"))
        return {name: float(report["seconds"][name]) for name in ("sampling", "scoring")}
    except (OSError, ValueError, KeyError, TypeError):
        return {"sampling": 0.0, "scoring": 0.0}


def made_by(files: SampleFiles, version: str) -> None:
    """Keep a version of vLLM beside the settings, with those that made the earlier answers."""
    known = json.loads(files.settings.read_text(encoding="utf-8"))
    known["vllm"] = sorted({*known.get("vllm", []), version})
    write_text(files.settings, json.dumps(known, indent=2, ensure_ascii=False) + "\n")
