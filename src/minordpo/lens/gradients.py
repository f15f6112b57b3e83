"""An objective → where it pushes a pair: −d loss / d log π of both responses, over the plane of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from minordpo.errors import InputError
from minordpo.objectives import Objective, ResponseLogps, gradient
from minordpo.objectives.logps import alternating

Kind = Literal["logratios", "means", "sums"]

REACH = 60.0  # nats that a plane of sums or of log-ratios goes each way
LOWEST_MEAN = -6.0  # nats a token; e⁻⁶ is one in 400
CELLS = 160  # a side; even, so that no cell lies on 0, where relu's corner is
LONGEST = 10_000  # tokens; a token-wise objective is computed token by token
_AT_ONCE = 256  # pairs; rrhf compares every response with every other, whatever its prompt
_TOKENS_AT_ONCE = 100_000
_TIMES = (1.0, 0.2, 0.5, 2.0, 5.0)


@dataclass(frozen=True)
class Plane:
    """The chosen response's quantity across, the rejected one's up, both from `low` to `high`.

    `logratios` are log π/π_ref and `sums` log π, in nats a response; `means` are log π in nats a token. Both
    responses have `length` tokens.
    """

    kind: Kind
    low: float
    high: float
    length: int

    @property
    def middle(self) -> float:
        """Both coordinates of the centre."""
        return (self.low + self.high) / 2

    @property
    def unit(self) -> str:
        """What both coordinates are in."""
        return "nats a token" if self.kind == "means" else "nats"

    def centres(self) -> np.ndarray:
        """A coordinate of the cells that the plane is drawn of, ascending."""
        edges = np.linspace(self.low, self.high, CELLS + 1)
        return (edges[1:] + edges[:-1]) / 2

    def margins(self) -> np.ndarray:
        """Margins along the line through the centre on which chosen falls by what rejected rises.

        Not quite to its ends: at a mean log-prob of 0 the log-odds of `orpo` are infinite.
        """
        return np.linspace(-0.98, 0.98, 393) * (self.high - self.low)

    def on_line(self, margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Chosen and rejected of those margins on that line."""
        return self.middle + margins / 2, self.middle - margins / 2


@dataclass(frozen=True, eq=False)
class Push:
    """−d loss / d log π of each response, per nat of its summed log-prob: what gradient descent follows.

    Above 0 the response becomes likelier, below 0 less likely.
    """

    chosen: np.ndarray
    rejected: np.ndarray

    @property
    def strength(self) -> np.ndarray:
        """√(chosen² + rejected²)."""
        return np.hypot(self.chosen, self.rejected)


def plane_of(objective: Objective, length: int) -> Plane:
    """The plane that shows an objective, of what it is a function of: log-ratios, mean log-probs or summed ones.

    Raises:
        InputError: `length` is no number of tokens.
    """
    if not 1 <= length <= LONGEST:
        raise InputError(
            f"--length is {length}, but responses of 1 to {LONGEST} tokens can be drawn. Give such a number."
        )
    if objective.reference:
        return Plane("logratios", -REACH, REACH, length)
    if all(term.spec.axes == "means" for term in objective.terms):
        return Plane("means", LOWEST_MEAN, 0.0, length)
    # Both at about one nat a token; short responses cannot be far from it, and a small delta is seen from near only.
    delta = objective.hyper.get("delta")
    reach = min(REACH, 0.95 * length, 10 * delta if delta else REACH)
    return Plane("sums", -length - reach, -length + reach, length)


def push(objective: Objective, plane: Plane, chosen: np.ndarray, rejected: np.ndarray) -> Push:
    """The push on pairs at those places of the plane, in float64."""
    places = np.stack([chosen, rejected], axis=-1).astype(np.float64)
    size = _AT_ONCE
    if objective.alternatives is not None:
        size = max(1, min(size, _TOKENS_AT_ONCE // (2 * plane.length)))
    parts = [
        -gradient(objective, _responses(objective, plane, pairs.ravel())).sequences
        for pairs in torch.from_numpy(places).view(-1, 2).split(size)
    ]
    pushes = torch.cat(parts).view(places.shape).numpy() + 0.0  # turns −0 into 0
    return Push(pushes[..., 0], pushes[..., 1])


def push_over(objective: Objective, plane: Plane) -> Push:
    """The push at the centre of each cell; rows ascend with rejected, columns with chosen."""
    across, up = np.meshgrid(plane.centres(), plane.centres())
    return push(objective, plane, across, up)


def reference_level(plane: Plane) -> float:
    """The reference's log-prob of every response of a plane of log-ratios, in nats: a nat a token or less.

    It matters only to a sum in which a term has no reference. Responses of a few tokens are given less, so that no
    log-ratio makes one more than certain.
    """
    return -max(float(plane.length), 1.1 * plane.high)


def _responses(objective: Objective, plane: Plane, both: Tensor) -> ResponseLogps:
    """Pairs whose coordinates alternate in `both`: chosen, rejected, chosen, …"""
    ref, logps = None, both * plane.length if plane.kind == "means" else both
    if plane.kind == "logratios":
        ref = torch.full_like(both, reference_level(plane))
        logps = ref + both
    tokens = torch.full((len(both),), plane.length)
    return alternating(logps, ref, tokens, by_token=objective.alternatives is not None)


def main_hyperparameter(objective: Objective) -> str | None:
    """The hyper-parameter that the curves vary, if there is one: beta, or else the first term's main one."""
    mains = [term.spec.main for term in objective.terms]
    return "beta" if "beta" in mains else next((each for each in mains if each is not None), None)


def variants(objective: Objective, betas: Sequence[Any]) -> list[Objective]:
    """The objective itself and, for the curves, with other values of its main hyper-parameter.

    These are `betas`, or where there are none the value it has times 1/5, 1/2, 2 and 5.
    """
    name = main_hyperparameter(objective)
    if name is None:
        return [objective]
    own = objective.hyper[name]
    values = betas if betas and name == "beta" else [float(f"{own * times:.12g}") for times in _TIMES]
    return [objective.having({name: value}) for value in dict.fromkeys([own, *values])]


def conditions(objective: Objective, plane: Plane) -> str:
    """What the drawing takes for granted, in words; empty where nothing."""
    said = []
    if plane.kind != "logratios" or _length_matters(objective, plane):
        said.append(f"responses of {plane.length} tokens")
    if plane.kind == "logratios" and not all(term.spec.reference for term in objective.terms):
        said.append(f"π_ref gives each response {reference_level(plane):g} nats")
    return ", ".join([*said, *(term.spec.drawn_for for term in objective.terms if term.spec.drawn_for)])


def _length_matters(objective: Objective, plane: Plane) -> bool:
    low, high = np.linspace(plane.low, plane.high, 5)[[1, 3]]
    places = np.array([low, low, high, high]), np.array([low, high, low, high])
    here, there = (
        push(objective, each, *places) for each in (plane, replace(plane, length=plane.length + 1))
    )
    return not (np.allclose(here.chosen, there.chosen) and np.allclose(here.rejected, there.rejected))
