"""How long a row must be so that a response has the same log-prob, bit for bit, in every row.

A matrix product of few rows may take another kernel than one of many, and each kernel rounds in its own order. In
float32 that is some 1e-6 nats a response, in bfloat16 as much as a nat. Policy and reference meet rows of different
lengths, so rows must be long enough that their kernels agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from minordpo.data.packing import pack, tree_size
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenExample
from minordpo.engine.check import in_float32
from minordpo.engine.logprobs import Engine, engine_of, packed_logps, sequence_logps
from minordpo.engine.quantized import score_mode
from minordpo.run_folder.files import replacing, writing
from minordpo.run_folder.names import CACHE_ADVICE

# Rows are not filled beyond this many tokens: where kernels still differ there, agreement would cost too much time.
MOST_FILLED = 1024
_NARROWED = 4  # prompts, from the shortest to the longest, that are compared between bfloat16 and float32


@dataclass(frozen=True)
class RowFloor:
    """The row length from which log-probs agree, and how far they differ in shorter rows."""

    tokens: int | None  # 0: a prompt alone in a row agrees already; None: not up to `MOST_FILLED` tokens
    spread: float  # largest difference, in nats a response, between a prompt alone in a row and in a full one
    narrow: float = 0.0  # … between bfloat16 and float32, of `_NARROWED` prompts, where a run is in bfloat16

    @property
    def rounding(self) -> float:
        """How far a response's log-prob is from exact numbers, as far as was measured, in nats."""
        return max(self.spread if self.tokens is None else 0.0, self.narrow)

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

    Call it under the run's attention and autocast. The longest row holds copies of the example. With `bf16` some
    prompts are measured in float32 too.
    """
    measured = _measured(examples, bf16=bf16)
    example = measured[0]
    size = tree_size(example)
    copies = token_budget // size
    device = next(model.parameters()).device

    def last_one(count: int, at_least: int = 0, of: TokenExample = example) -> Tensor:
        batch = pack([of] * count, at_least=at_least).to(device)
        return sequence_logps(packed_logps(model, batch), batch)[-len(of.responses) :]

    training = model.training
    score_mode(model)
    try:
        alone, narrow = last_one(1), 0.0
        for each in measured if bf16 else ():
            rounded = last_one(1, of=each)
            with in_float32(model), torch.autocast(device.type, enabled=False):
                narrow = max(narrow, (last_one(1, of=each) - rounded).abs().max().item())
        full = last_one(copies) if copies > 1 else alone
        spread = (full - alone).abs().max().item()
        if torch.equal(full, alone):
            return RowFloor(0, 0.0, narrow)
        filled = engine_of(model) is Engine.PACKED  # other engines have no row
        least, tokens = None, min(MOST_FILLED, token_budget) if filled else 0
        while tokens > size and torch.equal(full, last_one(1, tokens)):
            least, tokens = tokens, tokens // 2
        return RowFloor(least, spread, narrow)
    finally:
        model.train(training)


def _measured(examples: Sequence[TokenExample], *, bf16: bool) -> StoredExamples:
    """The shortest example; with `bf16` also some up to the longest."""
    stored = StoredExamples.of(examples)
    order = stored.sizes.argsort(kind="stable")
    places = np.linspace(0, len(order) - 1, _NARROWED if bf16 else 1).round().astype(int)
    return stored.take(order[np.unique(places)])


def kept_row_floor(
    folder: Path | None,
    fingerprint: str,
    model: nn.Module,
    examples: Sequence[TokenExample],
    *,
    token_budget: int,
    bf16: bool,
) -> RowFloor:
    """`row_floor`, measured once for all runs that share `folder`, if there is one; `fingerprint` is the reference's.

    Kernels belong to a processor, its threads and a version of torch, so each of these has a measurement of its own.

    Raises:
        InputError: the folder cannot be written.
    """
    if folder is None:
        return row_floor(model, examples, token_budget=token_budget, bf16=bf16)
    device = next(model.parameters()).device
    named = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
    )
    facts = f"{fingerprint} {token_budget} {bf16} {torch.__version__} {named} {MOST_FILLED} "
    key = xxhash.xxh3_128(facts.encode() + _measured(examples, bf16=bf16).keys.tobytes())
    file = folder / f"{key.hexdigest()}.json"
    try:
        return RowFloor(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        pass  # not there, or not whole: it is measured again
    found = row_floor(model, examples, token_budget=token_budget, bf16=bf16)
    with writing(folder, CACHE_ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as aside:
            aside.write_text(json.dumps(asdict(found)), encoding="utf-8")
    return found
