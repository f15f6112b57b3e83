"""Adapters to be trained: refused, or added on top of what is there."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraConfig
from transformers import PreTrainedModel

from minordpo.engine.models import POLICY_ADAPTER, REFERENCE_ADAPTER, causal_model, tuner
from minordpo.errors import InputError, did_you_mean, first_line
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
    """Refuse each name of modules, layers and parameters that the model does not have: peft passes over it."""
    modules, parameters = (
        [name for name, _ in each] for each in (model.named_modules(), model.named_parameters())
    )
    whose = type(causal_model(model)).__name__
    for field in ("target_modules", "exclude_modules"):
        for wanted in _names(getattr(config, field, None)):
            if not any(name == wanted or name.endswith(f".{wanted}") for name in modules):
                raise InputError(_no_such(field, wanted, whose, _last_parts(modules)))
    for field in ("target_modules", "exclude_modules"):
        pattern = getattr(config, field, None)
        if (
            isinstance(pattern, str)
            and pattern != "all-linear"
            and not _any_full_match(pattern, modules, field)
        ):
            raise InputError(
                f"lora.{field} is the pattern {pattern!r}, which fits no module of {whose}. Correct it"
            )
    for field in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, field, None) or ():
            if not _any_full_match(rf"(.*\.)?({pattern})", modules, field):
                raise InputError(f"lora.{field} has {pattern!r}, which fits no module of {whose}. Correct it")
    for field, there in (("modules_to_save", modules), ("target_parameters", parameters)):
        for wanted in getattr(config, field, None) or ():
            if not any(name.endswith(wanted) for name in there):
                raise InputError(_no_such(field, wanted, whose, _last_parts(there)))
    wanted_layers = getattr(config, "layers_to_transform", None)
    layers = causal_model(model).config.get_text_config().num_hidden_layers
    for layer in [wanted_layers] if isinstance(wanted_layers, int) else wanted_layers or ():
        if not 0 <= layer < layers:
            raise InputError(
                f"lora.layers_to_transform names layer {layer}, but {whose} has layers 0 to {layers - 1}. Correct it"
            )


def _names(given: Any) -> list[str]:
    return [] if given is None or isinstance(given, str) else sorted(given)


def _last_parts(names: list[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names if name})


def _no_such(field: str, wanted: str, whose: str, there: list[str]) -> str:
    near = did_you_mean(wanted, there)
    return f"lora.{field} names {wanted}, which {whose} does not have{near}. Correct it"


def _any_full_match(pattern: str, names: list[str], field: str) -> bool:
    try:
        return any(re.fullmatch(pattern, name) for name in names)
    except re.error as error:
        raise InputError(
            f"lora.{field} has {pattern!r}, which is no regular expression: {error}. Correct it"
        ) from error


@contextlib.contextmanager
def _applicable(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise InputError(
            f"lora cannot be applied to {type(causal_model(model)).__name__}: {first_line(error)}. Change the key it "
            "names"
        ) from error
