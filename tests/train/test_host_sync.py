"""The host never waits for the device inside a step: nothing there reads a value off it.

A meta tensor has a shape and no values, so whatever would read one raises an error. What a GPU would do is therefore
run on the meta device; the whole trainer runs on the CPU, its reads counted.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.tiny_models import odd_shapes, tiny
from helpers.tiny_runs import RENAMED, text_rows, trainer
from minordpo.data import packing
from minordpo.data.tokens import TokenExample
from minordpo.engine import flash
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.logprobs import install
from minordpo.engine.models import causal_model
from minordpo.objectives import OBJECTIVES, resolve
from minordpo.train import step as step_module
from minordpo.train import trainer as trainer_module
from minordpo.train.loader import Packer, mismatched
from minordpo.train.step import Context, StepBatch, preference_step

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

KINDS = {"pairs": lambda n: n == 2, "ranked": lambda n: n > 1, "labelled": lambda n: n > 0}
CASES = [(name, kind) for name, spec in OBJECTIVES.items() for kind in sorted(spec.data)]
CASES += [("minordpo + 0.1*sft", "pairs")]


def examples(kind: str) -> list[TokenExample]:
    """Odd shapes as prompts of that kind."""
    found = [item for item in odd_shapes() if KINDS[kind](len(item.responses))]
    kept = {"pairs": 2, "ranked": 9, "labelled": 1}[kind]
    return [
        TokenExample(
            item.prompt_ids,
            item.responses[:kept],
            (float(row % 2),) if kind == "labelled" else item.grades,
            row=row,
        )
        for row, item in enumerate(found)
    ]


def unread(items: list[TokenExample], longest: int = 64) -> dict[Any, np.ndarray]:
    """Reference log-probs of all that the step meets, by number."""
    known = [*enumerate(items), *mismatched(list(enumerate(items)), longest)]
    return {
        index: np.zeros(sum(int(r.scored.sum()) for r in item.responses), np.float32) for index, item in known
    }


@pytest.fixture
def autocast_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch knows no autocast on the meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **named: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)


class Copies(TorchDispatchMode):
    """Counts copies between the host and the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("_to_copy", "copy_"):
            kinds = {each.device.type for each in (*args, found) if isinstance(each, torch.Tensor)}
            self.count += len(kinds) > 1
        return found


def step_on_meta(model: Any, items: list[TokenExample], name: str) -> StepBatch:
    """One step whose values nothing can read; its gradients have shapes alone."""
    model.to("meta").train()
    install(causal_model(model))
    objective = resolve(name, {})
    step = Packer(64, mismatch=objective.mismatched, longest=64)(list(enumerate(items))).to("meta")
    assert len(step.batches) > 1
    own, calls = packing.on_device, []

    def on_device(tensor: torch.Tensor, device: Any) -> torch.Tensor:
        calls.append(device)
        return own(tensor, device)

    with (
        attention_switched(causal_model(model), NAME),
        pytest.MonkeyPatch.context() as patch,
        Copies() as copies,
    ):
        for module in (step_module, flash):
            patch.setattr(module, "on_device", on_device)
        preference_step(
            model,
            step,
            Context(objective=objective, reference=unread(items)),
            scale=1.0,
            backward=torch.Tensor.backward,
            around_row=lambda last: contextlib.nullcontext(),
        )
    assert copies.count == len(calls)  # every copy is one that a GPU makes while the host goes on
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.is_meta for p in trained)
    return step


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_step_of_every_objective_reads_no_value(name: str, kind: str, adapter: bool, autocast_on_meta):
    model: Any = tiny("Llama")
    if adapter:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    step_on_meta(model, examples(kind), name)


@pytest.mark.parametrize("architecture", ["Qwen2", "Qwen3", "Gemma3", "Mistral"])
@pytest.mark.parametrize("one_call", [False, True], ids=["node by node", "one call"])
def test_neither_attention_reads_a_value(architecture: str, one_call: bool, autocast_on_meta, monkeypatch):
    if one_call:
        monkeypatch.setattr(flash, "is_flash", lambda query, lowered: True)
        monkeypatch.setattr(flash, "prepare", lambda device, dtype, head_dim: None)
    step = step_on_meta(tiny(architecture), examples("pairs"), "minordpo")
    assert all((flash.Paths in batch.tree.cache) == one_call for batch in step.batches)


class Reads(TorchDispatchMode):
    """Counts what would make a GPU's host wait: values read, and shapes that depend on values."""

    NAMES = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "_unique2",
        "unique_dim",
        "unique_consecutive",
    )

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        repeated = func is torch.ops.aten.repeat_interleave.Tensor and not (kwargs or {}).get("output_size")
        if name in self.NAMES or by_mask or repeated:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("item", lambda x: x.sum().item()),
        ("bool", lambda x: bool(x.any())),
        ("nonzero", lambda x: x.nonzero()),
        ("mask", lambda x: x[x > 0]),
        ("repeats", lambda x: x.repeat_interleave(x.long())),
        ("tolist", lambda x: x.tolist()),
        ("numpy", lambda x: x.numpy()),
    ],
)
def test_reads_are_counted(name, read):
    with counted() as counts:
        read(torch.ones(3))
    assert counts


@contextlib.contextmanager
def counted() -> Any:
    """Reads by dispatch, and those by methods that dispatch nothing."""
    reads = Reads()
    with pytest.MonkeyPatch.context() as patch, reads:
        for name in ("tolist", "numpy", "cpu", "__array__"):
            own = getattr(torch.Tensor, name)

            def counting(self: torch.Tensor, *args: Any, own=own, name=name, **named: Any) -> Any:
                reads.counts[name] += 1
                return own(self, *args, **named)

            patch.setattr(torch.Tensor, name, counting)
        yield reads.counts


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_the_trainer_reads_nothing_before_the_last_backward(adapter: bool, tmp_path, monkeypatch):
    found: list[tuple[int, Counter[str]]] = []

    def step(model: Any, step: StepBatch, *args: Any, **named: Any) -> Any:
        with counted() as counts:
            records = preference_step(model, step, *args, **named)
        found.append((len(step.batches), counts))
        return records

    monkeypatch.setattr(trainer_module, "preference_step", step)
    lora = LoraConfig(r=2, target_modules=["q_proj"]) if adapter else None
    trainer(
        tmp_path,
        pairs=text_rows(8),
        token_budget=32,
        peft_config=lora,
        per_device_train_batch_size=4,
        max_steps=2,
    ).train()
    assert len(found) == 2
    for rows, counts in found:
        assert rows > 1
        # The head leaves tokens without a coefficient out on a CPU alone.
        assert counts == Counter(nonzero=rows)


def test_copies_to_a_gpu_go_from_pinned_memory_and_do_not_block(monkeypatch):
    calls: list[Any] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: calls.append("pinned") or self)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **named: calls.append((args, named)) or self)
    x = torch.ones(2)
    packing.on_device(x, "cuda:1")
    assert calls == ["pinned", (("cuda:1",), {"non_blocking": True})]
    calls.clear()
    packing.on_device(x, "cpu")
    assert calls == [(("cpu",), {})]
