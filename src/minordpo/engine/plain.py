"""PackedBatch → hidden states by the stock forward, each response by itself: for models that cannot run packed.

distinct tokens of a row ─► the sequences in it ─► stock backbone ─► states of the predicting positions

A sequence is the path from a tree's root to one of its leaves. What sequences share is computed once for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from minordpo.data.packing import PackedBatch, Tree

# Padding that a group of sequences may have, as a share of its tokens.
_PADDED = 0.25


@dataclass(frozen=True, eq=False)
class RowStates:
    """What a backbone gives for a row."""

    scored: Float[Tensor, "scored hidden"]  # states that predict the scored tokens
    router_logits: tuple[Tensor, ...] = ()  # (tokens, experts) a layer, where they were asked for
    weights: Tensor | None = None  # (tokens,) of these tokens: sequences that they belong to


def plain_states(
    backbone: nn.Module, packed: PackedBatch, *, padded: bool, routers: bool = False
) -> RowStates:
    """The hidden states that predict the row's scored tokens, and with `routers` the routers' logits.

    `padded` runs sequences of like length together, padded at their ends; without, each is run alone.
    """
    tree, device = packed.tree, packed.input_ids.device
    leaves = leaf_paths(tree)
    if padded:
        leaves.sort(key=lambda leaf: leaf.length)
    at = torch.zeros(len(packed.input_ids), dtype=torch.long)  # row position → place among all states
    states: list[Tensor] = []
    logits: list[tuple[Tensor, ...]] = []
    weights: list[Tensor] = []
    before = 0
    for group in _groups(leaves) if padded else ([leaf] for leaf in leaves):
        ids = [packed.input_ids[leaf.positions(tree).to(device)] for leaf in group]
        lengths = [leaf.length for leaf in group]
        output = _run(backbone, ids, lengths, routers=routers)
        found: Tensor = output.last_hidden_state
        for place, leaf in enumerate(group):
            own = leaf.positions(tree)
            at[own] = before + place * found.shape[1] + torch.arange(leaf.length)
            weights.append((torch.arange(found.shape[1]) < leaf.length).float())
        before += found.shape[0] * found.shape[1]
        states.append(found.flatten(0, 1))
        if routers:
            logits.append(tuple(each.reshape(-1, each.shape[-1]) for each in output.router_logits))
    scored = torch.cat(states)[at.to(device)[packed.predictors]]
    by_layer = tuple(torch.cat(each) for each in zip(*logits, strict=True))
    return RowStates(scored, by_layer, torch.cat(weights).to(device) if routers else None)


def computed_tokens(tree: Tree) -> int:
    """Tokens that the plain engine computes for a row, padding not counted."""
    return sum(leaf.length for leaf in leaf_paths(tree))


@dataclass(frozen=True)
class _Leaf:
    """One sequence of a row: the nodes of its path, root first, and its tokens."""

    nodes: tuple[int, ...]
    length: int

    def positions(self, tree: Tree) -> Tensor:
        """(tokens,) positions of the sequence's tokens in the row."""
        return torch.cat([torch.arange(tree.nodes[i].start, tree.nodes[i].end) for i in self.nodes])


def leaf_paths(tree: Tree) -> list[_Leaf]:
    """The sequences of a row that are no beginning of another, in the order of the row."""
    inner = {ancestor for node in tree.nodes for ancestor in node.ancestors}
    leaves = []
    last = len(tree.nodes) - 1
    for number, node in enumerate(tree.nodes):
        if number not in inner and not (tree.filled and number == last):
            path = (*node.ancestors, number)
            leaves.append(_Leaf(path, sum(tree.nodes[i].end - tree.nodes[i].start for i in path)))
    return leaves


def _groups(leaves: Sequence[_Leaf]) -> list[list[_Leaf]]:
    """Neighbours that are run together; `leaves` are ordered by length."""
    groups: list[list[_Leaf]] = []
    tokens = 0
    for leaf in leaves:
        if groups and leaf.length * (len(groups[-1]) + 1) <= (tokens + leaf.length) * (1 + _PADDED):
            groups[-1].append(leaf)
            tokens += leaf.length
        else:
            groups.append([leaf])
            tokens = leaf.length
    return groups


def _run(backbone: nn.Module, ids: Sequence[Tensor], lengths: Sequence[int], *, routers: bool) -> Any:
    """The backbone's output for sequences, padded at their ends: states are (sequences, longest, hidden)."""
    options: dict[str, Any] = {"output_router_logits": True} if routers else {}
    if len(set(lengths)) > 1:
        places = torch.arange(max(lengths), device=ids[0].device)
        ends = torch.tensor(lengths).to(ids[0].device)
        options["attention_mask"] = (places[None, :] < ends[:, None]).long()
    rows = pad_sequence(list(ids), batch_first=True)
    return backbone(input_ids=rows, use_cache=False, **options)
