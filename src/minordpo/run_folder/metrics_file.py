"""Files of a line a step, appended as a run goes: metrics.jsonl, responses.jsonl, probes.jsonl."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from minordpo.errors import InputError
from minordpo.run_folder.files import replacing, writing
from minordpo.run_folder.records import STEP, EvaluationRow, Row, StepRow, last_of, of_kind, parse_row


class StepLines:
    """A JSON object a line, each of a step, appended as the run goes; only the main process has a path."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._begun = False

    def begin(self, step: int) -> None:
        """Make the file ready for the steps after `step`; training anew is for a file of none, or of its own.

        Raises:
            InputError: training begins at step 0, and the rows of an earlier run would go.
        """
        if step == 0 and not self._begun and any(line[STEP] > 0 for _, line in self._lines()):
            raise InputError(
                f"{self.path} holds the steps of an earlier run, and training from step 0 would replace them. Name "
                "another output_dir, delete this one, or go on with that run by train(resume_from_checkpoint=True)"
            )
        self._begun = True
        self.cut_back(step)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line through to the file."""
        if self.path is None:
            return
        with self._writing(), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(line)) + "\n")

    def append_instead(self, line: Mapping[str, Any]) -> None:
        """Append a line in place of the one of the same step with the same keys: a resumed run repeats its last one."""

        def same(kept: Mapping[str, Any]) -> bool:
            return (kept[STEP], kept.get(_SPLIT), kept.keys()) == (line[STEP], line.get(_SPLIT), line.keys())

        self._keep(lambda kept: not same(kept))
        self.append(line)

    def cut_back(self, step: int) -> None:
        """Drop the lines after `step`, and a last line that a kill cut short."""
        self._keep(lambda line: line[STEP] <= step)

    def lines(self) -> list[dict[str, Any]]:
        """All lines; none on other processes than the main one.

        Raises:
            InputError: a line but the last one is no JSON object of a step.
        """
        return [line for _, line in self._lines()]

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        if self.path is None or not self.path.exists():
            return
        kept = [text for text, line in self._lines() if wanted(line)]
        with self._writing(), replacing(self.path) as aside:
            aside.write_text("".join(text + "\n" for text in kept), encoding="utf-8")

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each line as text and object, but for a last one that a kill cut short."""
        if self.path is None or not self.path.exists():
            return
        texts = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, text in enumerate(texts, 1):
            try:
                line = json.loads(text)
                whole = isinstance(line[STEP], int)
            except (ValueError, TypeError, KeyError, RecursionError):
                whole = False
            if whole:
                yield text, line
            elif number < len(texts):
                raise InputError(
                    f"line {number} of {self.path} is no row of a step. Take the line out, or name another output"
                )

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(self.path, "Free some space or rights, then go on with --resume")


class MetricsFile(StepLines):
    """metrics.jsonl: typed records in and out."""

    def write(self, row: Row) -> None:
        """Append a record."""
        self.append(row.as_json())

    def write_instead(self, row: Row) -> None:
        """Append a record in place of the same measurement at the same step."""
        self.append_instead(row.as_json())

    def rows(self) -> list[Row]:
        """All records; none on other processes than the main one.

        Raises:
            InputError: a line but the last one is no JSON object of a step, or an event lacks a key.
        """
        rows: list[Row] = []
        for number, (_, line) in enumerate(self._lines(), 1):
            try:
                rows.append(parse_row(line))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise InputError(
                    f"line {number} of {self.path} is an event in another form than minordpo writes ({error}). Take "
                    "the line out, or name another output"
                ) from error
        return rows

    def last_step(self) -> StepRow | None:
        """The last training step; None where there is none."""
        return last_of(self.rows(), StepRow)

    def evaluation(self, step: int) -> EvaluationRow | None:
        """The held-out examples after that step; None where they were not measured."""
        return next((row for row in of_kind(self.rows(), EvaluationRow) if row.step == step), None)

    def missing(self, step: int) -> list[int]:
        """The training steps up to `step` that have no row; what a lost or cut file leaves out."""
        there = {row.step for row in of_kind(self.rows(), StepRow)}
        return [] if self.path is None else [each for each in range(1, step + 1) if each not in there]

    def tell_missing(self, step: int) -> None:
        """Say which training steps up to `step` have no row, if there are any."""
        missing = self.missing(step)
        if missing:
            print(f"{self.path} lacks {len(missing)} of the {step} steps before, first {missing[0]}")


_SPLIT = "split"  # of responses.jsonl: train or eval


def _finite(value: Any) -> Any:
    """JSON knows no NaN; a number that is not finite is written as its name in words."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
