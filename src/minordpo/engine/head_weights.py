"""The weights that an output head computes with: its own, those of a trained copy, or with adapters added."""

from __future__ import annotations

from typing import Any, NamedTuple

from peft.tuners.lora.layer import Linear as LoraLinear
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from minordpo.errors import InputError


class HeadWeights(NamedTuple):
    """(vocabulary, hidden) weight and (vocabulary,) bias of a head."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, head: nn.Module) -> HeadWeights:
        """The weights as they are now: adapters that are off count as absent.

        With LoRA the whole weight is made anew at each call, which takes as much memory as the head's own.
        """
        if isinstance(head, ModulesToSaveWrapper):
            own: Any = head.original_module
            if not head.disable_adapters:
                own = next(
                    (head.modules_to_save[n] for n in head.active_adapters if n in head.modules_to_save), own
                )
            return cls.of(own)
        if isinstance(head, LoraLinear):
            base = cls.of(head.base_layer)
            if head.disable_adapters or head.merged:
                return base
            weight = base.weight
            for name in head.active_adapters:
                if name in head.lora_A:
                    weight = weight + head.get_delta_weight(name)
            return cls(weight, base.bias)
        plain: Any = head
        return cls(plain.weight, plain.bias)


def refuse_head(head: nn.Module | None, model: nn.Module) -> None:
    """Refuse a head whose weights are not known: log-probs are computed from them, block by block.

    Raises:
        InputError: it is missing, quantised, or wears an adapter that is no plain LoRA.
    """
    name = type(model).__name__
    if isinstance(head, ModulesToSaveWrapper):
        refuse_head(head.original_module, model)
        return
    if isinstance(head, LoraLinear):
        odd = [key for key in ("use_dora", "lora_bias") if any(getattr(head, key, {}).values())]
        if odd:
            raise InputError(
                f"lora.{odd[0]} is set, and lora.target_modules names the output head of {name}, whose log-probs are "
                f"computed from weights that {odd[0]} does not give. Leave {odd[0]} out, or take the head out of "
                "lora.target_modules"
            )
        refuse_head(head.base_layer, model)
        return
    if type(head) is not nn.Linear:
        raise InputError(
            f"the output head of {name} is a {type(head).__name__}, but a plain nn.Linear, with LoRA or as one of "
            "lora.modules_to_save, is needed. Leave the head unquantised, and out of every other kind of adapter"
        )
