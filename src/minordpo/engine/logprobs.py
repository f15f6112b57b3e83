"""model × PackedBatch → log-probs of the scored tokens.

packed forward (inside the wrapped model's own forward, so that DDP, FSDP and ZeRO hooks fire)
  └─ backbone(input_ids, position_ids, tree)      → hidden states (1, tokens, hidden)
       └─ head, on the predicting positions only  → token_logps (scored,) float32
            └─ vocabulary slice by vocabulary slice: no (tokens, vocab) tensor exists
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from minordpo.data.packing import PackedBatch
from minordpo.errors import InputError

# Logits held at a time: small enough for a CPU's caches, 8 MiB in float32. On a GPU the slices are larger.
_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 27}


@dataclass(frozen=True)
class LogitTransform:
    """What a model does to its logits after the head: multiply by `scale`, then soft-cap."""

    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, config: Any) -> LogitTransform:
        """Read the transform off a model's config; names differ between architectures.

        A model that does something not listed here is caught by the check at the start of each run.
        """
        scale = 1.0
        if getattr(config, "logits_scaling", None):  # Granite divides
            scale = 1.0 / config.logits_scaling
        elif getattr(config, "logit_scale", None):  # Cohere multiplies
            scale = float(config.logit_scale)
        return cls(scale, getattr(config, "final_logit_softcapping", None))

    def __call__(self, logits: Tensor) -> Tensor:
        """The transformed logits, in place where the input allows it."""
        if self.scale != 1.0:
            logits = logits.mul_(self.scale)
        if self.softcap is not None:
            logits = logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def backward_(self, grad: Tensor, logits: Tensor) -> Tensor:
        """Gradient before the transform, in place, given the gradient after it and the transformed logits."""
        if self.softcap is not None:
            grad.mul_(1 - (logits / self.softcap) ** 2)
        return grad.mul_(self.scale) if self.scale != 1.0 else grad


class _HeadLogps(torch.autograd.Function):
    """log softmax(head(hidden))[target], vocabulary slice by slice, recomputed in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        dtype: torch.dtype,
    ) -> Tensor:
        hidden = hidden.to(dtype)
        width = _slice_width(hidden, weight)
        maximum = torch.full((len(hidden),), float("-inf"), dtype=_sums(dtype), device=hidden.device)
        total = torch.zeros_like(maximum)
        picked = torch.zeros_like(maximum)
        for start in range(0, len(weight), width):
            logits = _logits(hidden, weight, bias, slice(start, start + width), transform)
            inside = ((targets >= start) & (targets < start + width)).nonzero().squeeze(1)
            picked[inside] = logits[inside, targets[inside] - start]
            higher = torch.maximum(maximum, logits.amax(dim=1))
            total.mul_((maximum - higher).exp_()).add_(logits.sub_(higher[:, None]).exp_().sum(dim=1))
            maximum = higher
        normalizer = maximum + total.log()
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer)
        ctx.transform = transform
        return picked - normalizer

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizer = ctx.saved_tensors
        (coefficients,) = grads
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        # Tokens without a coefficient add exactly nothing: DPO's common beginnings, MinorDPO's closed gates.
        kept = coefficients.nonzero().squeeze(1)
        everything = len(kept) == len(coefficients)
        if not everything:
            hidden, targets = hidden[kept], targets[kept]
            normalizer, coefficients = normalizer[kept], coefficients[kept]
        grad_hidden = hidden.new_zeros(hidden.shape, dtype=_sums(hidden.dtype)) if need_hidden else None
        grad_weight = torch.zeros_like(weight) if need_weight else None
        grad_bias = torch.zeros_like(bias) if need_bias else None
        width = _slice_width(hidden, weight)
        for start in range(0, len(weight) if len(kept) else 0, width):
            part = slice(start, start + width)
            logits = _logits(hidden, weight, bias, part, ctx.transform)
            capped = logits.clone() if ctx.transform.softcap is not None else logits
            grad = logits.sub_(normalizer[:, None]).exp_().mul_(-coefficients[:, None])
            inside = ((targets >= start) & (targets < start + width)).nonzero().squeeze(1)
            grad[inside, targets[inside] - start] += coefficients[inside]
            grad = ctx.transform.backward_(grad, capped)
            if grad_bias is not None:
                grad_bias[part] = grad.sum(dim=0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden += grad @ weight[part].to(hidden.dtype)
            if grad_weight is not None:
                grad_weight[part] = grad.t() @ hidden
        if grad_hidden is not None and not everything:
            grad_hidden = grad_hidden.new_zeros(len(grads[0]), hidden.shape[1]).index_copy_(
                0, kept, grad_hidden
            )
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _sums(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over products in `dtype`: float32 or better."""
    return torch.promote_types(dtype, torch.float32)


def _slice_width(hidden: Tensor, weight: Tensor) -> int:
    elements = _ELEMENTS.get(hidden.device.type, 1 << 24)
    return min(len(weight), max(256, elements // max(1, len(hidden)) // 256 * 256))


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice, transform: LogitTransform
) -> Tensor:
    logits = hidden @ weight[part].to(hidden.dtype).t()
    if bias is not None:
        logits = logits + bias[part]
    return transform(logits.to(_sums(logits.dtype)))


def head_logps(
    hidden: Float[Tensor, "scored hidden"],
    head: nn.Linear,
    targets: Int[Tensor, "scored"],
    transform: LogitTransform,
) -> Float[Tensor, "scored"]:
    """Log-probs of `targets` in nats, float32 (float64 for a float64 head).

    Under autocast the products run in its dtype, sums in float32.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    with torch.autocast(device, enabled=False):
        return _HeadLogps.apply(hidden, head.weight, head.bias, targets, transform, dtype)


def install(model: PreTrainedModel) -> None:
    """Teach the causal model (the innermost one, below any adapter) the keyword `packed=PackedBatch`.

    With it, the forward returns the batch's token log-probs; without it, the stock forward runs unchanged.
    The head is called as a module, with its hooks; so are the backbone and, from outside, the model itself.

    Raises:
        InputError: the output head is missing, adapted, wrapped or quantised: its plain weights are read.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise InputError(
            f"the output head of {type(model).__name__} is a {type(head).__name__}, but the engine needs a "
            "plain nn.Linear: take lm_head out of lora.target_modules and lora.modules_to_save, and leave it "
            "unquantised"
        )
    if "packed" in getattr(model.forward, "__annotations__", {}):
        return
    backbone = model.get_decoder()
    if backbone is None or backbone is model:
        raise InputError(f"{type(model).__name__} has no decoder of its own; use a causal language model")
    transform = LogitTransform.of(model.config.get_text_config())
    stock_head, stock_forward = _unbound(head.forward), _unbound(model.forward)

    def head_forward(self: nn.Linear, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        return stock_head(self, hidden) if targets is None else head_logps(hidden, self, targets, transform)

    @functools.wraps(stock_forward)
    def forward(self: PreTrainedModel, *args: Any, packed: PackedBatch | None = None, **kwargs: Any) -> Any:
        if packed is None:
            return stock_forward(self, *args, **kwargs)
        states = self.get_decoder()(
            input_ids=packed.input_ids[None],
            position_ids=packed.position_ids[None],
            tree=packed.tree,
            use_cache=False,
        ).last_hidden_state
        return self.get_output_embeddings()(states[0, packed.predictors], targets=packed.targets)

    forward.__annotations__ = {**forward.__annotations__, "packed": "PackedBatch | None"}
    head.forward = types.MethodType(head_forward, head)  # type: ignore[method-assign]
    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]


def _unbound(method: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a bound method, so that a deep copy of the model runs itself and not its original."""
    return getattr(method, "__func__", None) or (lambda self, *args, **kwargs: method(*args, **kwargs))


def packed_logps(model: nn.Module, batch: PackedBatch) -> Float[Tensor, "scored"]:
    """Log-probs of the batch's scored tokens, in nats, float32; `model` may be wrapped."""
    return model(input_ids=batch.input_ids[None], packed=batch)


def sequence_logps(token_logps: Float[Tensor, "scored"], batch: PackedBatch) -> Float[Tensor, "sequences"]:
    """Sum over each sequence's scored tokens, added in float64 so that the order cannot show."""
    sums = torch.zeros(len(batch.lengths), dtype=torch.float64, device=token_logps.device)
    members = token_logps[batch.member_tokens].double()
    return sums.index_add(0, batch.member_sequences, members).float()
