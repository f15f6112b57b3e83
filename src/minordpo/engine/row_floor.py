"""How long a row must be so that a response has the same log-prob, bit for bit, in every row.

A matrix product of few rows may take another kernel than one of many, and each kernel rounds in its own order. In
float32 that is some 1e-6 nats a response, in bfloat16 as much as a nat. Policy and reference meet rows of different
lengths, so rows must be long enough that their kernels agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minordpo.data.packing import pack
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenExample
from minordpo.engine.check import in_float32
from minordpo.engine.logprobs import packed_logps, sequence_logps

# Rows are not filled beyond this many tokens: where kernels still differ there, agreement would cost too much time.
MOST_FILLED = 1024


@dataclass(frozen=True)
class RowFloor:
    """The row length from which log-probs agree, and how far they differ in shorter rows."""

    tokens: int | None  # 0: a prompt alone in a row agrees already; None: not up to `MOST_FILLED` tokens
    spread: float  # largest difference, in nats a response, between a prompt alone in a row and in a full one
    narrow: float = 0.0  # the same between bfloat16 and float32, where the run computes in bfloat16

    def lines(self) -> Iterator[str]:
        """Yield the sentences that a user should read."""
        if self.narrow:
            yield f"bfloat16 differs from float32 by up to {self.narrow:.2g} nats a response on this model and machine"
        if self.tokens:
            yield (
                f"rows are filled up to {self.tokens} tokens: in shorter ones a response's log-prob rounds otherwise, "
                f"by up to {self.spread:.2g} nats"
            )
        elif self.tokens is None:
            yield (
                f"a response's log-prob depends on the length of its row, by up to {self.spread:.2g} nats: before the "
                "first step log-ratios are as far from 0"
            )


@torch.no_grad()
def row_floor(
    model: nn.Module, examples: Sequence[TokenExample], *, token_budget: int, bf16: bool = False
) -> RowFloor:
    """Measure the shortest example alone in a row, in filled rows, and in a row of `token_budget` tokens.

    Call it under the run's attention and autocast. The longest row holds copies of the example. With `bf16` the example
    is measured in float32 too.
    """
    stored = StoredExamples.of(examples)
    shortest = int(stored.sizes.argmin())
    example, size = stored[shortest], int(stored.sizes[shortest])
    copies = token_budget // size
    device = next(model.parameters()).device

    def last_one(count: int, at_least: int = 0) -> Tensor:
        batch = pack([example] * count, at_least=at_least).to(device)
        return sequence_logps(packed_logps(model, batch), batch)[-len(example.responses) :]

    training = model.training
    model.eval()
    try:
        alone, narrow = last_one(1), 0.0
        if bf16:
            with in_float32(model), torch.autocast(device.type, enabled=False):
                narrow = (last_one(1) - alone).abs().max().item()
        full = last_one(copies) if copies > 1 else alone
        spread = (full - alone).abs().max().item()
        if torch.equal(full, alone):
            return RowFloor(0, 0.0, narrow)
        least, tokens = None, min(MOST_FILLED, token_budget)
        while tokens > size and torch.equal(full, last_one(1, tokens)):
            least, tokens = tokens, tokens // 2
        return RowFloor(least, spread, narrow)
    finally:
        model.train(training)
