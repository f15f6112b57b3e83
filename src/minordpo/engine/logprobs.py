"""model × PackedBatch → log-probs of the scored tokens.

forward (inside the wrapped model's own forward, so that DDP, FSDP and ZeRO hooks fire)
  ├─ packed: backbone(input_ids, position_ids, tree)  → hidden states of the row's distinct tokens
  └─ plain: backbone on each sequence (engine/plain.py)
       └─ head, on the predicting positions only      → token_logps (scored,) float32
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from minordpo.data.packing import PackedBatch
from minordpo.engine.attention import NAME, attention_switched, stock_implementation
from minordpo.engine.head import LogitTransform, draw_others, head_logps
from minordpo.engine.head_weights import HeadWeights, refuse_head
from minordpo.engine.models import backbone_of, causal_model
from minordpo.engine.plain import RowStates, plain_states
from minordpo.engine.routers import RouterLoss, token_weights
from minordpo.errors import InputError

_CHOSEN = "minordpo_engine"  # attribute of an installed model


@dataclass(frozen=True, eq=False)
class Draw:
    """Where another token is to be drawn beside the response's, among the `top_k` likeliest others."""

    members: Int[Tensor, "alternatives"]  # members of the batch
    uniforms: Float[Tensor, "alternatives"]  # float64 in [0, 1), which decide the draw
    top_k: int


class Engine(StrEnum):
    """How a model computes the sequences of a row; the values are the same but for rounding."""

    PACKED = "packed"  # each distinct token once
    PADDED = "padded"  # sequences of like length together, padded at their ends
    ALONE = "alone"  # each sequence by itself


def engine_of(model: Any) -> Engine:
    """The engine that the model was installed with; the packed one where none was."""
    return Engine(getattr(causal_model(model), _CHOSEN, Engine.PACKED))


@contextlib.contextmanager
def engine_attention(model: Any) -> Iterator[None]:
    """Run the model with the attention of its engine, its own restored after.

    The switch must outlive the backward pass, since gradient checkpointing runs the attention again there.
    """
    inner = causal_model(model)
    packed = engine_of(inner) is Engine.PACKED
    with attention_switched(inner, NAME if packed else stock_implementation(inner)):
        yield


def install(model: PreTrainedModel, engine: Engine = Engine.PACKED) -> None:
    """Teach the causal model (the innermost one, below any adapter) the keywords `packed=PackedBatch`, `draw=Draw`.

    `engine` says how it computes them; a model that was taught before may be given another.

    With `packed`, the forward returns the batch's token log-probs, and with `draw` behind them those of the drawn
    tokens; without, the stock forward runs unchanged.
    The head is called as a module, with its hooks; so are the backbone and, from outside, the model itself.

    Raises:
        InputError: the output head is missing, quantised, or wears an adapter other than plain LoRA.
    """
    head = model.get_output_embeddings()
    refuse_head(head, model)
    setattr(model, _CHOSEN, engine.value)
    if "packed" in getattr(model.forward, "__annotations__", {}):
        return
    if backbone_of(model) is None:
        raise InputError(f"{type(model).__name__} has no decoder of its own; use a causal language model")
    transform = LogitTransform.of(model.config.get_text_config())
    stock_head, stock_forward = _unbound(head.forward), _unbound(model.forward)

    def head_forward(
        self: nn.Module, hidden: Tensor, targets: Tensor | None = None, draw: tuple[Any, ...] = ()
    ) -> Tensor:
        if targets is None:
            return stock_head(self, hidden)
        weights = HeadWeights.of(self)
        if draw:
            places, uniforms, top_k = draw
            others = draw_others(hidden[places], weights, targets[places], uniforms, transform, top_k=top_k)
            hidden, targets = torch.cat([hidden, hidden[places]]), torch.cat([targets, others])
        return head_logps(hidden, weights, targets, transform)

    @functools.wraps(stock_forward)
    def forward(
        self: PreTrainedModel,
        *args: Any,
        packed: PackedBatch | None = None,
        draw: Draw | None = None,
        routers: RouterLoss | None = None,
        **kwargs: Any,
    ) -> Any:
        if packed is None:
            return stock_forward(self, *args, **kwargs)
        at = () if draw is None else (packed.member_tokens[draw.members], draw.uniforms, draw.top_k)
        states = _states(self, packed, routers=routers is not None)
        logps = self.get_output_embeddings()(states.scored, targets=packed.targets, draw=at)
        if routers is None or states.weights is None:
            return logps
        return torch.cat([logps, routers(states.router_logits, states.weights).reshape(1).to(logps.dtype)])

    added = {"packed": "PackedBatch | None", "draw": "Draw | None", "routers": "RouterLoss | None"}
    forward.__annotations__ = {**forward.__annotations__, **added}
    head.forward = types.MethodType(head_forward, head)
    model.forward = types.MethodType(forward, model)


def _states(model: PreTrainedModel, packed: PackedBatch, *, routers: bool) -> RowStates:
    """The states that predict the scored tokens, and with `routers` the routers' logits of all tokens."""
    engine, backbone = engine_of(model), backbone_of(model)
    assert backbone is not None  # `install` refuses such a model
    if engine is not Engine.PACKED:
        return plain_states(backbone, packed, padded=engine is Engine.PADDED, routers=routers)
    found = backbone(
        input_ids=packed.input_ids[None],
        position_ids=packed.position_ids[None],
        tree=packed.tree,
        use_cache=False,
        **({"output_router_logits": True} if routers else {}),
    )
    scored = found.last_hidden_state[0, packed.predictors]
    if not routers:
        return RowStates(scored)
    return RowStates(scored, tuple(found.router_logits), token_weights(packed.tree).to(scored.device))


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


def logps_and_router_loss(
    model: nn.Module, batch: PackedBatch, draw: Draw | None, routers: RouterLoss
) -> tuple[Float[Tensor, "scored_and_drawn"], Tensor]:
    """What `packed_logps` gives, and the routers' loss of the row, without its coefficient."""
    both = model(input_ids=batch.input_ids[None], packed=batch, draw=draw, routers=routers)
    return both[:-1], both[-1]


def sequence_logps(token_logps: Float[Tensor, "scored"], batch: PackedBatch) -> Float[Tensor, "sequences"]:
    """Sum over each sequence's scored tokens, added in float64 so that the order cannot show."""
    sums = torch.zeros(len(batch.lengths), dtype=torch.float64, device=token_logps.device)
    members = token_logps[batch.member_tokens].double()
    return sums.index_add(0, batch.member_sequences, members).float()
