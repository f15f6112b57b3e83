"""Rows of metrics.jsonl as typed records. No other module spells the keys.

A row is of one step and of one kind:

    StepRow         {"step": 3, "loss": 0.69, "logratios/chosen": 0.1, …}      an optimizer step
    EvaluationRow   {"step": 3, "eval_loss": 0.69, …}                          held-out examples after that step
    ProbeRow        {"step": 3, "probe/repeated_4grams": 0.0, …}               the monitor's prompts, answered then
    HealthRow       {"step": 3, "event": "health", "health": "collapsed", …}   a change of health
    RollbackRow     {"step": 9, "event": "rollback", "to": 3}                  the step whose weights the run ends with

A number that is not finite stands in the file as its name in words, since JSON has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeGuard, TypeVar

# ---- keys of a step, and with `eval_` before them of held-out examples; log-probs and log-ratios in nats ----
STEP = "step"
EPOCH = "epoch"
LOSS = "loss"
LOGRATIOS, LOGPS, REWARDS = "logratios", "logps", "rewards"
CHOSEN_LOGRATIO, REJECTED_LOGRATIO = "logratios/chosen", "logratios/rejected"
LOGRATIO_MARGIN = "logratios/margin"
CHOSEN_REWARD, REJECTED_REWARD, REWARD_MARGIN = "rewards/chosen", "rewards/rejected", "rewards/margins"
ACCURACY = "rewards/accuracies"
CHOSEN_LOGP, REJECTED_LOGP = "logps/chosen", "logps/rejected"
CHOSEN_COEFFICIENT, REJECTED_COEFFICIENT = "coefficient/chosen", "coefficient/rejected"
NO_REJECTED_GRADIENT = "no_rejected_gradient"
SATURATED = "saturated"
CHOSEN_BELOW = "chosen_below_reference"
REJECTED_AT_OR_BELOW = "rejected_at_or_below_reference"
LARGEST_LOGRATIO = "largest_logratio"
GATES_WITHIN_ROUNDING = "gates_within_rounding"  # of those that are open
ROUTER_AUX_LOSS = "router_aux_loss"  # without its coefficient
LEARNING_RATE = "learning_rate"
TOKENS, PADDED_TOKENS = "tokens", "padded_tokens"
SECONDS = "seconds"
SOURCES, PROMPTS = "sources", "prompts"
GRAD_NORM = "grad_norm"

# ---- keys of a probe, after `probe/` ----
REPEATED, LOOPING, STOPPED, EMPTY, CORRECT = "repeated_4grams", "looping", "stopped", "empty", "correct"
DISTANCE, REFERENCE_NLL, CHOSEN_NLL = "distance", "reference_nll", "chosen_nll"
MAX_NEW_TOKENS = "max_new_tokens"

_EVENT = "event"


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Row:
    """A row of a step. Of a kind that is not known here, it is this class itself."""

    PREFIX: ClassVar[str] = ""
    step: int
    values: Mapping[str, Any] = field(default_factory=dict)  # without the kind's prefix, as the file has them

    def number(self, name: str) -> float | None:
        """The value of that name; None where it is missing or no finite number."""
        value = self.values.get(name)
        return float(value) if is_number(value) else None

    def named(self) -> dict[str, Any]:
        """The values under their keys in the file, the step left out."""
        return {f"{self.PREFIX}{name}": value for name, value in self.values.items()}

    def as_json(self) -> dict[str, Any]:
        """The line of metrics.jsonl."""
        return {STEP: self.step, **self.named()}


class StepRow(Row):
    """An optimizer step."""

    @property
    def seconds(self) -> float:
        """What the step took; a row of another library's trainer does not tell."""
        return float(self.values[SECONDS])

    @property
    def tokens(self) -> int:
        """Tokens that the step's rows held."""
        return int(self.values.get(TOKENS, 0))


class EvaluationRow(Row):
    """Held-out examples after a step: the measures of a step, as means over all of them."""

    PREFIX = "eval_"


def held_out(name: str) -> str:
    """The key that a measure of a step has for held-out examples, and its column in results.csv."""
    return f"{EvaluationRow.PREFIX}{name}"


def of_source(source: str, name: str) -> str:
    """The key of a measure over the prompts of one source, where several are trained on."""
    return f"{SOURCES}/{source}/{name}"


class ProbeRow(Row):
    """The monitor's prompts answered after a step: means over the answers."""

    PREFIX = "probe/"

    @property
    def seconds(self) -> float:
        """What answering took."""
        return float(self.values.get(SECONDS, 0.0))


@dataclass(frozen=True)
class HealthRow(Row):
    """A change of health, and why."""

    health: str = ""
    was: str = ""
    why: str = ""

    def named(self) -> dict[str, Any]:
        """The values under their keys in the file, the step left out."""
        return {_EVENT: "health", "health": self.health, "was": self.was, "why": self.why}


@dataclass(frozen=True)
class RollbackRow(Row):
    """The run ended with the weights of an earlier step."""

    to: int = 0

    def named(self) -> dict[str, Any]:
        """The values under their keys in the file, the step left out."""
        return {_EVENT: "rollback", "to": self.to}


R = TypeVar("R", bound=Row)


def parse_row(line: Mapping[str, Any]) -> Row:
    """A line of metrics.jsonl as the record of its kind.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: the line has no step, or an event lacks a key.
    """
    step, values = int(line[STEP]), {name: value for name, value in line.items() if name != STEP}
    event = values.get(_EVENT)
    if event == "health":
        return HealthRow(
            step, {}, str(values["health"]), str(values.get("was", "")), str(values.get("why", ""))
        )
    if event == "rollback":
        return RollbackRow(step, {}, int(values["to"]))
    if LOSS in values:
        return StepRow(step, values)
    for kind, sign in ((EvaluationRow, f"{EvaluationRow.PREFIX}{LOSS}"), (ProbeRow, ProbeRow.PREFIX)):
        if any(name.startswith(sign) for name in values):
            return kind(step, {name.removeprefix(kind.PREFIX): value for name, value in values.items()})
    return Row(step, values)


def parse_rows(lines: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Lines of metrics.jsonl as records, in their order."""
    return [parse_row(line) for line in lines]


def of_kind(rows: Iterable[Row], kind: type[R]) -> list[R]:
    """The rows of that kind, in their order."""
    return [row for row in rows if isinstance(row, kind)]


def last_of(rows: Sequence[Row], kind: type[R]) -> R | None:
    """The last row of that kind; None where there is none."""
    return next((row for row in reversed(rows) if isinstance(row, kind)), None)
