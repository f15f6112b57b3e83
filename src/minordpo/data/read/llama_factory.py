"""LLaMA-Factory's rows, pairs and labelled, in its ShareGPT and Alpaca forms → `Parts`."""

from __future__ import annotations

from typing import Any

from minordpo.data.read.accounting import Tally, count_others
from minordpo.data.read.fields import (
    Message,
    Row,
    read_json,
    read_messages,
    read_optional_text,
    read_text,
    say,
    wrong,
)
from minordpo.data.read.graded import read_label
from minordpo.data.read.layout import ROLES, Parts, layout, pair_parts
from minordpo.data.read.pairs import RESPONSES

LABEL_NAMES = ("kto_tag", "label")  # the column in LLaMA-Factory's documentation, and in its own demo file


def _sharegpt(row: Row, where: str, tally: Tally) -> Parts:
    prompt = _turns(row["conversations"], "conversations", where, tally)
    responses = [_turn(row[field], field, where, tally) for field in RESPONSES]
    for field, response in zip(RESPONSES, responses, strict=True):
        if response["role"] != "assistant":
            given = say(row[field]["from"])
            raise wrong(where, f'"from" of {field}', given, "gpt, assistant or function_call")
    return pair_parts(prompt, [responses[0]], [responses[1]])


def _sharegpt_labelled(row: Row, where: str, tally: Tally) -> Parts:
    """The last turn is the labelled response, in from/value turns or in role/content messages."""
    field = "conversations" if row.get("messages") is None and "conversations" in row else "messages"
    raw = row[field]
    if isinstance(raw, list) and raw and isinstance(raw[0], dict) and "role" in raw[0]:
        turns = read_messages(raw, field, where, tally)
    else:
        turns = _turns(raw, field, where, tally)
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        found = f"a list of {len(turns)} whose last turn is of the role {turns[-1]['role']!r}"
        raise wrong(where, field, found, "a prompt and, last, the assistant's turn that is labelled")
    return Parts(turns[:-1], (turns[-1:],), (read_label(row, LABEL_NAMES, where, tally),))


def _turns(turns: Any, field: str, where: str, tally: Tally) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise wrong(where, field, say(turns), 'a list of {"from", "value"}')
    return [_turn(turn, f"turn {i} of {field}", where, tally) for i, turn in enumerate(turns, 1)]


def _turn(turn: Any, field: str, where: str, tally: Tally) -> Message:
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        hint = " (for role/content messages, name the column prompt and make the responses lists)"
        needed = '{"from", "value"}' + (hint if isinstance(turn, dict) and "role" in turn else "")
        raise wrong(where, field, say(turn), needed)
    if len(turn) > 2:
        count_others(tally, "turns", turn, ("from", "value"))
    value = read_text(turn["value"], f"the value of {field}", where)
    role = ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
    if role is None:
        raise wrong(where, f'"from" of {field}', say(turn["from"]), f"one of {', '.join(ROLES)}")
    if turn["from"] not in ("function_call", "tool_call"):
        return {"role": role, "content": value}
    return {"role": role, "tool_calls": calls_of(value, field, where)}


def calls_of(value: str, field: str, where: str) -> list[dict[str, Any]]:
    """The tool calls of JSON text: one {"name", "arguments"} or a list of them."""
    calls = read_json(value, f"the value of {field}", where)
    calls = calls if isinstance(calls, list) else [calls]
    functions = []
    for call in calls:
        name, raw = (call.get("name"), call.get("arguments")) if isinstance(call, dict) else (None, None)
        arguments = read_json(raw, f"arguments in {field}", where)
        if not isinstance(arguments, dict) or not isinstance(name, str):
            needed = 'JSON text of {"name", "arguments"}'
            raise wrong(where, f"the function_call of {field}", say(value), needed)
        functions.append({"type": "function", "function": {"name": name, "arguments": arguments}})
    return functions


def with_history(row: Row, asked: str, where: str) -> list[Message]:
    """What is asked, behind the earlier turns of the column `history`, [user, assistant] texts."""
    history = row.get("history") or []
    paired = isinstance(history, list) and all(isinstance(h, list) and len(h) == 2 for h in history)
    if not paired:
        raise wrong(where, "history", say(history), "a list of [user, assistant] texts")
    messages: list[Message] = []
    for question, answered in history:
        messages.append({"role": "user", "content": read_text(question, "a user turn of history", where)})
        messages += said(answered, "an assistant turn of history", where)
    return [*messages, {"role": "user", "content": asked}]


def _alpaca_prompt(row: Row, where: str) -> list[Message]:
    parts = [read_text(row["instruction"], "instruction", where), read_optional_text(row, "input", where)]
    return with_history(row, "\n".join(part for part in parts if part), where)


def _alpaca(row: Row, where: str, tally: Tally) -> Parts:
    return pair_parts(_alpaca_prompt(row, where), *(said(row[f], f, where) for f in RESPONSES))


def _alpaca_output(row: Row, where: str, tally: Tally) -> Parts:
    output = row["output"]
    if not isinstance(output, list) or len(output) != 2:
        raise wrong(where, "output", say(output), "[chosen, rejected]")
    answers = (said(text, field, where) for text, field in zip(output, RESPONSES, strict=True))
    return pair_parts(_alpaca_prompt(row, where), *answers)


def _alpaca_labelled(row: Row, where: str, tally: Tally) -> Parts:
    response = said(row["output"], "output", where)
    return Parts(_alpaca_prompt(row, where), (response,), (read_label(row, LABEL_NAMES, where, tally),))


def said(text: Any, field: str, where: str) -> list[Message]:
    """A text as the assistant's turn."""
    return [{"role": "assistant", "content": read_text(text, field, where)}]


SHAREGPT = layout("LLaMA-Factory ShareGPT", _sharegpt)
SHAREGPT_LABELLED = layout("LLaMA-Factory ShareGPT for KTO", _sharegpt_labelled)
ALPACA = layout("LLaMA-Factory Alpaca", _alpaca)
ALPACA_OUTPUT = layout("LLaMA-Factory Alpaca, older", _alpaca_output)
ALPACA_LABELLED = layout("LLaMA-Factory Alpaca for KTO", _alpaca_labelled)
