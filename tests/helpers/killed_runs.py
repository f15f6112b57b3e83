"""Commands run one after the other, each in a process of its own, that kill themselves at a chosen point.

`main` gets a list of [arguments, where] and writes a JSON list of how each ended: an exit status, or minus the signal.
`where` is None or [point, step].
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minordpo import cli
from minordpo.run_folder.metrics_file import StepLines
from minordpo.train import run
from minordpo.train.trainer import PreferenceTrainer


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def during_a_step(step: int) -> None:
    """The gradients of that step are there, its update is not."""
    accumulate = PreferenceTrainer._accumulate

    def killed(self: Any, *args: Any) -> Any:
        records = accumulate(self, *args)
        if self.state.global_step == step - 1:
            die()
        return records

    PreferenceTrainer._accumulate = killed  # type: ignore[method-assign]


def during_a_checkpoint(step: int) -> None:
    """Weights and optimizer are written, the rest is not."""
    save = PreferenceTrainer._save_optimizer_and_scheduler

    def killed(self: Any, *args: Any) -> Any:
        save(self, *args)
        if self.state.global_step == step:
            die()

    PreferenceTrainer._save_optimizer_and_scheduler = killed  # type: ignore[method-assign]


def during_a_line_of_metrics(step: int) -> None:
    """Half of the step's line is written."""
    append = StepLines.append

    def killed(self: Any, row: Any) -> None:
        if row["step"] == step:
            with self.path.open("a") as file:
                file.write(json.dumps(row)[:30])
            die()
        append(self, row)

    StepLines.append = killed  # type: ignore[method-assign]


def before_the_last_answers(step: int) -> None:
    """Training is done and measured, the model is not saved."""
    answer = run._Samples.answer

    def killed(self: Any, model: Any, when: str, **settings: Any) -> Any:
        if when == "after":
            die()
        return answer(self, model, when, **settings)

    run._Samples.answer = killed  # type: ignore[method-assign]


POINTS: dict[str, Callable[[int], None]] = {
    each.__name__: each
    for each in (during_a_step, during_a_checkpoint, during_a_line_of_metrics, before_the_last_answers)
}


def ended(arguments: list[str], where: tuple[str, int] | None) -> int:
    """Exit status of the command in a forked process, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        if where is not None:
            POINTS[where[0]](where[1])
        status = 99
        try:
            status = cli.main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(jobs: list[Any], out: Path) -> None:
    """Each job in a process of its own."""
    out.write_text(json.dumps([ended(arguments, where) for arguments, where in jobs]))
