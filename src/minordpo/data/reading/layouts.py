"""One row, in any of the layouts in use → prompt, chosen, rejected."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, cast

from minordpo.data.reading.fields import (
    Message,
    Row,
    Text,
    listed,
    read_json,
    read_messages,
    read_optional_text,
    read_text,
    say,
    shorten,
    wrong,
)
from minordpo.errors import InputError


class Parts(NamedTuple):
    """What a row says, whatever its layout: all three plain text, or all three chat messages."""

    prompt: Text
    chosen: Text
    rejected: Text


class Layout(NamedTuple):
    """One way to lay a pair out in columns; `parse` takes a row, where it stands, and the tally of notes."""

    name: str
    required: tuple[str, ...]
    shape: str  # for people: the columns and what they hold
    parse: Callable[[Row, str, Counter[str]], Parts]
    is_chat: bool
    bare_functions: bool = False  # `tools` lists functions without the {"type": "function"} wrapper


IMPLICIT_TEXT_NOTE = (
    "the prompt is what both texts begin with, cut back to a whole word (or to the last 'Assistant:' of a "
    "Human/Assistant dialogue). Words that both responses begin with then count as prompt, and where the "
    "prompt ends changes MinorDPO, DPOP and KTO (not DPO). Give a prompt column to say where it ends"
)
SHARED_TURN_NOTE = (
    "the conversations part at a turn that is not the assistant's, so both responses begin at the assistant "
    "turn before it"
)
REPEATED_PROMPT_NOTE = "the responses repeat the prompt's messages; the repetition was taken off"
UNUSED_PROMPT_NOTE = (
    "the prompt column is none of the row's messages and was not used; the messages are the prompt"
)
TWO_SYSTEMS_NOTE = (
    "there is a system turn and a different system column; the turn was used, as LLaMA-Factory does"
)
UNUSED_TOOLS_NOTE = "tools and chat_template_kwargs were not used, because the row is plain text"

# Published pairs call the prompt by these names too. Without this list such rows would pass for texts with an
# implicit prompt, and a model would train on two answers whose question it never sees.
_OTHER_NAMES = {
    "question": "prompt",
    "query": "prompt",
    "input": "prompt",
    "problem": "prompt",
    "messages": "prompt",
    "chosen_response": "chosen",
    "accepted": "chosen",
    "rejected_response": "rejected",
}
_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")
_ASSISTANT_TURN = "\n\nAssistant:"


def describe_layouts() -> str:
    """The layouts that are read, by name and columns, as one line."""
    return "; ".join(f"{layout.name} ({layout.shape})" for layout in LAYOUTS)


def recognise(row: Row, where: str) -> Layout | None:
    """The layout of `row` by its columns and their values, None if it is no known one.

    Raises: InputError if the columns are known but their values are not text or messages, or do not agree.
    """
    columns = row.keys()
    if not {"chosen", "rejected"} <= columns:
        old_alpaca = {"instruction", "output"} <= columns and not isinstance(row["output"], str)
        return ALPACA_OUTPUT if old_alpaca else None
    trl_values = isinstance(row["chosen"], str | list)
    if "conversations" in columns and not ("prompt" in columns and trl_values):
        return SHAREGPT
    if "instruction" in columns and "prompt" not in columns:
        return ALPACA
    fields = [field for field in ("prompt", "chosen", "rejected") if field in columns]
    kinds = [_kind(row, field, where) for field in fields]
    layout = _BY_KINDS.get(tuple(kinds))
    if layout is None:
        found = ", ".join(f"{field} is {kind}" for field, kind in zip(fields, kinds, strict=True))
        raise InputError(
            f"{where}: {found}, but they must agree. Make all of them text or all of them lists of messages."
        )
    if layout is IMPLICIT_TEXT and _nearest_column("prompt", columns, cutoff=0.85):
        return None
    if not layout.is_chat and all(_MESSAGES_AS_TEXT.match(row[field]) for field in _RESPONSES):
        raise InputError(
            f"{where}: chosen and rejected are lists of messages written out as text, but real lists are "
            "needed. Save the rows as .jsonl or .parquet with the lists as they are."
        )
    return layout


def unknown_layout(row: Row, where: str) -> InputError:
    """The error for a row that no layout fits: its columns, the nearest layout and all the layouts."""
    columns = [str(column) for column in row]
    explicit = [layout for layout in LAYOUTS if layout.required != _RESPONSES]
    nearest = max(explicit, key=lambda layout: _overlap(layout, columns))
    missing = [column for column in nearest.required if column not in columns]
    renames = [f"rename {old!r} to {new!r}" for new in missing if (old := _nearest_column(new, columns))]
    remedy = ", ".join(renames) or (
        f"add {' and '.join(missing)}" if missing else "make output a list of two"
    )
    return InputError(
        f"{where} has the columns {listed(columns)}, which are no known layout. "
        f"The nearest is {nearest.name}, {nearest.shape}: {remedy}. Known layouts: {describe_layouts()}."
    )


def different_layout(
    row: Row, where: str, found: Layout | None, first: Layout, first_where: str
) -> InputError:
    """The error for a row that is laid out unlike the first one."""
    missing = [column for column in first.required if column not in row]
    lacks = f"lacks {' and '.join(missing)}" if missing else "has the columns " + listed(list(row))
    this = f"{where} is laid out as {found.name}" if found else f"{where} {lacks}"
    return InputError(
        f"{this}, but {first_where} is {first.name} ({first.shape}). "
        "One source has one layout: fix the row, drop it, or split the source."
    )


def _overlap(layout: Layout, columns: list[str]) -> float:
    hits = sum(1.0 if c in columns else 0.9 if _nearest_column(c, columns) else 0.0 for c in layout.required)
    return hits / len(layout.required) + 0.01 * hits


def _nearest_column(wanted: str, columns: Collection[str], cutoff: float = 0.6) -> str | None:
    known = {column for layout in LAYOUTS for column in layout.required}
    free = {str(column).lower(): str(column) for column in columns if column not in known}
    other = next((column for name, column in free.items() if _OTHER_NAMES.get(name) == wanted), None)
    return other or next((free[name] for name in difflib.get_close_matches(wanted, free, 1, cutoff)), None)


def _kind(row: Row, field: str, where: str) -> str:
    if isinstance(row[field], str):
        return "text"
    if isinstance(row[field], list):
        return "messages"
    raise wrong(where, field, say(row[field]), "text or a list of messages")


def _trl_text(row: Row, where: str, tally: Counter[str]) -> Parts:
    return Parts(*(read_text(row[field], field, where) for field in ("prompt", "chosen", "rejected")))


def _trl_chat(row: Row, where: str, tally: Counter[str]) -> Parts:
    prompt, chosen, rejected = (
        read_messages(row, field, where) for field in ("prompt", "chosen", "rejected")
    )
    count = len(prompt)
    if count and chosen[:count] == prompt == rejected[:count] and min(len(chosen), len(rejected)) > count:
        tally[REPEATED_PROMPT_NOTE] += 1
        return Parts(prompt, chosen[count:], rejected[count:])
    return Parts(prompt, chosen, rejected)


def _implicit_chat(row: Row, where: str, tally: Counter[str]) -> Parts:
    """The longest common beginning is the prompt, cut back until both responses begin with the assistant."""
    chosen, rejected = read_messages(row, "chosen", where), read_messages(row, "rejected", where)
    shortest = min(len(chosen), len(rejected))
    parted = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest)
    end = min(parted, shortest - 1)
    while end > 0 and not chosen[end]["role"] == rejected[end]["role"] == "assistant":
        end -= 1
    if end <= 0:
        raise InputError(
            f"{where}: chosen and rejected share {parted} first messages and no prompt, but conversations "
            "that begin alike, then go on with an assistant message each, are needed. Add a prompt column or "
            "drop the row."
        )
    if end < min(parted, shortest - 1):
        tally[SHARED_TURN_NOTE] += 1
    return Parts(chosen[:end], chosen[end:], rejected[end:])


def _implicit_text(row: Row, where: str, tally: Counter[str]) -> Parts:
    """The common beginning is the prompt.

    TRL 1.16's `extract_prompt` cuts at the first character that differs, or before the space in front of it.
    We do so at word boundaries only: at "bl|ue" and "bl|ack" the prompt would end in a token no text has.
    """
    chosen, rejected = (
        read_text(row["chosen"], "chosen", where),
        read_text(row["rejected"], "rejected", where),
    )
    if not chosen or not rejected:
        return Parts("", chosen, rejected)
    shortest = min(len(chosen), len(rejected))
    # At least a character stays with each response, also where the texts are equal.
    end = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest - 1)
    turn = chosen.rfind(_ASSISTANT_TURN, 0, end)
    if turn >= 0:
        end = turn + len(_ASSISTANT_TURN)
    else:
        inside = chosen[end].isalnum() or rejected[end].isalnum()
        while end > 0 and inside and chosen[end - 1].isalnum():
            end -= 1
        if end > 0 and chosen[end - 1] == " ":
            end -= 1
    if end == 0:
        raise InputError(
            f"{where}: chosen ({shorten(chosen)!r}) and rejected ({shorten(rejected)!r}) begin with no "
            "common word, but both must begin with the prompt, or there be a prompt column. Add it."
        )
    tally[IMPLICIT_TEXT_NOTE] += 1
    return Parts(chosen[:end], chosen[end:], rejected[end:])


def _prompt_and_conversations(row: Row, where: str, tally: Counter[str]) -> Parts:
    """UltraFeedback's rows: the prompt is text, and also the first turn of both conversations."""
    prompt = read_text(row["prompt"], "prompt", where)
    if all(
        row[f] and isinstance(row[f][0], dict) and row[f][0].get("role") == "assistant" for f in _RESPONSES
    ):
        asked = [{"role": "user", "content": prompt}]
        return Parts(asked, read_messages(row, "chosen", where), read_messages(row, "rejected", where))
    parts = _implicit_chat(row, where, tally)
    shared = cast(list[Message], parts.prompt)
    if not any(message.get("content", "").strip() == prompt.strip() for message in shared):
        tally[UNUSED_PROMPT_NOTE] += 1
    return parts


def _sharegpt(row: Row, where: str, tally: Counter[str]) -> Parts:
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise wrong(where, "conversations", say(turns), 'a list of {"from", "value"}')
    prompt = [_turn(turn, f"turn {i} of conversations", where) for i, turn in enumerate(turns, 1)]
    system = read_optional_text(row, "system", where)
    if prompt[0]["role"] != "system":
        prompt = _system_turn(system) + prompt
    elif system and system != prompt[0]["content"]:
        tally[TWO_SYSTEMS_NOTE] += 1
    responses = [_turn(row[field], field, where) for field in _RESPONSES]
    for field, response in zip(_RESPONSES, responses, strict=True):
        if response["role"] != "assistant":
            raise wrong(
                where, f'"from" of {field}', say(row[field]["from"]), "gpt, assistant or function_call"
            )
    return Parts(prompt, [responses[0]], [responses[1]])


def _turn(turn: Any, field: str, where: str) -> Message:
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        hint = " (for role/content messages, name the column prompt and make the responses lists)"
        needed = '{"from", "value"}' + (hint if isinstance(turn, dict) and "role" in turn else "")
        raise wrong(where, field, say(turn), needed)
    value = read_text(turn["value"], f"the value of {field}", where)
    role = _ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
    if role is None:
        raise wrong(where, f'"from" of {field}', say(turn["from"]), f"one of {', '.join(_ROLES)}")
    if turn["from"] != "function_call":
        return {"role": role, "content": value}
    return {"role": role, "tool_calls": _tool_calls(value, field, where)}


def _tool_calls(value: str, field: str, where: str) -> list[dict[str, Any]]:
    calls = read_json(value, f"the value of {field}", where)
    calls = calls if isinstance(calls, list) else [calls]
    functions = []
    for call in calls:
        arguments = (
            read_json(call.get("arguments"), f"arguments in {field}", where)
            if isinstance(call, dict)
            else None
        )
        if not isinstance(arguments, dict) or not isinstance(call.get("name"), str):
            raise wrong(
                where, f"the function_call of {field}", say(value), 'JSON text of {"name", "arguments"}'
            )
        functions.append({"type": "function", "function": {"name": call["name"], "arguments": arguments}})
    return functions


def _alpaca_prompt(row: Row, where: str) -> list[Message]:
    history = row.get("history") or []
    paired = isinstance(history, list) and all(isinstance(h, list) and len(h) == 2 for h in history)
    if not paired:
        raise wrong(where, "history", say(history), "a list of [user, assistant] texts")
    messages = _system_turn(read_optional_text(row, "system", where))
    for asked, answered in history:
        messages.append({"role": "user", "content": read_text(asked, "a user turn of history", where)})
        messages.append(
            {"role": "assistant", "content": read_text(answered, "an assistant turn of history", where)}
        )
    asked = [read_text(row["instruction"], "instruction", where), read_optional_text(row, "input", where)]
    return [*messages, {"role": "user", "content": "\n".join(part for part in asked if part)}]


def _alpaca(row: Row, where: str, tally: Counter[str]) -> Parts:
    responses = [
        [{"role": "assistant", "content": read_text(row[field], field, where)}] for field in _RESPONSES
    ]
    return Parts(_alpaca_prompt(row, where), *responses)


def _alpaca_output(row: Row, where: str, tally: Counter[str]) -> Parts:
    output = row["output"]
    if not isinstance(output, list) or len(output) != 2:
        raise InputError(
            f"{where}: output is {say(output)}, but [chosen, rejected] is needed. Fix the row or drop it."
        )
    return _alpaca({**row, "chosen": output[0], "rejected": output[1]}, where, tally)


def _system_turn(system: str) -> list[Message]:
    return [{"role": "system", "content": system}] if system else []


_RESPONSES = ("chosen", "rejected")
_PROMPT_RESPONSES = ("prompt", *_RESPONSES)
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "function_call": "assistant",
}

TRL_TEXT = Layout("TRL text", _PROMPT_RESPONSES, "prompt, chosen, rejected: text", _trl_text, False)
TRL_CHAT = Layout(
    "TRL chat", _PROMPT_RESPONSES, 'prompt, chosen, rejected: lists of {"role", "content"}', _trl_chat, True
)
ULTRAFEEDBACK = Layout(
    "UltraFeedback chat",
    _PROMPT_RESPONSES,
    "prompt: text; chosen, rejected: conversations that repeat it",
    _prompt_and_conversations,
    True,
)
IMPLICIT_TEXT = Layout(
    "TRL implicit text",
    _RESPONSES,
    "chosen, rejected: texts that begin with the prompt",
    _implicit_text,
    False,
)
IMPLICIT_CHAT = Layout(
    "TRL implicit chat", _RESPONSES, "chosen, rejected: conversations that begin alike", _implicit_chat, True
)
SHAREGPT = Layout(
    "LLaMA-Factory ShareGPT",
    ("conversations", *_RESPONSES),
    'conversations: list of {"from", "value"}; chosen, rejected: one each; system, tools if any',
    _sharegpt,
    True,
    bare_functions=True,
)
ALPACA = Layout(
    "LLaMA-Factory Alpaca",
    ("instruction", *_RESPONSES),
    "instruction, chosen, rejected: text; input, system, history if any",
    _alpaca,
    True,
    bare_functions=True,
)
ALPACA_OUTPUT = Layout(
    "LLaMA-Factory Alpaca, older",
    ("instruction", "output"),
    "instruction: text; output: [chosen, rejected]; input, system, history if any",
    _alpaca_output,
    True,
    bare_functions=True,
)
LAYOUTS = (TRL_TEXT, TRL_CHAT, IMPLICIT_TEXT, IMPLICIT_CHAT, ULTRAFEEDBACK, SHAREGPT, ALPACA, ALPACA_OUTPUT)
_BY_KINDS = {
    ("text", "text", "text"): TRL_TEXT,
    ("messages", "messages", "messages"): TRL_CHAT,
    ("text", "messages", "messages"): ULTRAFEEDBACK,
    ("text", "text"): IMPLICIT_TEXT,
    ("messages", "messages"): IMPLICIT_CHAT,
}
