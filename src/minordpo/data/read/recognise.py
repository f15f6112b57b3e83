"""Which layout a row is in, and what to say if it is in none."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from typing import Any

from minordpo.data.read import graded, llama_factory, pairs
from minordpo.data.read.fields import Row, kind_of, listed
from minordpo.data.read.graded import prompt_column, responses_of
from minordpo.data.read.layout import OTHER_NAMES, Layout, names_of
from minordpo.data.read.llama_factory import LABEL_NAMES
from minordpo.data.read.pairs import RESPONSES
from minordpo.errors import InputError

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
)
_PAIRS_BY_KINDS = {
    ("text", "text", "text"): pairs.TRL_TEXT,
    ("messages", "messages", "messages"): pairs.TRL_CHAT,
    ("text", "messages", "messages"): pairs.ULTRAFEEDBACK,
    ("text", "text"): pairs.IMPLICIT_TEXT,
    ("messages", "messages"): pairs.IMPLICIT_CHAT,
}
_MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](role|content|from|value)["']\s*:""")


def describe_layouts() -> str:
    """The layouts that are read, by name and columns, as one line."""
    return "; ".join(f"{layout.name} ({layout.shape})" for layout in LAYOUTS)


def recognise(row: Row, where: str) -> Layout | None:
    """The layout of `row` by its columns and their values, None if it is no known one.

    Raises: InputError if the columns are known but their values are not text or messages, or do not agree.
    """
    columns = row.keys()
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
    kinds = {field: kind_of(value, field, where) for field, value in values.items()}
    layout = _PAIRS_BY_KINDS.get(tuple(kinds.values()))
    if layout is None:
        raise _disagreement(kinds, where)
    if layout is pairs.IMPLICIT_TEXT and _nearest_column("prompt", columns, set(RESPONSES), cutoff=0.85):
        return None
    if not layout.is_chat:
        _refuse_messages_as_text({field: row[field] for field in RESPONSES}, where)
    return layout


def _recognise_labelled(row: Row, where: str) -> Layout:
    if "label" not in row:
        renamed = _nearest_column("label", row.keys(), {"prompt", "completion"})
        add = f"Rename {renamed!r} to 'label'" if renamed else "Add label"
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


def unknown_layout(row: Row, where: str) -> InputError:
    """The error for a row that no layout fits: its columns, the nearest layout and all the layouts."""
    columns = [str(column) for column in row]
    explicit = [layout for layout in LAYOUTS if layout.required != RESPONSES]
    nearest = max(explicit, key=lambda layout: _overlap(layout, columns))
    steps, missing = [], []
    for column in nearest.missing(columns):
        old = _nearest_column(column, columns, nearest.columns)
        if old:
            steps.append(f"rename {old!r} to {names_of(column)[0]!r}")
        else:
            missing.append(column)
    steps += [f"add {' and '.join(missing)}"] if missing else []
    return InputError(
        f"{where} has the columns {listed(columns)}, which are no known layout. "
        f"The nearest is {nearest.name}, {nearest.shape}: {', '.join(steps) or 'make output a list of two'}. "
        f"Known layouts: {describe_layouts()}."
    )


def different_layout(
    row: Row, where: str, found: Layout | None, first: Layout, first_where: str
) -> InputError:
    """The error for a row that is laid out unlike the first one."""
    missing = first.missing(row)
    lacks = f"lacks {' and '.join(missing)}" if missing else "has the columns " + listed(list(row))
    this = f"{where} is laid out as {found.name}" if found else f"{where} {lacks}"
    return InputError(
        f"{this}, but {first_where} is {first.name} ({first.shape}). "
        "One source has one layout: fix the row, drop it, or split the source."
    )


def _overlap(layout: Layout, columns: list[str]) -> float:
    missing = layout.missing(columns)
    near = sum(bool(_nearest_column(column, columns, layout.columns)) for column in missing)
    hits = len(layout.required) - len(missing) + 0.9 * near
    return hits / len(layout.required) + 0.01 * hits


def _nearest_column(
    wanted: str, columns: Collection[str], taken: set[str], cutoff: float = 0.6
) -> str | None:
    """The column that is probably meant by the required one `wanted`; not one that is `taken` by a required name."""
    free = {str(column).lower(): str(column) for column in columns if column not in taken}
    # A column that some layout requires is not misspelt, but it may still be another name of the wanted one.
    odd = [name for name, column in free.items() if not any(column in layout.columns for layout in LAYOUTS)]
    for wanted_name in names_of(wanted):
        names = OTHER_NAMES.get(wanted_name, ())
        other = next((column for name, column in free.items() if name in names), None)
        near = difflib.get_close_matches(wanted_name, odd, 1, cutoff)
        if other or near:
            return other or free[near[0]]
    return None
