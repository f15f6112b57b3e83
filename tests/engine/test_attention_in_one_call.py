"""Attention over all nodes in one call, as GPUs compute it in half precision.

The kernel runs on GPUs alone. What is laid out for it is tested everywhere, with a plain stand-in that reads the same
layout; the kernel itself where there is a GPU.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from helpers.packed_and_plain import TOLERANCE, assert_close, compare
from helpers.plain_flash import plain_varlen
from helpers.tiny_models import ARCHITECTURES, odd_shapes, tiny
from minordpo.data.packing import pack
from minordpo.engine import flash
from minordpo.engine.attention import NAME, attention_switched, tree_attention
from minordpo.engine.flash import refuse_wrong_kernel
from minordpo.engine.logprobs import install, packed_logps
from minordpo.errors import InputError

BEYOND = ("Gemma2", "GptOss")  # soft-caps and sinks, which the kernel does not know
CALLED = sorted(set(ARCHITECTURES) - set(BEYOND))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of nodes of the calls, in the place of the kernel."""
    counted: list[int] = []

    def counting(*args, **kwargs) -> Tensor:
        counted.append(len(args[3]) - 1)
        return plain_varlen(*args, **kwargs)

    monkeypatch.setattr(flash, "varlen_attn", counting)
    monkeypatch.setattr(flash, "is_flash", lambda query, lowered: True)
    monkeypatch.setattr(flash, "prepare", lambda device, dtype, head_dim: None)
    return counted


@pytest.mark.parametrize("architecture", CALLED)
def test_one_call_equals_plain_in_value_and_gradient(architecture: str, calls: list[int]):
    items = odd_shapes()
    assert_close(compare(tiny(architecture), items))
    assert set(calls) == {len(pack(items).tree.nodes)}


def test_grouped_heads_reach_a_kernel_that_knows_them_as_they_are(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
):
    for grouped in (False, True):
        monkeypatch.setattr(flash, "_GROUPED", grouped)
        assert_close(compare(tiny("Llama"), odd_shapes()))
    assert calls


@pytest.mark.parametrize("architecture", BEYOND)
def test_soft_caps_and_sinks_go_node_by_node(architecture: str, calls: list[int]):
    assert_close(compare(tiny(architecture), odd_shapes()))
    assert not calls


@pytest.mark.parametrize("fault", ["a path without its prompt", "a path of its neighbour"])
def test_a_fault_in_a_path_breaks_the_tolerance_a_hundredfold(
    fault: str, calls: list[int], monkeypatch: pytest.MonkeyPatch
):
    made = flash.Paths.of

    def faulty(tree, device):
        nodes = list(tree.nodes)
        last = nodes[-1]
        if fault == "a path without its prompt":
            nodes[-1] = dataclasses.replace(last, ancestors=last.ancestors[1:])
        else:
            nodes[-1] = dataclasses.replace(last, ancestors=(*last.ancestors, len(nodes) - 2))
        return made(dataclasses.replace(tree, nodes=tuple(nodes), cache={}), device)

    monkeypatch.setattr(flash.Paths, "of", faulty)
    errors = compare(tiny("Llama"), odd_shapes())
    assert errors.values > 100 * TOLERANCE


def test_a_kernel_that_aligns_masks_otherwise_is_refused(calls: list[int], monkeypatch: pytest.MonkeyPatch):
    refuse_wrong_kernel(torch.device("cpu"), torch.bfloat16, 64)

    def at_the_start(query, key, value, query_ends, key_ends, *rest, **named) -> Tensor:
        return plain_varlen(query, key, value, query_ends, query_ends + 0 * key_ends, *rest, **named)

    monkeypatch.setattr(flash, "varlen_attn", at_the_start)
    with pytest.raises(
        InputError, match=r"differs by .* only rounding is expected\. Set training\.full_determ"
    ):
        refuse_wrong_kernel(torch.device("cpu"), torch.bfloat16, 64)


def test_half_precision_on_a_cpu_goes_node_by_node():
    query = torch.zeros(1, 2, 3, 8, dtype=torch.bfloat16)
    assert not flash.is_flash(query, torch.bfloat16)


# ---- the kernel itself ----
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention runs on GPUs alone")


@on_gpu
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kernel_equals_node_by_node_in_value_and_gradient(dtype, kv_heads, window, monkeypatch):
    tree = pack(odd_shapes()).tree
    tokens = tree.nodes[-1].end
    torch.manual_seed(0)
    shapes = ((4, tokens, 16), (kv_heads, tokens, 16), (kv_heads, tokens, 16))
    inputs = [torch.randn(1, *shape, device="cuda").to(dtype) for shape in shapes]
    weights = torch.randn(1, tokens, 4, 16, device="cuda")

    def run(cast: torch.dtype, one_call: bool) -> list[Tensor]:
        with monkeypatch.context() as patch:
            if not one_call:
                patch.setattr(flash, "is_flash", lambda query, lowered: False)
            given = [x.to(cast).requires_grad_() for x in inputs]
            fresh = dataclasses.replace(tree, cache={})
            found, _ = tree_attention(
                torch.nn.Identity(), *given, None, tree=fresh, scaling=0.3, sliding_window=window
            )
            (found * weights).sum().backward()
            assert (flash.Paths in fresh.cache) == one_call
        return [found, *(x.grad for x in given)]

    rounding = {torch.bfloat16: 2**-6, torch.float16: 2**-9}[dtype]
    for mine, exact in zip(run(dtype, True), run(torch.float64, False), strict=True):
        assert (mine - exact).abs().max() < rounding * exact.abs().max()


@on_gpu
@pytest.mark.parametrize("architecture", CALLED)
def test_under_autocast_on_a_gpu_one_call_is_as_near_to_exact_as_node_by_node(architecture: str, monkeypatch):
    model = tiny(architecture).cuda()
    install(model)
    batch = pack(odd_shapes()).to("cuda")

    def logps(one_call: bool, autocast: bool) -> Tensor:
        with monkeypatch.context() as patch, attention_switched(model, NAME), torch.no_grad():
            if not one_call:
                patch.setattr(flash, "is_flash", lambda query, lowered: False)
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                return packed_logps(model, batch)

    exact = logps(False, False)
    loop, call = ((logps(one_call, True) - exact).abs().max() for one_call in (False, True))
    assert call < 2 * loop + 1e-3
