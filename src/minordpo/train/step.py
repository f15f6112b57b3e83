"""THE SPINE: one preference step, from packed rows to gradients.

    token_logps ──► sums per response ──► objective ──► coefficients (d loss / d logp, one per response)
         │                                                   │
         └────────────── backward ◄── coefficient × token ◄──┘

The engine never knows the objective, the objective never sees a model. How a step is cut into rows changes nothing:
losses are divided by the prompts of the whole optimizer step, over all ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from minordpo.data.packing import PackedBatch, on_device
from minordpo.engine.logprobs import Draw, Engine, logps_and_router_loss, packed_logps, sequence_logps
from minordpo.engine.plain import computed_tokens
from minordpo.engine.routers import RouterLoss
from minordpo.objectives import Gradient, Objective, ResponseLogps, TokenLogps, gradient

# Token log-probs of each prompt's responses, by its number in the data set (or what else its batch knows it by);
# prompts that no step meets may be left out.
Reference = Sequence[np.ndarray] | Mapping[Hashable, np.ndarray]
Reduce = Callable[[Tensor], Tensor]  # sums a tensor over ranks


@dataclass(frozen=True, eq=False)
class StepBatch:
    """One rank's share of an optimizer step.

    `batches` are its packed rows. With several ranks each has the same number of them, since every forward and
    backward is collective; `weights` is 0 for a row that only keeps the count, 1 for the others. `mismatched` rows
    hold prompts with the responses of another prompt, for objectives that need them.
    """

    batches: tuple[PackedBatch, ...]
    weights: tuple[float, ...]
    global_prompts: int  # of the step, over all ranks
    mismatched: tuple[PackedBatch, ...] = ()
    mismatched_weights: tuple[float, ...] = ()

    def to(self, device: torch.device | str) -> StepBatch:
        """The same step with its tensors on `device`."""
        return replace(
            self,
            batches=tuple(batch.to(device) for batch in self.batches),
            mismatched=tuple(batch.to(device) for batch in self.mismatched),
        )

    def counts(self, device: torch.device, engine: Engine) -> Tensor:
        """The tokens that are computed, and those that rows padded to their longest sequence would have; float64."""
        padded = [row.padded_tokens * weight for row, weight in zip(self.batches, self.weights, strict=True)]
        packed = engine is Engine.PACKED
        tokens = [len(row.input_ids) if packed else computed_tokens(row.tree) for row in self.batches]
        return torch.tensor([sum(tokens), sum(padded)], dtype=torch.float64, device=device)


@dataclass(frozen=True, eq=False)
class StepRecord:
    """What one row's responses did in this step: all that metrics are made of."""

    logps: ResponseLogps
    gradient: Gradient
    at_start: Gradient | None  # the same objective where the policy is the reference
    indices: tuple[Hashable, ...]  # of the prompts
    reports: Mapping[str, Tensor]  # the objective's own, of the whole step
    gates: Float[Tensor, "gates"] | None = None  # |log-ratio| where a gate of the objective is open, else 0
    router_loss: Tensor | None = None  # of the row's routers, without its coefficient


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a step needs beside its rows: the objective, the reference if there is one, and the seed of its draws."""

    objective: Objective
    reference: Reference | None
    seed: tuple[int, ...] = (0,)
    reduce: Reduce = lambda sums: sums
    routers: RouterLoss | None = None  # of a mixture of experts, where its loss is trained on


def preference_step(
    model: nn.Module,
    step: StepBatch,
    context: Context,
    *,
    scale: float,
    backward: Callable[[Tensor], None],
    around_row: Callable[[bool], contextlib.AbstractContextManager],
) -> list[StepRecord]:
    """Accumulate the gradient of `scale / global_prompts × sum of losses`; return what the responses did.

    `around_row(last)` is entered around each row's forward and backward: gradients need to meet other ranks' only
    after the last. `backward` takes a scalar whose gradient is the wanted one; its value is not the loss. A loss on
    routers is the mean over rows, each counted by its prompts.
    """
    records = []
    mismatched = mismatched_logratio(model, step, context)
    for number, (batch, weight) in enumerate(zip(step.batches, step.weights, strict=True)):
        with around_row(number == len(step.batches) - 1):
            draw = draw_places(batch, context)
            if context.routers is None:
                logps, router_loss = packed_logps(model, batch, draw), None
            else:
                logps, router_loss = logps_and_router_loss(model, batch, draw, context.routers)
            record = _record(logps.detach(), batch, draw, mismatched, context)
            found, factor = record.gradient, weight * scale / step.global_prompts
            members = found.sequences[batch.member_sequences] if found.members is None else found.members
            coefficients = torch.zeros(len(batch.targets), dtype=logps.dtype, device=logps.device)
            coefficients.index_add_(0, batch.member_tokens, members * factor)
            if found.alternatives is not None:
                coefficients = torch.cat([coefficients, found.alternatives * factor])
            total = (logps * coefficients).sum()
            if context.routers is not None and router_loss is not None:
                record = replace(record, router_loss=router_loss.detach())
                total = total + context.routers.coefficient * factor * len(batch.indices) * router_loss
            backward(total)
        if weight:
            records.append(record)
    return records


@torch.no_grad()
def preference_evaluation(model: nn.Module, step: StepBatch, context: Context) -> list[StepRecord]:
    """What the responses would do, without a gradient."""
    mismatched = mismatched_logratio(model, step, context)
    records = []
    for batch, weight in zip(step.batches, step.weights, strict=True):
        draw = draw_places(batch, context)
        record = _record(packed_logps(model, batch, draw), batch, draw, mismatched, context)
        if weight:
            records.append(record)
    return records


@torch.no_grad()
def mismatched_logratio(model: nn.Module, step: StepBatch, context: Context) -> Float[Tensor, ""] | None:
    """The mean log-ratio, in nats, of the step's responses to other prompts than their own, over all ranks.

    None where the objective does not ask for it, or the step has a single prompt.
    """
    if not context.objective.mismatched:
        return None
    assert context.reference is not None
    total: Tensor | None = None
    for batch, weight in zip(step.mismatched, step.mismatched_weights, strict=True):
        logps = sequence_logps(packed_logps(model, batch), batch)
        ratios = (logps - _sums(_reference_members(context.reference, batch), batch)).double()
        own = weight * torch.stack([ratios.sum(), torch.full_like(ratios[0], len(ratios))])
        total = own if total is None else total + own
    if total is None:
        return None
    total = context.reduce(total)
    return (total[0] / total[1]).float()


def draw_places(batch: PackedBatch, context: Context) -> Draw | None:
    """Where the objective wants another token drawn: at each token of a prompt's worst response.

    The uniform numbers follow from the seed, the prompt and the token's place, whatever the packing.
    """
    top_k = context.objective.alternatives
    if top_k is None:
        return None
    worst = [tokens[-1] for tokens in batch.scored_tokens]
    ends = np.cumsum([sum(tokens) for tokens in batch.scored_tokens])
    members = np.concatenate([np.arange(end - count, end) for end, count in zip(ends, worst, strict=True)])
    uniforms = [
        np.random.default_rng((*context.seed, int(index))).random(count)  # type: ignore[call-overload]  # none is None
        for index, count in zip(batch.indices, worst, strict=True)
    ]
    device = batch.targets.device
    drawn = torch.from_numpy(np.concatenate(uniforms))
    return Draw(on_device(torch.from_numpy(members), device), on_device(drawn, device), top_k)


def _record(
    found: Tensor,
    batch: PackedBatch,
    draw: Draw | None,
    mismatched: Tensor | None,
    context: Context,
) -> StepRecord:
    token_logps = found[: len(batch.targets)]
    ref = None if context.reference is None else _reference_members(context.reference, batch)
    by_token = None
    if draw is not None:
        by_token = TokenLogps(
            token_logps[batch.member_tokens],
            batch.member_sequences,
            found[len(batch.targets) :],
            draw.members,
        )
    logps = ResponseLogps(
        sequence_logps(token_logps, batch),
        None if ref is None else _sums(ref, batch),
        batch.lengths,
        batch.groups,
        batch.grades,
        mismatched,
        by_token,
        len(batch.indices),
    )
    at_start = None
    if ref is not None and draw is None:
        none_yet = None if mismatched is None else torch.zeros_like(mismatched)
        start = replace(logps, logps=_sums(ref, batch), mismatched_logratio=none_yet)
        at_start = gradient(context.objective, start)
    objective = context.objective
    found_gradient, reports = gradient(objective, logps), objective.reports(logps)
    return StepRecord(logps, found_gradient, at_start, batch.indices, reports, objective.gates(logps))


def _reference_members(reference: Reference, batch: PackedBatch) -> Float[Tensor, "members"]:
    members = np.concatenate([reference[index] for index in batch.indices])  # type: ignore[call-overload]  # none is None
    return on_device(torch.from_numpy(members), batch.member_sequences.device).double()


def _sums(members: Float[Tensor, "members"], batch: PackedBatch) -> Float[Tensor, "sequences"]:
    """Sums over each sequence's scored tokens, added in float64 like the policy's."""
    sums = torch.zeros(len(batch.lengths), dtype=torch.float64, device=members.device)
    return sums.index_add(0, batch.member_sequences, members).float()
