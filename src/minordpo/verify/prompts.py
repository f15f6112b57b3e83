"""A file of prompts → what is asked, and its tokens as training will see them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from transformers import PreTrainedTokenizerBase

from minordpo.data.make.solutions import ANSWER_COLUMNS, QUESTION_COLUMNS, whole_question
from minordpo.data.read.examples import Example
from minordpo.data.read.fields import (
    Message,
    Row,
    Text,
    listed,
    read_content,
    read_messages,
    read_template_kwargs,
    read_text,
    read_tools,
    say,
    wrong,
)
from minordpo.data.read.readers import read_csv
from minordpo.data.read.rows import open_rows
from minordpo.errors import InputError
from minordpo.generate.prompts import example_prompts
from minordpo.run_folder.files import decode_line
from minordpo.verify.verdict import Asked

PROMPT_COLUMNS = ("prompt", "messages", *QUESTION_COLUMNS)
_OF_TEMPLATE = ("tools", "chat_template_kwargs")


@dataclass(frozen=True, kw_only=True)
class AskedPrompt:
    """One prompt, and what a chat template writes beside its messages."""

    asked: Asked
    question: str | None = None  # where the prompt was made of a question; the question without the template
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """The prompt as text that is equal for equal prompts."""
        return json.dumps([self.asked.prompt, self.tools, self.template_kwargs], sort_keys=True)

    def columns(self) -> dict[str, Any]:
        """The prompt's columns of a row of pairs."""
        given = {"tools": self.tools, "chat_template_kwargs": self.template_kwargs}
        return {"prompt": self.asked.prompt} | {name: value for name, value in given.items() if value}


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of a source."""

    source: str
    prompts: list[AskedPrompt]
    digest: str  # of all prompts and right answers of the source
    facts_digest: str = ""  # of the columns that a verifier of one's own is given beside
    repeated: int = (
        0  # rows whose prompt stood in a row before; they are left out where prompts are asked once
    )
    contradicted: int = 0  # of these rows, those with another right answer than the first row of the prompt
    unread: Mapping[str, int] = field(default_factory=dict)  # column → rows in which something stands there

    def first(self, count: int) -> Prompts:
        """The first prompts."""
        return replace(self, prompts=self.prompts[:count])

    def taken(self, places: Sequence[int]) -> Prompts:
        """The prompts at these places, from 0, as if the source held no others."""
        return _prompts(self.source, [self.prompts[place] for place in places])

    def tokens(self, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
        """(tokens,) int32 of each prompt, as training reads it.

        Raises:
            InputError: the tokenizer has no chat template, or the template fails on a row.
        """
        examples = [
            Example(each.asked.prompt, (), (), each.asked.row, each.tools, each.template_kwargs)
            for each in self.prompts
        ]
        return example_prompts(tokenizer, examples, source=self.source)


def read_prompts(
    source: str,
    *,
    split: str = "train",
    template: str = "{question}",
    plain_text: bool = False,
    once: bool = True,
) -> Prompts:
    """The prompts of a .jsonl, .json, .parquet or .csv file, or of a hub set.

    A row has a `prompt` (text, or chat messages), or `messages` whose last turn, if it is the assistant's, is the right
    answer, or a question in a column named as `QUESTION_COLUMNS`; then the prompt is `template` with the question in
    it, a user turn unless `plain_text`. A right answer stands in `answer`, or in another of `ANSWER_COLUMNS`.
    `once` leaves out rows whose prompt stood in a row before.

    Raises:
        InputError: it cannot be read, holds no rows, or a row has no prompt.
    """
    return prompts_of(
        _numbered(source, split), source=source, template=template, plain_text=plain_text, once=once
    )


def prompts_of(
    numbered: Iterable[tuple[int, Row, str]],
    *,
    source: str,
    template: str = "{question}",
    plain_text: bool = False,
    once: bool = True,
) -> Prompts:
    """The prompts of rows that were read already, each given with its number and where it stands; see `read_prompts`.

    Raises:
        InputError: there is no row, or a row has no prompt.
    """
    if "{question}" not in template:
        raise InputError(
            f"the prompt is {template!r}, which has no {{question}} in it. Write {{question}} where it belongs"
        )
    found: list[AskedPrompt] = []
    firsts: dict[str, AskedPrompt] = {}
    unread, rows, contradicted = Counter[str](), 0, 0
    for number, row, where in numbered:
        rows += 1
        prompt, read = _prompt(row, number, where, template, plain_text)
        prompt = replace(prompt, asked=replace(prompt.asked, source=source))
        first = firsts.setdefault(prompt.content, prompt)
        contradicted += first.asked.answer != prompt.asked.answer
        if first is prompt or not once:
            found.append(prompt)
        unread.update(
            column for column in row if column not in read and row[column] not in (None, "", [], {})
        )
    if not rows:
        raise InputError(f"{source} holds no rows, but prompts are needed. Name another file")
    made = _prompts(source, found)
    return replace(made, repeated=rows - len(firsts), contradicted=contradicted, unread=unread)


def _prompts(source: str, prompts: list[AskedPrompt]) -> Prompts:
    return Prompts(
        source=source, prompts=prompts, digest=_digest(prompts), facts_digest=_facts_digest(prompts)
    )


def _digest(prompts: Sequence[AskedPrompt]) -> str:
    digest = xxhash.xxh3_128()
    for each in prompts:
        part = f"{each.asked.row}\0{each.content}\0{each.asked.answer}\0"
        digest.update(part.encode(errors="surrogatepass"))
    return digest.hexdigest()


def _facts_digest(prompts: Sequence[AskedPrompt]) -> str:
    digest = xxhash.xxh3_128()
    for each in prompts:
        facts = json.dumps(dict(each.asked.facts), sort_keys=True, default=str)
        digest.update(f"{each.asked.row}\0{facts}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _numbered(source: str, split: str) -> Iterator[tuple[int, Row, str]]:
    """Number, columns and place of every row."""
    path = Path(source).expanduser()
    rows = open_rows(source, split=split)
    numbered: Iterable[tuple[int, Any]] = rows.numbered()
    if path.suffix.lower() == ".csv":  # whose header may have other columns than one of pairs
        numbered = read_csv(path, source, columns=PROMPT_COLUMNS)
    for number, row in numbered:
        where = f"{rows.unit} {number} of {source}"
        row = decode_line(row, where) if rows.lines else row
        if not isinstance(row, dict):
            raise InputError(
                f"{where} is {say(row)}, but an object with a prompt is needed. Fix the row or drop it"
            )
        yield number, row, where


def _prompt(
    row: Row, number: int, where: str, template: str, plain_text: bool
) -> tuple[AskedPrompt, set[str]]:
    """The prompt of a row, and the columns that were read."""
    column = next((name for name in PROMPT_COLUMNS if row.get(name) is not None), None)
    if column is None:
        raise InputError(
            f"{where} has no prompt (its columns: {listed(list(row))}), but one is needed in a column named "
            f"{', '.join(PROMPT_COLUMNS)}. Rename a column, or name another file"
        )
    answer, answered = _answer(row, where, column)
    content: Text
    question = None
    if column == "prompt":
        content = read_content(row[column], column, where)
    elif column == "messages":
        content, last = _turns(row, where)
        answer, answered = (last, set()) if answer is None else (answer, answered)
    else:
        question = whole_question(row, read_text(row[column], column, where))
        if (
            template != "{question}"
        ):  # a question that is all of the prompt is asked as it is written, and trained
            question = question.strip()
        answered |= {"input"} if "instruction" in row and column == "instruction" else set()
        text = template.replace("{question}", question)
        content = text if plain_text else [{"role": "user", "content": text}]
    if not content or (isinstance(content, str) and not content.strip()):
        raise wrong(where, column, say(row[column]), "a prompt that can be answered")
    read = {column, *answered, *_OF_TEMPLATE}
    facts = {name: value for name, value in row.items() if name not in read}
    if isinstance(content, str):
        given = next((name for name in _OF_TEMPLATE if row.get(name)), None)
        if given is not None:
            raise wrong(where, given, say(row[given]), f"a prompt of chat messages beside {given}")
    return (
        AskedPrompt(
            asked=Asked(row=number, prompt=content, answer=answer, facts=facts),
            question=question,
            tools=read_tools(row, False, where),
            template_kwargs=read_template_kwargs(row, where),
        ),
        read,
    )


def _answer(row: Row, where: str, column: str) -> tuple[str | None, set[str]]:
    """The right answer of a row, and the column that it stands in."""
    name = next(
        (name for name in ("answer", *ANSWER_COLUMNS) if name != column and row.get(name) is not None), None
    )
    if name is None:
        return None, set()
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value != value:
        raise wrong(where, name, say(value), "a right answer, text or a number,")
    return str(value), {name}


def _turns(row: Row, where: str) -> tuple[list[Message], str | None]:
    """The messages that are asked, and the assistant's last turn behind them."""
    if not isinstance(row["messages"], list):
        raise wrong(where, "messages", say(row["messages"]), "a list of messages")
    messages = read_messages(row["messages"], "messages", where)
    if messages and messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1].get("content") or None
    return messages, None


def prompt_texts(prompts: Sequence[AskedPrompt]) -> set[str]:
    """The texts of the prompts' turns, each run of white space as one space, to compare with held-out questions."""
    texts = set()
    for each in prompts:
        asked = each.asked.prompt
        turns = [asked] if isinstance(asked, str) else [str(turn.get("content", "")) for turn in asked]
        texts |= {" ".join(turn.split()) for turn in turns}
    return texts
