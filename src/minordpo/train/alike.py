"""Before the first step policy and reference are the same weights: a log-ratio other than 0 is rounding or a fault.

Rounding of bfloat16 may be nats a response, so no limit on log-ratios tells one from the other. A fault is looked for
where rounding cannot hide it: in one row of both, whose bits are then equal, or else in float32.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minordpo.data.packing import PackedBatch, pack
from minordpo.data.tokens import TokenExample
from minordpo.engine.check import in_float32
from minordpo.engine.device import autocast
from minordpo.engine.logprobs import packed_logps, sequence_logps
from minordpo.engine.reference_pass import ReferencePass
from minordpo.errors import InputError
from minordpo.train.step import Reference, StepRecord

# Nats a response. Rounding in float32 reaches 8e-5 between rows; above UNSEEN a run says how far bfloat16's goes.
FLOAT32, UNSEEN = 1e-3, 0.01
_COMPARED = 2  # prompts that a fault is looked for in


@dataclass(frozen=True)
class Start:
    """A run before its first step: the policy in training mode, its reference, and what was computed of that."""

    policy: Any
    reference: ReferencePass
    examples: Sequence[TokenExample] | Mapping[Hashable, TokenExample]
    known: Reference
    token_budget: int

    def refuse_unlike(self, records: Sequence[StepRecord]) -> float:
        """The largest |log-ratio| of the first step, in nats a response.

        Raises:
            InputError: it is no rounding: policy and reference do not run alike, or the cache holds other log-probs.
        """
        bf16, sizes = self.reference.args.bf16, _sizes(records)
        largest = max(max(each) for each in sizes.values())
        if all(max(each) <= (UNSEEN if bf16 else FLOAT32) for each in sizes.values()):  # NaN fails too
            return largest
        worst = sorted(sizes, key=lambda index: -max(sizes[index]))[:_COMPARED]
        self._refuse_other_runs(worst)
        self._refuse_other_cache(worst)
        if not bf16:
            raise InputError(
                "before the first step policy and reference are the same weights, but a log-ratio is "
                f"{largest:.3g} nats (limit {FLOAT32:g}): they do not run alike. Report it with the model's name"
            )
        every = [ratio for each in sizes.values() for ratio in each]
        if self.reference.args.process_index == 0:
            share = sum(ratio > UNSEEN for ratio in every) / len(every)
            print(
                f"bfloat16 rounding: before the first step {share:.0%} of the log-ratios are above {UNSEEN:g} nats "
                f"and the largest is {largest:.2g}, where all would be 0 in exact numbers",
                flush=True,
            )
        return largest

    def _refuse_other_runs(self, worst: list[Hashable]) -> None:
        """Run policy and reference on the same row: bits are equal, or sums in float32 are."""
        row = pack([self._example(index) for index in worst]).to(self.reference.args.device)
        with torch.no_grad(), autocast(self.reference.args):
            policy, reference = packed_logps(self.policy, row), self.reference.row_logps(row)
        if torch.equal(policy, reference):
            return
        exact: Any = getattr(self.policy, "_original_forward", self.policy)  # below accelerate's autocast
        with (
            torch.no_grad(),
            in_float32(self.policy),
            torch.autocast(row.input_ids.device.type, enabled=False),
        ):
            self.policy.train()
            policy = exact(input_ids=row.input_ids[None], packed=row)
            reference = self.reference.row_logps(row, run=exact)
        difference = _largest(policy, reference, row)
        if not difference <= FLOAT32:
            raise InputError(
                "before the first step policy and reference are the same weights, but in float32, in one row, a "
                f"response's log-probs differ by {difference:.3g} nats (limit {FLOAT32:g}): they do not run alike. "
                "Switch off dropout and every other noise of the model; if it stays, report it"
            )

    def _refuse_other_cache(self, worst: list[Hashable]) -> None:
        """Compute the reference of the worst prompts again, as the reference pass does."""
        found = self.reference.logps_alone(
            [self._example(index) for index in worst], token_budget=self.token_budget
        )
        args, limit = self.reference.args, FLOAT32
        for index, again in zip(worst, found, strict=True):
            if args.bf16:
                # Only on a GPU may the pass have had this prompt among others, in a row that does not agree with this.
                rounding = self.reference.floor.rounding * (args.device.type != "cpu")
                limit = max(UNSEEN, 4 * rounding, 0.1 * len(again) ** 0.5 * (rounding > 0))
            difference = _largest_difference(again, self.known[index], self._example(index))  # type: ignore[call-overload]
            if not difference <= limit:
                raise InputError(
                    f"the reference log-probs of row {self._example(index).row}, computed before, differ by "
                    f"{difference:.3g} nats a response from what the reference gives now (limit {limit:.2g}). Empty "
                    f"the reference cache {self.reference.cache or ''} and train again"
                )

    def _example(self, index: Hashable) -> TokenExample:
        return self.examples[index]  # type: ignore[call-overload]  # none is None


def _sizes(records: Sequence[StepRecord]) -> dict[Hashable, list[float]]:
    """|log-ratio| of each prompt's responses, in nats."""
    found: dict[Hashable, list[float]] = {}
    for record in records:
        ratios = record.logps.logratios.abs()
        parts = ratios.split(torch.bincount(record.logps.groups).tolist())
        found.update({index: part.tolist() for index, part in zip(record.indices, parts, strict=True)})
    return found


def _largest(one: Tensor, other: Tensor, row: PackedBatch) -> float:
    return (sequence_logps(one, row) - sequence_logps(other, row)).abs().max().item()


def _largest_difference(one: np.ndarray, other: np.ndarray, example: TokenExample) -> float:
    ends = np.cumsum([int(response.scored.sum()) for response in example.responses])[:-1]
    return max(
        abs(float(part.sum(dtype=np.float64))) for part in np.split(one.astype(np.float64) - other, ends)
    )
