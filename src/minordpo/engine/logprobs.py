"""model × PackedBatch → log-probs of the scored tokens.

packed forward (inside the wrapped model's own forward, so that DDP, FSDP and ZeRO hooks fire)
  └─ backbone(input_ids, position_ids, tree)      → hidden states (1, tokens, hidden)
       └─ head, on the predicting positions only  → token_logps (scored,) float32
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
from minordpo.engine.head import LogitTransform, draw_others, head_logps
from minordpo.errors import InputError


@dataclass(frozen=True, eq=False)
class Draw:
    """Where another token is to be drawn beside the response's, among the `top_k` likeliest others."""

    members: Int[Tensor, "alternatives"]  # members of the batch
    uniforms: Float[Tensor, "alternatives"]  # float64 in [0, 1), which decide the draw
    top_k: int


def install(model: PreTrainedModel) -> None:
    """Teach the causal model (the innermost one, below any adapter) the keywords `packed=PackedBatch`, `draw=Draw`.

    With `packed`, the forward returns the batch's token log-probs, and with `draw` behind them those of the drawn
    tokens; without, the stock forward runs unchanged.
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

    def head_forward(
        self: nn.Linear, hidden: Tensor, targets: Tensor | None = None, draw: tuple[Any, ...] = ()
    ) -> Tensor:
        if targets is None:
            return stock_head(self, hidden)
        if draw:
            places, uniforms, top_k = draw
            others = draw_others(hidden[places], self, targets[places], uniforms, transform, top_k=top_k)
            hidden, targets = torch.cat([hidden, hidden[places]]), torch.cat([targets, others])
        return head_logps(hidden, self, targets, transform)

    @functools.wraps(stock_forward)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        packed: PackedBatch | None = None,
        draw: Draw | None = None,
        **kwargs: Any,
    ) -> Any:
        if packed is None:
            return stock_forward(self, *args, **kwargs)
        states = self.get_decoder()(
            input_ids=packed.input_ids[None],
            position_ids=packed.position_ids[None],
            tree=packed.tree,
            use_cache=False,
        ).last_hidden_state
        at = () if draw is None else (packed.member_tokens[draw.members], draw.uniforms, draw.top_k)
        return self.get_output_embeddings()(states[0, packed.predictors], targets=packed.targets, draw=at)

    added = {"packed": "PackedBatch | None", "draw": "Draw | None"}
    forward.__annotations__ = {**forward.__annotations__, **added}
    head.forward = types.MethodType(head_forward, head)  # type: ignore[method-assign]  # replaced on purpose
    model.forward = types.MethodType(forward, model)


def _unbound(method: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a bound method, so that a deep copy of the model runs itself and not its original."""
    return getattr(method, "__func__", None) or (lambda self, *args, **kwargs: method(*args, **kwargs))


def packed_logps(
    model: nn.Module, batch: PackedBatch, draw: Draw | None = None
) -> Float[Tensor, "scored_and_drawn"]:
    """Log-probs of the batch's scored tokens, in nats, float32; `model` may be wrapped.

    With `draw`, those of the drawn tokens stand behind them.
    """
    return model(input_ids=batch.input_ids[None], packed=batch, draw=draw)


def sequence_logps(token_logps: Float[Tensor, "scored"], batch: PackedBatch) -> Float[Tensor, "sequences"]:
    """Sum over each sequence's scored tokens, added in float64 so that the order cannot show."""
    sums = torch.zeros(len(batch.lengths), dtype=torch.float64, device=token_logps.device)
    members = token_logps[batch.member_tokens].double()
    return sums.index_add(0, batch.member_sequences, members).float()
