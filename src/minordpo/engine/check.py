"""The check each run starts with: packed log-probs equal plain ones, or the model is refused by name."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from minordpo.data.packing import pack
from minordpo.data.read.layout import PAIR_GRADES
from minordpo.data.tokens import TokenExample, TokenResponse
from minordpo.engine.attention import NAME, attention_switched, stock_implementation
from minordpo.engine.logprobs import install, packed_logps
from minordpo.engine.models import causal_model
from minordpo.errors import InputError

# Rounding in float32 stays below 1e-4 nats a token on every architecture in the tests; faults are above 1e-2.
TOLERANCE = 1e-3
_BEYOND_WINDOW = 16  # tokens by which the probe exceeds a window
_SHORTEST = 24  # tokens of the probe's longest sequence where no window asks for more
_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_LENGTH_DEPENDENT_ROPE = {"longrope", "dynamic"}


def check_packing(model: PreTrainedModel | PeftModel, *, longest: int, seed: int = 0) -> float:
    """The largest difference, in nats a token, between packed and plain log-probs on a random probe.

    Packed runs as in training, in train() mode, so a dropout left on shows; plain is stock attention in
    eval() mode, one sequence at a time. Both run in float32: 16-bit weights are cast up and back, which is
    exact, and need twice their memory meanwhile. The probe has three pairs of different shapes; it is longer
    than the model's attention windows where the data's `longest` sequence, in tokens, is. The packed forward
    stays installed; everything else (modes, attention, dtypes, random state) is left as it was.

    Raises:
        InputError: the model cannot be packed for such data, or its log-probs differ by more than 1e-3 nats.
    """
    inner = causal_model(model)
    _refuse_unsupported(model, inner, longest)
    install(inner)
    probe = _probe(inner, longest, seed)
    try:
        with in_float32(model, seed), torch.no_grad(), torch.autocast(inner.device.type, enabled=False):
            difference = _difference(model, inner, probe)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError, IndexError) as error:
        raise InputError(
            f"{type(inner).__name__} cannot run packed ({type(error).__name__}: {error}); "
            "this architecture is not supported. Use a plain causal transformer, such as Llama or Qwen3"
        ) from error
    if not difference.largest <= TOLERANCE:  # so that NaN fails too
        raise InputError(_refusal(inner, difference))
    return difference.largest


def refuse_unknown_tokens(model: PreTrainedModel | PeftModel, largest_id: int, *, remedy: str) -> None:
    """Nothing, where the model has an embedding for every token id up to that; on a GPU a missing one would kill the
    process.

    Raises:
        InputError: it has not; `remedy` says what to do.
    """
    config = causal_model(model).config
    vocab, name = config.get_text_config().vocab_size, config.name_or_path or "the model"
    if largest_id >= vocab:
        raise InputError(
            f"{name} knows {vocab} tokens, but the pairs have token {largest_id}: their tokenizer is another model's. "
            f"{remedy}"
        )


@dataclass(frozen=True)
class _Difference:
    largest: float  # as in training
    without_dropout: float


def _refusal(inner: PreTrainedModel, difference: _Difference) -> str:
    name, largest = type(inner).__name__, difference.largest
    broken = next((n for n, tensor in inner.named_parameters() if not tensor.isfinite().all()), None)
    if broken is not None:
        return (
            f"{name}: its weight {broken} holds values that are not finite. Name a model that was saved before its "
            "training broke down, or download it again"
        )
    said = f"{name}: its packed log-probs differ from its plain ones by {largest:.3g} nats"
    if difference.without_dropout <= TOLERANCE:
        return (
            f"{said} in training mode, but by {difference.without_dropout:.3g} in evaluation mode: dropout "
            "or router noise is on, and policy and reference would differ at random. Set the dropouts and "
            "router_jitter_noise in the model's config.json, and lora.lora_dropout, to 0"
        )
    return (
        f"{said} (at most {TOLERANCE:g} is rounding); this architecture is not supported. Its layers mix "
        "tokens or scale logits in a way the engine does not know: use another model, such as Llama or Qwen3"
    )


def _difference(model: Any, inner: PreTrainedModel, probe: list[TokenExample]) -> _Difference:
    model.eval()
    with attention_switched(inner, stock_implementation(inner)):
        plain = torch.cat(
            [_plain_logps(model, pair.prompt_ids, each) for pair in probe for each in pair.responses]
        )
    batch = pack(probe).to(inner.device)
    largest = []
    with attention_switched(inner, NAME):
        for mode in (False, True):
            model.train(mode)
            packed = packed_logps(model, batch)[batch.member_tokens]
            largest.append((packed - plain).abs().max().item())
    return _Difference(largest=largest[1], without_dropout=largest[0])


def _plain_logps(model: Any, prompt_ids: np.ndarray, response: TokenResponse) -> Tensor:
    """Log-probs of one response's tokens by the stock forward."""
    ids = torch.from_numpy(np.concatenate([prompt_ids, response.ids]).astype(np.int64)).to(model.device)
    scored = len(response.ids)
    # The head on the whole of a long probe would need a (tokens, vocab) tensor of gigabytes.
    few = "logits_to_keep" in inspect.signature(causal_model(model).forward).parameters
    kept = {"logits_to_keep": scored + 1} if few else {}
    logits = model(input_ids=ids[None], use_cache=False, **kept).logits[0, -scored - 1 : -1].float()
    return logits.log_softmax(dim=-1).gather(1, ids[-scored:, None])[:, 0]


def _probe(inner: PreTrainedModel, longest: int, seed: int) -> list[TokenExample]:
    """Three pairs of random tokens: prompt, common beginning, two tails; the last one beyond the windows."""
    windows = [window for window in _windows(inner.config.get_text_config()) if window < longest]
    length = max([_SHORTEST, *(min(window + _BEYOND_WINDOW, longest) for window in windows)])
    generator = np.random.default_rng(seed)
    vocab = len(inner.get_output_embeddings().weight)

    def some(tokens: int) -> np.ndarray:
        return generator.integers(0, vocab, tokens).astype(np.int32)

    probe: list[TokenExample] = []
    for prompt, common, *tails in ((9, 4, 7, 3), (1, 0, 1, 6), (length - 16, 4, 12, 5)):
        beginning, starts = some(common), generator.permutation(vocab)[:2].astype(np.int32)
        ids = [np.concatenate([beginning, starts[i : i + 1], some(tail - 1)]) for i, tail in enumerate(tails)]
        responses = tuple(TokenResponse(each, np.ones(len(each), bool)) for each in ids)
        probe.append(TokenExample(some(prompt), responses, PAIR_GRADES, row=len(probe) + 1))
    return probe


def _windows(config: Any) -> list[int]:
    """Every number in the config that may bound attention; one too many only makes the probe longer."""
    return [
        value
        for name, value in vars(config).items()
        if ("window" in name or "chunk_size" in name) and type(value) is int and value > 0
    ]


@contextlib.contextmanager
def in_float32(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """float32 weights and a random state of its own inside; modes, dtypes and random state restored after."""
    modes = [(module, module.training) for module in model.modules()]
    halves = [
        (tensor, tensor.dtype)
        for tensor in (*model.parameters(), *model.buffers())
        if tensor.dtype in (torch.bfloat16, torch.float16)
    ]
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            for tensor, _ in halves:
                tensor.data = tensor.data.float()
            yield
        finally:
            for tensor, dtype in halves:
                tensor.data = tensor.data.to(dtype)
            for module, mode in modes:
                module.training = mode


def _refuse_unsupported(model: Any, inner: PreTrainedModel, longest: int) -> None:
    """Refuse by name what the probe would miss or could only report as a difference."""
    name, config = type(inner).__name__, inner.config.get_text_config()
    if inner.config.is_encoder_decoder:
        raise InputError(
            f"{name} is an encoder-decoder; the engine needs a causal (decoder-only) language model"
        )
    if isinstance(model, PeftModel):
        _refuse_adapters(model)
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _ATTENTION_LAYERS)
    if not inner._supports_attention_backend or others:
        has = (
            f"has {', '.join(others)} layers"
            if others
            else "does not support transformers' AttentionInterface"
        )
        raise InputError(
            f"{name} {has}, so the engine cannot keep one branch of the prefix tree from seeing another "
            "(state-space, convolution and ALiBi models). Use a plain transformer, such as Llama or Qwen3"
        )
    _refuse_length_dependence(name, config, longest)
    if getattr(config, "output_router_logits", False) and getattr(config, "router_aux_loss_coef", 0):
        raise InputError(
            f"{name} asks for an auxiliary loss on its routers (output_router_logits is true, "
            f"router_aux_loss_coef is {config.router_aux_loss_coef}), which the engine does not compute. "
            "Set output_router_logits to false in the model's config.json"
        )


def _refuse_adapters(model: PeftModel) -> None:
    for adapter, settings in model.peft_config.items():
        if settings.is_prompt_learning or settings.is_adaption_prompt:
            raise InputError(
                f"the adapter {adapter!r} ({type(settings).__name__}) learns virtual tokens before every "
                "sequence, but the engine needs one that changes weights. Use LoRA"
            )
        if getattr(settings, "alora_invocation_tokens", None):
            raise InputError(
                f"the adapter {adapter!r} has alora_invocation_tokens, which switch it on by the place in a "
                "row, but the engine packs many sequences into one row. Use plain LoRA"
            )


def _refuse_length_dependence(name: str, config: Any, longest: int) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    limit = getattr(config, "max_position_embeddings", None)
    each = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    for parameters in each:
        kind = parameters.get("rope_type")
        if kind in _LENGTH_DEPENDENT_ROPE:
            original = (
                parameters.get("original_max_position_embeddings")
                or getattr(config, "original_max_position_embeddings", None)
                or limit
            )
            if original is not None and longest > original:
                raise InputError(
                    f"{name} has {kind} rotary positions, which change for a whole row once one sequence is "
                    f"longer than {original} tokens, and the data's longest has {longest}. "
                    f"Set data.max_length to {original} or less"
                )
    if not rope and limit is not None and longest > limit:
        raise InputError(
            f"{name} has positions for {limit} tokens and the data's longest sequence has {longest}. "
            f"Set data.max_length to {limit} or less"
        )
