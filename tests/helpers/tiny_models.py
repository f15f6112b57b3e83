"""Tiny random models of the architectures the engine is tested on, and random prompts with responses.

Weights are drawn wide, and norms and biases moved off one and zero, so that every part of a model shows in
its log-probs: attention far from uniform, windows shorter than the sequences, scales and soft-caps that bite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from minordpo.data.tokens import TokenResponse

VOCAB = 101
WINDOW = 6

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

_WINDOWED: dict[str, Any] = {
    "use_sliding_window": True,
    "sliding_window": WINDOW,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
}

_GEMMA: dict[str, Any] = {
    "head_dim": 16,
    "query_pre_attn_scalar": 4,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "final_logit_softcapping": 3.0,
}

# What each architecture's config has beyond the common part; the class prefix is the key.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "Mistral": {"sliding_window": WINDOW},
    "Qwen2": _WINDOWED | {"max_window_layers": 1},
    "Qwen3": _WINDOWED | {"max_window_layers": 1, "head_dim": 16},
    "Gemma2": _GEMMA | {"attn_logit_softcapping": 2.0},
    "Gemma3": _GEMMA,
    "Phi3": {"sliding_window": WINDOW, "num_key_value_heads": 4},
    "Olmo2": {},
    "SmolLM3": _WINDOWED | {"no_rope_layers": [1, 0, 0]},
    "Granite": {
        "logits_scaling": 0.4,
        "attention_multiplier": 0.9,
        "residual_multiplier": 0.7,
        "embedding_multiplier": 1.7,
        "attention_bias": True,
    },
    "GPT2": {"hidden_size": 32, "n_inner": 48},
    "GptOss": {
        "head_dim": 16,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "Cohere": {"logit_scale": 2.5, "use_qk_norm": True},
    "Qwen3Moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 16},
}


def tiny(architecture: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A random model of the architecture in evaluation mode, float32; a seed gives the same weights."""
    names = (f"{architecture}TextConfig", f"{architecture}Config")  # the first of models that also see
    config_name = next(name for name in names if hasattr(transformers, name))
    model_name = "GPT2LMHeadModel" if architecture == "GPT2" else f"{architecture}ForCausalLM"
    config = getattr(transformers, config_name)(**_COMMON | ARCHITECTURES.get(architecture, {}) | overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, model_name)(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.4 * torch.randn_like(parameter))
                if "q_norm" in name:  # a norm keeps queries short, however wide the draw
                    parameter.mul_(3)
    return model.eval()


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt with any number of responses."""

    prompt_ids: np.ndarray
    responses: tuple[TokenResponse, ...]

    @property
    def grades(self) -> tuple[float, ...]:
        """The first response is the best, the last the worst, of grade 0."""
        return tuple(float(grade) for grade in reversed(range(len(self.responses))))


def prompt(ids: list[int], *responses: list[int], unscored: dict[int, list[int]] | None = None) -> Prompt:
    """A prompt from plain lists; `unscored` maps a response's number to the places that do not count."""
    built = []
    for number, response in enumerate(responses):
        scored = np.ones(len(response), bool)
        scored[(unscored or {}).get(number, [])] = False
        built.append(TokenResponse(np.array(response, np.int32), scored))
    return Prompt(np.array(ids, np.int32), tuple(built))


def odd_shapes(seed: int = 0, vocab: int = VOCAB) -> list[Prompt]:
    """Prompts whose trees are unlike each other, all but the first few longer than `WINDOW`."""
    generator = np.random.default_rng(seed)

    def some(count: int) -> list[int]:
        return generator.integers(3, vocab, count).tolist()

    common, long = some(4), some(14)
    return [
        prompt(some(1), some(1), some(1)),  # one token each
        prompt(some(7), [*common, 3, *some(4)], [*common, 4, *some(6)]),  # a common beginning
        prompt(some(5), [3, *some(9)], [4, *some(2)]),  # nothing shared
        prompt(some(3), common, common + some(5)),  # one a prefix of the other
        prompt(some(2), common, common),  # everything shared
        prompt(some(4), long),  # a single response
        prompt(some(6), long, common, [*long[:9], 5, 6], [*long[:9], 7], some(2)),  # five, branching twice
        prompt(
            some(4), [*common, 8, *some(7)], [*common, 9, *some(5)], unscored={0: [2, 6, 7, 11], 1: [0, 9]}
        ),
        prompt(some(9), [*long, 3, *some(8)], [*long, 4, *some(3)]),  # branches far beyond the window
    ]
