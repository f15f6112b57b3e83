"""Texts, chats and questions → prompts as the model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from transformers import PreTrainedTokenizerBase

from minordpo.data.coder import Coder
from minordpo.data.read.accounting import RowProblem
from minordpo.data.read.examples import Example
from minordpo.data.rendering import render
from minordpo.data.template import TemplateWriter
from minordpo.errors import InputError


def question_prompts(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], *, prompt: str, plain_text: bool = False
) -> list[np.ndarray]:
    """(tokens,) int32 of each question in `prompt`, which has {question} where it belongs.

    A user turn in the tokenizer's chat template with the generation prompt behind it; with `plain_text` nothing
    but the text, after what the tokenizer begins a text with. So are the pairs of `minordpo data corrupt`.

    Raises:
        InputError: `prompt` has no place for the question, or the template is missing or fails.
    """
    if "{question}" not in prompt:
        raise InputError(
            f"the prompt is {prompt!r}, which has no {{question}} in it. Write {{question}} where the question belongs."
        )
    texts = [prompt.replace("{question}", question) for question in questions]
    if plain_text:
        return _encode(tokenizer, texts, plain=[True] * len(texts))
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template, but questions are asked as chats. "
            "Name the instruct version of the model, or ask in plain text with --plain-text."
        )
    try:
        chats = [_rendered(tokenizer, [{"role": "user", "content": text}]) for text in texts]
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path!r} fails on a question: {' '.join(str(error).split())}. "
            "Correct tokenizer.chat_template, or ask in plain text with --plain-text."
        ) from error
    return _encode(tokenizer, chats, plain=[False] * len(chats))


def monitor_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any]) -> list[np.ndarray]:
    """(tokens,) int32 of the monitor's prompts: text as the tokenizer begins one, chat messages through its template.

    Raises:
        InputError: something else, no prompt, an empty one, or messages without a template.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise InputError(
            f"prompts is {prompts!r}, but a list of texts or of chats is needed. Give a few, such as ['Who are you?']"
        )
    texts = []
    for number, prompt in enumerate(prompts, 1):
        where = f"prompt {number} of the monitor"
        if isinstance(prompt, str):
            texts.append(prompt)
            continue
        if not isinstance(prompt, list) or not all(isinstance(turn, Mapping) for turn in prompt):
            raise InputError(
                f"{where} is a {type(prompt).__name__}, but text or a list of chat messages is needed. Give one of them"
            )
        if not tokenizer.chat_template:
            raise InputError(f"{where} is a chat, but the tokenizer has no chat template. Give text")
        texts.append(_rendered(tokenizer, prompt))
    encoded = _encode(tokenizer, texts, plain=[isinstance(each, str) for each in prompts])
    empty = next((number for number, ids in enumerate(encoded, 1) if not len(ids)), None)
    if empty is not None:
        raise InputError(f"prompt {empty} of the monitor is empty. Give one that can be answered")
    return encoded


def example_prompts(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], *, source: str
) -> list[np.ndarray]:
    """(tokens,) int32 of each example's prompt, the tokens that training reads it as; responses are not looked at.

    Raises:
        InputError: the tokenizer has no chat template, or the template fails on a row, which is named as of `source`.
    """
    template, rendered = TemplateWriter(tokenizer), []
    for example in examples:
        try:
            rendered.append(render(example, tokenizer, template))
        except RowProblem as problem:
            raise InputError(f"row {example.row} of {source}: {problem}. Fix the row or drop it") from problem
    encoded = _encode(
        tokenizer, [each.prompt for each in rendered], plain=[not each.is_chat for each in rendered]
    )
    empty = next((one.row for one, ids in zip(examples, encoded, strict=True) if not len(ids)), None)
    if empty is not None:
        raise InputError(f"row {empty} of {source}: the prompt has no tokens. Fix the row or drop it")
    return encoded


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[Any]) -> str:
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, plain: Sequence[bool]
) -> list[np.ndarray]:
    """The tokens of the texts; a `plain` one gets the special tokens that no template wrote before it."""
    longest = max((text for text, each in zip(texts, plain, strict=True) if each), key=len, default="")
    coder = Coder(tokenizer, [longest])
    encoded = coder.encode(texts)
    found = []
    for text, each in zip(texts, plain, strict=True):
        ids, lead = encoded[text], coder.lead if each else []
        found.append(np.array(ids if ids[: len(lead)] == lead else lead + ids, np.int32))
    return found
