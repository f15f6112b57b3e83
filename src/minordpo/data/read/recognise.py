"""Which layout a row is in."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import Any

from minordpo.data.read import graded, llama_factory, other_tools, pairs, published
from minordpo.data.read.accounting import is_empty
from minordpo.data.read.fields import Row, kind_of
from minordpo.data.read.graded import prompt_column, responses_of
from minordpo.data.read.layout import OTHER_NAMES, Layout
from minordpo.data.read.llama_factory import LABEL_NAMES
from minordpo.data.read.pairs import RESPONSES
from minordpo.errors import InputError

# Known by their columns alone. Of two that fit a row the one with more columns is meant, then the first.
BY_COLUMNS = (
    published.STEP_DPO,
    published.STACK_EXCHANGE,
    published.SAFE_RLHF,
    published.SHP,
    published.HELPSTEER2,
    published.HELPSTEER3,
    published.WEBGPT,
    published.SUMMARIES,
    published.ARENA,
    other_tools.OPENAI,
    other_tools.SWIFT_RESPONSE,
    other_tools.SWIFT_CONVERSATIONS,
    other_tools.SWIFT_QUERY,
    other_tools.LLAMA_FACTORY_V1,
    published.NECTAR,
    published.ULTRAFEEDBACK_RATED,
    published.DISTILABEL,
)
# Columns of these names also mean something else, unless they hold lists of objects.
_OF_OBJECTS = {published.NECTAR.name: "answers", published.ULTRAFEEDBACK_RATED.name: "completions"}
LAYOUTS = (
    pairs.TRL_TEXT,
    pairs.TRL_CHAT,
    pairs.IMPLICIT_TEXT,
    pairs.IMPLICIT_CHAT,
    pairs.ULTRAFEEDBACK,
    llama_factory.SHAREGPT,
    llama_factory.ALPACA,
    llama_factory.ALPACA_OUTPUT,
    graded.LABELLED_TEXT,
    graded.LABELLED_CHAT,
    llama_factory.SHAREGPT_LABELLED,
    llama_factory.ALPACA_LABELLED,
    graded.RANKED_TEXT,
    graded.RANKED_CHAT,
    other_tools.MESSAGES_AND_ANSWERS,
    *BY_COLUMNS,
)
_PAIRS_BY_KINDS = {
    ("text", "text", "text"): pairs.TRL_TEXT,
    ("messages", "messages", "messages"): pairs.TRL_CHAT,
    ("text", "messages", "messages"): pairs.ULTRAFEEDBACK,
    ("messages", "text", "text"): other_tools.MESSAGES_AND_ANSWERS,
    ("messages", "message", "message"): other_tools.MESSAGES_AND_ANSWERS,
    ("text", "text"): pairs.IMPLICIT_TEXT,
    ("messages", "messages"): pairs.IMPLICIT_CHAT,
}
_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")
# Columns beside a pair without a prompt column that say where the pair comes from, not what was asked …
_ABOUT_ROWS = re.compile(
    r"(?:.*_)?(?:ids?|source|sources|models?|dataset|datasets|split|lang|language|license|url|uuid|hash|date|time|"
    r"timestamp|created_at|version|labels?|meta|metadata|author|annotator|scores?|ratings?|reasons?|rationales?|strength|"
    r"status|difficulty)"
    r"|(?:chosen|rejected)_.*|index|__.*__"
)
# … and such that do so in a word or three, but may be the prompt.
_IN_WORDS = re.compile(r"(?:.*_)?(?:subset|categor(?:y|ies)|domain|task|topic|type|tags?|name|level|kind)")


def describe_layouts() -> str:
    """The layouts that are read, by name and columns, as one line."""
    return "; ".join(f"{layout.name} ({layout.shape})" for layout in LAYOUTS)


@functools.lru_cache(maxsize=256)
def _known_by(columns: frozenset[str]) -> tuple[Layout, ...]:
    """The layouts that a row with these columns may be in by these alone, the one with most columns first."""
    found = [layout for layout in BY_COLUMNS if set(layout.required) <= columns]
    return tuple(sorted(found, key=lambda layout: -len(layout.required)))


def recognise(row: Row, where: str) -> Layout | None:
    """The layout of `row` by its columns and their values, None if it is no known one.

    Raises: InputError if the columns are known but their values are not text or messages, or do not agree.
    """
    columns = row.keys()
    for layout in _known_by(frozenset(columns)):
        objects = row[_OF_OBJECTS[layout.name]] if layout.name in _OF_OBJECTS else []
        if isinstance(objects, list) and all(isinstance(each, dict) for each in objects):
            return layout
    if set(RESPONSES) <= columns:
        return _recognise_pair(row, where)
    if {"prompt", "completion"} <= columns:
        return _recognise_labelled(row, where)
    if "responses" in columns and columns & {"prompt", "query"}:
        return _recognise_ranked(row, where)
    has_label = bool(columns & set(LABEL_NAMES))
    if has_label and columns & {"messages", "conversations"}:
        return llama_factory.SHAREGPT_LABELLED
    if {"instruction", "output"} <= columns:
        if not isinstance(row["output"], str):
            return llama_factory.ALPACA_OUTPUT
        return llama_factory.ALPACA_LABELLED if has_label else None
    return None


def _recognise_pair(row: Row, where: str) -> Layout | None:
    columns = row.keys()
    trl_values = isinstance(row["chosen"], str | list)
    if "conversations" in columns and not ("prompt" in columns and trl_values):
        return llama_factory.SHAREGPT
    if "instruction" in columns and "prompt" not in columns:
        return llama_factory.ALPACA
    values = {field: row[field] for field in ("prompt", *RESPONSES) if field in columns}
    kinds = {field: _kind_of_part(value, field, where) for field, value in values.items()}
    layout = _PAIRS_BY_KINDS.get(tuple(kinds.values()))
    if layout is None and "prompt" not in columns and isinstance(row.get("messages"), list):
        kinds = {"messages": "messages", **kinds}
        layout = _PAIRS_BY_KINDS.get(tuple(kinds.values()))
    if layout is None:
        raise _disagreement(kinds, where)
    if not layout.is_chat:
        _refuse_messages_as_text({field: row[field] for field in RESPONSES}, where)
    return layout


def _kind_of_part(value: Any, field: str, where: str) -> str:
    """Whether a part of a pair is "text", "messages" or, of a response, one "message"."""
    if field != "prompt" and isinstance(value, dict) and "role" in value:
        return "message"
    return kind_of(value, field, where)


# ---- names that data sets have for prompt, chosen and rejected ----
def usual_names(row: Row) -> dict[str, str]:
    """Our name → the row's, for parts of a pair that go by another usual name; nothing where that is not certain."""
    columns = row.keys()
    if _known_by(frozenset(columns)):
        return {}
    found: dict[str, str] = {}
    for ours in RESPONSES:
        if ours not in columns:
            there = [name for name in OTHER_NAMES[ours] if name in columns]
            if len(there) != 1:
                return {}
            found[ours] = there[0]
    if columns & {"prompt", "conversations", "instruction"}:
        return found
    answers = [row[found.get(ours, ours)] for ours in RESPONSES]
    asked = [name for name in OTHER_NAMES["prompt"] if name in columns and not is_empty(row[name])]
    if len(asked) == 1 and not all(_carries_prompt(each, row[asked[0]]) for each in answers):
        found["prompt"] = asked[0]
    return found


def _carries_prompt(answer: Any, asked: Any) -> bool:
    """Whether an answer repeats what was asked: it is a conversation of which an assistant's turn is not the first."""
    if isinstance(answer, list):
        return bool(answer) and isinstance(answer[0], dict) and answer[0].get("role") != "assistant"
    return isinstance(answer, str) and isinstance(asked, str) and asked.strip() in answer


def unknown_prompt(row: Row, columns: Collection[str]) -> str | None:
    """A column that may be the prompt of a pair of texts without one: none of it stands in both of them."""
    for name in columns:
        value = row[name]
        if is_empty(value) or isinstance(value, bool | int | float) or _ABOUT_ROWS.fullmatch(name.lower()):
            continue
        short = str(value) if isinstance(value, str | list) else ""
        if _IN_WORDS.fullmatch(name.lower()) and "?" not in short and 0 < len(short.split()) <= 3:
            continue
        if not all(_carries_prompt(row[ours], value) for ours in RESPONSES):
            return name
    return None


def refuse_unknown_prompt(row: Row, columns: Collection[str], where: str) -> None:
    """Refuse a pair of texts whose prompt may stand in a column of its own that is not read.

    Raises:
        InputError: there is such a column.
    """
    name = unknown_prompt(row, columns)
    if name is not None:
        raise InputError(
            f"{where} has no prompt column, but {name!r} may be the prompt, and what both answers begin with would "
            f"pass for it. Say data.columns.prompt={name}, or data.columns.prompt=null if both answers begin with "
            "their prompt."
        )


def _recognise_labelled(row: Row, where: str) -> Layout:
    if "label" not in row:
        other = next((name for name in OTHER_NAMES["label"] if name in row), None)
        add = f"Rename {other!r} to 'label'" if other else "Add label"
        raise InputError(
            f"{where} has a completion without label, but a label (true if the completion is desirable, else "
            f"false) is needed by all that learns from single responses. {add}; for pairs, name the responses "
            "chosen and rejected."
        )
    contents = {field: row[field] for field in ("prompt", "completion")}
    return _text_or_chat(contents, "prompt", graded.LABELLED_TEXT, graded.LABELLED_CHAT, where)


def _recognise_ranked(row: Row, where: str) -> Layout:
    prompt = prompt_column(row)
    kind_of(row[prompt], prompt, where)  # a prompt that is neither is named before responses that are no list
    responses = {f"response {i}": response for i, response in enumerate(responses_of(row, where), 1)}
    return _text_or_chat(
        {prompt: row[prompt], **responses}, prompt, graded.RANKED_TEXT, graded.RANKED_CHAT, where
    )


def _text_or_chat(contents: Row, prompt: str, text: Layout, chat: Layout, where: str) -> Layout:
    """The layout for contents that are all text or all messages; `prompt` names the one the others must agree with."""
    kinds = {field: kind_of(value, field, where) for field, value in contents.items()}
    odd = next((field for field, kind in kinds.items() if kind != kinds[prompt]), None)
    if odd is not None:
        raise _disagreement({prompt: kinds[prompt], odd: kinds[odd]}, where)
    if kinds[prompt] == "messages":
        return chat
    _refuse_messages_as_text({field: value for field, value in contents.items() if field != prompt}, where)
    return text


def _disagreement(kinds: dict[str, str], where: str) -> InputError:
    found = ", ".join(f"{field} is {kind}" for field, kind in kinds.items())
    return InputError(
        f"{where}: {found}, but they must agree. Make all of them text or all of them lists of messages."
    )


def _refuse_messages_as_text(responses: dict[str, Any], where: str) -> None:
    if not all(_MESSAGES_AS_TEXT.match(text) for text in responses.values()):
        return
    several = len(responses) > 1
    names = " and ".join(responses) if len(responses) < 3 else "the responses"
    raise InputError(
        f"{where}: {names} {'are lists' if several else 'is a list'} of messages written out as text, but real "
        "lists are needed. Save the rows as .jsonl or .parquet with the lists as they are."
    )
