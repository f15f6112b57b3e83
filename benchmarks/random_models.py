"""Random models of real shapes, and pairs of random letters at given lengths: what a speed depends on, no download."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from minordpo.data.read.examples import examples_from_rows
from minordpo.data.tokens import TokenExample, TokenOptions, tokenize_examples

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
_QWEN: dict[str, Any] = {"vocab_size": 151936, "rope_theta": 1e6, "max_position_embeddings": 32768}
# As the models' config.json have them.
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2.5-1.5B": _QWEN
    | {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
    | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "Qwen1.5-7B": _QWEN
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    | {"num_key_value_heads": 32, "tie_word_embeddings": False},
}
# Wide weights, so that rounding shows.
EXACT: dict[str, Any] = {"vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1408} | {
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "initializer_range": 0.06,
}
TOY: dict[str, Any] = {"vocab_size": 400, "hidden_size": 64, "intermediate_size": 96} | {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Work:
    """Pairs at some lengths: mean tokens of prompts and answers, pairs a step, steps timed after the first."""

    name: str
    prompt: int
    answer: int
    pairs: int = 16
    steps: int = 6


WORKS = (Work("gsm8k", 100, 150), Work("few-shot", 700, 150))
TOY_WORKS = (Work("gsm8k", 10, 15, pairs=2, steps=2), Work("few-shot", 40, 15, pairs=2, steps=2))


def model_of(shape: dict[str, Any], dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """A random model, drawn on the device; the same weights each time."""
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    config = Qwen2Config(**shape, eos_token_id=tokenizer().eos_token_id, pad_token_id=None, bos_token_id=None)
    with DEVICE:
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


@functools.cache
def tokenizer() -> Any:
    """A token a letter."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(["<eos>", *alphabet])}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<eos>")


def pairs_of(work: Work, count: int) -> tuple[list[dict[str, str]], list[TokenExample]]:
    """Rows of text and their tokens; lengths vary by a third around the means."""
    numbers = np.random.default_rng(0)

    def text(mean: int) -> str:
        letters = numbers.integers(len(LETTERS), size=max(2, int(numbers.normal(mean, mean / 3))))
        return "".join(LETTERS[i] for i in letters)

    rows = [
        {"prompt": text(work.prompt), "chosen": text(work.answer), "rejected": text(work.answer)}
        for _ in range(count)
    ]
    found = tokenize_examples(
        examples_from_rows(rows, source="random").examples, tokenizer(), options=TokenOptions()
    )
    tokens = [each for each in found if isinstance(each, TokenExample)]
    assert len(tokens) == count
    return rows, tokens


def lora() -> Any:
    """The adapter that both train."""
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
