"""What of a chat its template leaves out: keys of messages, whole contents, tools, variables."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from minordpo.data.read.accounting import Unread, is_empty
from minordpo.data.read.examples import Example
from minordpo.data.read.fields import Message

_ROLE, _PLAIN = frozenset(["role"]), frozenset(["role", "content"])
_TALKERS = frozenset(["user", "assistant"])
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # a tag that transformers adds to jinja2
_MOST_KNOWN = 4096  # forms of conversations of which it is kept what the template leaves out
_WHY = "the chat template does not print it"
Write = Callable[[Example, list[Message]], str]  # raises what the template raises


class Unprinted:
    """Looks for what a tokenizer's chat template leaves out, each form of a conversation once.

    A key is left out where the text is the same without it. A template that fails without a key looks at it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        template = tokenizer.chat_template
        self._templates = list(template.values()) if isinstance(template, dict) else [template or ""]
        self._known: dict[tuple[Any, ...], tuple[tuple[int, str], ...]] = {}

    def keys(
        self, example: Example, messages: list[Message], text: str, write: Write
    ) -> list[tuple[int, str]]:
        """Message (by its place, -1 for the row) and key of all that does not stand in `text`, what `write` made of it.

        Contents of the user and the assistant are looked for in the text. All else is tried out, once for all values.
        """
        found = [
            (i, "content")
            for i, message in enumerate(messages)
            if message["role"] in _TALKERS
            and not _stands_in(message.get("content"), text)
            and self._same(example, _without(messages, i, "content"), text, write)
        ]
        form = (
            tuple([(message["role"], *_tried_keys(message)) for message in messages]),
            bool(example.tools),
            *example.template_kwargs,
        )
        known = self._known.get(form)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[form] = tuple(self._try(example, messages, text, write))
        return [*found, *known] if known else found

    def _try(
        self, example: Example, messages: list[Message], text: str, write: Write
    ) -> Iterator[tuple[int, str]]:
        for i, message in enumerate(messages):
            for key in _tried_keys(message):
                if self._same(example, _without(messages, i, key), text, write):
                    yield i, key
        if example.tools and self._same(replace(example, tools=None), messages, text, write):
            yield -1, "column tools"
        known = [_variables(each) for each in self._templates]
        for name in example.template_kwargs:
            if not any(each is None or name in each for each in known):
                yield -1, f"{name} of chat_template_kwargs"

    def _same(self, example: Example, messages: list[Message], text: str, write: Write) -> bool:
        try:
            return write(example, messages) == text
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError):
            return False


def unread_keys(found: Iterable[tuple[int, str]], messages: Sequence[Message]) -> Iterator[Unread]:
    """What was left out, as a tally counts it."""
    for i, key in found:
        if i < 0:
            yield Unread(key, _WHY)
        elif key == "content":
            yield Unread(f"content of {messages[i]['role']} turns", _WHY)
        else:
            yield Unread(f"message key {key}", _WHY)


def _tried_keys(message: Message) -> list[str]:
    """The keys of a message that hold something and are not looked for in the text."""
    if message.keys() == _PLAIN and message["role"] in _TALKERS:
        return []
    looked_for = _PLAIN if message["role"] in _TALKERS else _ROLE
    return [key for key, value in message.items() if key not in looked_for and not is_empty(value)]


def _without(messages: list[Message], place: int, key: str) -> list[Message]:
    """The messages without a key of one; a content stays, empty, since templates ask for it."""
    kept = {name: value for name, value in messages[place].items() if name != key}
    return [*messages[:place], {**kept, "content": kept.get("content", "")}, *messages[place + 1 :]]


def _stands_in(content: Any, text: str) -> bool:
    return not isinstance(content, str) or content.strip() in text


@functools.lru_cache(maxsize=8)
def _variables(template: str) -> frozenset[str] | None:
    """The names that a template takes from outside; None where it cannot be told."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return frozenset(meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", template))))
    except jinja2.TemplateError:
        return None
