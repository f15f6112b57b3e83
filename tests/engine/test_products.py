"""Plain products are the attention that scaled_dot_product_attention computes, in value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minordpo.data.packing import Node, Tree
from minordpo.engine import attention, products

# A prompt with three branches, one of them with two more, and a second prompt; some spans are a token long.
SPANS = [
    (0, 9, ()),
    (9, 14, (0,)),
    (14, 15, (0,)),
    (15, 40, (0,)),
    (40, 46, (0, 3)),
    (46, 53, (0, 3)),
    (53, 61, ()),
]
NODES = tuple(Node(*each) for each in SPANS)
LENGTH = NODES[-1].end


def tree() -> Tree:
    return Tree(NODES, torch.zeros(LENGTH, dtype=torch.int64))


def row(kv_heads: int, dtype: torch.dtype, *, seed: int = 0) -> list[Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    made = [torch.randn(1, heads, LENGTH, 16, generator=numbers) for heads in (6, kv_heads, kv_heads)]
    return [each.to(dtype).requires_grad_() for each in made]


def found(inputs: list[Tensor], window: int | None) -> list[Tensor]:
    """The attention's output and its gradients, in float64."""
    output = attention._node_by_node(*inputs, tree(), 0.3, window)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return [each.detach().double() for each in (output, *torch.autograd.grad(output, inputs, grad))]


def without_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MOST_PRODUCTS", {})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Queries and keys of each node that products computed."""
    seen: list[tuple[int, int]] = []
    compute = products.attention_by_products

    def counted(query: Tensor, key: Tensor, *rest: Any) -> Tensor:
        seen.append((query.shape[2], key.shape[2]))
        return compute(query, key, *rest)

    monkeypatch.setattr(products, "attention_by_products", counted)
    return seen


@pytest.mark.parametrize("window", [None, 3, 12])
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_products_equal_sdpa_in_value_and_gradient(dtype, tolerance, kv_heads, window, calls, monkeypatch):
    inputs = row(kv_heads, dtype)
    ours = found(inputs, window)
    assert len(calls) == len(NODES)
    without_products(monkeypatch)
    stock = found(inputs, window)
    assert len(calls) == len(NODES)
    for one, other in zip(ours, stock, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_in_bfloat16_products_are_about_as_near_to_exact_as_sdpa(kv_heads, monkeypatch):
    inputs = row(kv_heads, torch.bfloat16)
    exact = found([each.detach().double().requires_grad_() for each in inputs], None)
    ours = found(inputs, None)
    without_products(monkeypatch)
    stock = found(inputs, None)
    for one, other, true in zip(ours, stock, exact, strict=True):
        assert (one - true).norm() <= 2 * (other - true).norm()
        assert (one - true).norm() <= 0.01 * true.norm()


def test_only_short_nodes_are_products(calls, monkeypatch):
    monkeypatch.setattr(products, "MOST_PRODUCTS", {torch.float32: 5 * 14})
    found(row(2, torch.float32), None)
    assert calls == [(5, 14), (1, 10), (8, 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_node_has_the_same_bits_in_every_row(dtype):
    query, key, value = row(2, dtype)
    whole = attention._node_by_node(query, key, value, tree(), 0.3, None)
    start = NODES[-1].start
    alone = Tree((Node(0, LENGTH - start, ()),), torch.zeros(LENGTH - start, dtype=torch.int64))
    cut = attention._node_by_node(*(each[:, :, start:] for each in (query, key, value)), alone, 0.3, None)
    assert torch.equal(whole[:, start:], cut)


def test_under_autocast_a_row_is_narrowed_once_to_the_bits_that_sdpa_narrows_to(monkeypatch):
    query, key, value = row(2, torch.float32)
    module = torch.nn.Module()
    without_products(monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        narrowed, _ = attention.tree_attention(module, query, key, value, None, tree=tree(), scaling=0.3)
        later = attention._node_by_node(query, key, value, tree(), 0.3, None)
    assert narrowed.dtype == torch.bfloat16
    assert torch.equal(narrowed, later)
