"""Attention of a short node by plain matrix products, forward and backward.

On a CPU the backward of `scaled_dot_product_attention` is slow on short sequences. The products below compute the same
sums; the heads that share keys are one product, so keys and values are not repeated.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# Queries × keys of a node up to which products are faster than `scaled_dot_product_attention`, by dtype; measured with
# 9 heads of 64 on one thread (docs/speed.md). The weights that the products keep stay small below it.
MOST_PRODUCTS = {torch.float32: 40_000, torch.bfloat16: 60_000, torch.float64: 40_000}


def are_faster(query: Tensor, key: Tensor) -> bool:
    """Whether products are the faster attention of these queries over these keys."""
    return query.device.type == "cpu" and query.shape[2] * key.shape[2] <= MOST_PRODUCTS.get(query.dtype, 0)


def attention_by_products(
    query: Float[Tensor, "1 heads queries dim"],
    key: Float[Tensor, "1 kv_heads keys dim"],
    value: Float[Tensor, "1 kv_heads keys value_dim"],
    mask: Float[Tensor, "queries keys"],
    scaling: float,
) -> Float[Tensor, "1 heads queries value_dim"]:
    """softmax(query · keyᵀ · scaling + mask) · value, in the dtype of the inputs; `mask` has no gradient."""
    return _Products.apply(query, key, value, mask, scaling)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> Tensor:
        heads, groups = query.shape[1], key.shape[1]
        grouped = (query * scaling).reshape(groups, -1, query.shape[3])
        scores = torch.bmm(grouped, key[0].transpose(1, 2))
        scores.view(groups, heads // groups, *mask.shape).add_(mask)
        weights = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(grouped, key, value, weights)
        ctx.scaling, ctx.shape = scaling, query.shape
        return torch.bmm(weights, value[0]).view(1, heads, query.shape[2], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grouped, key, value, weights = ctx.saved_tensors
        grad = grads[0].reshape(len(grouped), -1, value.shape[3])
        grad_value = torch.bmm(weights.transpose(1, 2), grad)
        grad_weights = torch.bmm(grad, value[0].transpose(1, 2))
        grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_query = torch.bmm(grad_scores, key[0]).mul_(ctx.scaling).view(ctx.shape)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), grouped)
        return grad_query, grad_key[None], grad_value[None], None, None
