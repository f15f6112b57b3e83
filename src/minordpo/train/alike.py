"""Before the first step policy and reference are the same weights: a log-ratio other than 0 is rounding or a fault.

Rounding of bfloat16 may be nats a response, so no limit on log-ratios tells one from the other. A fault is looked for
where rounding cannot hide it: in one row of both, whose bits are then equal, or else in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from minordpo.data.packing import pack
from minordpo.data.tokens import TokenExample
from minordpo.engine.check import in_float32
from minordpo.engine.device import autocast
from minordpo.engine.logprobs import packed_logps, sequence_logps
from minordpo.engine.quantized import rounds_activations
from minordpo.engine.reference_pass import ReferencePass
from minordpo.errors import InputError
from minordpo.train.step import Reference, StepRecord

# Nats a response. Rounding in float32 reaches 8e-5 between rows; above UNSEEN a run says how far bfloat16's goes.
FLOAT32, UNSEEN = 1e-3, 0.01
_COMPARED = 2  # prompts that a fault is looked for in


@dataclass(frozen=True)
class Start:
    """A run before its first step: the policy in training mode, its reference, and what was computed of that."""

    policy: Any  # None where its weights are sharded: no rank can run it by itself
    reference: ReferencePass
    examples: Sequence[TokenExample]
    known: Reference

    def refuse_unlike(self, records: Sequence[StepRecord]) -> float:
        """The largest |log-ratio| of the first step, in nats a response.

        Raises:
            InputError: it is no rounding: policy and reference do not run alike, or the cache holds other log-probs.
        """
        args, sizes = self.reference.args, _sizes(records)
        ratios = [ratio for each in sizes.values() for ratio in each]
        largest = max(ratios, default=0.0)
        if all(ratio <= (UNSEEN if args.bf16 else FLOAT32) for ratio in ratios):  # so that NaN fails too
            return largest
        if self.policy is not None:
            worst = sorted(sizes, key=lambda index: -max(sizes[index]))[:_COMPARED]
            self._refuse_other_runs(worst)
            self._refuse_other_cache(worst)
        narrow = args.bf16 or rounds_activations(self.reference.model)
        if not narrow:
            raise InputError(
                "before the first step policy and reference are the same weights, but a log-ratio is "
                f"{largest:.3g} nats (limit {FLOAT32:g}): they do not run alike. Report it with the model's name"
            )
        if args.process_index == 0:
            share = sum(ratio > UNSEEN for ratio in ratios) / len(ratios)
            kind = "bfloat16" if args.bf16 else "8-bit"
            print(
                f"{kind} rounding: before the first step {share:.0%} of the log-ratios are above {UNSEEN:g} nats "
                f"and the largest is {largest:.2g}, where all would be 0 in exact numbers",
                flush=True,
            )
        return largest

    def _refuse_other_runs(self, worst: list[Any]) -> None:
        """Run policy and reference on the same row: bits are equal, or sums in float32 are."""
        args = self.reference.args
        row = pack([self.examples[index] for index in worst]).to(args.device)
        with torch.no_grad(), autocast(args):
            if torch.equal(packed_logps(self.policy, row), self.reference.row_logps(row)):
                return
        exact: Any = getattr(self.policy, "_original_forward", self.policy)  # below accelerate's autocast
        with torch.no_grad(), in_float32(self.policy), torch.autocast(args.device.type, enabled=False):
            self.policy.train()
            policy = exact(input_ids=row.input_ids[None], packed=row)
            reference = self.reference.row_logps(row, run=exact)
        difference = (sequence_logps(policy, row) - sequence_logps(reference, row)).abs().max().item()
        if not difference <= FLOAT32:
            raise InputError(
                "before the first step policy and reference are the same weights, but in float32, in one row, a "
                f"response's log-probs differ by {difference:.3g} nats (limit {FLOAT32:g}): they do not run alike. "
                "Switch off dropout and every other noise of the model; if it stays, report it"
            )

    def _refuse_other_cache(self, worst: list[Any]) -> None:
        """Compute the reference of the worst prompts again, as the reference pass does."""
        args, floor = self.reference.args, self.reference.floor
        examples = [self.examples[index] for index in worst]
        for index, example, again in zip(worst, examples, self.reference.logps_alone(examples), strict=True):
            # Only on a GPU may the pass have had this prompt among others, in a row that does not agree with this.
            rounding = floor.spread * (floor.tokens is None and args.device.type != "cpu")
            limit = (
                max(UNSEEN, 4 * rounding, 0.1 * len(again) ** 0.5 * (rounding > 0)) if args.bf16 else FLOAT32
            )
            ends = np.cumsum([int(response.scored.sum()) for response in example.responses])[:-1]
            gaps = np.split(again.astype(np.float64) - self.known[index], ends)
            difference = max(abs(float(gap.sum())) for gap in gaps)
            if not difference <= limit:
                raise InputError(
                    f"the reference log-probs of row {example.row}, computed before, differ by {difference:.3g} nats a "
                    f"response from what the reference gives now (limit {limit:.2g}). Empty the reference cache "
                    f"{self.reference.cache or ''} and train again"
                )


def _sizes(records: Sequence[StepRecord]) -> dict[Any, list[float]]:
    """|log-ratio| of each prompt's responses, in nats."""
    found: dict[Any, list[float]] = {}
    for record in records:
        parts = record.logps.logratios.abs().split(torch.bincount(record.logps.groups).tolist())
        found |= {index: part.tolist() for index, part in zip(record.indices, parts, strict=True)}
    return found
