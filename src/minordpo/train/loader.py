"""Examples → optimizer steps: who is in which step, on which rank, in which packed row."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from minordpo.data.packing import PackedBatch, pack, split, split_by_budget, tree_size
from minordpo.data.tokens import TokenExample, TokenResponse
from minordpo.train.step import StepBatch

Item = tuple[Hashable, TokenExample]


class StepSampler(Sampler[list[int]]):
    """The examples of each optimizer step, over all ranks: a permutation drawn anew from (seed, epoch) alone.

    Nothing else is state, so a resumed run meets the same steps.
    """

    def __init__(self, examples: int, per_step: int, *, seed: int, shuffle: bool, drop_last: bool) -> None:
        self.examples, self.per_step, self.seed = examples, per_step, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.epoch = 0

    def __len__(self) -> int:
        steps = self.examples // self.per_step if self.drop_last else -(-self.examples // self.per_step)
        return max(1, steps)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.steps(self.epoch)

    def steps(self, epoch: int) -> Iterator[list[int]]:
        """The examples of each step of that epoch."""
        order = self.order(epoch)
        for step in range(len(self)):
            yield order[step * self.per_step : (step + 1) * self.per_step].tolist()

    def order(self, epoch: int) -> np.ndarray:
        """Every example once, in the order of that epoch."""
        if not self.shuffle:
            return np.arange(self.examples)
        return np.random.default_rng((self.seed, epoch)).permutation(self.examples)

    def run(self, steps: int) -> Iterator[list[int]]:
        """The examples of each of a run's steps."""
        for epoch in range(-(-steps // len(self))):
            for step, drawn in enumerate(self.steps(epoch)):
                if epoch * len(self) + step == steps:
                    return
                yield drawn

    def visited(self, steps: int) -> np.ndarray:
        """The examples that a run of that many steps meets, ascending."""
        if steps > len(self) and not self.drop_last:
            return np.arange(self.examples)
        met = np.zeros(self.examples, np.bool_)
        for drawn in self.run(steps):
            met[drawn] = True
        return np.flatnonzero(met)


class _Indexed(Dataset[tuple[int, TokenExample]]):
    def __init__(self, examples: Sequence[TokenExample]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[int, TokenExample]:
        return index, self.examples[index]


class Packer:
    """A step's examples → this rank's `StepBatch`; with `mismatch`, rows of mismatched responses too.

    Examples are dealt to ranks, then to rows, by their tokens. Every rank works out the whole deal, so all agree on
    the number of rows without asking. `longest` bounds the tokens of a mismatched prompt and response. Rows of fewer
    tokens than `least_tokens` are filled up to it.
    """

    def __init__(
        self, token_budget: int, *, rank: int = 0, world: int = 1, mismatch: bool = False, longest: int = 0
    ) -> None:
        self.token_budget, self.rank, self.world = token_budget, rank, world
        self.mismatch, self.longest = mismatch, longest
        self.least_tokens = 0

    def __call__(self, items: Sequence[tuple[int, TokenExample]]) -> StepBatch:
        items = sorted(items, key=lambda item: item[0])  # so that a step packed again is packed alike
        batches, weights = self._rows(items)
        others = mismatched(items, self.longest) if self.mismatch else []
        if not others:
            return StepBatch(batches, weights, len(items))
        return StepBatch(batches, weights, len(items), *self._rows(others))

    def deal(self, sizes: Sequence[int]) -> list[list[list[int]]]:
        """Items of these sizes → for each rank its rows."""
        deals = []
        for share in split(sizes, self.world):
            rows = split_by_budget([sizes[i] for i in share], self.token_budget) if share else []
            deals.append([[share[i] for i in row] for row in rows])
        return deals

    def _rows(self, items: Sequence[Item]) -> tuple[tuple[PackedBatch, ...], tuple[float, ...]]:
        """This rank's rows, as many as any rank has; those that only keep the count weigh 0."""
        sizes = [tree_size(example) for _, example in items]
        deals = self.deal(sizes)
        missing = max(len(rows) for rows in deals) - len(deals[self.rank])
        smallest = sizes.index(min(sizes))
        rows = deals[self.rank] + [[smallest]] * missing
        weights = [1.0] * len(deals[self.rank]) + [0.0] * missing
        least = min(self.least_tokens, self.token_budget)  # a budget lowered for memory bounds these too
        batches = (
            pack([items[i][1] for i in row], [items[i][0] for i in row], at_least=least) for row in rows
        )
        return tuple(batches), tuple(weights)


def mismatched(items: Sequence[tuple[int, TokenExample]], longest: int) -> list[Item]:
    """Each prompt with the responses of the next example that has another prompt, known by both their numbers.

    `items` are a step's examples in the order of the data set; after the last comes the first. Responses are cut so
    that no sequence is longer than `longest` tokens; a prompt that leaves no room is left out.
    """
    found: list[Item] = []
    for place, (index, example) in enumerate(items):
        following = (items[(place + ahead) % len(items)] for ahead in range(1, len(items)))
        other = next(
            (each for each in following if not np.array_equal(each[1].prompt_ids, example.prompt_ids)), None
        )
        room = longest - len(example.prompt_ids)
        if other is None or room < 1:
            continue
        cut = [
            (TokenResponse(response.ids[:room], response.scored[:room]), grade)
            for response, grade in zip(other[1].responses, other[1].grades, strict=True)
            if response.scored[:room].any()
        ]
        if cut:
            responses, grades = zip(*cut, strict=True)
            pairing = TokenExample(example.prompt_ids, responses, grades, example.row)
            found.append(((index, other[0]), pairing))
    return found


def step_loader(
    examples: Sequence[TokenExample], sampler: StepSampler, packer: Packer, *, workers: int = 0
) -> DataLoader:
    """One item is one rank's whole optimizer step."""
    return DataLoader(_Indexed(examples), batch_sampler=sampler, collate_fn=packer, num_workers=workers)


class EpochOrder(TrainerCallback):
    """Tell the sampler its epoch, counted in steps so that a resumed run agrees."""

    def __init__(self, sampler: StepSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sampler.epoch = state.global_step // len(self.sampler)
