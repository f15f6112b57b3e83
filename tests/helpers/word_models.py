"""Tiny models with a tokenizer of one word a token, and greedy decoding as it is defined."""

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from helpers.tiny_models import VOCAB, tiny

CHATML = (
    "{% for m in messages %}{{ '<start> ' + m['role'] + ' ' + m['content'] + ' <turn> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start> assistant ' }}{% endif %}"
)


def tokenizer_of(*, chat_template=None, **special):
    """One word a token: `w7` is token 7, but for the special tokens and the template's words at the end."""
    words = {f"w{i}": i for i in range(VOCAB - 5)}
    names = ("<end>", "<start>", "<turn>", "assistant", "<unk>")
    words |= {word: VOCAB - 5 + i for i, word in enumerate(names)}
    words["<pad>"] = VOCAB + 400  # beyond the model's vocabulary, as one added afterwards is
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([word for word in words if word.startswith("<")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)
    fast.chat_template = chat_template
    return fast


def model_of(architecture="Llama", **overrides):
    """A tiny model that has no end token unless one is given."""
    model = tiny(architecture, **({"eos_token_id": None, "pad_token_id": None} | overrides))
    assert model.generation_config.eos_token_id == overrides.get("eos_token_id")
    return model


def prompts_of(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.integers(3, VOCAB - 5, length).astype(np.int32) for length in lengths]


def argmax_loop(model, prompt, steps):
    """Greedy decoding as it is defined: the whole row through the model for every token."""
    ids = torch.tensor(prompt, dtype=torch.long)[None]
    with torch.no_grad():
        for _ in range(steps):
            logits = model(input_ids=ids, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return tuple(ids[0, len(prompt) :].tolist())
