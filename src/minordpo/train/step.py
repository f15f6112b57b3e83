"""THE SPINE: one preference step, from packed rows to gradients.

    token_logps ──► sums per response ──► objective ──► coefficients (d loss / d logp, one per response)
         │                                                   │
         └────────────── backward ◄── coefficient × token ◄──┘

The engine never knows the objective, the objective never sees a model. How a step is cut into rows changes nothing:
losses are divided by the pairs of the whole optimizer step, over all ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from minordpo.data.packing import PackedBatch
from minordpo.engine.logprobs import packed_logps, sequence_logps
from minordpo.objectives import Objective, PairLogps, losses_and_coefficients

# Token log-probs of each pair, by its number in the data set; pairs that no step meets may be left out.
Reference = Sequence[np.ndarray] | Mapping[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class StepBatch:
    """One rank's share of an optimizer step.

    `batches` are its packed rows. With several ranks each has the same number of them, since every forward and
    backward is collective; `weights` is 0 for a row that only keeps the count, 1 for the others.
    """

    batches: tuple[PackedBatch, ...]
    weights: tuple[float, ...]
    global_pairs: int  # of the step, over all ranks


@dataclass(frozen=True, eq=False)
class PairRecord:
    """What one row's pairs did in this step: all that metrics are made of."""

    logps: PairLogps
    losses: Float[Tensor, "pairs"]
    chosen_coefficients: Float[Tensor, "pairs"]
    rejected_coefficients: Float[Tensor, "pairs"]


def pair_logps(
    policy: Float[Tensor, "sequences"], reference: Float[Tensor, "sequences"], batch: PackedBatch
) -> PairLogps:
    """View sequence log-probs, chosen and rejected in turn, as pairs."""
    chosen, rejected = policy.view(-1, 2).unbind(1)
    ref_chosen, ref_rejected = reference.view(-1, 2).unbind(1)
    chosen_tokens, rejected_tokens = batch.lengths.view(-1, 2).unbind(1)
    return PairLogps(chosen, rejected, ref_chosen, ref_rejected, chosen_tokens, rejected_tokens)


def reference_sums(reference: Reference, batch: PackedBatch) -> Float[Tensor, "sequences"]:
    """The reference's log-prob of each sequence, added in float64 like the policy's."""
    members = torch.from_numpy(np.concatenate([reference[i] for i in batch.indices]))
    members = members.to(batch.member_sequences.device, torch.float64)
    sums = torch.zeros(len(batch.lengths), dtype=torch.float64, device=members.device)
    return sums.index_add(0, batch.member_sequences, members).float()


def preference_step(
    model: nn.Module,
    step: StepBatch,
    objective: Objective,
    reference: Reference,
    *,
    scale: float,
    backward: Callable[[Tensor], None],
    around_row: Callable[[bool], contextlib.AbstractContextManager],
) -> list[PairRecord]:
    """Accumulate the gradient of `scale / global_pairs × sum of losses`; return what the pairs did.

    `around_row(last)` is entered around each row's forward and backward: gradients need to meet other ranks' only
    after the last. `backward` takes a scalar whose gradient is the wanted one; its value is not the loss.
    """
    records = []
    for number, (batch, weight) in enumerate(zip(step.batches, step.weights, strict=True)):
        with around_row(number == len(step.batches) - 1):
            token_logps = packed_logps(model, batch)
            record = _record(token_logps, batch, objective, reference)
            coefficients = torch.stack([record.chosen_coefficients, record.rejected_coefficients], dim=1)
            per_sequence = coefficients.view(-1) * (weight * scale / step.global_pairs)
            per_token = torch.zeros_like(token_logps).index_add_(
                0, batch.member_tokens, per_sequence[batch.member_sequences]
            )
            backward((token_logps * per_token).sum())
        if weight:
            records.append(record)
    return records


@torch.no_grad()
def preference_evaluation(
    model: nn.Module, batch: PackedBatch, objective: Objective, reference: Reference
) -> PairRecord:
    """What the pairs of one row would do, without a gradient."""
    return _record(packed_logps(model, batch), batch, objective, reference)


def _record(
    token_logps: Tensor, batch: PackedBatch, objective: Objective, reference: Reference
) -> PairRecord:
    policy = sequence_logps(token_logps.detach(), batch)
    logps = pair_logps(policy, reference_sums(reference, batch), batch)
    return PairRecord(logps, *losses_and_coefficients(objective, logps))
