"""The auxiliary loss on the routers of a mixture of experts: transformers' own, over the tokens of a row.

The loss is a product of two means over tokens (how often an expert is chosen, and its probability), so it is no sum
over rows: it is the one term of a step that depends on how the step is cut. A token that several sequences share counts
once for each of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from minordpo.data.packing import Tree
from minordpo.errors import InputError

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_CHOSEN = ("num_experts_per_tok", "top_k")


@dataclass(frozen=True)
class RouterLoss:
    """What transformers computes of router logits, and the weight that the model's config gives it."""

    function: Callable[..., Any]
    experts: int
    chosen: int
    coefficient: float

    @classmethod
    def of(cls, model: PreTrainedModel, *, wanted: bool | None) -> RouterLoss | None:
        """The loss that the model's config asks for, or with `wanted` the loss whether it asks or not; else None.

        Raises:
            InputError: it is wanted, and the model has none, or its coefficient is 0.
        """
        config = model.config.get_text_config()
        coefficient = float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0)
        asked = bool(getattr(config, "output_router_logits", False)) and coefficient > 0
        if not (asked if wanted is None else wanted):
            return None
        function = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
        numbers = [
            next(
                (getattr(of, name) for of in (config, model) for name in names if getattr(of, name, None)),
                None,
            )
            for names in (_EXPERTS, _CHOSEN)
        ]
        if function is None or None in numbers or not coefficient:
            raise InputError(
                f"model.router_aux_loss is true, or the model's config.json has output_router_logits, but "
                f"{type(model).__name__} has no auxiliary loss on routers, or router_aux_loss_coef is 0. Set "
                "model.router_aux_loss to false"
            )
        experts, chosen = (int(each) for each in numbers if each is not None)
        return cls(function, experts, chosen, coefficient)

    def __call__(self, logits: Sequence[Tensor], weights: Tensor) -> Tensor:
        """The loss, without its coefficient, of (tokens, experts) logits a layer, each token weighted."""
        flat = tuple(each.reshape(-1, each.shape[-1]) for each in logits)
        found: Tensor = self.function(flat, self.experts, self.chosen, weights[None].to(flat[0].device))
        return found


def token_weights(tree: Tree) -> Tensor:
    """(tokens,) float32: how many sequences of a row each token belongs to; 0 of tokens that fill the row."""
    inner = {ancestor for node in tree.nodes for ancestor in node.ancestors}
    counts = [0] * len(tree.nodes)
    leaves = [number for number in range(len(tree.nodes)) if number not in inner]
    for leaf in leaves[:-1] if tree.filled else leaves:
        for number in (*tree.nodes[leaf].ancestors, leaf):
            counts[number] += 1
    sizes = torch.tensor([node.end - node.start for node in tree.nodes])
    return torch.repeat_interleave(torch.tensor(counts, dtype=torch.float32), sizes)
