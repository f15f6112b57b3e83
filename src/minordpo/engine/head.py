"""Hidden states × output head → log-probs of chosen tokens, block by block of tokens and vocabulary.

No `(tokens, vocab)` tensor exists, forward or backward. A block's width is the same whatever a row holds, and a product
has at least `LEAST_TOKENS` rows, so that a token's log-prob has the same bits in every row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minordpo.engine.head_weights import HeadWeights

# Logits held at a time, as tokens × entries of the vocabulary: small enough for a CPU's caches, 8 MiB in float32. On a
# GPU the blocks are larger.
BLOCK = {"cpu": (1 << 10, 1 << 11), "cuda": (1 << 12, 1 << 15)}
_OTHER_DEVICE = (1 << 11, 1 << 13)
# Products of fewer rows take other kernels: with two threads and AVX2, MKL's float32 products of 1 to 11 rows had other
# bits than those of 12 and more.
LEAST_TOKENS = 32


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
        elif getattr(config, "lm_head_multiplier", None):  # so does Falcon-H1
            scale = float(config.lm_head_multiplier)
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
    """log softmax(head(hidden))[target], block by block, recomputed in the backward pass."""

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
        maximum = torch.full((len(hidden),), float("-inf"), dtype=_sums(dtype), device=hidden.device)
        total = torch.zeros_like(maximum)
        picked = torch.zeros_like(maximum)
        for part in _slices(weight):
            narrowed = weight[part].to(dtype)
            for rows in _row_blocks(hidden):
                logits = _logits(hidden[rows], narrowed, bias, part, transform)
                inside, column = _columns(targets[rows], part, logits)
                picked[rows] = torch.where(inside, logits.gather(1, column)[:, 0], picked[rows])
                before = maximum[rows]
                higher = torch.maximum(before, logits.amax(dim=1))
                shrunk = (before - higher).exp_()
                total[rows] = total[rows].mul_(shrunk).add_(logits.sub_(higher[:, None]).exp_().sum(dim=1))
                maximum[rows] = higher
        normalizer = maximum + total.log()
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer)
        ctx.transform = transform
        return picked - normalizer

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizer = ctx.saved_tensors
        (coefficients,) = grads
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        # Tokens without a coefficient add exactly nothing: DPO's common beginnings, MinorDPO's closed gates. Elsewhere
        # than on a CPU, to count them the host would wait for the whole forward pass.
        kept = coefficients.nonzero().squeeze(1) if coefficients.device.type == "cpu" else coefficients
        everything = len(kept) == len(coefficients)
        if not everything:
            hidden, targets = hidden[kept], targets[kept]
            normalizer, coefficients = normalizer[kept], coefficients[kept]
        grad_hidden = hidden.new_zeros(hidden.shape, dtype=_sums(hidden.dtype)) if need_hidden else None
        # Each slice is assigned by its first rows.
        empty = torch.empty_like if len(kept) else torch.zeros_like
        grad_weight = empty(weight) if need_weight else None
        grad_bias = torch.zeros_like(bias) if need_bias else None
        for part in _slices(weight) if len(kept) else ():
            narrowed = weight[part].to(hidden.dtype)
            for rows in _row_blocks(hidden):
                logits = _logits(hidden[rows], narrowed, bias, part, ctx.transform)
                capped = logits.clone() if ctx.transform.softcap is not None else logits
                weighted = coefficients[rows]
                grad = logits.sub_(normalizer[rows, None]).exp_().mul_(-weighted[:, None])
                inside, column = _columns(targets[rows], part, grad)
                own = torch.where(inside, weighted, 0)
                grad.scatter_(1, column, grad.gather(1, column) + own[:, None])
                grad = ctx.transform.backward_(grad, capped)
                if grad_bias is not None:
                    grad_bias[part] += grad.sum(dim=0)
                grad = grad.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] += grad @ narrowed
                if grad_weight is not None:
                    product = grad.t() @ hidden[rows]
                    grad_weight[part] = grad_weight[part].add_(product) if rows.start else product
        if grad_hidden is not None and not everything:
            grad_hidden = grad_hidden.new_zeros(len(grads[0]), hidden.shape[1]).index_copy_(
                0, kept, grad_hidden
            )
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _sums(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums over products in `dtype`: float32 or better."""
    return torch.promote_types(dtype, torch.float32)


def _slices(weight: Tensor) -> Iterator[slice]:
    """The vocabulary in slices of one width."""
    _, width = BLOCK.get(weight.device.type, _OTHER_DEVICE)
    for start in range(0, len(weight), width):
        yield slice(start, start + width)


def _row_blocks(hidden: Tensor) -> Iterator[slice]:
    """The tokens in blocks of nearly equal length."""
    most, _ = BLOCK.get(hidden.device.type, _OTHER_DEVICE)
    blocks = max(1, -(-len(hidden) // most))
    for number in range(blocks):
        yield slice(number * len(hidden) // blocks, (number + 1) * len(hidden) // blocks)


def _columns(targets: Tensor, part: slice, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each target stands in this slice of the vocabulary, and its column in `logits`, else some column of it.

    Shapes depend on no value, so that a GPU's host need not wait for one.
    """
    places = targets - part.start
    inside = (places >= 0) & (places < logits.shape[1])
    return inside, places.clamp(0, logits.shape[1] - 1)[:, None]


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice, transform: LogitTransform
) -> Tensor:
    """Transformed logits of a block; `weight` holds only the entries of `part`."""
    tokens = len(hidden)
    if tokens < LEAST_TOKENS:
        hidden = torch.cat([hidden, hidden.new_zeros(LEAST_TOKENS - tokens, hidden.shape[1])])
    logits = (hidden @ weight.t())[:tokens]
    if bias is not None:
        logits = logits + bias[part]
    return transform(logits.to(_sums(logits.dtype)))


def head_logps(
    hidden: Float[Tensor, "scored hidden"],
    head: nn.Linear | HeadWeights,
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


@torch.no_grad()
def draw_others(
    hidden: Float[Tensor, "places hidden"],
    head: nn.Linear | HeadWeights,
    targets: Int[Tensor, "places"],
    uniforms: Float[Tensor, "places"],
    transform: LogitTransform,
    *,
    top_k: int,
) -> Int[Tensor, "places"]:
    """At each place another token than its target, drawn from the softmax over the `top_k` likeliest others.

    `uniforms` in [0, 1) decide the draw, so it depends on nothing else than the distribution: not on packing.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.weight.dtype
    with torch.autocast(device, enabled=False):
        hidden = hidden.to(dtype)
        best = torch.empty(len(hidden), 0, dtype=_sums(dtype), device=hidden.device)
        tokens = torch.empty(len(hidden), 0, dtype=torch.int64, device=hidden.device)
        for part in _slices(head.weight):
            logits = _logits(hidden, head.weight[part].to(dtype), head.bias, part, transform)
            inside, column = _columns(targets, part, logits)
            own = torch.where(inside, float("-inf"), logits.gather(1, column)[:, 0])
            logits.scatter_(1, column, own[:, None])
            values, places = logits.topk(min(top_k, logits.shape[1]), dim=1)
            best, tokens = torch.cat([best, values], dim=1), torch.cat([tokens, places + part.start], dim=1)
            best, places = best.topk(min(top_k, best.shape[1]), dim=1)
            tokens = tokens.gather(1, places)
    # In the order of the ids, so that two tokens of all but equal logits do not change places in the draw.
    tokens, order = tokens.sort(dim=1)
    shares = best.gather(1, order).double().softmax(dim=1).cumsum(dim=1)
    places = torch.searchsorted(shares, uniforms.double()[:, None], right=True)
    return tokens.gather(1, places.clamp(max=tokens.shape[1] - 1)).squeeze(1)
