"""Prompts → greedy answers, and what can be measured on an answer's text alone."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from minordpo.data.worked.arithmetic import NUMBER
from minordpo.engine.attention import attention_switched, stock_implementation
from minordpo.engine.models import causal_model
from minordpo.errors import InputError

# A loop is called one where its unit is no longer than a sentence, so that no text someone meant is one.
MAX_UNIT, MIN_REPEATS, MIN_LOOP = 64, 4, 24

_SIGN, _CURRENCY = r"[+\-−–]", r"\\?[$€£]"
_WHOLE_NUMBER = re.compile(
    rf"\s*(?P<outer>{_SIGN})?\s*(?:{_CURRENCY})?\s*(?P<inner>{_SIGN})?(?P<number>{NUMBER})\s*(?:{_CURRENCY})?\s*\.?\s*",
    re.ASCII,
)
# The dash of "10-3" or "(x)-3" is an operator; a sign stands at the beginning, or after a blank, "=", "(" …
_NUMBER_IN_TEXT = re.compile(
    rf"(?:(?<![^\s=:(\[{{*$€£])(?P<sign>{_SIGN})(?:{_CURRENCY})?)?(?<![0-9])(?P<number>{NUMBER})", re.ASCII
)
_ASKED_LINE = re.compile(r"^[ \t]*So the answer is:(?P<rest>.*)$", re.MULTILINE)


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


def repeated_4grams(token_ids: Sequence[int]) -> float:
    """The share of an answer's 4-grams that occurred before in it; 0.0 below five tokens."""
    grams = len(token_ids) - 3
    if grams < 2:
        return 0.0
    distinct = {tuple(token_ids[i : i + 4]) for i in range(grams)}
    return (grams - len(distinct)) / grams


def looping(token_ids: Sequence[int]) -> bool:
    """Whether an answer ends in a cycle: a unit of at most 64 tokens, repeated unchanged to the last token.

    The repetitions, the first and a cut last one included, are at least four and fill at least 24 tokens. The
    limits leave alone a rule of dashes, "1000000" and a row of equal numbers; anything that changes from one
    round to the next (a table, a count) is no cycle and shows in `repeated_4grams`.
    """
    ids = list(token_ids)
    for unit in range(1, min(MAX_UNIT, len(ids) // MIN_REPEATS) + 1):
        same = 0
        while same < len(ids) - unit and ids[-1 - same] == ids[-1 - same - unit]:
            same += 1
        if same + unit >= max(MIN_LOOP, MIN_REPEATS * unit):
            return True
    return False


def normalize_number(text: str) -> str | None:
    """The one spelling of the number that `text` is: "$1,200.50." → "1200.5"; None where it is anything else.

    A currency sign, thousands commas, blanks around, a full stop after, a plus, leading zeros and trailing
    decimal zeros make no difference. Text, not a float: models write numbers of any length.
    """
    match = _WHOLE_NUMBER.fullmatch(text)
    if match is None or (match["outer"] and match["inner"]):
        return None
    return _spell(match["number"], match["outer"] or match["inner"])


def _spell(number: str, sign: str | None) -> str:
    whole, _, fraction = number.replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    spelled = f"{whole}.{fraction}" if fraction else whole
    return f"-{spelled}" if sign not in (None, "+") and spelled != "0" else spelled


def asked_line(text: str) -> str | None:
    """N of the last line "So the answer is: N", normalised; None without such a line or where N is no number.

    The paper's prompt asks for this format, so it is read strictly: a line of its own, these words, and a
    number with nothing beside it but what `normalize_number` allows.
    """
    lines = _ASKED_LINE.findall(text)
    return normalize_number(lines[-1]) if lines else None


def last_number(text: str) -> str | None:
    """The last number anywhere in the text, normalised; None where there is none."""
    last = None
    for last in _NUMBER_IN_TEXT.finditer(text):  # noqa: B007, the last one is wanted
        pass
    return None if last is None else _spell(last["number"], last["sign"])


def summarize(answers: Sequence[Answer], references: Sequence[str] | None = None) -> dict[str, float]:
    """Shares and means over answers.

    `stopped`, `asked_format`, `looping`: shares of the answers. `repeated_4grams`, `tokens`: means.
    With `references`, one number per answer: `strict_accuracy`, the share whose `asked_line` is the
    reference, and `flexible_accuracy`, the share whose `last_number` is.

    Raises:
        InputError: no answers, not as many references as answers, or a reference that is no number.
    """
    if not answers:
        raise InputError("there are no answers to summarise, but at least one is needed. Give more prompts.")
    asked = [asked_line(answer.text) for answer in answers]
    summary = {
        "stopped": _mean([answer.stopped for answer in answers]),
        "asked_format": _mean([number is not None for number in asked]),
        "looping": _mean([looping(answer.token_ids) for answer in answers]),
        "repeated_4grams": _mean([repeated_4grams(answer.token_ids) for answer in answers]),
        "tokens": _mean([answer.tokens for answer in answers]),
    }
    if references is not None:
        right = _read_references(references, len(answers))
        last = [last_number(answer.text) for answer in answers]
        summary["strict_accuracy"] = _mean([a == b for a, b in zip(asked, right, strict=True)])
        summary["flexible_accuracy"] = _mean([a == b for a, b in zip(last, right, strict=True)])
    return summary


def _read_references(references: Sequence[str], answers: int) -> list[str]:
    if len(references) != answers:
        raise InputError(
            f"there are {len(references)} references for {answers} answers, but each needs one. Give as many."
        )
    numbers = []
    for place, reference in enumerate(references, 1):
        number = normalize_number(reference)
        if number is None:
            raise InputError(
                f"reference {place} is {reference!r}, but a number is needed. Correct or drop it."
            )
        numbers.append(number)
    return numbers


def _mean(values: Sequence[float | int]) -> float:
    return sum(values) / len(values)
