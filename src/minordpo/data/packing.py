"""Prefix tree, token budget → `PackedBatch`.

Both responses to a prompt continue it, and often begin alike. A pair is therefore a small prefix tree, and
each of its tokens is computed once: the prompt, then what the responses share, then their tails.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Responses(Protocol):
    """What the packer needs of one prompt: its tokens and any number of graded responses to it, best first."""

    @property
    def prompt_ids(self) -> np.ndarray: ...

    @property
    def responses(self) -> Sequence: ...

    @property
    def grades(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class Node:
    """A run of tokens without a branch: row positions `[start, end)`, and the nodes above it, root first."""

    start: int
    end: int
    ancestors: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Tree:
    """Who sees whom in a packed row: each token sees its own root-to-leaf path, causally.

    Rows are in depth-first order, so one number a token says it all: token i sees token j exactly if
    `j <= i < subtree_end[j]`. `nodes` is the same tree as runs of tokens, for attention computed run by run.
    """

    nodes: tuple[Node, ...]
    subtree_end: Int[Tensor, "tokens"]
    filled: bool = False  # the last node stands there to fill the row
    cache: dict = field(default_factory=dict)  # what attention makes of the tree, once for all layers

    def to(self, device: torch.device | str) -> Tree:
        """The same tree with its tensors on `device`."""
        return Tree(self.nodes, on_device(self.subtree_end, device), self.filled)


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """One row of distinct tokens; the sequences of a prompt are numbered one after the other.

    A row is padded only where `pack` was asked to fill it.
    """

    input_ids: Int[Tensor, "tokens"]
    position_ids: Int[Tensor, "tokens"]
    tree: Tree
    predictors: Int[Tensor, "scored"]  # row position of the hidden state that predicts the scored token
    targets: Int[Tensor, "scored"]  # id of the scored token
    member_tokens: Int[Tensor, "members"]  # number of a scored token …
    member_sequences: Int[Tensor, "members"]  # … and of its sequence; by sequence, then in text order
    lengths: Int[Tensor, "sequences"]  # scored tokens of each sequence
    groups: Int[Tensor, "sequences"]  # prompt number, within the batch, of each sequence
    grades: Float[Tensor, "sequences"]  # higher is better; a prompt's best comes first
    indices: tuple[Hashable, ...]  # the prompts' numbers in the data set, or what else they are known by
    longest: int  # tokens of the longest sequence, prompt included
    scored_tokens: tuple[
        tuple[int, ...], ...
    ]  # `lengths` prompt by prompt, for the host to read without waiting

    @property
    def padded_tokens(self) -> int:
        """Tokens that a row for each sequence, padded to the longest, would have cost."""
        return self.longest * len(self.lengths)

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch with its tensors on `device`."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        moved: dict[str, Any] = {"tree": self.tree.to(device)}
        moved |= {name: on_device(x, device) for name, x in values.items() if isinstance(x, Tensor)}
        return replace(self, **moved)


def on_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on `device`; to a GPU it goes from pinned memory, so that the host does not wait for the copy."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass
class _Row:
    """A packed row as it grows."""

    ids: list[np.ndarray] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    length: int = 0

    def grow(self, paths: dict[int, np.ndarray], depth: int, ancestors: tuple[int, ...]) -> dict[int, list]:
        """Lay the subtree of `paths` (sequence → ids) below `depth`; return each one's row positions in it."""
        shared = common_prefix([ids[depth:] for ids in paths.values()])
        rows: dict[int, list] = {sequence: [] for sequence in paths}
        own = next(iter(paths.values()))[depth : depth + shared]
        if shared:
            start, slot = self.length, len(self.ids)
            self.nodes.append(Node(start, start + shared, ancestors))
            ancestors = (*ancestors, len(self.nodes) - 1)
            self.ids.append(own)
            self.positions.append(np.arange(depth, depth + shared))
            self.ends.append(np.empty(0, int))
            self.length += shared
            for found in rows.values():
                found.append(np.arange(start, start + shared))
        branches: dict[int, dict[int, np.ndarray]] = {}
        for sequence, ids in paths.items():
            if len(ids) > depth + shared:
                branches.setdefault(int(ids[depth + shared]), {})[sequence] = ids
        for branch in branches.values():
            for sequence, found in self.grow(branch, depth + shared, ancestors).items():
                rows[sequence].extend(found)
        if shared:
            self.ends[slot] = np.full(shared, self.length)
        return rows

    def fill(self, at_least: int) -> None:
        """Add tokens that no sequence sees, as a tree of their own, up to that many in the row."""
        missing = at_least - self.length
        if missing > 0:
            self.nodes.append(Node(self.length, at_least, ()))
            self.ids.append(np.zeros(missing, np.int64))
            self.positions.append(np.arange(missing))
            self.ends.append(np.full(missing, at_least))
            self.length = at_least


def pack(
    items: Sequence[Responses], indices: Sequence[Hashable] | None = None, *, at_least: int = 0
) -> PackedBatch:
    """Pack prompts with their responses into one row, filled up to `at_least` tokens where it is shorter.

    Tokens after the last one that predicts a scored token are left out: nothing depends on them.

    Raises:
        ValueError: a response without a scored token, or one whose first scored token nothing precedes.
    """
    row = _Row()
    predictors, targets, sequences, lengths = [], [], [], []
    groups: list[int] = []
    scored_tokens: list[tuple[int, ...]] = []
    longest = 0
    for group, item in enumerate(items):
        full: dict[int, np.ndarray] = {}
        scored: dict[int, np.ndarray] = {}
        for response in item.responses:
            sequence = len(groups) + len(full)
            full[sequence] = np.concatenate([item.prompt_ids, response.ids]).astype(np.int64)
            scored[sequence] = np.flatnonzero(response.scored) + len(item.prompt_ids)
            if not len(scored[sequence]) or scored[sequence][0] == 0:
                raise ValueError(
                    f"response {sequence} of the batch has no scored token that another precedes"
                )
        paths = {sequence: ids[: scored[sequence][-1]] for sequence, ids in full.items()}
        for sequence, found in row.grow(paths, 0, ()).items():
            rows = np.concatenate(found)
            predictors.append(rows[scored[sequence] - 1])
            targets.append(full[sequence][scored[sequence]])
            sequences.append(np.full(len(scored[sequence]), sequence))
            lengths.append(len(scored[sequence]))
            longest = max(longest, len(full[sequence]))
        groups.extend([group] * len(full))
        scored_tokens.append(tuple(len(places) for places in scored.values()))
    filled = row.length < at_least
    row.fill(at_least)

    # The same hidden state predicting the same token is one scored token, whoever shares it.
    wanted = np.stack([np.concatenate(predictors), np.concatenate(targets)])
    distinct, member_tokens = np.unique(wanted, axis=1, return_inverse=True)
    tree = Tree(tuple(row.nodes), torch.from_numpy(np.concatenate(row.ends)), filled)
    return PackedBatch(
        input_ids=torch.from_numpy(np.concatenate(row.ids)),
        position_ids=torch.from_numpy(np.concatenate(row.positions)),
        tree=tree,
        predictors=torch.from_numpy(distinct[0].copy()),
        targets=torch.from_numpy(distinct[1].copy()),
        member_tokens=torch.from_numpy(member_tokens.reshape(-1)),
        member_sequences=torch.from_numpy(np.concatenate(sequences)),
        lengths=torch.tensor(lengths),
        groups=torch.tensor(groups),
        grades=torch.tensor([grade for item in items for grade in item.grades], dtype=torch.float32),
        indices=tuple(range(len(items)) if indices is None else indices),
        longest=longest,
        scored_tokens=tuple(scored_tokens),
    )


def tree_size(item: Responses) -> int:
    """Tokens that `pack` lays for one prompt with its responses."""
    # Nothing depends on the last scored token, so it is not laid; prompts are alike.
    paths = [response.ids[: np.flatnonzero(response.scored)[-1]] for response in item.responses]
    if len(paths) == 2:
        return len(item.prompt_ids) + len(paths[0]) + len(paths[1]) - common_prefix(paths)
    row = _Row()
    row.grow(dict(enumerate(np.concatenate([item.prompt_ids, path]) for path in paths)), 0, ())
    return row.length


def split(sizes: Sequence[int], bins: int) -> list[list[int]]:
    """Deal items of these sizes into `bins` bins of nearly equal total, each in ascending item order.

    Largest first, always into the emptiest bin: at most a third above the best possible (Graham 1969). A bin
    is empty only where there are fewer items than bins.
    """
    totals, dealt = [0] * bins, [[] for _ in range(bins)]  # type: list[int], list[list[int]]
    for item in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        emptiest = min(range(bins), key=lambda b: (totals[b], len(dealt[b]), b))
        totals[emptiest] += sizes[item]
        dealt[emptiest].append(item)
    return [sorted(items) for items in dealt]


def split_by_budget(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """The fewest balanced bins of at most `budget` tokens; an item above the budget gets a bin of its own."""
    within = [size for size in sizes if size <= budget]
    bins = max(1, len(sizes) - len(within) + -(-sum(within) // budget))
    while True:
        dealt = split(sizes, min(bins, len(sizes)))
        if bins >= len(sizes) or all(
            len(items) == 1 or sum(sizes[i] for i in items) <= budget for items in dealt
        ):
            return dealt
        bins += 1


def common_prefix(sequences: Sequence[np.ndarray]) -> int:
    """How many tokens all sequences begin with."""
    shortest = min(len(ids) for ids in sequences)
    first = sequences[0][:shortest]
    for ids in sequences[1:]:
        differs = np.flatnonzero(first[:shortest] != ids[:shortest])
        if len(differs):
            shortest = int(differs[0])
    return int(shortest)
