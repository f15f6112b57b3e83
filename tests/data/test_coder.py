"""Text cut at special tokens and tokenised in parts has the ids of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import AddedToken, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from helpers.small_tokenizers import byte_level, metaspace, smollm2, words
from minordpo.data.coder import Coder

_PIECES = [
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|im_",
    "start|>",
    "user",
    "\n",
    " ",
    "  ",
    "Answer",
    ":",
]
_PIECES += ["é", "<unk>", "<call>", "call>", "<|im_start|", ">", "\t", "Yes", "<s", "No</s", "12", "'s"]


def with_added(**flags: bool) -> PreTrainedTokenizerBase:
    made = byte_level()
    made.add_tokens([AddedToken("<call>", special=flags.pop("special", True), **flags)])
    return made


def overlapping() -> PreTrainedTokenizerBase:
    made = byte_level()
    made.add_tokens(
        [AddedToken(text, special=True, normalized=False) for text in ("<|im_start|>user", "|><|")]
    )
    return made


def of_first() -> PreTrainedTokenizerBase:
    made = metaspace()
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return made


def normalizing() -> PreTrainedTokenizerBase:
    made = byte_level()
    made.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.Prepend("_"), normalizers.Lowercase(), normalizers.Strip()]
    )
    return made


def not_splitting() -> PreTrainedTokenizerBase:
    made = byte_level()
    made.split_special_tokens = True
    return made


TOKENIZERS = {
    "byte level": byte_level,
    "metaspace always": metaspace,
    "metaspace first": of_first,
    "words": words,
    "SmolLM2": smollm2,
    "normalizing": normalizing,
    "overlapping": overlapping,
    "special tokens as text": not_splitting,
    **{
        f"{flag}, {'special' if special else 'plain'}": lambda flag=flag, special=special: with_added(
            **{flag: True}, special=special
        )
        for flag in ("lstrip", "rstrip", "single_word", "normalized")
        for special in (True, False)
    },
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_those_of_the_whole_text(name: str):
    made = TOKENIZERS[name]()
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(_PIECES, rng.integers(0, 14))) for _ in range(400)]
    coder = Coder(made)
    found = coder.encode(texts)
    distinct = list(dict.fromkeys(texts))
    expected = [made(text, add_special_tokens=False)["input_ids"] for text in distinct]
    assert [found[text] for text in distinct] == expected


def test_texts_are_cut_where_a_special_token_stands_alone_and_nowhere_else():
    def cut(made: PreTrainedTokenizerBase, text: str) -> list[str]:
        return Coder(made).cut(text)

    assert cut(byte_level(), "a<|im_end|> b<|im_start|>c") == ["a", "<|im_end|> b", "<|im_start|>c"]
    assert cut(overlapping(), "a<|im_end|> b<|im_start|>user<s>") == ["a<|im_end|> b<|im_start|>user", "<s>"]
    assert cut(with_added(lstrip=True), "a <call>b<s>") == ["a <call>b", "<s>"]
    assert cut(not_splitting(), "a<s>b") == ["a<s>b"]
