"""Which flash attention trains: FlashAttention 3 where it can, else torch's own, and what is said of it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from helpers.plain_flash import plain_varlen
from minordpo.engine import flash
from minordpo.errors import InputError

CPU = torch.device("cpu")


@dataclass
class Torch:
    """torch's switch of flash attention, in the place of the real one; the kernel is plain unless told."""

    active: str | None = None
    calls: list[str] = field(default_factory=list)
    failure: Exception | None = None
    kernel: Callable[..., Tensor] = plain_varlen  # FlashAttention 3's

    def activate(self, name: str) -> None:
        self.calls.append(name)
        if self.failure is not None:
            raise self.failure
        self.active = name

    def restore(self) -> None:
        self.calls.append("restored")
        self.active = None

    def varlen(self, *args, **named) -> Tensor:
        return (plain_varlen if self.active is None else self.kernel)(*args, **named)


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Torch:
    """A Hopper GPU with FlashAttention 3 installed, as far as the code can see."""
    found = Torch()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", found.activate)
    monkeypatch.setattr(torch.nn.attention, "restore_flash_attention_impl", found.restore)
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: found.active)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(flash, "varlen_attn", found.varlen)
    cached = (flash.prepare, flash._activated, flash._say)
    for each in cached:
        each.cache_clear()
    yield found
    for each in cached:
        each.cache_clear()


def test_on_hopper_flash_attention_3_is_switched_on_once_and_said(switch: Torch, capsys):
    for head_dim in (64, 128, 64):
        flash.prepare(CPU, torch.bfloat16, head_dim)
    assert switch.calls == ["FA3"]
    assert switch.active == "FA3"
    assert capsys.readouterr().err == "attention: FlashAttention 3 trains\n"


@pytest.mark.skipif(
    not hasattr(torch.nn.attention, "register_flash_attention_impl"), reason="torch 2.11 may be without"
)
@pytest.mark.parametrize("fits", [True, False])
def test_torchs_own_registry_is_asked_and_restored(fits: bool, monkeypatch):
    registry = importlib.import_module("torch.nn.attention._registry")
    handle = type("Handle", (), {"remove": lambda self: removed.append(self)})()
    removed: list[object] = []
    monkeypatch.setitem(registry._FLASH_ATTENTION_IMPLS, "FA3", lambda: handle)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def varlen(*args, **named) -> Tensor:
        kernel = plain_varlen if fits or flash.replaced_by() is None else wrong_gradient
        return kernel(*args, **named)

    monkeypatch.setattr(flash, "varlen_attn", varlen)
    cached = (flash.prepare, flash._activated, flash._say)
    for each in cached:
        each.cache_clear()
    try:
        flash.prepare(CPU, torch.bfloat16, 64)
        assert flash.replaced_by() == ("FA3" if fits else None)
        assert len(removed) == (not fits)
    finally:
        for each in cached:
            each.cache_clear()
        if flash.replaced_by() is not None:
            torch.nn.attention.restore_flash_attention_impl()


def test_one_that_the_user_has_activated_stays(switch: Torch, capsys):
    switch.active = "FA4"
    flash.prepare(CPU, torch.bfloat16, 64)
    assert (switch.active, switch.calls, capsys.readouterr().err) == ("FA4", [], "")


@pytest.mark.parametrize("capability", [(8, 0), (10, 0)])
def test_other_gpus_keep_torchs_own(capability, switch: Torch, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    flash.prepare(CPU, torch.bfloat16, 64)
    assert (switch.calls, capsys.readouterr().err) == ([], "")


def test_an_absent_package_is_named(switch: Torch, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for head_dim in (64, 128):
        flash.prepare(CPU, torch.bfloat16, head_dim)
    said = capsys.readouterr().err
    assert "torch's own flash attention trains" in said
    assert "package flash_attn_3 (module flash_attn_interface) is not installed" in said
    assert said.count("\n") == 1
    assert switch.calls == []


def test_a_torch_without_the_switch_is_said(switch: Torch, capsys, monkeypatch):
    for name in ("activate", "restore", "current"):
        monkeypatch.delattr(torch.nn.attention, f"{name}_flash_attention_impl")
    flash.prepare(CPU, torch.bfloat16, 64)
    assert f"torch {torch.__version__} cannot switch to it" in capsys.readouterr().err


def test_an_activation_that_fails_leaves_torchs_own_and_says_why(switch: Torch, capsys):
    switch.failure = ImportError("undefined symbol:\n _ZN3c10")
    flash.prepare(CPU, torch.bfloat16, 64)
    assert switch.active is None
    assert "torch's own flash attention trains" in (said := capsys.readouterr().err)
    assert "ImportError: undefined symbol: _ZN3c10" in said


def without_a_backward(*args, **named) -> Tensor:
    found = plain_varlen(*args, **named)
    found.register_hook(lambda grad: 1 / 0)
    return found


def wrong_gradient(*args, **named) -> Tensor:
    found = plain_varlen(*args, **named)
    return found.detach() + 2 * (found - found.detach())


def not_a_number(*args, **named) -> Tensor:
    return plain_varlen(*args, **named) * torch.nan


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (without_a_backward, "ZeroDivisionError"),
        (wrong_gradient, "differs by .* from plain attention"),
        (not_a_number, "differs by inf from plain attention"),
    ],
)
def test_where_it_cannot_train_it_is_switched_off_again(kernel, why, switch: Torch, capsys):
    switch.kernel = kernel
    flash.prepare(CPU, torch.bfloat16, 64)
    assert switch.calls == ["FA3", "restored"]
    said = capsys.readouterr().err
    assert "torch's own flash attention trains" in said
    assert re.search(why, said)


def test_a_wrong_kernel_of_torchs_own_is_still_refused(switch: Torch, monkeypatch):
    switch.failure = RuntimeError("no kernels")
    monkeypatch.setattr(flash, "varlen_attn", wrong_gradient)
    with pytest.raises(
        InputError, match=r"flash attention differs by .* Set training\.full_determinism=true"
    ):
        flash.prepare(CPU, torch.bfloat16, 64)


def test_another_head_that_it_cannot_train_ends_its_use_for_good(switch: Torch, capsys):
    flash.prepare(CPU, torch.bfloat16, 64)
    switch.kernel = wrong_gradient
    flash.prepare(CPU, torch.bfloat16, 128)
    switch.kernel = plain_varlen
    flash.prepare(CPU, torch.bfloat16, 256)
    assert switch.calls == ["FA3", "restored"]
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "attention: FlashAttention 3 trains"
    assert "with 128 entries a head it differs by" in said[1]
    assert len(said) == 2


def test_the_comparison_leaves_gradient_checkpointing_around_it_alone(switch: Torch):
    x = torch.ones(3, requires_grad=True)

    def run(x: Tensor) -> Tensor:
        flash.prepare(CPU, torch.bfloat16, 64)
        return (x * x).sin()

    checkpoint(run, x, use_reentrant=False).sum().backward()
    assert torch.allclose(x.grad, 2 * torch.cos(torch.ones(3)))


@pytest.mark.parametrize("active", [None, "FA3"])
def test_with_dropout_no_replaced_flash_attention_runs(active: str | None, switch: Torch):
    switch.active = active
    before = torch.backends.cuda.flash_sdp_enabled()
    with flash.kernels_with_dropout():
        assert torch.backends.cuda.flash_sdp_enabled() == (before and active is None)
        x = torch.ones(1, 1, 2, 8)
        assert F.scaled_dot_product_attention(x, x, x).equal(x)
    assert torch.backends.cuda.flash_sdp_enabled() == before
