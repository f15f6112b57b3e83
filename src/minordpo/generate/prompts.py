"""Questions → prompts as the model reads them: those of the pairs that `minordpo data corrupt` makes."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from minordpo.data.tokens import Coder
from minordpo.errors import InputError


def question_prompts(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], *, prompt: str, plain_text: bool = False
) -> list[np.ndarray]:
    """(tokens,) int32 of each question in `prompt`, which has {question} where it belongs.

    A user turn in the tokenizer's chat template with the generation prompt behind it; with `plain_text` nothing
    but the text, after what the tokenizer begins a text with.

    Raises:
        InputError: `prompt` has no place for the question, or the template is missing or fails.
    """
    if "{question}" not in prompt:
        raise InputError(
            f"the prompt is {prompt!r}, which has no {{question}} in it. Write {{question}} where the question belongs."
        )
    texts = [prompt.replace("{question}", question) for question in questions]
    if not plain_text:
        texts = [_as_chat(text, tokenizer) for text in texts]
    coder = Coder(tokenizer, texts)
    ids = coder.encode(texts)
    lead = coder.lead if plain_text else []
    return [
        np.array(ids[text] if ids[text][: len(lead)] == lead else lead + ids[text], np.int32)
        for text in texts
    ]


def _as_chat(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template, but questions are asked as chats. "
            "Name the instruct version of the model, or ask in plain text with --plain-text."
        )
    turns = [{"role": "user", "content": text}]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path!r} fails on a question: {' '.join(str(error).split())}. "
            "Correct tokenizer.chat_template, or ask in plain text with --plain-text."
        ) from error
