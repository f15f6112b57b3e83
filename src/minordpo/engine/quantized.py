"""Quantised bases under adapters: the library's config from a mapping, and plain weights again."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from minordpo.errors import InputError, did_you_mean, first_line

# Method → the class of transformers that has its settings, and the package that computes.
METHODS = {"bitsandbytes": "BitsAndBytesConfig", "torchao": "TorchAoConfig"}
_INSTALL = "Install it with pip install 'minordpo[quantized]'"
# Layers of bitsandbytes that round activations to 8 bits too, by what else stands in a row, and on a CPU in evaluation
# mode alone.
_ROUND_ACTIVATIONS = "Linear8bitLt"


def quantization_config(settings: Mapping[str, Any]) -> Any:
    """The settings of `model.quantization` as transformers takes them.

    `method` is one of `METHODS`; the other keys are those of the method's config class. Of torchao `quant_type` is the
    name of a config class of torchao.quantization, and keys that TorchAoConfig does not have are that class's.

    Raises:
        InputError: an unknown method or key, a value that the library refuses, or a package that is not installed.
    """
    given = dict(settings)
    method = given.pop("method", None)
    if method not in METHODS:
        near = did_you_mean(str(method), METHODS)
        raise InputError(
            f"model.quantization.method is {method!r}{near}, but it is one of {', '.join(METHODS)}. Correct it"
        )
    if importlib.util.find_spec(method) is None:
        raise InputError(f"model.quantization needs the package {method}, which is not installed. {_INSTALL}")
    if method == "torchao":
        given = _of_torchao(given)
    known = _parameters(METHODS[method])
    _refuse_unknown(given, known, METHODS[method])
    try:
        found = _class(METHODS[method])(**given)
    except (TypeError, ValueError, AttributeError, ImportError, KeyError) as error:
        raise InputError(
            f"model.quantization is refused by transformers.{METHODS[method]}: {first_line(error)}. Change the key "
            "that it names"
        ) from error
    if method == "bitsandbytes" and not (found.load_in_4bit or found.load_in_8bit):
        raise InputError(
            "model.quantization has the method bitsandbytes, but neither load_in_4bit nor load_in_8bit, so nothing "
            "would be quantised. Set one of them to true"
        )
    return found


def _class(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def _parameters(name: str) -> list[str]:
    return [each for each in inspect.signature(_class(name)).parameters if each != "kwargs"]


def _refuse_unknown(given: Mapping[str, Any], known: list[str], whose: str) -> None:
    for name in given:
        if name not in known:
            raise InputError(
                f"model.quantization.{name} is no key of {whose}{did_you_mean(name, known)}. Correct or remove it"
            )


def _of_torchao(given: dict[str, Any]) -> dict[str, Any]:
    """The settings with `quant_type` as an object of torchao, made with the keys that belong to it."""
    types = importlib.import_module("torchao.quantization")
    name = given.pop("quant_type", None)
    kinds = [each for each in dir(types) if each.endswith("Config")]
    if name not in kinds:
        raise InputError(
            f"model.quantization.quant_type is {name!r}{did_you_mean(str(name), kinds)}, but the name of a config of "
            "torchao.quantization is needed, such as Int8WeightOnlyConfig. Correct it"
        )
    kind = getattr(types, name)
    outer = _parameters("TorchAoConfig")
    own = {key: given.pop(key) for key in list(given) if key not in outer}
    _refuse_unknown(own, [*inspect.signature(kind).parameters, *outer], name)
    try:
        return {**given, "quant_type": kind(**own)}
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(
            f"model.quantization is refused by torchao's {name}: {first_line(error)}. Change the key it names"
        ) from error


def is_quantized(model: PreTrainedModel) -> bool:
    """Whether weights of the model are quantised."""
    return getattr(model, "hf_quantizer", None) is not None


def rounds_activations(model: nn.Module) -> bool:
    """Whether layers of the model round activations by what else stands in a row (LLM.int8())."""
    return any(type(module).__name__ == _ROUND_ACTIVATIONS for module in model.modules())


def score_mode(model: nn.Module) -> None:
    """Set the model to the mode in which log-probs are computed without training: evaluation mode.

    Layers that compute otherwise in training stay in training mode; dropout is off there, or the model was refused.
    """
    model.train(rounds_activations(model))


def dequantized(model: PreTrainedModel) -> PreTrainedModel:
    """The model with plain float32 weights of the same values; as it is where it is not quantised.

    Raises:
        InputError: the library cannot give them.
    """
    if not is_quantized(model):
        return model
    kind = type(model.hf_quantizer).__name__
    try:
        if "TorchAo" in kind:
            _dequantize_tensors(model)
        else:
            model = model.dequantize(dtype=torch.float32)
    except (NotImplementedError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"the base's weights cannot be dequantised ({kind}: {first_line(error)})") from error
    model.config.__dict__.pop("quantization_config", None)
    for name in (
        "hf_quantizer",
        "quantization_method",
        "is_quantized",
        "is_loaded_in_4bit",
        "is_loaded_in_8bit",
    ):
        model.__dict__.pop(name, None)
    return model.float()


def _dequantize_tensors(model: nn.Module) -> None:
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            plain = plain_values(parameter)
            if plain is not parameter:
                setattr(module, name, nn.Parameter(plain.float(), requires_grad=False))


def plain_values(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or of one of a quantising library's own kinds its values in the type that it computes with."""
    plain = tensor.data if isinstance(tensor, nn.Parameter) else tensor
    if type(plain) is torch.Tensor or not hasattr(plain, "dequantize"):
        return tensor
    values: torch.Tensor = plain.dequantize()
    return values
