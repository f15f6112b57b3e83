"""The head: log-probs without a (tokens, vocab) tensor, against log_softmax in value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from minordpo.engine import head as head_module
from minordpo.engine.head import LogitTransform, head_logps

PLAIN = LogitTransform()
TRANSFORMS = {
    "plain": PLAIN,
    "scaled": LogitTransform(scale=0.3),
    "capped": LogitTransform(softcap=2.0),
    "scaled and capped": LogitTransform(scale=2.5, softcap=1.5),
}


@pytest.fixture
def _many_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 3 tokens and 256 entries of the vocabulary."""
    monkeypatch.setattr(head_module, "BLOCK", {"cpu": (3, 256)})


def made(
    vocab: int, *, scored: int = 7, hidden: int = 5, bias: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, nn.Linear, Tensor]:
    """Hidden states, a head and targets, the targets at both ends of the vocabulary among them."""
    generator = torch.Generator().manual_seed(vocab)
    head = nn.Linear(hidden, vocab, bias=bias, dtype=dtype)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    states = torch.randn(scored, hidden, generator=generator, dtype=dtype).requires_grad_()
    targets = torch.randint(0, vocab, (scored,), generator=generator)
    targets[0], targets[1] = 0, vocab - 1
    return states, head, targets


def by_definition(states: Tensor, head: nn.Linear, targets: Tensor, transform: LogitTransform) -> Tensor:
    logits = head(states) * transform.scale
    if transform.softcap is not None:
        logits = torch.tanh(logits / transform.softcap) * transform.softcap
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.usefixtures("_many_slices")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("vocab", [2, 255, 256, 257, 512, 1000])
def test_head_equals_log_softmax_in_value_and_gradient(vocab: int, bias: bool, transform: str):
    states, head, targets = made(vocab, bias=bias)
    kind = TRANSFORMS[transform]
    coefficients = torch.linspace(-2, 1.5, len(states))
    expected = by_definition(states.double(), head.double(), targets, kind)
    wanted = torch.autograd.grad((coefficients * expected).sum(), [states, *head.parameters()])
    head.float()
    found = head_logps(states, head, targets, kind)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=5e-6)
    inputs = [states, *head.parameters()]
    for gradient, want in zip(torch.autograd.grad((coefficients * found).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(gradient, want.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_many_slices")
@pytest.mark.parametrize("transform", ["plain", "scaled and capped"])
def test_head_passes_a_gradient_check_in_float64(transform: str):
    states, head, targets = made(260, scored=3, hidden=2, bias=True, dtype=torch.float64)

    def computed(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return head_module._HeadLogps.apply(
            states, weight, bias, targets, TRANSFORMS[transform], torch.float64
        )

    assert torch.autograd.gradcheck(computed, (states, head.weight, head.bias))


@pytest.mark.usefixtures("_many_slices")
def test_the_slices_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch):
    states, head, targets = made(5000, dtype=torch.float64)
    sliced = head_logps(states, head, targets, PLAIN)
    monkeypatch.setattr(head_module, "BLOCK", {"cpu": (1 << 10, 1 << 11)})
    torch.testing.assert_close(head_logps(states, head, targets, PLAIN), sliced, rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("_many_slices")
def test_large_logits_do_not_overflow():
    states, head, targets = made(700)
    with torch.no_grad():
        states.mul_(300)
    expected = by_definition(states.double(), head.double(), targets, PLAIN)
    found = head_logps(states, head.float(), targets, PLAIN)
    assert found.isfinite().all()
    assert found.min() < -1000
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-3)


@pytest.mark.usefixtures("_many_slices")
def test_a_frozen_head_gets_no_gradient_and_passes_it_on():
    states, head, targets = made(600, bias=True)
    head.requires_grad_(False)
    expected = torch.autograd.grad(by_definition(states, head, targets, PLAIN).sum(), states)[0]
    head_logps(states, head, targets, PLAIN).sum().backward()
    torch.testing.assert_close(states.grad, expected, rtol=1e-4, atol=1e-5)
    assert head.weight.grad is None
    assert head.bias.grad is None


def test_frozen_states_leave_the_heads_gradient():
    states, head, targets = made(600)
    expected = torch.autograd.grad(by_definition(states, head, targets, PLAIN).sum(), head.weight)[0]
    head_logps(states.detach(), head, targets, PLAIN).sum().backward()
    torch.testing.assert_close(head.weight.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_many_slices")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_tokens_with_coefficient_zero_are_skipped_exactly(transform: str):
    states, head, targets = made(600, bias=True)
    kind = TRANSFORMS[transform]
    coefficients = torch.tensor([0.0, 1.0, 0.0, -2.0, 0.5, 0.0, 0.0])
    kept = coefficients.nonzero().squeeze(1)
    alone = states.detach()[kept].requires_grad_()
    wanted = torch.autograd.grad(
        (coefficients[kept] * head_logps(alone, head, targets[kept], kind)).sum(), [alone, *head.parameters()]
    )
    with torch.no_grad():
        states[coefficients == 0] = float("nan")  # whatever stands there must not get in
    head_logps(states, head, targets, kind).backward(coefficients)
    assert not states.grad[coefficients == 0].any()
    # Near, not equal: the normalizers come from products over seven rows here and over three there.
    for gradient, want in zip((states.grad[kept], head.weight.grad, head.bias.grad), wanted, strict=True):
        torch.testing.assert_close(gradient, want, rtol=1e-5, atol=1e-6)


def test_coefficients_that_are_all_zero_give_zero_gradients():
    states, head, targets = made(300, bias=True)
    head_logps(states, head, targets, PLAIN).backward(torch.zeros(len(states)))
    for tensor in (states, head.weight, head.bias):
        assert tensor.grad.shape == tensor.shape
        assert not tensor.grad.any()


class LargestTensor(TorchDispatchMode):
    """Records the number of entries of the largest tensor any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor):
                self.largest = max(self.largest, each.numel())
        return result


@pytest.mark.usefixtures("_many_slices")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_no_tensor_of_tokens_by_vocabulary_exists(transform: str):
    scored, vocab, hidden = 200, 4000, 8
    states, head, targets = made(vocab, scored=scored, hidden=hidden, bias=True)
    with LargestTensor() as record:
        head_logps(states, head, targets, TRANSFORMS[transform]).sum().backward()
    assert record.largest == max(head_module.LEAST_TOKENS * 256, vocab * hidden)
    with LargestTensor() as record:
        by_definition(states, head, targets, TRANSFORMS[transform]).sum().backward()
    assert record.largest == scored * vocab


def test_under_autocast_products_are_bfloat16_and_sums_float32():
    states, head, targets = made(600, bias=True)
    exact = by_definition(states, head, targets, PLAIN)
    wanted = torch.autograd.grad(exact.sum(), [states, *head.parameters()])
    with torch.autocast("cpu", torch.bfloat16):
        found = head_logps(states, head, targets, PLAIN)
    found.sum().backward()
    assert found.dtype == torch.float32
    assert 1e-4 < (found - exact).abs().max() < 0.05
    for gradient, want in zip((states.grad, head.weight.grad, head.bias.grad), wanted, strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient, want, rtol=0.05, atol=0.03)


class Config:
    """A model's config with just these attributes."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


def test_the_transform_is_read_under_each_architectures_names():
    assert LogitTransform.of(Config()) == PLAIN
    assert LogitTransform.of(Config(logits_scaling=4.0)) == LogitTransform(scale=0.25)
    assert LogitTransform.of(Config(logit_scale=4.0)) == LogitTransform(scale=4.0)
    assert LogitTransform.of(Config(final_logit_softcapping=30.0)) == LogitTransform(softcap=30.0)
    assert LogitTransform.of(Config(final_logit_softcapping=None)) == PLAIN


@pytest.mark.parametrize("others", [0, 1, 5, 40, 1500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_has_the_same_bits_whatever_else_the_row_holds(others: int, dtype: torch.dtype):
    states, head, targets = made(4500, scored=3 + 1500, hidden=24)
    alone = head_logps(states[:3].to(dtype), head.to(dtype), targets[:3], PLAIN)
    together = head_logps(states[: 3 + others].to(dtype), head, targets[: 3 + others], PLAIN)
    assert torch.equal(alone, together[:3])
