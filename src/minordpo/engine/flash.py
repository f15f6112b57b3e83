"""All nodes of a packed row in one flash-attention call, in half precision on a GPU.

A node is a sequence of queries, its path their keys; keys and values are gathered path by path.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from minordpo.data.packing import Node, Tree
from minordpo.errors import InputError

_HALF = (torch.bfloat16, torch.float16)
_GROUPED = "enable_gqa" in inspect.signature(varlen_attn).parameters  # since torch 2.12


@dataclass(frozen=True, eq=False)
class Paths:
    """A row's nodes as flash attention wants them: a node is a sequence of queries, its path their keys."""

    keys: Int[Tensor, "path_tokens"]  # row positions, path after path
    query_ends: Int[Tensor, "nodes_and_1"]  # int32, from 0
    key_ends: Int[Tensor, "nodes_and_1"]
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, tree: Tree, device: torch.device) -> Paths:
        spans = [np.arange(node.start, node.end) for node in tree.nodes]
        paths = [
            np.concatenate([spans[number] for number in (*node.ancestors, own)])
            for own, node in enumerate(tree.nodes)
        ]
        queries, keys = [len(span) for span in spans], [len(path) for path in paths]
        ends = torch.from_numpy(np.cumsum([[0, *queries], [0, *keys]], axis=1)).int().to(device)
        row = torch.from_numpy(np.concatenate(paths)).to(device)
        return cls(row, ends[0], ends[1], max(queries), max(keys))


def lowered_dtype(query: Tensor) -> torch.dtype:
    """The dtype attention is computed in: rotary embeddings leave queries and keys in float32 under autocast."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def is_flash(query: Tensor, lowered: torch.dtype) -> bool:
    """Whether torch's flash attention can run; its backward pass adds in any order, so not where that is forbidden."""
    return (
        query.is_cuda
        and lowered in _HALF
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and not torch.are_deterministic_algorithms_enabled()
    )


def in_one_call(
    query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float, window: int | None
) -> Tensor:
    """Each node's queries are the last of its path, and the kernel aligns a causal mask there."""
    paths = tree.cache.get(Paths)
    if paths is None:
        paths = tree.cache[Paths] = Paths.of(tree, query.device)
    repeats = query.shape[1] // key.shape[1]
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    key, value = key.index_select(0, paths.keys), value.index_select(0, paths.keys)
    if repeats > 1 and not _GROUPED:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    grouped: dict[str, Any] = {"enable_gqa": True} if repeats > 1 and _GROUPED else {}
    output = varlen_attn(
        query,
        key,
        value,
        paths.query_ends,
        paths.key_ends,
        paths.most_queries,
        paths.most_keys,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        **grouped,
    )
    assert isinstance(output, Tensor)  # log-sum-exps come with it only where they are asked for
    return output[None]


def _plain(q: Tensor, k: Tensor, v: Tensor, tree: Tree, scaling: float, window: int | None) -> Tensor:
    """The same by torch's plain products, which no flash attention replaces."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    spans = [torch.arange(node.start, node.end, device=q.device) for node in tree.nodes]
    outputs = []
    for own, node in enumerate(tree.nodes):
        path = torch.cat([spans[number] for number in (*node.ancestors, own)])
        places = torch.arange(len(path), device=q.device)
        back = places[-len(spans[own]) :, None] - places
        seen = (back >= 0) & (back < (len(path) if window is None else window))
        with sdpa_kernel(SDPBackend.MATH):
            outputs.append(
                F.scaled_dot_product_attention(
                    q[:, :, spans[own]], k[:, :, path], v[:, :, path], attn_mask=seen, scale=scaling
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2)


@functools.cache
def refuse_wrong_kernel(device: torch.device, dtype: torch.dtype) -> None:
    """Compare the kernel with node by node, once a process: how it aligns masks is not in its contract.

    Raises:
        InputError: they differ by more than rounding.
    """
    nodes = (Node(0, 3, ()), Node(3, 5, (0,)), Node(5, 9, (0,)), Node(9, 11, (0, 2)))
    tree = Tree(nodes, torch.tensor([11] * 3 + [5] * 2 + [11] * 6))
    numbers = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 11, 16, generator=numbers).to(device, dtype) for heads in (4, 2, 2))
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for window in (None, 2):
            exact = _plain(q.float(), k.float(), v.float(), tree, 0.5, window)
            difference = (in_one_call(q, k, v, tree, 0.5, window) - exact).abs().max().item()
            if not difference < 2**-4:
                raise InputError(
                    f"torch {torch.__version__}'s flash attention differs by {difference:.2g} from plain attention, "
                    "but only rounding is expected. Set training.full_determinism=true, which goes without it, and "
                    "report this"
                )
