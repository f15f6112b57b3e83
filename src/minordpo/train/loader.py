"""Pairs → optimizer steps: who is in which step, on which rank, in which packed row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from minordpo.data.packing import pack, split, split_by_budget, tree_size
from minordpo.data.tokens import TokenExample
from minordpo.train.step import StepBatch


class StepSampler(Sampler[list[int]]):
    """The pairs of each optimizer step, over all ranks: a permutation drawn anew from (seed, epoch) alone.

    Nothing else is state, so a resumed run meets the same steps.
    """

    def __init__(self, pairs: int, per_step: int, *, seed: int, shuffle: bool, drop_last: bool) -> None:
        self.pairs, self.per_step, self.seed = pairs, per_step, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.epoch = 0

    def __len__(self) -> int:
        steps = self.pairs // self.per_step if self.drop_last else -(-self.pairs // self.per_step)
        return max(1, steps)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order(self.epoch)
        for step in range(len(self)):
            yield order[step * self.per_step : (step + 1) * self.per_step]

    def order(self, epoch: int) -> list[int]:
        """Every pair once, in the order of that epoch."""
        if not self.shuffle:
            return list(range(self.pairs))
        return np.random.default_rng((self.seed, epoch)).permutation(self.pairs).tolist()

    def visited(self, steps: int) -> list[int]:
        """The pairs that a run of that many steps meets, ascending."""
        epochs = -(-steps // len(self))
        if epochs > 1 and not self.drop_last:
            return list(range(self.pairs))
        seen: set[int] = set()
        for epoch in range(epochs):
            left = min(steps - epoch * len(self), len(self))
            seen.update(self.order(epoch)[: left * self.per_step])
        return sorted(seen)


class _Indexed(Dataset[tuple[int, TokenExample]]):
    def __init__(self, pairs: Sequence[TokenExample]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[int, TokenExample]:
        return index, self.pairs[index]


class Packer:
    """A step's pairs → this rank's `StepBatch`.

    Pairs are dealt to ranks, then to rows, by their tokens. Every rank works out the whole deal, so all agree on the
    number of rows without asking.
    """

    def __init__(self, token_budget: int, *, rank: int = 0, world: int = 1) -> None:
        self.token_budget, self.rank, self.world = token_budget, rank, world

    def __call__(self, items: Sequence[tuple[int, TokenExample]]) -> StepBatch:
        items = sorted(items, key=lambda item: item[0])  # so that a step packed again is packed alike
        sizes = [tree_size(pair) for _, pair in items]
        deals = []
        for share in split(sizes, self.world):
            rows = split_by_budget([sizes[i] for i in share], self.token_budget) if share else []
            deals.append([[share[i] for i in row] for row in rows])
        count = max(len(rows) for rows in deals)
        mine = deals[self.rank]
        weights = [1.0] * len(mine) + [0.0] * (count - len(mine))
        smallest = sizes.index(min(sizes))
        rows = mine + [[smallest]] * (count - len(mine))
        batches = tuple(pack([items[i][1] for i in row], [items[i][0] for i in row]) for row in rows)
        return StepBatch(batches, tuple(weights), len(items))


def step_loader(
    pairs: Sequence[TokenExample], sampler: StepSampler, packer: Packer, *, workers: int = 0
) -> DataLoader:
    """One item is one rank's whole optimizer step."""
    return DataLoader(_Indexed(pairs), batch_sampler=sampler, collate_fn=packer, num_workers=workers)


class EpochOrder(TrainerCallback):
    """Tell the sampler its epoch, counted in steps so that a resumed run agrees."""

    def __init__(self, sampler: StepSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sampler.epoch = state.global_step // len(self.sampler)
