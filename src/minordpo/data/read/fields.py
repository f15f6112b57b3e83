"""One field of a row → text, messages, tools; whatever is anything else is refused by row and field."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from minordpo.data.read.accounting import RowProblem, Tally, count_others, is_media
from minordpo.errors import InputError

Message = dict[str, Any]
Text = str | list[Message]
Row = dict[str, Any]
_HALVES = re.compile("[\ud800-\udfff]")


def wrong(where: str, field: str, found: str, needed: str) -> InputError:
    """The error for one field of one row."""
    return InputError(f"{where}: {field} is {found}, but {needed} is needed. Fix the row or drop it.")


def read_text(value: Any, field: str, where: str) -> str:
    """`value`, if it is text that a tokenizer takes."""
    if not isinstance(value, str):
        raise wrong(where, field, say(value), "text")
    if half := half_character(value):
        raise wrong(where, field, "text with {} at position {}".format(*half), "whole Unicode text")
    return value


def half_character(text: str) -> tuple[str, int] | None:
    """The first lone surrogate of `text` in words, and its position; None if there is none.

    JSON can spell one as \\ud800, and tokenizers panic on it.
    """
    half = None if text.isascii() else _HALVES.search(text)
    return (f"half a character (\\u{ord(half[0]):04x})", half.start()) if half else None


def read_content(value: Any, field: str, where: str, tally: Tally | None = None) -> Text:
    """The messages of a list, else the text that `value` is."""
    if isinstance(value, list):
        return read_messages(value, field, where, tally)
    return read_text(value, field, where)


def read_optional_text(row: Row, field: str, where: str) -> str:
    """The text of a column that may be absent, then empty."""
    return "" if row.get(field) is None else read_text(row[field], field, where)


def kind_of(value: Any, field: str, where: str) -> str:
    """Whether a prompt or response is "text" or "messages"."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "messages"
    raise wrong(where, field, say(value), "text or a list of messages")


def read_messages(value: list[Any], field: str, where: str, tally: Tally | None = None) -> list[Message]:
    """The chat messages of what is known to be a list; keys of their content's parts that are not read are counted."""
    return [_message(raw, f"message {i} of {field}", where, tally) for i, raw in enumerate(value, 1)]


def _message(raw: Any, field: str, where: str, tally: Tally | None) -> Message:
    """A message as it stands, less the keys that Arrow filled with null; content in text parts is joined."""
    if not isinstance(raw, dict) or not isinstance(raw.get("role"), str):
        hint = " (from/value turns have their own layout, with the column conversations)"
        needed = '{"role", "content"}' + (hint if isinstance(raw, dict) and "from" in raw else "")
        raise wrong(where, field, say(raw), needed)
    message = {key: value for key, value in raw.items() if value is not None}
    if "content" not in message and message.get("tool_calls"):
        return message
    content = message.get("content")
    if isinstance(content, list):
        content = _joined_parts(content, field, where, tally)
    return {**message, "content": read_text(content, f"the content of {field}", where)}


def _joined_parts(parts: list[Any], field: str, where: str, tally: Tally | None) -> str:
    """The text of text parts in one: templates of text models concatenate content as a string.

    Raises:
        RowProblem: a part is no text.
    """
    kinds = {str(part.get("type")) if isinstance(part, dict) else say(part) for part in parts} - {"text"}
    if kinds:
        found = f"the content of {field} is a list with parts of type {', '.join(sorted(kinds))}"
        kind = "media" if any(is_media(each.removeprefix("input_")) for each in kinds) else "content"
        raise RowProblem(kind, f"{found}, but text, or a list of text parts, is needed")
    if tally is not None:
        for part in parts:
            count_others(tally, "text parts", part, ("type", "text"))
    return "".join(read_text(part.get("text"), f"the content of {field}", where) for part in parts)


def read_json(value: Any, field: str, where: str) -> Any:
    """`value`, parsed if it is JSON text; None for blank text."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise wrong(where, field, say(value), f"JSON text ({error})") from None


def read_tools(row: Row, bare_functions: bool, where: str) -> list[dict[str, Any]] | None:
    """The tools of a chat row, a list or its JSON text; None where there are none."""
    tools = read_json(row.get("tools"), "tools", where)
    if not tools:
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise wrong(where, "tools", say(tools), "a list of objects (or its JSON text)")
    if bare_functions:
        # Chat templates read tool.function.name; LLaMA-Factory's files list the functions alone.
        return [
            {"type": "function", "function": t} if "name" in t and "function" not in t else t for t in tools
        ]
    return tools


def read_template_kwargs(row: Row, where: str) -> dict[str, Any]:
    """The extra variables for the chat template, an object or its JSON text; empty where there are none."""
    kwargs = read_json(row.get("chat_template_kwargs"), "chat_template_kwargs", where)
    if not kwargs:
        return {}
    if not isinstance(kwargs, dict):
        raise wrong(where, "chat_template_kwargs", say(kwargs), "an object (or its JSON text)")
    return kwargs


def say(value: object) -> str:
    """What `value` is, in the words of a data file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {shorten(value)!r}"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, dict):
        return f"an object with the keys {listed(list(value))}"
    return f"a value of type {type(value).__name__}"


def shorten(text: str, width: int = 40) -> str:
    """The beginning of `text`, for messages."""
    return text if len(text) <= width else text[: width - 1] + "…"


def listed(columns: list[str]) -> str:
    """The names in `columns`, the first dozen of them."""
    shown = ", ".join(shorten(str(column)) for column in columns[:12]) or "(none)"
    return shown + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")


def shared_beginning(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many characters two texts, or messages two lists, begin with alike."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (one, other) in pairs if one != other), min(len(first), len(second)))
