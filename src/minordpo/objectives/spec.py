"""What an objective is besides its formula: which data it takes and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

# Kinds of data, as `data.formats` names them.
PAIRS, LABELLED, RANKED = frozenset({"pairs"}), frozenset({"labelled"}), frozenset({"ranked"})


@dataclass(frozen=True, kw_only=True)
class _Needs:
    assumes: str  # about preferences, in words for the user
    usual: str  # range of its hyper-parameters
    reference: bool = True  # its loss is made of reference log-probs
    mismatched: bool = False  # … and of responses paired with another prompt of the step
    alternatives: bool = False  # … and of other tokens' than the rejected response's; it sees single ones too
    undesirable: bool = True  # it has a use for labelled responses that are undesirable
    # Metrics of its own, by name: scalars of the whole step, which each `ResponseLogps` of the step says alike.
    reports: Mapping[str, Callable[[Any], Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec(_Needs):
    """An objective: its function, the kinds of data it takes, and its needs.

    The function takes `PairLogps` if pairs are all that it can use and no other tokens, else `ResponseLogps`. Its
    hyper-parameters are its keyword arguments, and the first line of its docstring is the formula.
    """

    function: Callable[..., Tensor]
    data: frozenset[str]

    @property
    def takes_pairs(self) -> bool:
        """Whether the function takes `PairLogps`."""
        return self.data == PAIRS and not self.alternatives

    @property
    def formula(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def losses(self, logps: Any, hyper: dict[str, Any]) -> Tensor:
        """The loss of each prompt of a `ResponseLogps`."""
        return self.function(logps.pairs() if self.takes_pairs else logps, **hyper)
