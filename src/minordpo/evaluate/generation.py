"""Prompts → greedy answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from minordpo.engine.attention import attention_switched, stock_implementation
from minordpo.engine.models import causal_model
from minordpo.errors import InputError


@dataclass(frozen=True)
class Answer:
    """One generated answer."""

    text: str  # without special tokens
    token_ids: tuple[int, ...]  # without the end token
    stopped: bool  # ended by an end token, not by the length limit
    tokens: int  # generated, the end token counted


def generate_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    *,
    max_new_tokens: int,
    batch_size: int = 8,
    progress: str | None = None,
) -> list[Answer]:
    """The most likely next token, again and again, for each prompt; answers in the order of `prompts`.

    Nothing of the model's generation_config is used but its end tokens: a repetition penalty or a suppressed
    token would hide what the model does. The model is left as it was found, its modes and flags included.

    `progress`: what to call the progress bar; None shows none.

    Raises:
        InputError: an empty prompt, one that leaves no room for the answer, a size below 1, or an adapter
            outside the weights.
    """
    base = causal_model(model)
    _refuse(model, base, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    ends = end_tokens(base, tokenizer)
    # The longest first: what does not fit into memory fails at once, and the time left is not underestimated.
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    answers: dict[int, Answer] = {}
    with (
        _ready_to_generate(model),
        tqdm(total=len(prompts), desc=progress, unit="answer", disable=progress is None) as bar,
    ):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            rows = _continue_greedily(base, [prompts[i] for i in batch], ends, max_new_tokens)
            answers.update((i, _answer(row, ends, tokenizer)) for i, row in zip(batch, rows, strict=True))
            bar.update(len(batch))
    return [answers[i] for i in range(len(prompts))]


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """What ends an answer: generation_config's end tokens, the tokenizer's, the template's end of turn."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    ids = [*ids, tokenizer.eos_token_id, _end_of_turn(tokenizer)]
    return frozenset(i for i in ids if i is not None and i >= 0)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first special token that the chat template writes after an assistant's answer."""
    if not tokenizer.chat_template:
        return None
    answer = "An answer."
    turns = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": answer}]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template may refuse these turns, with whatever error; then the eos has to do
        return None
    _, found, after = str(rendered).rpartition(answer)
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    following = tokenizer.encode(after, add_special_tokens=False) if found else []
    return next((i for i in following if i in special), None)


def _refuse(
    model: PreTrainedModel | PeftModel,
    base: PreTrainedModel,
    prompts: list[np.ndarray],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> None:
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} is {value}, but at least 1 is needed. Raise it.")
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        raise InputError(
            f"the adapter is of type {model.active_peft_config.peft_type.value}, but only one inside the "
            "weights can be generated with. Use LoRA."
        )
    room = getattr(base.config.get_text_config(), "max_position_embeddings", None)
    for number, prompt in enumerate(prompts, 1):
        if len(prompt) == 0:
            raise InputError(
                f"prompt {number} has no tokens, but an answer needs one to follow. Drop it or give it a BOS."
            )
        if room is not None and len(prompt) + max_new_tokens > room:
            raise InputError(
                f"prompt {number} has {len(prompt)} tokens and max_new_tokens is {max_new_tokens}, but the "
                f"model has {room} positions. Shorten the prompt or lower max_new_tokens."
            )


@contextlib.contextmanager
def _ready_to_generate(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Eval mode, stock attention and no gradient checkpointing, each module's own state restored after."""
    base = causal_model(model)
    modules = list(model.modules())
    training = [module.training for module in modules]
    # Layers that recompute drop the cache, and each architecture has its own words for when.
    checkpointing = [module for module in modules if module.__dict__.get("gradient_checkpointing")]
    generation_config = base.generation_config
    try:
        model.eval()
        for module in checkpointing:
            module.gradient_checkpointing = False  # type: ignore[assignment]
        # generate() fills what it is not told from here, so passing a config of our own is not enough.
        base.generation_config = GenerationConfig()
        with attention_switched(base, stock_implementation(base)):
            yield
    finally:
        base.generation_config = generation_config
        for module in checkpointing:
            module.gradient_checkpointing = True  # type: ignore[assignment]
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


def _continue_greedily(
    model: PreTrainedModel, prompts: list[np.ndarray], ends: frozenset[int], max_new_tokens: int
) -> list[list[int]]:
    """The new tokens of each prompt; after an end token come whatever tokens."""
    longest = max(map(len, prompts))
    # Masked in prompts and cut off answers, so any id will do; a tokenizer's own may lie beyond the model's.
    padding = 0
    input_ids = torch.full((len(prompts), longest), padding, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.from_numpy(np.asarray(prompt, dtype=np.int64))
        mask[row, longest - len(prompt) :] = 1
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=sorted(ends) or None,
        pad_token_id=padding,
    )
    generate: Any = model.generate
    generated = generate(
        input_ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
    )
    return generated[:, longest:].tolist()


def _answer(row: list[int], ends: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> Answer:
    end = next((place for place, token in enumerate(row) if token in ends), None)
    ids = tuple(row[:end])
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Answer(str(text), ids, end is not None, len(ids) + (end is not None))
