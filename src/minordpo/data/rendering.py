"""`Example` → text: the chat template applied, and where assistant turns begin and end in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import jinja2
from transformers import PreTrainedTokenizerBase

from minordpo.data.read.accounting import RowProblem, Unread, is_empty
from minordpo.data.read.examples import Example
from minordpo.data.read.fields import Message, half_character, shared_beginning
from minordpo.data.template import TemplateWriter
from minordpo.data.unprinted import unread_keys
from minordpo.errors import InputError

AFTER_THE_LAST = Unread("turns after a response's last answer", "nothing of them is scored or seen")


@dataclass(frozen=True)
class Response:
    """A response in its context: the whole text, and where scored and unscored text alternate in it.

    `cuts[0]` is the prompt's end, where the first scored stretch begins; the last cut is the text's end.
    """

    text: str
    cuts: tuple[int, ...]

    @property
    def heads(self) -> list[str]:
        """The text up to each cut but the last."""
        return [self.text[:cut] for cut in self.cuts[:-1]]

    @property
    def around(self) -> str:
        """The prompt's end and what follows it, for messages."""
        cut = self.cuts[0]
        return f"the prompt's end {self.text[max(0, cut - 15) : cut]!r} | {self.text[cut : cut + 15]!r}"

    @property
    def pieces(self) -> list[str]:
        """The text between the cuts: scored, unscored, scored, …"""
        return [self.text[a:b] for a, b in zip(self.cuts, self.cuts[1:], strict=False)]


@dataclass(frozen=True)
class Rendered:
    """An example as text."""

    prompt: str
    responses: tuple[Response, ...]
    is_chat: bool
    unprinted: frozenset[Unread] = frozenset()  # what the chat template leaves out

    @property
    def texts(self) -> Iterable[str]:
        """All that has to be tokenised."""
        for response in self.responses:
            yield response.text
            yield from response.heads


def render(example: Example, tokenizer: PreTrainedTokenizerBase, template: TemplateWriter) -> Rendered:
    """The prompt and its responses as the model reads them; `template` is the tokenizer's.

    Raises:
        RowProblem: the row cannot be rendered, or the template does not say where its responses begin.
        InputError: the tokenizer has no chat template, or no end-of-text token for plain text.
    """
    if isinstance(example.prompt, list):
        return _render_chat(example, example.prompt, tokenizer, template)
    if not tokenizer.eos_token:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no eos_token, but a plain-text response needs one "
            "at its end. Set tokenizer.eos_token, or give the rows as chat messages."
        )
    responses = []
    for name, text in zip(example.names, example.responses, strict=True):
        assert isinstance(text, str)
        if not text.removesuffix(tokenizer.eos_token).strip():
            raise RowProblem("empty_response", f"the {name} is empty")
        whole = example.prompt + text + ("" if text.endswith(tokenizer.eos_token) else tokenizer.eos_token)
        responses.append(Response(whole, (len(example.prompt), len(whole))))
    return Rendered(example.prompt, tuple(responses), is_chat=False)


def _render_chat(
    example: Example, prompt: list[Message], tokenizer: PreTrainedTokenizerBase, template: TemplateWriter
) -> Rendered:
    if not tokenizer.chat_template:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template, but the rows are chats. "
            "Set tokenizer.chat_template (the instruct version of a model has one) or give the rows as text."
        )
    if not prompt:
        raise RowProblem("empty_prompt", "the prompt has no messages")
    if prompt[-1]["role"] == "assistant":
        # A prefill to continue, or a turn that is over? The data cannot say, and the tokens differ.
        raise RowProblem(
            "assistant_prompt",
            "the prompt ends with an assistant message, but one that the assistant answers is needed. "
            "Move that message to the beginning of each response",
        )
    write = partial(_apply_template, example, template)
    head = write(prompt, asks=True)
    responses, unprinted = [], set[Unread]()
    for name, response in zip(example.names, example.responses, strict=True):
        assert isinstance(response, list)
        responses.append(_render_response(prompt, head, name, response, write))
        messages = prompt + response[: _last_turn(response)]
        if len(messages) < len(prompt) + len(response):
            unprinted.add(AFTER_THE_LAST)
        left_out = template.left_out(example, messages, responses[-1].text)
        if left_out:
            _refuse_unprinted(response, [(i - len(prompt), key) for i, key in left_out], name)
            unprinted.update(unread_keys(left_out, messages))
    return Rendered(head, tuple(responses), is_chat=True, unprinted=frozenset(unprinted))


def _last_turn(response: list[Message]) -> int:
    """How many messages a response has up to the assistant's last."""
    return max(i for i, message in enumerate(response, 1) if message["role"] == "assistant")


def _refuse_unprinted(response: list[Message], left_out: list[tuple[int, str]], name: str) -> None:
    """Refuse a response of which the template prints nothing that the assistant says."""
    missing = set(left_out)
    for i, message in enumerate(response):
        if message["role"] == "assistant" and any(
            not is_empty(value) and (i, key) not in missing
            for key, value in message.items()
            if key not in ("role", "name")
        ):
            return
    keys = sorted({key for i, key in missing if i >= 0})
    raise RowProblem(
        "unprinted", f"the {name} is only {' and '.join(keys)}, which the chat template does not print"
    )


def _render_response(
    prompt: list[Message], head: str, name: str, response: list[Message], write: Callable[..., str]
) -> Response:
    """The rendering up to the end of the last assistant turn, cut where assistant turns begin and end."""
    turns = [i for i, message in enumerate(response) if message["role"] == "assistant"]
    if not any(_says_something(response[i]) for i in turns):
        raise RowProblem("empty_response", f"the {name} is empty")
    if turns[0] != 0:
        begins = f"begins with a message of {response[0]['role']!r}"
        raise RowProblem("response_role", f"the {name} {begins}, but an assistant's is needed")
    response = response[: turns[-1] + 1]
    whole = write(prompt + response)
    cuts: list[int] = []
    for i in turns:
        before = head if i == 0 else write(prompt + response[:i], asks=True)
        after = whole if i == turns[-1] else write(prompt + response[: i + 1])
        what = f"the {name}" if i == 0 else f"message {i + 1} of the {name}"
        _check_prefix(before, whole, f"what stands before {what}" if i else f"the prompt before {what}")
        _check_prefix(after, whole, f"{what} as the last turn")
        cuts += [len(before), len(after)]
    return Response(whole, tuple(cuts))


def _says_something(message: Message) -> bool:
    """Whether an assistant message holds content, thoughts or tool calls."""
    values = [value for key, value in message.items() if key not in ("role", "name")]
    return any(bool(value.strip()) if isinstance(value, str) else bool(value) for value in values)


def _apply_template(
    example: Example, template: TemplateWriter, messages: list[Message], *, asks: bool = False
) -> str:
    """The messages as text, with the generation prompt behind them if `asks`."""
    try:
        text = template.write(example, messages, asks=asks)
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        # Templates raise on purpose (roles that do not alternate) and by accident (no content).
        said = " ".join(str(error).split()) or type(error).__name__
        raise RowProblem("template_error", f"the chat template fails on it: {said}") from error
    if half := half_character(text):  # it may come from tools or template_kwargs
        raise RowProblem("template_error", f"{half[0]} stands in its messages or tools")
    return text


def _check_prefix(head: str, whole: str, what: str) -> None:
    if whole.startswith(head):
        return
    parts = shared_beginning(head, whole)
    start = max(0, parts - 30)
    dots = "…" if start else ""
    raise RowProblem(
        "template_prefix",
        f"the chat template renders {what} as {dots + head[start : parts + 30]!r} alone but as "
        f"{dots + whole[start : parts + 30]!r} in the whole conversation, so where scoring starts is "
        "unknown. Use a template that leaves earlier text as it was (or other chat_template_kwargs)",
    )
