"""Messages → text by a chat template; one that copies contents as they stand is run once for each sequence of roles."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from minordpo.data.read.examples import Example
from minordpo.data.read.fields import Message
from minordpo.data.unprinted import Unprinted

_PLACE = "\x02message {}\x02"  # stands for a content
_PLACES = re.compile("\x02message ([0-9]+)\x02")
# Tests that are alike for all texts, and what a loop has that shows no message.
_ABOUT_TYPE = frozenset(["string", "defined", "undefined", "none", "mapping", "sequence", "iterable"])
_OF_LOOPS = frozenset(["first", "last", "index", "index0", "revindex", "revindex0", "length"])
_CAPTURING = (nodes.AssignBlock, nodes.CallBlock, nodes.FilterBlock, nodes.Macro)
_FOREIGN = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block)


class TemplateWriter:
    """A tokenizer's chat template, applied to many conversations."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        template = tokenizer.chat_template
        self._copies = isinstance(template, str) and copies_contents(template)
        self._known: dict[tuple[Any, ...], list[str]] = {}
        self._unprinted = Unprinted(tokenizer)

    def write(self, example: Example, messages: list[Message], *, asks: bool = False) -> str:
        """The messages as text, with the generation prompt behind them if `asks`.

        Raises: what the template raises.
        """
        plain = self._copies and not example.tools and not example.template_kwargs
        if not plain or not all(map(_is_text, messages)):
            return self._render(messages, asks, tools=example.tools, **example.template_kwargs)
        roles = (*(message["role"] for message in messages), asks)
        pieces = self._known.get(roles)
        if pieces is None:
            places = [{**message, "content": _PLACE.format(i)} for i, message in enumerate(messages)]
            pieces = self._known[roles] = _PLACES.split(self._render(places, asks))
        # Every other piece is the number of a message.
        return "".join(messages[int(each)]["content"] if i % 2 else each for i, each in enumerate(pieces))

    def left_out(self, example: Example, messages: list[Message], text: str) -> list[tuple[int, str]]:
        """Place and key of what does not stand in `text`, which `write` made of the messages (`Unprinted.keys`)."""
        return self._unprinted.keys(example, messages, text, self.write)

    def _render(self, messages: list[Message], asks: bool, **variables: Any) -> str:
        def write(given: list[Message]) -> Any:
            return self._tokenizer.apply_chat_template(
                given, tokenize=False, add_generation_prompt=asks, **variables
            )

        try:
            text = write(messages)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError):
            # A call of a tool comes without content, or with null; some templates add text to it all the same.
            if all("content" in message for message in messages):
                raise
            text = write([{"content": "", **message} for message in messages])
        assert isinstance(text, str)
        return text


def _is_text(message: Message) -> bool:
    return message.keys() == {"role", "content"} and isinstance(message["content"], str)


@functools.lru_cache(maxsize=8)
def copies_contents(template: str) -> bool:
    """Whether the template writes the contents of messages as they stand, and nothing else of it depends on them.

    That is read off its syntax: every expression that holds a content is only written out, added to other text, kept
    under a name, or asked for its type. True is certain; False may be too careful. Messages have a role and a content.
    """
    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except jinja2.TemplateSyntaxError:
        return False
    return _Flow(tree).is_plain()


class _Flow:
    """Which names of a template hold the messages, one of them, or text with a content in it."""

    def __init__(self, tree: nodes.Template) -> None:
        self.tree = tree
        self.above: dict[nodes.Node, nodes.Node] = {}
        self.names = {"messages": "list"}
        for node in _below(tree):
            self.above |= dict.fromkeys(node.iter_child_nodes(), node)

    def is_plain(self) -> bool:
        """Whether all that holds a content goes where `copies_contents` allows it."""
        every = list(_below(self.tree))
        if any(isinstance(node, _FOREIGN) or not self._is_known(node) for node in every):
            return False
        before = 0
        while before != len(self.names):  # a name may be used above the place where it is set
            before = len(self.names)
            if not all(self._may_stand(node) for node in every):
                return False
        return True

    def _is_known(self, node: nodes.Node) -> bool:
        """Whether a node can show nothing of messages but by their name."""
        if isinstance(node, nodes.Name) and node.name == "loop":
            parent = self.above[node]
            return isinstance(parent, nodes.Getattr) and parent.attr in _OF_LOOPS
        if isinstance(node, nodes.Name) and node.name in (
            "strftime_now",
            "self",
            "caller",
            "varargs",
            "kwargs",
        ):
            return False
        return not (isinstance(node, nodes.For) and node.recursive)

    def _kind(self, node: nodes.Node) -> str | None:
        """What an expression holds: "list" (of messages), "message", "content", or nothing of them."""
        if isinstance(node, nodes.Name):
            return self.names.get(node.name)
        if isinstance(node, nodes.Getitem | nodes.Getattr):
            of = self._kind(node.node)
            if of == "list" and isinstance(node, nodes.Getitem):
                return "list" if isinstance(node.arg, nodes.Slice) else "message"
            if of == "message" and _key(node) == "content":
                return "content"
        if isinstance(node, nodes.Add | nodes.Concat | nodes.CondExpr):
            parts = [each for each in node.iter_child_nodes() if self._holds(node, each)]
            return "content" if any(self._kind(each) == "content" for each in parts) else None
        return None

    def _holds(self, node: nodes.Node, child: nodes.Node) -> bool:
        """Whether a child is part of the value of an expression, not of its condition."""
        return not (isinstance(node, nodes.CondExpr) and child is node.test)

    def _may_stand(self, node: nodes.Node) -> bool:
        """Whether what the node holds goes where it may; names that it is kept under are noted."""
        kind = self._kind(node)
        if kind is None or (isinstance(node, nodes.Name) and node.ctx != "load"):
            return True
        parent = self.above[node]
        if isinstance(parent, nodes.Assign) and parent.node is node:
            return self._note(parent.target, kind)
        if isinstance(parent, nodes.Test) and parent.node is node:
            return parent.name in (_ABOUT_TYPE if kind == "content" else {"defined"})
        if kind == "list":
            if isinstance(parent, nodes.For) and parent.iter is node:
                return self._note(parent.target, "message")
            counted = isinstance(parent, nodes.Filter) and parent.name in ("length", "count")
            return counted or (isinstance(parent, nodes.Getitem) and parent.node is node)
        if kind == "message":
            # A dict's methods (`message.items`) would show the content too.
            inside = isinstance(parent, nodes.Getitem | nodes.Getattr) and parent.node is node
            return inside and _key(parent) is not None and not hasattr(dict, str(_key(parent)))
        if isinstance(parent, nodes.Output):
            return not any(isinstance(each, _CAPTURING) for each in self._ancestors(parent))
        joined = isinstance(parent, nodes.Add | nodes.Concat | nodes.CondExpr)
        return joined and self._holds(parent, node)

    def _note(self, target: nodes.Node, kind: str) -> bool:
        """Whether the target is a name that holds nothing else of messages."""
        if not isinstance(target, nodes.Name):
            return False
        return self.names.setdefault(target.name, kind) == kind

    def _ancestors(self, node: nodes.Node) -> Iterator[nodes.Node]:
        while node in self.above:
            node = self.above[node]
            yield node


def _key(node: nodes.Node) -> str | None:
    """The name of what is taken out of a message, where the template spells it."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return node.arg.value if isinstance(node.arg.value, str) else None
    return None


def _below(node: nodes.Node) -> Iterator[nodes.Node]:
    """The node and all that it is made of."""
    yield node
    for child in node.iter_child_nodes():
        yield from _below(child)
