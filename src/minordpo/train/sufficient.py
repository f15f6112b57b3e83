"""When a run is trained enough: a rule on its held-out measures, and the callback that ends the run by it.

A rule is a signal and a level, free of β. It holds or not by the held-out rows of metrics.jsonl alone, so a resumed run
ends where the uninterrupted one does, and `minordpo.study.enough` judges finished runs by the same function.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import broadcast_object_list
from tqdm import tqdm
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from minordpo.errors import InputError
from minordpo.train.metrics import MetricsFile

Past = Sequence[Mapping[str, Any]]  # held-out rows after the start, the last one last
EVENT = "sufficient"


@dataclass(frozen=True)
class Signal:
    """The held-out measures so far → a number that grows as training suffices."""

    column: str
    said: str  # of a value and a level
    flat: bool = False  # how far the measure's change has slowed, instead of the measure

    def __call__(self, past: Past) -> float:
        """The signal as of the last row."""
        values = [float(row[self.column]) for row in past]
        return _flatness(values) if self.flat else values[-1]


def _flatness(values: Sequence[float]) -> float:
    """1 where the measure no longer changes, 0 where it changes as fast as it ever did."""
    moves = [abs(after - before) for before, after in itertools.pairwise(values)]
    if len(moves) < 3:
        return 0.0
    return 1 - statistics.fmean(moves[-2:]) / max(moves) if max(moves) > 0 else 0.0


SIGNALS = {
    "pairs ranked right": Signal(
        "eval_rewards/accuracies",
        "{value:.0%} of the held-out pairs are ranked right; {level:.0%} are enough",
    ),
    "margin in nats": Signal(
        "eval_logratios/margin", "the held-out margin is {value:.1f} nats; {level:g} are enough"
    ),
    "rejected at or below the reference": Signal(
        "eval_rejected_at_or_below_reference",
        "{value:.0%} of the held-out rejected responses are no likelier than under the reference; "
        "{level:.0%} are enough",
    ),
    "chosen log-ratio is flat": Signal(
        "eval_logratios/chosen",
        "the held-out chosen log-ratio changes by {value:.0%} less than at its fastest; {level:.0%} are enough",
        flat=True,
    ),
    "margin is flat": Signal(
        "eval_logratios/margin",
        "the held-out margin changes by {value:.0%} less than at its fastest; {level:.0%} are enough",
        flat=True,
    ),
}


@dataclass(frozen=True)
class Rule:
    """A run is trained enough where the signal reaches the level.

    Raises:
        InputError: there is no such signal.
    """

    signal: str
    level: float

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise InputError(
                f"the signal {self.signal!r} is given, but one of {', '.join(SIGNALS)} is needed. Name one"
            )

    def value(self, past: Past) -> float:
        """The signal as of the last row."""
        return SIGNALS[self.signal](past)

    def holds(self, past: Past) -> bool:
        """Whether the run is trained enough as of the last row; a signal that is no number never is."""
        return self.value(past) >= self.level


# Set by hand, before any run was judged by it; benchmarks/enough.py is to say which signal and level carry.
PROVISIONAL = Rule("pairs ranked right", 0.95)


def first_reached(measured: Iterable[tuple[int, Mapping[str, Any]]], rule: Rule) -> int | None:
    """The step of the first held-out row at which the rule holds, of rows with their steps; None where it never does.

    What was measured before the first step says nothing: the policy is the reference there.
    """
    past: list[Mapping[str, Any]] = []
    for step, row in measured:
        if step > 0:
            past.append(row)
            if rule.holds(past):
                return step
    return None


def refuse_untold(rule: Rule, *, held_out: bool, strategy: str, reference: bool, labelled: bool) -> None:
    """Refuse a run that does not measure on the way what the rule is told from.

    Raises:
        InputError: no held-out examples, an eval_strategy that measures them at the end alone, no log-ratios, or single
            responses, which have no margin.
    """
    given, leave = "monitor.stop_when is sufficient", "or leave monitor.stop_when out"
    if not held_out:
        raise InputError(
            f"{given}, which is told from held-out pairs, but there are none. Set data.eval (or pass eval_dataset), "
            f"{leave}"
        )
    if strategy == "no":
        raise InputError(
            f"{given}, but training.eval_strategy is no, so the held-out pairs are measured at the end alone. Set "
            f"training.eval_strategy=steps and training.eval_steps, {leave}"
        )
    if not reference:
        raise InputError(
            f"{given}, which is told from log-ratios, but the run has no reference. Take metrics.reference=false "
            f"away, {leave}"
        )
    column = SIGNALS[rule.signal].column
    if labelled and column in ("eval_rewards/accuracies", "eval_logratios/margin"):
        raise InputError(
            f"{given}, which is told from {column}, but single labelled responses have no such measure. Give pairs, "
            f"{leave}"
        )


class StopWhenSufficient(TrainerCallback):
    """Ends a run of `PreferenceTrainer` at the first held-out measurement at which the rule holds.

    It is `monitor.stop_when=sufficient` of a config. The learning rate at that step is what the whole run's schedule
    says. What ends the run is written down as a row of metrics.jsonl.

    Raises:
        InputError: when it joins a trainer that does not measure what the rule needs.
    """

    def __init__(self, rule: Rule = PROVISIONAL) -> None:
        self.rule = rule
        self._metrics: MetricsFile | None = None
        self._training = False

    def join(self, metrics: MetricsFile, **measured: Any) -> None:
        """Be a trainer's: read its held-out rows, and write to its metrics; `measured` as in `refuse_untold`."""
        refuse_untold(self.rule, **measured)
        self._metrics = metrics

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Only measurements on the way can end a run."""
        if self._metrics is None:
            raise InputError(
                "StopWhenSufficient reads the held-out measures of PreferenceTrainer, but this trainer is another. "
                "Leave it out of callbacks"
            )
        self._training = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What is measured from here on ends nothing."""
        self._training = False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """End the run, if the rule holds now; the last step ends it anyway."""
        if not self._training or control.should_training_stop or state.global_step >= state.max_steps:
            return None
        assert self._metrics is not None
        (rows,) = broadcast_object_list([self._metrics.rows()])  # only the main process has the file
        past = [row for row in rows if "eval_loss" in row and 0 < row["step"] <= state.global_step]
        if not past or not self.rule.holds(past):
            return None
        stop = {
            "step": state.global_step,
            "event": EVENT,
            "signal": self.rule.signal,
            "value": self.rule.value(past),
            "level": self.rule.level,
            "of_steps": state.max_steps,
        }
        self._metrics.append_evaluation(stop)
        if state.is_world_process_zero:
            tqdm.write(f"{told(stop)}. Training stops here (monitor.stop_when=sufficient)")
        control.should_training_stop = True
        return control


def stop_of(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The row that says where and why a rule ended the run; None where none did."""
    return next((row for row in rows if row.get("event") == EVENT), None)


def told(stop: Mapping[str, Any]) -> str:
    """That row in words."""
    why = SIGNALS[stop["signal"]].said.format(value=stop["value"], level=stop["level"])
    return f"step {stop['step']} of {stop['of_steps']}: trained enough: {why} (a provisional rule)"
