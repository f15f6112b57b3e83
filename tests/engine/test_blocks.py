"""A long node is attended in blocks of its queries, as it is in one piece, in value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from minordpo.data.packing import Node, Tree
from minordpo.engine import attention, products

# A short prompt, a long branch and a branch of a few tokens.
NODES = (Node(0, 5, ()), Node(5, 42, (0,)), Node(42, 46, (0,)))
LENGTH = NODES[-1].end


def tree() -> Tree:
    return Tree(NODES, torch.zeros(LENGTH, dtype=torch.int64))


@pytest.fixture(autouse=True)
def no_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "MOST_PRODUCTS", {})


def row(dtype: torch.dtype) -> list[Tensor]:
    numbers = torch.Generator().manual_seed(0)
    made = [torch.randn(1, heads, LENGTH, 16, generator=numbers) for heads in (6, 2, 2)]
    return [each.to(dtype).requires_grad_() for each in made]


def found(inputs: list[Tensor], window: int | None, **special: Any) -> list[Tensor]:
    """The attention's output and its gradients, in float64."""
    wanted = [*inputs, special["sinks"]] if special.get("sinks") is not None else inputs
    output = attention._node_by_node(*inputs, tree(), 0.3, window, **special)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return [each.detach().double() for each in (output, *torch.autograd.grad(output, wanted, grad))]


@pytest.mark.parametrize("block", [1, 4, 16])
@pytest.mark.parametrize("window", [None, 1, 3, 12, 40])
@pytest.mark.parametrize("special", ["none", "softcap", "sinks"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_blocks_equal_one_piece_in_value_and_gradient(dtype, tolerance, special, window, block, monkeypatch):
    options: dict[str, Any] = {}
    if special == "softcap":
        options["softcap"] = 2.0
    if special == "sinks":
        options["sinks"] = torch.linspace(-1, 1, 6, dtype=dtype).requires_grad_()
    inputs = row(dtype)
    monkeypatch.setattr(attention, "_BLOCK", LENGTH)
    whole = found(inputs, window, **options)
    monkeypatch.setattr(attention, "_BLOCK", block)
    cut = found(inputs, window, **options)
    for one, other in zip(cut, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_in_bfloat16_blocks_are_about_as_near_to_exact_as_one_piece(monkeypatch):
    inputs = row(torch.bfloat16)
    monkeypatch.setattr(attention, "_BLOCK", LENGTH)
    exact = found([each.detach().double().requires_grad_() for each in inputs], None)
    whole = found(inputs, None)
    monkeypatch.setattr(attention, "_BLOCK", 8)
    cut = found(inputs, None)
    for one, other, true in zip(cut, whole, exact, strict=True):
        assert (one - true).norm() <= 2 * (other - true).norm()
        assert (one - true).norm() <= 0.01 * true.norm()


@pytest.mark.parametrize(
    ("window", "expected"),
    [(None, [(16, 21), (16, 37), (5, 42), (4, 9)]), (3, [(16, 18), (16, 18), (5, 7), (4, 6)])],
)
def test_a_block_meets_no_keys_behind_it_and_none_before_its_window(window, expected, monkeypatch):
    met = []
    compute = torch.nn.functional.scaled_dot_product_attention

    def counted(query: Tensor, key: Tensor, *rest: Any, **named: Any) -> Tensor:
        met.append((query.shape[2], key.shape[2]))
        return compute(query, key, *rest, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    monkeypatch.setattr(attention, "_BLOCK", 16)
    found(row(torch.float32), window)
    assert met == [(5, 5), *expected]


@pytest.mark.parametrize("window", [None, 4])
def test_a_mask_that_is_cut_from_a_larger_one_is_the_mask_made_by_itself(window):
    like, shared = torch.zeros(1), tree()
    for own, length in ((3, 9), (9, 9), (2, 30), (12, 14), (1, 1), (5, 8)):
        positions = torch.arange(length - own, length)[:, None]
        keys = torch.arange(length)[None]
        seen = (keys <= positions) & (positions - keys < (window or length))
        assert torch.equal(attention._mask(shared, own, length, window, like) == 0, seen)
    assert len(shared.cache) == 1
