"""All nodes of a packed row in one flash-attention call, in half precision on a GPU.

A node is a sequence of queries, its path their keys; keys and values are gathered path by path. The kernel is torch's
own, or FlashAttention 3 in its place.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn

from minordpo.data.packing import Node, Tree, on_device
from minordpo.errors import InputError

_HALF = (torch.bfloat16, torch.float16)
_HOPPER = 9  # compute capability 9.x, which FlashAttention 3 is written for
_FA3_MODULE = "flash_attn_interface"  # where torch.nn.attention looks for it
# Values and gradients of the comparison are below 8 in size. A mask aligned otherwise differs by 1 and more.
_ROUNDING = 2**-3
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
        ends = on_device(torch.from_numpy(np.cumsum([[0, *queries], [0, *keys]], axis=1)).int(), device)
        row = on_device(torch.from_numpy(np.concatenate(paths)), device)
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
def prepare(device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Choose the flash attention of this process and compare it with plain attention, once for each kind of head.

    On Hopper FlashAttention 3 takes the place of torch's own where its package is installed and passes the comparison.
    Which one trains is said once. One that the user has activated stays.

    Raises:
        InputError: flash attention differs from plain attention by more than rounding.
    """
    if torch.cuda.get_device_capability(device)[0] == _HOPPER:
        _prefer_fa3(device, dtype, head_dim)
    refuse_wrong_kernel(device, dtype, head_dim)


def _prefer_fa3(device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    why_not = _activated()
    if why_not is None:
        return
    if not why_not and replaced_by() is not None:
        why_not = _unfit(device, dtype, head_dim)
        if why_not:
            torch.nn.attention.restore_flash_attention_impl()
    if why_not:
        _say(
            f"attention: torch's own flash attention trains; FlashAttention 3 is faster on this GPU, but {why_not}"
        )
    elif replaced_by() is not None:
        _say("attention: FlashAttention 3 trains")


def replaced_by() -> str | None:
    """The implementation that stands in the place of torch's own flash attention, in the whole process."""
    found = getattr(torch.nn.attention, "current_flash_attention_impl", None)
    return None if found is None else found()


def kernels_with_dropout() -> contextlib.AbstractContextManager:
    """What scaled_dot_product_attention may run where dropout is on: no replaced flash attention, which has none."""
    if replaced_by() is None:
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


@functools.cache
def _activated() -> str | None:
    """Switch FlashAttention 3 on, once a process; why it could not be, empty if it is on, None if another is on."""
    if replaced_by() is not None:
        return None
    activate = getattr(torch.nn.attention, "activate_flash_attention_impl", None)
    if activate is None:
        return f"torch {torch.__version__} cannot switch to it"
    if importlib.util.find_spec(_FA3_MODULE) is None:
        return f"its package flash_attn_3 (module {_FA3_MODULE}) is not installed"
    try:
        activate("FA3")
    except Exception as error:  # a package built for another torch fails with its own error
        return _in_words(error)
    return ""


def _unfit(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why FlashAttention 3 cannot train heads of this size; empty where it can."""
    try:
        difference = difference_from_plain(device, dtype, head_dim)
    except (
        Exception
    ) as error:  # a package built without this head or without windows fails with its own error
        return f"with {head_dim} entries a head it raises {_in_words(error)}"
    if difference < _ROUNDING:
        return ""
    return f"with {head_dim} entries a head it differs by {difference:.2g} from plain attention"


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@functools.cache
def _say(text: str) -> None:
    if not (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_rank()
    ):
        print(text, file=sys.stderr, flush=True)


def refuse_wrong_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
    """Compare the kernel with plain attention: how it aligns masks is not in its contract.

    Raises:
        InputError: they differ by more than rounding.
    """
    difference = difference_from_plain(device, dtype, head_dim)
    if not difference < _ROUNDING:
        raise InputError(
            f"torch {torch.__version__}'s flash attention differs by {difference:.2g} from plain attention, "
            "but only rounding is expected. Set training.full_determinism=true, which goes without it, and "
            "report this"
        )


def difference_from_plain(device: torch.device, dtype: torch.dtype, head_dim: int) -> float:
    """The largest difference of a value or a gradient from plain attention's, with and without a window."""
    nodes = (Node(0, 3, ()), Node(3, 5, (0,)), Node(5, 9, (0,)), Node(9, 11, (0, 2)))
    tree = Tree(nodes, torch.tensor([11] * 3 + [5] * 2 + [11] * 6))
    numbers = torch.Generator().manual_seed(0)
    given = [
        torch.randn(1, heads, 11, head_dim, generator=numbers).to(device, dtype).requires_grad_()
        for heads in (4, 2, 2)
    ]
    q, k, v = given
    weights = torch.randn(1, 11, 4, head_dim, generator=numbers).to(device, dtype)
    worst = 0.0
    # Hooks of its own, lest gradient checkpointing around the first call take these tensors for its own.
    kept = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    with torch.enable_grad(), torch.autocast(device.type, enabled=False), kept:
        for window in (None, 2):
            found = in_one_call(q, k, v, tree, 2 * head_dim**-0.5, window)
            exact = _plain(q.float(), k.float(), v.float(), tree, 2 * head_dim**-0.5, window)
            mine = (found, *torch.autograd.grad(found, given, weights))
            plain = (exact, *torch.autograd.grad(exact, given, weights.float()))
            gaps = torch.stack(
                [(a.float() - b.float()).abs().max() for a, b in zip(mine, plain, strict=True)]
            )
            worst = max(worst, gaps.nan_to_num(nan=math.inf).max().item())
    return worst
