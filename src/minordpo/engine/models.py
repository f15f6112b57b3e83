"""Load and save models and tokenizers: folders, run folders, hub ids, GGUF files, adapter folders."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from minordpo.engine.quantized import quantization_config
from minordpo.errors import InputError, first_line
from minordpo.run_folder import names
from minordpo.run_folder.files import readable, written_folder

_SOURCE = "minordpo_source"  # attribute of a loaded model: how it was loaded, beside its path
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# What a model's numbers come from; a README or a training state may change.
MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".gguf")

# An adapter being trained has peft's own default name, so that plain peft loads it; one that was there before and
# stays frozen below it (SFT, usually) has the other, and is saved in a subfolder of that name.
POLICY_ADAPTER = "default"
REFERENCE_ADAPTER = "reference"


def model_folder(path: str) -> str:
    """Of a run folder its `model/`; any other folder, or a hub id, as it is.

    Raises:
        InputError: the run has not finished.
    """
    path = os.path.expanduser(path)
    folder = Path(path)
    if not (folder / names.CONFIG).is_file() or any(
        (folder / name).exists() for name in ("config.json", "adapter_config.json")
    ):
        return path
    if not (folder / names.MODEL).is_dir():
        saved = any((folder / names.CHECKPOINTS).glob("checkpoint-*"))
        instead = f", or name a checkpoint in {folder / names.CHECKPOINTS}" if saved else ""
        raise InputError(
            f"{path} is a run without a model/: it is not finished. Go on with it by --resume{instead}"
        )
    return str(folder / names.MODEL)


def load_tokenizer(
    path: str, *, revision: str | None = None, gguf_file: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model; for an adapter folder without one, its base model's.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path, base = located(path, gguf_file)
    if base is not None and not (Path(path) / "tokenizer_config.json").exists():
        known = base_source(Path(path))
        return load_tokenizer(
            base,
            revision=known.get("revision"),
            gguf_file=known.get("gguf_file"),
            trust_remote_code=trust_remote_code,
        )
    # Named to the tokenizer, even None would be saved with it.
    gguf: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        return AutoTokenizer.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code, **gguf
        )
    except Exception as error:  # whatever the many tokenizer formats raise; the cause is kept
        raise InputError(
            f"no tokenizer can be read from {path}: {first_line(error)}. Name a folder or hub id that has one"
        ) from error


def load_model(
    path: str,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
    quantization: Mapping[str, Any] | None = None,
) -> PreTrainedModel | PeftModel:
    """A causal language model; for an adapter folder, its base model with the adapter, frozen; for a run, its model.

    GGUF weights are dequantised and behave as plain weights afterwards: they can be trained and saved. `quantization`
    are the settings of `model.quantization`, of an adapter's base. The base of an adapter that a run saved is loaded as
    the run loaded it.

    Raises:
        InputError: the folder is missing, holds no weights or not all of them, or is no causal language model.
    """
    if dtype not in DTYPES:
        raise InputError(f"model.dtype is {dtype!r}; use one of {', '.join(DTYPES)}")
    path, base = located(path, gguf_file)
    if base is not None:
        known = base_source(Path(path))
        below = load_model(
            base,
            dtype=dtype,
            revision=known.get("revision"),
            gguf_file=known.get("gguf_file"),
            trust_remote_code=trust_remote_code,
            quantization=quantization or known.get("quantization"),
        )
        with _readable(path), warnings.catch_warnings():
            # peft draws such weights at random, and goes on
            warnings.filterwarnings("error", message="Found missing adapter keys", category=UserWarning)
            return with_adapters(below, Path(path))
    if gguf_file is None:
        _refuse_without_weights(path)
    elif quantization:
        raise InputError(
            f"model.quantization is given, but the weights of {path} come from the GGUF file {gguf_file}. Name a "
            "folder with safetensors, or leave model.quantization out"
        )
    quantized = {"quantization_config": quantization_config(quantization)} if quantization else {}
    with _readable(path), _quiet_loading():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=DTYPES[dtype],
            revision=revision,
            trust_remote_code=trust_remote_code,
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
            gguf_file=gguf_file,
            **quantized,
        )
    model, found = loaded
    _refuse_other_weights(path, type(model).__name__, found)
    model = _without_quantizer(model) if gguf_file else model
    source = {
        "revision": revision,
        "gguf_file": gguf_file,
        "quantization": quantization and dict(quantization),
    }
    setattr(model, _SOURCE, {name: value for name, value in source.items() if value})
    return model


def base_source(adapter: Path) -> dict[str, Any]:
    """How the base of an adapter that a run saved was loaded: revision, gguf_file, quantization; empty of others.

    Raises:
        InputError: the file that says it is damaged.
    """
    file = adapter / names.ADAPTER_BASE
    if not file.exists():
        return {}
    with readable(file, "Copy the adapter's folder again"):
        return dict(json.loads(file.read_text(encoding="utf-8")))


def load_reward_model(path: str, *, dtype: str = "float32") -> PreTrainedModel:
    """A sequence classifier with one label, in evaluation mode and frozen: its logit is a score.

    Raises:
        InputError: the folder is missing, an adapter, holds no head of one label, or not all weights.
    """
    path, base = located(path)
    if base is not None:
        raise InputError(
            f"{path} is an adapter, but a whole reward model is needed. Merge it into {base} first"
        )
    _refuse_without_weights(path)
    with _readable(path, "sequence classifier with one label"), _quiet_loading():
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            path,
            dtype=DTYPES[dtype],
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
    model, found = loaded
    _refuse_other_weights(path, type(model).__name__, found)
    if model.config.num_labels != 1:
        raise InputError(
            f"{path} is a classifier with {model.config.num_labels} labels, but a reward model with 1 label is needed. "
            "Name another model"
        )
    return model.eval().requires_grad_(False)


def model_config(path: str, *, gguf_file: str | None = None) -> PretrainedConfig:
    """The config of the text model that `load_model` would load, for an adapter of its base; weights are not read.

    Raises:
        InputError: as `load_model`, as far as it shows without reading weights.
    """
    path, base = located(path, gguf_file)
    if base is not None:
        if not any(Path(path).glob("adapter_model.*")):
            raise InputError(
                f"{path} holds an adapter's config but no weights (adapter_model.safetensors). Name a folder with both"
            )
        return model_config(base, gguf_file=base_source(Path(path)).get("gguf_file"))
    gguf: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    if not gguf:
        _refuse_without_weights(path)
    with _readable(path):
        return AutoConfig.from_pretrained(path, **gguf).get_text_config()


def save_model(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, folder: Path, *, card: str | None = None
) -> None:
    """Write a model folder whole, with `card` as its README: aside first, then renamed into place.

    Raises:
        InputError: it cannot be written, for instance because the disk is full; what was there is untouched.
    """
    with written_folder(folder) as aside:
        model.save_pretrained(aside)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
        if card is not None:
            (aside / "README.md").write_text(card, encoding="utf-8")
        source = getattr(causal_model(model), _SOURCE, None)
        if isinstance(model, PeftModel) and source:
            (aside / names.ADAPTER_BASE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


def causal_model(model: Any) -> PreTrainedModel:
    """The causal language model below an adapter, or the model itself."""
    found: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return found


def backbone_of(model: PreTrainedModel) -> nn.Module | None:
    """The part of a causal language model that gives hidden states; None where it is not a part of its own."""
    found: Any = model.get_decoder()
    if found is None or found is model.get_output_embeddings():  # some call their head the decoder
        found = model.base_model
    return None if found is model else found


def switch_off_dropout(model: nn.Module) -> list[tuple[nn.Module, str, float]]:
    """Set every dropout to 0, adapters' included; return what was where.

    A dropout is a `nn.Dropout`, or a number that a module keeps under a name with "drop" in it.
    """
    found = []
    for module in model.modules():
        names = ["p"] if isinstance(module, nn.Dropout) else [name for name in vars(module) if "drop" in name]
        for name in names:
            value = getattr(module, name, None)
            if isinstance(value, float) and value:
                found.append((module, name, value))
                setattr(module, name, 0.0)
    return found


def tuner(model: PeftModel) -> Any:
    """peft's layer below the PeftModel: the one that can wear several adapters at once."""
    return model.base_model


def with_adapters(base: Any, folder: Path) -> PeftModel:
    """The base with the adapter of a folder, frozen, and with the adapter below it where the folder has one."""
    below = folder / REFERENCE_ADAPTER
    if not below.is_dir():
        return PeftModel.from_pretrained(base, folder, adapter_name=REFERENCE_ADAPTER)
    model = PeftModel.from_pretrained(base, below, adapter_name=REFERENCE_ADAPTER)
    model.load_adapter(folder, adapter_name=POLICY_ADAPTER)
    tuner(model).set_adapter([REFERENCE_ADAPTER, POLICY_ADAPTER])
    return model.requires_grad_(False)


def _without_quantizer(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that does not think it is quantised, so that it trains and saves."""
    config = model.config.to_dict()
    config.pop("quantization_config", None)
    plain = type(model)._from_config(type(model.config).from_dict(config), dtype=model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain.eval()


def located(path: str, gguf_file: str | None = None) -> tuple[str, str | None]:
    """The folder or hub id that holds a model and, of an adapter, its base model's; else None.

    Raises:
        InputError: the path is no folder and no hub id, or an adapter does not name its base model.
    """
    path = os.path.expanduser(path)
    path = path if gguf_file else model_folder(path)
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    if not Path(path).is_dir() and (looks_local or Path(path).exists()):
        raise InputError(f"model {path!r} is not a folder. Name a model folder, or a hub id such as org/name")
    file = Path(path) / "adapter_config.json"
    if not file.exists():
        return path, None
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}") from error
    if not base:
        raise InputError(
            f"{path} is an adapter that does not name its base model; add base_model_name_or_path to its config"
        )
    return path, base


def _refuse_without_weights(path: str) -> None:
    folder = Path(path)
    if not folder.is_dir():  # a hub id
        return
    if not (folder / "config.json").exists():
        raise InputError(
            f"{path} holds no config.json: it is not a model folder. Name a folder saved by save_pretrained"
        )
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise InputError(
            f"{path} holds a config but no weights (*.safetensors). Name a folder with weights, "
            "or set model.gguf_file if they are in a GGUF file"
        )


def _refuse_other_weights(path: str, name: str, found: dict[str, Any]) -> None:
    """Every weight of the model must come from the files: transformers draws the others at random, and goes on."""
    shapes = {
        key: f"{key} is {tuple(has)}, not {tuple(needs)}" for key, has, needs in found["mismatched_keys"]
    }
    wrong = shapes | {key: f"{key} is missing" for key in found["missing_keys"]}
    if wrong:
        raise InputError(
            f"the weights in {path} are not those of a {name} with its config.json: {len(wrong)} do not fit, first "
            f"{wrong[min(wrong)]}. Download or save the folder again, or name another model"
        )
    if found["unexpected_keys"]:
        first = min(found["unexpected_keys"])
        warnings.warn(
            f"{path}: {len(found['unexpected_keys'])} weights have no place in {name} and are left out, first {first}",
            stacklevel=3,
        )


_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    ImportError,
    UserWarning,
    SafetensorError,
    AssertionError,
)


@contextlib.contextmanager
def _readable(path: str, what: str = "causal language model") -> Iterator[None]:
    try:
        yield
    # ImportError: a quantised model whose library is not installed
    # AssertionError: torch, of a padding token without an embedding
    except _UNREADABLE as error:
        remedy = f"Name a folder or hub id with a whole {what}"
        if isinstance(error, AssertionError):
            remedy = "Set pad_token_id in its config.json to a token of the vocabulary, or to null"
        raise InputError(f"no model can be loaded from {path}: {first_line(error)}. {remedy}") from error


@contextlib.contextmanager
def _quiet_loading() -> Iterator[None]:
    """Keep the library's per-tensor progress bars off the terminal."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
