"""Adapters to be trained: refused, or added on top of what is there."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraConfig
from transformers import PreTrainedModel

from minordpo.engine.models import POLICY_ADAPTER, REFERENCE_ADAPTER, causal_model, tuner
from minordpo.errors import InputError, first_line
from minordpo.train.refusals import refuse_first

# These write the adapter's start into the base weights, so that "without the adapter" is no longer the model given.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def add_adapter(model: PreTrainedModel | PeftModel, config: PeftConfig) -> PeftModel:
    """A new trainable adapter; one that the model already wears stays active and frozen below it.

    Raises:
        InputError: an initialisation that changes the base, a config that does not fit the model, or an adapter kind
            that cannot be stacked.
    """
    refuse_settings(config)
    config = copy.deepcopy(config)  # peft writes into the one it is given
    _refuse_unmatched(model, config)
    if not isinstance(model, PeftModel):
        with _applicable(model):
            return get_peft_model(model, config, adapter_name=POLICY_ADAPTER)
    kind = type(config).__name__
    refuse_first({"adapter_on_adapter": not isinstance(config, LoraConfig)}, kind=kind)
    existing = " and ".join(model.peft_config)
    refuse_first(
        {"adapter_name": existing != REFERENCE_ADAPTER}, existing=existing, reference=REFERENCE_ADAPTER
    )
    with _applicable(model):
        model.add_adapter(POLICY_ADAPTER, config)
    tuner(model).set_adapter([REFERENCE_ADAPTER, POLICY_ADAPTER])
    model.active_adapter = POLICY_ADAPTER
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{POLICY_ADAPTER}." in name)
    return model


def refuse_settings(config: PeftConfig) -> None:
    """Refuse what peft takes without a word, and trains something else or nothing.

    Raises:
        InputError: one of them, by its key.
    """
    start = getattr(config, "init_lora_weights", True)
    task = getattr(config.task_type, "value", config.task_type)
    refuse_first(
        {
            "adapter_changes_base": str(start).lower().startswith(_CHANGES_BASE),
            "adapter_at_random": start is False,
            "adapter_of_activations": start == "eva",
            "adapter_frozen": config.inference_mode,
            "adapter_task": task not in (None, "CAUSAL_LM"),
        },
        start=start,
        task=task,
    )


def _refuse_unmatched(model: PreTrainedModel | PeftModel, config: PeftConfig) -> None:
    """peft passes over modules and parameters that the model does not have."""
    modules, parameters = (
        [name for name, _ in each] for each in (model.named_modules(), model.named_parameters())
    )
    for field, there in (("modules_to_save", modules), ("target_parameters", parameters)):
        for wanted in getattr(config, field, None) or ():
            if not any(name.endswith(wanted) for name in there):
                raise InputError(
                    f"lora.{field} names {wanted}, which {type(causal_model(model)).__name__} does not have. Correct it"
                )


@contextlib.contextmanager
def _applicable(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise InputError(
            f"lora cannot be applied to {type(causal_model(model)).__name__}: {first_line(error)}. Change the key it "
            "names"
        ) from error
