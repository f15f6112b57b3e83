"""The check each run starts with: which engine runs a model, and that its log-probs equal those of the stock forward.

packed ─► as stock? yes: packed
             └ no, or it cannot be packed ─► each response by itself ─► as stock? yes: plain, told once
                                                                            └ no: refused by name
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from minordpo.data.packing import pack
from minordpo.data.read.layout import PAIR_GRADES
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenExample, TokenResponse
from minordpo.engine.attention import attention_switched, stock_implementation
from minordpo.engine.logprobs import Engine, engine_attention, install, packed_logps
from minordpo.engine.models import causal_model
from minordpo.engine.quantized import rounds_activations, score_mode
from minordpo.errors import InputError, first_line

# Rounding in float32 stays below 1e-4 nats a token on every architecture in the tests; faults are above 1e-2.
TOLERANCE = 1e-3
# Layers that round activations to 8 bits do so by all tokens of a row, so a row of other tokens gives other numbers.
EIGHT_BITS = 0.5
_BEYOND_WINDOW = 16  # tokens by which the probe exceeds a window
_SHORTEST = 24  # tokens of the probe's longest sequence where no window asks for more
# Kinds of layers that the tree attention serves, and those that look at each token by itself.
_PACKABLE = {"full_attention", "sliding_attention", "chunked_attention", "mlp", "moe"}
_LENGTH_DEPENDENT_ROPE = {"longrope", "dynamic"}


@dataclass(frozen=True)
class CheckedEngine:
    """How a model computes rows, and how far that is from stock transformers."""

    engine: Engine
    difference: float  # the largest, in nats a token
    why_plain: str | None = None  # why the model does not run packed, as the end of a sentence about it

    def line(self, pairs: StoredExamples) -> str | None:
        """What a user should know of how the model is computed; None where there is nothing."""
        if self.why_plain is None and self.difference > TOLERANCE:
            return (
                f"the base's 8-bit layers round activations by what else stands in a row: log-probs differ by up to "
                f"{self.difference:.2g} nats a token from those of a response alone"
            )
        if self.why_plain is None:
            return None
        shared, alone = int(pairs.sizes.sum(dtype=np.int64)), pairs.alone
        return (
            f"{self.why_plain}: each response is computed by itself, which is {alone:,} tokens of the data where "
            f"sharing would compute {shared:,} ({alone / shared:.2f}×)"
        )


def check_engine(model: PreTrainedModel | PeftModel, *, longest: int, seed: int = 0) -> CheckedEngine:
    """Choose how the model computes rows: packed where it can, else each response by itself; install and check it.

    Log-probs on a random probe are compared with plain ones. The engine runs as in training, in train() mode, so a
    dropout left on shows; plain is stock attention in eval() mode, one sequence at a time and in another order, so that
    state left over between responses shows. Both run in float32: 16-bit weights are cast up and back, which is exact,
    and need twice their memory meanwhile. The probe has three pairs of different shapes; it is longer than the model's
    attention windows where the data's `longest` sequence, in tokens, is. The engine stays installed; everything else
    (modes, attention, dtypes, random state) is left as it was.

    Raises:
        InputError: no engine can run the model on such data, or log-probs differ by more than 1e-3 nats.
    """
    inner = causal_model(model)
    _refuse_unsupported(model, inner, longest)
    probe = _probe(inner, longest, seed)
    barrier = _cannot_pack(inner, longest)
    why = None if barrier is None else barrier.why
    if barrier is None:
        found = _tried(model, inner, probe, Engine.PACKED, seed)
        if _agrees(found, inner):
            return CheckedEngine(Engine.PACKED, found.largest)
        why = _why_not(inner, found)
    assert why is not None
    padded = inner.device.type != "cpu" and not (barrier and barrier.alone)
    for engine in [Engine.PADDED] * padded + [Engine.ALONE]:
        found = _tried(model, inner, probe, engine, seed)
        if _agrees(found, inner):
            return CheckedEngine(engine, found.largest, why)
    raise InputError(_refusal(inner, found, why))


def _agrees(found: _Difference | str, inner: PreTrainedModel) -> TypeGuard[_Difference]:
    """Whether the engine's log-probs are those of stock transformers, but for rounding."""
    limit = EIGHT_BITS if rounds_activations(inner) else TOLERANCE
    return isinstance(found, _Difference) and found.largest <= limit  # so that NaN fails too


def _tried(
    model: Any, inner: PreTrainedModel, probe: list[TokenExample], engine: Engine, seed: int
) -> _Difference | str:
    """How far the engine is from plain; the error's words where it cannot run the model."""
    install(inner, engine)
    try:
        with in_float32(model, seed), torch.no_grad(), torch.autocast(inner.device.type, enabled=False):
            return _difference(model, inner, probe)
    except torch.OutOfMemoryError:
        raise
    except InputError as error:  # of the tree attention
        return str(error)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError, IndexError) as error:
        return f"{type(error).__name__}: {first_line(error).partition(';')[0]}"


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


def _why_not(inner: PreTrainedModel, found: _Difference | str) -> str:
    """Why a model does not run packed, after it was tried.

    Raises:
        InputError: of weights that are not finite, and of noise, no engine makes anything better.
    """
    name = type(inner).__name__
    if isinstance(found, str):
        return f"{name} cannot run packed ({found})"
    _refuse_broken(inner)
    _refuse_noise(inner, found)
    return f"{name} packed has other log-probs than plain, by {found.largest:.3g} nats"


def _refuse_broken(inner: PreTrainedModel) -> None:
    broken = next((n for n, tensor in inner.named_parameters() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise InputError(
            f"{type(inner).__name__}: its weight {broken} holds values that are not finite. Name a model that was "
            "saved before its training broke down, or download it again"
        )


def _refuse_noise(inner: PreTrainedModel, found: _Difference) -> None:
    if found.without_dropout <= TOLERANCE:
        raise InputError(
            f"{type(inner).__name__}: its log-probs differ from those of stock transformers by {found.largest:.3g} "
            f"nats in training mode, but by {found.without_dropout:.3g} in evaluation mode: dropout "
            "or router noise is on, and policy and reference would differ at random. Set the dropouts and "
            "router_jitter_noise in the model's config.json, and lora.lora_dropout, to 0"
        )


def _refusal(inner: PreTrainedModel, found: _Difference | str, why: str) -> str:
    """The words for a model that no engine runs."""
    _refuse_broken(inner)
    name = type(inner).__name__
    if isinstance(found, str):
        return (
            f"{why}, nor each response by itself ({found}); this architecture is not supported. Use another causal "
            "language model, such as Llama or Qwen3"
        )
    _refuse_noise(inner, found)
    return (
        f"{name}: its log-probs, each response computed by itself, differ from those of stock transformers by "
        f"{found.largest:.3g} nats (at most {TOLERANCE:g} is rounding); this architecture is not supported. It scales "
        "logits in a way the engine does not know, or keeps state from one sequence to the next: use another model, "
        "such as Llama or Qwen3"
    )


def _difference(model: Any, inner: PreTrainedModel, probe: list[TokenExample]) -> _Difference:
    score_mode(model)
    with attention_switched(inner, stock_implementation(inner)):
        plain = [
            torch.cat([_plain_logps(model, pair.prompt_ids, each) for each in pair.responses])
            for pair in probe
        ]
    batch = pack(probe[::-1]).to(inner.device)  # others stand before each sequence than above
    largest = []
    with engine_attention(inner):
        for mode in (False, True):
            model.train(mode)
            found = packed_logps(model, batch)[batch.member_tokens]
            largest.append((found - torch.cat(plain[::-1])).abs().max().item())
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
    config = inner.config.get_text_config()
    _, changing = _changing_rope(config, longest) or ("", 0)
    windows = [window for window in (*_windows(config), changing) if 0 < window < longest]
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
    _refuse_jitter(inner)
    kind, limit = _changing_rope(config, longest) or ("", None)
    if (
        kind == "dynamic"
    ):  # transformers keeps the frequencies of the longest sequence so far for shorter ones
        raise InputError(
            f"{name} has dynamic rotary positions: once a sequence is longer than {limit} tokens, log-probs of others "
            f"depend on it, and the data's longest has {longest}. Set data.max_length to {limit} or less"
        )
    limit = getattr(config, "max_position_embeddings", getattr(config, "max_seq_len", None))
    if not getattr(config, "rope_parameters", None) and limit is not None and longest > limit:
        raise InputError(
            f"{name} has positions for {limit} tokens and the data's longest sequence has {longest}. "
            f"Set data.max_length to {limit} or less"
        )


def _refuse_jitter(inner: PreTrainedModel) -> None:
    """Refuse routers that draw experts at random while a model trains: near ties alone show it, and a probe has few."""
    for module in inner.modules():
        for name, value in vars(module).items():
            if "jitter" in name and isinstance(value, float) and value:
                raise InputError(
                    f"{type(inner).__name__} has {name} {value:g}: its routers are random in training, and policy and "
                    f"reference would differ at random. Set {name} to 0 in the model's config.json"
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


@dataclass(frozen=True)
class _Barrier:
    """Why a model cannot be packed, seen from its config."""

    why: str
    alone: bool = False  # padding would change it too


def _cannot_pack(inner: PreTrainedModel, longest: int) -> _Barrier | None:
    """What the probe would miss, or could only report as a difference."""
    name, config = type(inner).__name__, inner.config.get_text_config()
    others = sorted(set(getattr(config, "layer_types", None) or ()) - _PACKABLE)
    if others:
        return _Barrier(f"{name} has {' and '.join(others)} layers, whose state runs along a row")
    if not inner._supports_attention_backend:
        return _Barrier(
            f"{name} does not take another attention (it is a state-space or ALiBi model, or alike)"
        )
    changing = _changing_rope(config, longest)
    if changing is None:
        return None
    kind, limit = changing
    return _Barrier(
        f"{name} has {kind} rotary positions, which change for a whole row once a sequence is longer than {limit} "
        f"tokens, and the data's longest has {longest}",
        alone=True,
    )


def _changing_rope(config: Any, longest: int) -> tuple[str, int] | None:
    """The kind of rotary positions that change with a sequence's length, and the tokens from which on they do."""
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        kind = parameters.get("rope_type")
        if kind in _LENGTH_DEPENDENT_ROPE:
            original = (
                parameters.get("original_max_position_embeddings")
                or getattr(config, "original_max_position_embeddings", None)
                or getattr(config, "max_position_embeddings", None)
            )
            if original is not None and longest > original:
                return kind, original
    return None
