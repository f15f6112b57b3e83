"""PackedBatch → attention: each token sees its own root-to-leaf path.

Plugs in through transformers' `AttentionInterface`; the tree travels as a forward argument, so a recomputation
under gradient checkpointing, in whatever thread, finds the tree of its own batch.

tree_attention
  ├─ in half precision on a GPU: one flash-attention call over all nodes, keys and values gathered path by path
  └─ else: node by node, with scaled_dot_product_attention
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, PreTrainedModel

from minordpo.data.packing import Node, Tree
from minordpo.errors import InputError

NAME = "minordpo_tree"
# What models also pass to their attention, and which changes nothing here: positions are in the rotary embeddings, and
# a packed row has no cache and returns no weights.
_HARMLESS = {
    *("position_ids", "cache_position", "use_cache", "past_key_values", "return_dict", "num_items_in_batch"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "deterministic"),
}
_HALF = (torch.bfloat16, torch.float16)
_GROUPED = "enable_gqa" in inspect.signature(varlen_attn).parameters  # since torch 2.12


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: Tree | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over one packed row.

    `query` is (1, heads, tokens, head_dim), `key` and `value` (1, kv_heads, tokens, head_dim); the result is
    (1, tokens, heads, head_dim), as transformers' attention functions return it.

    Raises:
        RuntimeError: no tree came with the call, or a mask did. Attention without its tree would be silently
            wrong.
        InputError: the model passes a keyword that may change its attention, and that is not known here.
    """
    _refuse_unknown(module, kwargs)
    if tree is None or attention_mask is not None:
        raise RuntimeError(
            f"{type(module).__name__} called the tree attention "
            + ("without a tree" if tree is None else "with an attention mask")
            + "; run the model through engine.logprobs.packed_logps, or under "
            "engine.attention.attention_switched with its stock implementation to generate"
        )
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    lowered = _lowered(query)
    if softcap is None and s_aux is None and not dropout and _is_flash(query, lowered):
        refuse_wrong_kernel(query.device, lowered)
        q, k, v = (x.to(lowered) for x in (query, key, value))
        return _in_one_call(q, k, v, tree, scaling, sliding_window), None
    return _node_by_node(query, key, value, tree, scaling, sliding_window, dropout, softcap, s_aux), None


def _refuse_unknown(module: nn.Module, keywords: dict[str, Any]) -> None:
    causal = keywords.pop("is_causal", None) is not False
    unknown = [name for name, value in keywords.items() if value is not None and name not in _HARMLESS]
    if unknown or not causal:
        kind = getattr(getattr(module, "config", None), "model_type", "unknown")
        raise InputError(
            f"the attention of this model (architecture {kind}, {type(module).__name__}) is called with "
            f"{', '.join(unknown) or 'is_causal=False'}, which packed rows cannot honour. Train a model of another "
            "architecture, or report this one"
        )


# ---- node by node ----
def _node_by_node(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tree: Tree,
    scaling: float,
    window: int | None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    # One split, whose backward is one concatenation; slices would each pad their gradient to the whole row.
    sizes = [node.end - node.start for node in tree.nodes]
    queries, keys, values = (x.split(sizes, dim=2) for x in (query, key, value))
    outputs = []
    for number, node in enumerate(tree.nodes):
        path = (*node.ancestors, number)
        k = keys[number] if len(path) == 1 else torch.cat([keys[i] for i in path], dim=2)
        v = values[number] if len(path) == 1 else torch.cat([values[i] for i in path], dim=2)
        outputs.append(_attend(queries[number], k, v, tree, scaling, dropout, window, softcap, sinks))
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tree: Tree,
    scaling: float,
    dropout: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Causal attention of the last `query.shape[2]` tokens of a path over the whole path."""
    own, length = query.shape[2], key.shape[2]
    if window is not None:
        seen = min(length, own + window - 1)  # no query of this node reaches further back
        key, value, length = key[:, :, length - seen :], value[:, :, length - seen :], seen
        window = None if window >= length else window
    if softcap is None and sinks is None:
        if own == length and window is None:
            return F.scaled_dot_product_attention(
                query, key, value, is_causal=own > 1, scale=scaling, dropout_p=dropout
            )
        mask = _mask(tree, own, length, window, query)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, dropout_p=dropout
        )
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + _mask(tree, own, length, window, query)
    if sinks is not None:
        scores = torch.cat([scores, sinks.reshape(1, -1, 1, 1).expand(-1, -1, own, 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32))[
        ..., :length
    ].to(query.dtype)
    return F.dropout(weights, dropout) @ value


def _mask(tree: Tree, own: int, length: int, window: int | None, like: Tensor) -> Tensor:
    """(own, length) additive mask, aligned at the end of the path."""
    key = (own, length, window, like.dtype, like.device)
    if key not in tree.cache:
        positions = torch.arange(length - own, length, device=like.device)[:, None]
        keys = torch.arange(length, device=like.device)[None, :]
        hidden = keys > positions
        if window is not None:
            hidden = hidden | (positions - keys >= window)
        mask = torch.zeros(own, length, dtype=like.dtype, device=like.device)
        tree.cache[key] = mask.masked_fill_(hidden, float("-inf"))
    return tree.cache[key]


# ---- all nodes in one call ----
@dataclass(frozen=True, eq=False)
class _Paths:
    """A row's nodes as flash attention wants them: a node is a sequence of queries, its path their keys."""

    keys: Int[Tensor, "path_tokens"]  # row positions, path after path
    query_ends: Int[Tensor, "nodes_and_1"]  # int32, from 0
    key_ends: Int[Tensor, "nodes_and_1"]
    most_queries: int
    most_keys: int

    @classmethod
    def of(cls, tree: Tree, device: torch.device) -> _Paths:
        spans = [np.arange(node.start, node.end) for node in tree.nodes]
        paths = [
            np.concatenate([spans[number] for number in (*node.ancestors, own)])
            for own, node in enumerate(tree.nodes)
        ]
        queries, keys = [len(span) for span in spans], [len(path) for path in paths]
        ends = torch.from_numpy(np.cumsum([[0, *queries], [0, *keys]], axis=1)).int().to(device)
        row = torch.from_numpy(np.concatenate(paths)).to(device)
        return cls(row, ends[0], ends[1], max(queries), max(keys))


def _lowered(query: Tensor) -> torch.dtype:
    """The dtype attention is computed in: rotary embeddings leave queries and keys in float32 under autocast."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def _is_flash(query: Tensor, lowered: torch.dtype) -> bool:
    """Whether torch's flash attention can run; its backward pass adds in any order, so not where that is forbidden."""
    return (
        query.is_cuda
        and lowered in _HALF
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
        and not torch.are_deterministic_algorithms_enabled()
    )


def _in_one_call(
    query: Tensor, key: Tensor, value: Tensor, tree: Tree, scaling: float, window: int | None
) -> Tensor:
    """Each node's queries are the last of its path, and the kernel aligns a causal mask there."""
    paths = tree.cache.get(_Paths)
    if paths is None:
        paths = tree.cache[_Paths] = _Paths.of(tree, query.device)
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
            exact = _node_by_node(q.float(), k.float(), v.float(), tree, 0.5, window)
            difference = (_in_one_call(q, k, v, tree, 0.5, window) - exact).abs().max().item()
            if not difference < 2**-4:
                raise InputError(
                    f"torch {torch.__version__}'s flash attention differs by {difference:.2g} from plain attention, "
                    "but only rounding is expected. Set training.full_determinism=true, which goes without it, and "
                    "report this"
                )


AttentionInterface.register(NAME, tree_attention)


def stock_implementation(model: PreTrainedModel) -> str:
    """The stock attention that computes what the model means: sdpa knows neither soft-caps nor sinks."""
    config = model.config.get_text_config()
    special = getattr(config, "attn_logit_softcapping", None) or any(
        hasattr(module, "sinks") for module in model.modules()
    )
    return "eager" if special or not model._supports_sdpa else "sdpa"


@contextlib.contextmanager
def attention_switched(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Run the model with another attention, its own restored after: `NAME` to train, a stock one to generate.

    The switch must outlive the backward pass, since gradient checkpointing runs the attention again there.
    """
    before = model.config._attn_implementation
    model.config._attn_implementation = implementation
    try:
        yield
    finally:
        model.config._attn_implementation = before
