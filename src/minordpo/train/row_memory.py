"""What training keeps in memory, and how many tokens a packed row may have where a GPU's is short.

bytes that autograd keeps for a row, at two sizes ─► bytes a token
free memory, less gradients, optimizer and head   ─► tokens of a row
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from minordpo.data.packing import pack, tree_size
from minordpo.data.tokens import TokenExample
from minordpo.engine import head
from minordpo.engine.device import autocast, out_of_memory
from minordpo.engine.logprobs import engine_attention, packed_logps
from minordpo.engine.models import causal_model

# Tokens of a packed row: enough to fill the device, small enough that a row's activations stay modest.
TOKEN_BUDGET = {"cpu": 2048, "cuda": 16384}
OTHER_DEVICE = 8192
LEAST = 1024  # a row is not made shorter for memory before memory has run out
# Bytes of optimizer state a trained weight where the optimizer cannot be tried: AdamW's, two float32.
ADAMW_STATE = 8.0
# Of the free memory this share may be used: the allocator's blocks fit together badly.
_USED = 0.9
# Gradients of activations live while those are freed layer by layer: a layer's are taken for a third of all at most.
_BACKWARD = 1.3
_HEAD_COPIES = 3  # blocks of logits in float32 that the head's backward pass holds at a time
_SAMPLED = 32  # examples among which a typical one is looked for


class SavedBytes:
    """Bytes that autograd keeps for the backward pass; what several nodes keep is counted once, weights never.

    Under gradient checkpointing the layer being recomputed comes on top.
    """

    def __init__(self, model: nn.Module) -> None:
        self.bytes = 0
        self._seen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def counted(self) -> contextlib.AbstractContextManager:
        """Count within it."""
        return torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def optimizer_state_bytes(args: TrainingArguments) -> float | None:
    """Bytes of state that the run's optimizer keeps for a weight, tried on a small matrix; None where it cannot be."""
    weight = nn.Parameter(torch.zeros(256, 256, device=args.device))
    weight.grad = torch.ones_like(weight)
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = kind([weight], **options)
        optimizer.step()
    except Exception:  # some need a model, a library or a GPU that is not there, each with its own error
        return None
    kept = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
    return sum(value.nbytes for value in kept if value.numel() > 1) / weight.numel()


@dataclass(frozen=True)
class Room:
    """Bytes of a GPU: what is free, what training takes of it whatever the row, and what a token of a row takes."""

    free: float
    fixed: float
    token: float

    @property
    def tokens(self) -> int:
        """The tokens of a row that fits, between `LEAST` and what fills the device, in steps of 256."""
        fitting = int((_USED * self.free - self.fixed) / self.token) // 256 * 256
        return max(LEAST, min(TOKEN_BUDGET["cuda"], fitting))

    def __str__(self) -> str:
        return (
            f"{self.free / 1e9:.3g} GB are free, of which gradients, optimizer and head take {self.fixed / 1e9:.2g} GB "
            f"and a token of a row {self.token / 1e6:.2g} MB"
        )


def default_token_budget(
    policy: Any, args: TrainingArguments, examples: Sequence[TokenExample], *, beside: Any = None
) -> int:
    """Tokens of a packed row, of all ranks: on a GPU as many as its memory holds, up to what fills it.

    `beside` is another reference model. The result changes how a step is cut into rows and never what is optimised.
    """
    kind = args.device.type
    if kind != "cuda":
        return TOKEN_BUDGET.get(kind, OTHER_DEVICE)
    tokens, why = TOKEN_BUDGET["cuda"], ""
    # A model that will be sharded stands elsewhere until then.
    if next(policy.parameters()).device.type == kind:
        try:
            room = measure_room(policy, args, examples, beside=beside)
            tokens, why = room.tokens, str(room)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            tokens, why = LEAST, "memory ran out on a row of a few prompts"
            torch.cuda.empty_cache()
    fewest = min(gather_object([tokens])) if args.world_size > 1 else tokens
    if why and args.process_index == 0:
        print(
            f"token budget: {fewest} tokens a row, since {why}; training.token_budget sets another",
            flush=True,
        )
    return fewest


def measure_room(
    policy: Any, args: TrainingArguments, examples: Sequence[TokenExample], *, beside: Any = None
) -> Room:
    """Run a typical prompt forward, alone and beside copies, and count what is kept for the backward pass."""
    device = args.device
    sample = [examples[i] for i in range(min(_SAMPLED, len(examples)))]
    example = sorted(sample, key=tree_size)[len(sample) // 2]
    sizes, kept = [], []
    training = policy.training
    policy.train()
    try:
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            engine_attention(policy),
            autocast(args),
        ):
            for copies in (1, 3):
                row = pack([example] * copies).to(device)
                saved = SavedBytes(policy)
                with saved.counted():
                    logps = packed_logps(policy, row)
                sizes.append(len(row.input_ids))
                kept.append(saved.bytes)
                del logps
    finally:
        policy.train(training)
    token = (kept[1] - kept[0]) / (sizes[1] - sizes[0])
    once = max(0.0, kept[0] - token * sizes[0])  # weights that autocast narrows
    config = causal_model(policy).config.get_text_config()
    if _checkpointing(
        args
    ):  # a layer's input each, and one layer whole; Trainer switches it on when it trains
        inputs = config.num_hidden_layers * config.hidden_size * 4
        token, once = inputs + token / config.num_hidden_layers, once / config.num_hidden_layers
    trained = [p for p in policy.parameters() if p.requires_grad]
    state = optimizer_state_bytes(args)
    block = head.BLOCK.get(device.type, head.BLOCK["cuda"])
    fixed = (
        sum(p.nbytes for p in trained)
        + (ADAMW_STATE if state is None else state) * sum(p.numel() for p in trained)
        + _HEAD_COPIES * 4 * block[0] * min(block[1], config.vocab_size)
        + once
        + sum(p.nbytes for p in ([] if beside is None else beside.parameters()) if p.device != device)
    )
    return Room(float(_free(device)), fixed, _BACKWARD * token)


def _checkpointing(args: TrainingArguments) -> bool:
    """transformers 5.23 renames it from gradient to activation checkpointing."""
    name = "activation" if hasattr(args, "activation_checkpointing") else "gradient"
    return bool(getattr(args, f"{name}_checkpointing"))


def _free(device: torch.device) -> int:
    """Bytes that the driver has free, and those that torch holds and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
