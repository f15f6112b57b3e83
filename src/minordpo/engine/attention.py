"""PackedBatch → attention: each token sees its own root-to-leaf path.

Plugs in through transformers' `AttentionInterface`; the tree travels as a forward argument, so a recomputation
under gradient checkpointing, in whatever thread, finds the tree of its own batch.

tree_attention
  ├─ in half precision on a GPU: one flash-attention call over all nodes (engine/flash.py)
  └─ else: node by node, a short one on a CPU by plain products (engine/products.py), others by
     scaled_dot_product_attention, a long one in blocks of its queries
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

from minordpo.data.packing import Tree
from minordpo.engine import flash, products
from minordpo.errors import InputError

NAME = "minordpo_tree"
# What models also pass to their attention, and which changes nothing here: positions are in the rotary embeddings, and
# a packed row has no cache and returns no weights.
_HARMLESS = {
    *("position_ids", "cache_position", "use_cache", "past_key_values", "return_dict", "num_items_in_batch"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "deterministic"),
}
# Queries of a long node that are attended at once: keys behind a block are not computed only to be hidden (measured,
# docs/speed.md).
_BLOCK = 256
_MOST_BLOCKS = (
    16  # the gradient of a block's keys is padded with zeros to the whole path, so few and larger blocks
)


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
    # Once for the row: rotary embeddings leave queries and keys in float32 under autocast.
    lowered = flash.lowered_dtype(query)
    query, key, value = (x.to(lowered) for x in (query, key, value))
    if softcap is None and s_aux is None and not dropout and flash.is_flash(query, lowered):
        flash.prepare(query.device, lowered, query.shape[-1])
        return flash.in_one_call(query, key, value, tree, scaling, sliding_window), None
    with flash.kernels_with_dropout() if dropout else contextlib.nullcontext():
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
    plain = softcap is None and sinks is None
    kernel_skips = plain and window is None and own == length  # is_causal: what is hidden is not computed
    if own >= 2 * _BLOCK and not kernel_skips:
        key, value = _repeated(key, query), _repeated(value, query)
        size = max(_BLOCK, own // _MOST_BLOCKS)
        ends = [min(start + size, length) for start in range(length - own, length, size)]
        blocks = [
            _attend(each, key[:, :, :end], value[:, :, :end], tree, scaling, dropout, window, softcap, sinks)
            for each, end in zip(query.split(size, dim=2), ends, strict=True)
        ]
        return torch.cat(blocks, dim=2)
    if window is not None:
        seen = min(length, own + window - 1)  # no query of this node reaches further back
        key, value, length = key[:, :, length - seen :], value[:, :, length - seen :], seen
        window = None if window >= length else window
    if plain and not dropout and products.are_faster(query, key):
        return products.attention_by_products(
            query, key, value, _mask(tree, own, length, window, query), scaling
        )
    key, value = _repeated(key, query), _repeated(value, query)
    if plain:
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


def _repeated(key: Tensor, query: Tensor) -> Tensor:
    """Keys or values with a head for each head of the queries."""
    repeats = query.shape[1] // key.shape[1]
    return key.repeat_interleave(repeats, dim=1) if repeats > 1 else key


def _mask(tree: Tree, own: int, length: int, window: int | None, like: Tensor) -> Tensor:
    """(own, length) additive mask of the last `own` of `length` tokens.

    Masks of one window are aligned at their ends, so each is the corner of the largest.
    """
    key = (window, like.dtype, like.device)
    largest = tree.cache.get(key)
    if largest is None or largest.shape[0] < own or largest.shape[1] < length:
        rows, columns = (own, length) if largest is None else map(max, largest.shape, (own, length))
        positions = torch.arange(columns - rows, columns, device=like.device)[:, None]
        keys = torch.arange(columns, device=like.device)[None, :]
        hidden = keys > positions
        if window is not None:
            hidden = hidden | (positions - keys >= window)
        mask = torch.zeros(rows, columns, dtype=like.dtype, device=like.device)
        largest = tree.cache[key] = mask.masked_fill_(hidden, float("-inf"))
    corner = largest[largest.shape[0] - own :, largest.shape[1] - length :]
    return corner if like.device.type == "cpu" else corner.contiguous()  # kernels of a GPU want it aligned


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
