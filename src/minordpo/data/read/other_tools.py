"""Pairs as OpenAI, Axolotl, ms-swift and LLaMA-Factory v1 lay them out → `Parts`."""

from __future__ import annotations

from typing import Any

from minordpo.data.read.accounting import RowProblem, Tally, count_others, is_media
from minordpo.data.read.fields import Message, Row, read_messages, read_text, say, wrong
from minordpo.data.read.layout import Parts, layout, pair_parts
from minordpo.data.read.llama_factory import calls_of, said, with_history
from minordpo.data.read.pairs import RESPONSES, implicit_chat

_REASONING = "reasoning_content"  # what chat templates call the thoughts before an answer


def _openai(row: Row, where: str, tally: Tally) -> Parts:
    given = row["input"]
    given = {"messages": given} if isinstance(given, list) else given
    if not isinstance(given, dict) or not isinstance(given.get("messages"), list):
        raise wrong(where, "input", say(given), 'an object with messages, a list of {"role", "content"},')
    count_others(tally, "input", given, ("messages", "tools"))
    prompt = read_messages(given["messages"], "messages of input", where, tally)
    answers = [
        answer_messages(row[field], field, where, tally)
        for field in ("preferred_output", "non_preferred_output")
    ]
    return pair_parts(prompt, *answers)._replace(tools=given.get("tools"))


def _messages_and_answers(row: Row, where: str, tally: Tally) -> Parts:
    """Axolotl's chat_template rows: the conversation so far, and one message (or its text) for each answer."""
    field = "messages" if row.get("prompt") is None else "prompt"
    prompt = _messages(row[field], field, where, tally)
    return pair_parts(prompt, *(answer_messages(row[each], each, where, tally) for each in RESPONSES))


def answer_messages(value: Any, field: str, where: str, tally: Tally) -> list[Message]:
    """An answer as messages: it is a list of these, or one of them, or the text of the assistant's turn."""
    if isinstance(value, dict):
        return read_messages([value], field, where, tally)
    if isinstance(value, list):
        return read_messages(value, field, where, tally)
    return said(value, field, where)


def _swift_response(row: Row, where: str, tally: Tally) -> Parts:
    """The last turns of `messages`, from the assistant's on, are the chosen answer."""
    messages = _swift_messages(row["messages"], "messages", where, tally)
    asked = max((i for i, each in enumerate(messages, 1) if each["role"] == "user"), default=0)
    if not 0 < asked < len(messages):
        found = f"a list of {len(messages)} in which no answer follows a user turn"
        raise wrong(where, "messages", found, "a prompt and, last, the chosen answer")
    value = row["rejected_response"]
    if isinstance(value, list):
        rejected = _swift_messages(value, "rejected_response", where, tally)
    else:
        # The text stands in for the last turn, so that calls of tools before it belong to both.
        rejected = [*messages[asked:-1], *said(value, "rejected_response", where)]
    return pair_parts(messages[:asked], messages[asked:], rejected)


def _swift_conversations(row: Row, where: str, tally: Tally) -> Parts:
    chosen, rejected = (
        _swift_messages(row[each], each, where, tally) for each in ("messages", "rejected_messages")
    )
    return implicit_chat({"chosen": chosen, "rejected": rejected}, where, tally)


def _swift_query(row: Row, where: str, tally: Tally) -> Parts:
    prompt = with_history(row, read_text(row["query"], "query", where), where)
    answers = (answer_messages(row[each], each, where, tally) for each in ("response", "rejected_response"))
    return pair_parts(prompt, *answers)


def _swift_messages(value: Any, field: str, where: str, tally: Tally) -> list[Message]:
    """Messages of ms-swift, in which a call of a tool and its answer have roles of their own."""
    found: list[Message] = []
    for i, message in enumerate(_messages(value, field, where, tally), 1):
        role = message["role"]
        if role in ("tool_call", "function_call"):
            calls = calls_of(message["content"], f"message {i} of {field}", where)
            if found and found[-1].get("tool_calls") and found[-1]["role"] == "assistant":
                found[-1]["tool_calls"] += calls  # calls that follow each other are one turn
                continue
            message = {"role": "assistant", "tool_calls": calls}
        found.append({**message, "role": "tool"} if role == "tool_response" else message)
    return found


def _messages(value: Any, field: str, where: str, tally: Tally) -> list[Message]:
    return read_messages(_listed(value, field, where), field, where, tally)


def _listed(value: Any, field: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise wrong(where, field, say(value), 'a list of {"role", "content"}')
    return value


def _v1(row: Row, where: str, tally: Tally) -> Parts:
    chosen, rejected = (
        [
            _v1_message(raw, f"message {i} of {field}", where, tally)
            for i, raw in enumerate(_listed(row[field], field, where), 1)
        ]
        for field in ("chosen_messages", "rejected_messages")
    )
    return implicit_chat({"chosen": chosen, "rejected": rejected}, where, tally)


def _v1_message(raw: Any, field: str, where: str, tally: Tally) -> Any:
    """A message whose content may be a list of {"type", "value"}: text, reasoning and calls of tools."""
    content = raw.get("content") if isinstance(raw, dict) else None
    if not isinstance(content, list) or not any(isinstance(p, dict) and "value" in p for p in content):
        return raw  # as other tools have it
    texts: list[str] = []
    found: dict[str, Any] = {}
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("text", "reasoning", "tool_call", "tool_calls"):
            what = "media" if isinstance(kind, str) and is_media(kind) else "content"
            words = f"the content of {field} has a part of type {kind}"
            raise RowProblem(what, f"{words}, but text, reasoning or tool_call is needed")
        count_others(tally, "text parts", part, ("type", "value"))
        value = read_text(part.get("value"), f"the {kind} of {field}", where)
        if kind == "text":
            texts.append(value)
        elif kind == "reasoning":
            found[_REASONING] = found.get(_REASONING, "") + value
        else:
            found["tool_calls"] = [*found.get("tool_calls", []), *calls_of(value, field, where)]
    message = {key: value for key, value in raw.items() if key != "content"} | found
    return message if not texts and "tool_calls" in found else {**message, "content": "".join(texts)}


OPENAI = layout("OpenAI preferences", _openai)
MESSAGES_AND_ANSWERS = layout("messages and two answers", _messages_and_answers)
SWIFT_RESPONSE = layout("ms-swift rejected_response", _swift_response)
SWIFT_CONVERSATIONS = layout("ms-swift rejected_messages", _swift_conversations)
SWIFT_QUERY = layout("ms-swift query and response", _swift_query)
LLAMA_FACTORY_V1 = layout("LLaMA-Factory v1", _v1)
