"""`Example` → `TokenExample`: chat template, masks, truncation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from minordpo.data.coder import Coder
from minordpo.data.read.accounting import RowProblem, Tally
from minordpo.data.read.examples import Example
from minordpo.data.rendering import Rendered, Response, render
from minordpo.data.template import TemplateWriter
from minordpo.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TokenResponse:
    """One response as tokens; `scored` marks those whose log-prob counts."""

    ids: np.ndarray  # (tokens,) int32
    scored: np.ndarray  # (tokens,) bool


@dataclass(frozen=True, eq=False)
class TokenExample:
    """One tokenised example; every response continues `prompt_ids`."""

    prompt_ids: np.ndarray  # (tokens,) int32
    responses: tuple[TokenResponse, ...]  # best first, as the engine numbers them
    grades: tuple[float, ...]  # of the responses, as in `Example`
    row: int  # 1-based row of the source
    notes: dict[str, str] = field(default_factory=dict)  # by "cut" or "boundary": what was done to the row


@dataclass(frozen=True, kw_only=True)
class TokenOptions:
    """How long a prompt with one response may be, and where scoring ends: options of the config's `data`."""

    max_length: int | None = 1024
    overlong: Literal["refuse", "drop", "truncate"] = "refuse"
    score_end: Literal["template", "end_of_turn"] = "template"

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 2:
            raise InputError(
                f"data.max_length is {self.max_length}, but a prompt and a response need at least 2 tokens. "
                "Raise data.max_length or set it to null for no limit."
            )


def tokenize_examples(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    options: TokenOptions,
    template: TemplateWriter | None = None,
    tally: Tally | None = None,
) -> list[TokenExample | RowProblem]:
    """The tokens of each example and which of them are scored, or why the row cannot be used.

    Chat: scored is what the template emits after the generation prompt for the assistant turns of the
    response; its other turns are seen and not scored. Text: the response with the end-of-text token after it.
    The ids are those of the whole text in one go; where a token would straddle the end of the prompt (or of a
    turn), the parts are tokenised apart, as they are at inference, and `notes["boundary"]` says so. Tokens
    after the last scored one are left out. The tokenizer is called once for all, so that a fast one uses every core.
    `template` is the tokenizer's, kept from call to call; `tally` counts what it leaves out of messages.

    Raises: InputError where the tokenizer lacks what the rows need (a chat template, an end-of-text token).
    """
    template = template or TemplateWriter(tokenizer)
    rendered = [_or_problem(render, example, tokenizer, template) for example in examples]
    usable = [item for item in rendered if isinstance(item, Rendered)]
    if tally is not None:
        for item in usable:
            if item.unprinted:
                tally.update(item.unprinted)
    # Without its EOS: tokenizers that append one themselves warn of a text that has it.
    plain = [item.responses[0].text.removesuffix(tokenizer.eos_token) for item in usable if not item.is_chat]
    coder = Coder(tokenizer, plain)
    ids = coder.encode(text for item in usable for text in item.texts)
    return [
        item if isinstance(item, RowProblem) else _or_problem(_assemble, item, example, ids, coder, options)
        for example, item in zip(examples, rendered, strict=True)
    ]


def _or_problem(step: Callable[..., T], *arguments: Any) -> T | RowProblem:
    """What `step` returns, or the problem that it raises."""
    try:
        return step(*arguments)
    except RowProblem as problem:
        return problem


def _assemble(
    item: Rendered, example: Example, ids: Mapping[str, list[int]], coder: Coder, options: TokenOptions
) -> TokenExample:
    notes: dict[str, str] = {}
    prompt_ids = ids[item.prompt]
    lead = [] if item.is_chat else coder.lead
    if prompt_ids[: len(lead)] != lead:  # a text that begins with the BOS itself gets no second one
        prompt_ids = lead + prompt_ids
    if not prompt_ids:
        raise RowProblem("empty_prompt", "the prompt is empty, so nothing predicts a response's first token")
    responses = []
    for response in item.responses:
        pieces = _split(response, ids, item.prompt, coder)
        if pieces is None:
            pieces = coder.encode_apart(ids[item.prompt], response, ids[response.text])
            notes.setdefault("boundary", f"tokenised apart at {response.around}")
        score_end = options.score_end if item.is_chat else "template"
        lengths = [0 if i % 2 else _scored_length(piece, coder, score_end) for i, piece in enumerate(pieces)]
        responses.append(_token_response(pieces, lengths))
    for name, each in zip(example.names, responses, strict=True):
        if not each.scored.any():
            raise RowProblem("empty_response", f"the {name} has no tokens")
    same = _same(responses, example.names)
    if same:
        raise _identical(same, example, item)
    fitting = _fit(len(prompt_ids), responses, example.names, notes, options)
    return TokenExample(np.array(prompt_ids, np.int32), tuple(fitting), example.grades, example.row, notes)


def _split(
    response: Response, ids: Mapping[str, list[int]], prompt: str, coder: Coder
) -> list[list[int]] | None:
    """The ids of the pieces as parts of the whole text's ids; None if a token straddles a cut.

    A cut is clean where the ids of the text before it begin the ids of the whole. Offsets would not do: text
    before a token's edge may yet be tokenised otherwise when nothing follows, as at inference (spaces are).
    """
    joint = ids[response.text]
    starts = []
    for head in response.heads:
        if joint[: len(ids[head])] != ids[head]:
            return None
        starts.append(len(ids[head]))
    return [joint[a:b] for a, b in zip(starts, [*starts[1:], len(joint)], strict=True)]


def _scored_length(piece: list[int], coder: Coder, score_end: str) -> int:
    """How many tokens of an assistant turn are scored: all, or those through the end-of-turn token."""
    if score_end == "template":
        return len(piece)
    for i in range(len(piece) - 1, -1, -1):
        if piece[i] in coder.special_ids:
            return i + 1
        if coder.decode([piece[i]]).strip():
            break
    raise InputError(
        "data.score_end is end_of_turn, but the chat template ends an assistant turn with "
        f"{coder.decode(piece[-3:])!r}, which is no special token. Use data.score_end=template."
    )


def _token_response(pieces: list[list[int]], lengths: list[int]) -> TokenResponse:
    """A response of pieces, each scored for a length, without the tokens after the last scored one."""
    if len(pieces) == 1 and lengths[0] == len(pieces[0]):
        return TokenResponse(np.array(pieces[0], np.int32), np.ones(lengths[0], np.bool_))
    ids = np.array([i for piece in pieces for i in piece], np.int32)
    scored = np.concatenate([np.arange(len(p)) < length for p, length in zip(pieces, lengths, strict=True)])
    end = int(np.flatnonzero(scored)[-1]) + 1 if scored.any() else 0
    return TokenResponse(ids[:end], scored[:end])


def _same(responses: Sequence[TokenResponse], names: Sequence[str]) -> str:
    """Two responses with the same tokens and masks, by name; empty if there are none."""
    seen: dict[tuple[bytes, bytes], str] = {}
    for response, name in zip(responses, names, strict=True):
        first = seen.setdefault((response.ids.tobytes(), response.scored.tobytes()), name)
        if first != name:
            return f"{first.removesuffix(' response')} and {name.removesuffix(' response')}"
    return ""


def _identical(same: str, example: Example, item: Rendered) -> RowProblem:
    """The problem of two responses with the same tokens, of which the row may have told more than is printed."""
    keys = {each.what.removeprefix("message key ") for each in item.unprinted}
    chats = [text for text in example.responses if isinstance(text, list)]
    differ = {key for key in keys if len({repr([turn.get(key) for turn in chat]) for chat in chats}) > 1}
    if differ:
        found = (
            f"{same} differ only in {' and '.join(sorted(differ))}, which the chat template does not print"
        )
        return RowProblem("unprinted", found)
    return RowProblem("identical", f"{same} are the same")


def _fit(
    prompt: int,
    responses: list[TokenResponse],
    names: Sequence[str],
    notes: dict[str, str],
    options: TokenOptions,
) -> list[TokenResponse]:
    """The responses within `max_length`: as they are, or cut at the end and so without their end of turn."""
    if options.max_length is None:
        return responses
    lengths = [len(response.ids) for response in responses]
    room = options.max_length - prompt
    if max(lengths) <= room:
        return responses
    if room < 1:
        raise RowProblem("prompt_too_long", f"a prompt of {prompt}", tokens=prompt + max(lengths))
    if options.overlong != "truncate":
        said = f"{prompt} of prompt + {max(lengths)} of response = {prompt + max(lengths)}"
        raise RowProblem("too_long", said, tokens=prompt + max(lengths))
    cut = [TokenResponse(response.ids[:room].copy(), response.scored[:room].copy()) for response in responses]
    same = _same(cut, names)
    if same:
        raise RowProblem(
            "identical", f"{same} are the same in the {room} tokens that data.max_length leaves of them"
        )
    notes["cut"] = ", ".join(
        f"{name.removesuffix(' response')} from {length} tokens to {room}"
        for name, length in zip(names, lengths, strict=True)
        if length > room
    )
    return cut


def longest_sequence(pair: TokenExample) -> int:
    """Tokens of the prompt with the longer response."""
    return len(pair.prompt_ids) + max(len(response.ids) for response in pair.responses)
