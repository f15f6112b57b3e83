"""Every row of a source accounted for: what was used, dropped or changed, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Literal

import numpy as np
import yaml
from transformers import PreTrainedTokenizerBase

from minordpo.data.read.accounting import Unread, told
from minordpo.data.read.layout import Kind
from minordpo.data.show import show_example
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenOptions
from minordpo.errors import InputError

NO_TEMPLATE_NOTE = (
    "the rows are plain text, so the tokenizer's chat template is not applied; data.text_as=chat applies it"
)
_OVERLONG = ("prompt_too_long", "too_long")

_WORDS = yaml.safe_load(files(__package__).joinpath("findings.yaml").read_text(encoding="utf-8"))


@dataclass
class RowFinding:
    """One kind of thing found in a source: the rows, and the first one explained."""

    rows: list[int] = field(default_factory=list)
    example: str = ""
    longest: tuple[int, int] = (0, 0)  # tokens of prompt and response, and the row; for overlong rows

    def add(self, row: int, example: str, tokens: int = 0) -> None:
        """Count one more row."""
        self.example = self.example if self.rows else example
        self.rows.append(row)
        self.longest = max(self.longest, (tokens, row))


@dataclass(frozen=True, eq=False)
class Source:
    """The source of examples: its name, layout, kind of data, notes, number of rows, and what of them is not read."""

    name: str  # as the user named it
    layout: str
    kind: Kind
    notes: list[str]
    rows: int
    unread: dict[Unread, int] = field(default_factory=dict)
    is_text: bool = False  # the examples are plain text


@dataclass(frozen=True, eq=False)
class PreparedExamples:
    """The examples in use as tokens, in file order, and what became of every row."""

    examples: StoredExamples
    dropped: dict[str, RowFinding]  # by kind of `RowProblem`: "empty_response", "identical", "too_long", …
    # Rows in use that are odd or were changed: "cut", "boundary", "duplicate", "contradiction".
    kept: dict[str, RowFinding]
    report: str  # all of it in words: the block printed before a run
    unread: dict[Unread, int] = field(default_factory=dict)  # with the number of rows where it is not empty


def finish(
    source: Source,
    examples: StoredExamples,
    problems: dict[str, RowFinding],
    kept: dict[str, RowFinding],
    tokenizer: PreTrainedTokenizerBase,
    options: TokenOptions,
    invalid: Literal["refuse", "drop"],
) -> PreparedExamples:
    """The examples with the report, if rows that cannot be used may be dropped.

    Raises: InputError for rows that may not, all of them counted, or a source in which none can be used.
    """
    refused = {kind: finding for kind, finding in problems.items() if not _may_drop(kind, options, invalid)}
    if refused:
        raise InputError(_refusal(source, refused, options))
    if not len(examples):
        raise InputError(
            f"{source.name}: of {_count(source.rows, 'row/rows')} none can be used: "
            f"{', '.join(_describe(problems, source.kind))}. Fix the rows or name another file."
        )
    if source.is_text and tokenizer.chat_template:
        source.notes.append(NO_TEMPLATE_NOTE)
    first = examples[0]
    what = "pair" if source.kind == "pairs" else "example"
    shown = show_example(first, tokenizer, kind=source.kind, color=False)
    report = [
        *_report(source, examples, problems, kept),
        f"\nthe first {what} (row {first.row}) as the model sees it:\n{shown}",
    ]
    return PreparedExamples(examples, problems, kept, "\n".join(report), source.unread)


def _report(
    source: Source, examples: StoredExamples, dropped: dict[str, RowFinding], kept: dict[str, RowFinding]
) -> Iterator[str]:
    """A readable block, line by line: counts, reasons, token statistics."""
    used, kind = len(examples), source.kind
    yield f"{source.name}: {_count(source.rows, 'row/rows')} read as {source.layout}, {used:,} used"
    yield from (f"  note: {note}" for note in source.notes)
    yield from (f"  {line}" for line in told(source.unread, source.rows))
    yield from (f"  dropped: {found}" for found in _describe(dropped, kind))
    yield from (f"  {found}" for found in _describe(kept, kind, kept=True))
    if not dropped and not kept:
        yield "  nothing dropped, cut, repeated, contradicted or tokenised apart"
    if kind == "labelled":
        desirable = int((examples.grades > 0).sum())
        yield f"  {desirable:,} desirable, {used - desirable:,} undesirable"
        if desirable in (0, used):
            yield "  note: with one label alone nothing is contrasted; add the other, or imitate with sft"
    if kind == "ranked":
        counts = examples.counts
        yield f"  {counts.mean():.1f} responses to a prompt on average, {counts.max()} at most"
    yield f"  {'tokens':<18}{'mean':>10}{'max':>10}"
    lengths = examples.response_lengths
    parts = {"prompt": examples.prompt_lengths}
    if kind == "pairs":
        parts |= {"chosen": lengths[::2], "rejected": lengths[1::2]}
    else:
        parts["completion" if kind == "labelled" else "responses"] = lengths
    if kind != "labelled":
        parts["common beginning"] = examples.commons
    for name, counts in parts.items():
        yield f"  {name:<18}{counts.mean():>10,.1f}{counts.max():>10,}"
    tree = int(examples.sizes.sum(dtype=np.int64))  # what the engine computes
    if kind == "labelled":
        yield f"  {tree:,} tokens to compute"  # a prompt with one response shares with nothing
        return
    rows = "two padded rows a pair" if kind == "pairs" else "a padded row for each response"
    times = f"{examples.padded / tree:.2f} times as many"
    yield f"  {tree:,} distinct tokens to compute; {rows} would cost {examples.padded:,} ({times})"


def _may_drop(kind: str, options: TokenOptions, invalid: str) -> bool:
    if kind not in _OVERLONG:
        return invalid == "drop"
    return options.overlong == "drop" or (options.overlong == "truncate" and invalid == "drop")


def _refusal(source: Source, refused: dict[str, RowFinding], options: TokenOptions) -> str:
    sentences = []
    unusable = {kind: finding for kind, finding in refused.items() if kind not in _OVERLONG}
    if unusable:
        rows = sum(len(finding.rows) for finding in unusable.values())
        them = "them" if rows > 1 else "it"
        sentences.append(
            f"{source.name}: {_count(rows, 'row/rows')} cannot be used: "
            f"{', '.join(_describe(unusable, source.kind))}. Fix {them} or drop {them} with data.invalid=drop."
        )
    overlong = [refused[kind] for kind in _OVERLONG if kind in refused]
    if overlong:
        sentences.append(_overlong_refusal(source.name, overlong, options))
    return " ".join(sentences)


def _overlong_refusal(source: str, overlong: list[RowFinding], options: TokenOptions) -> str:
    rows = sum(len(finding.rows) for finding in overlong)
    first = min(overlong, key=lambda finding: finding.rows[0])
    option = "data.invalid=drop" if options.overlong == "truncate" else "data.overlong=drop"
    if rows == 1:
        found, drop = f"row {first.rows[0]} of {source} has {first.example}", "drop the row"
    else:
        tokens, row = max(finding.longest for finding in overlong)
        found = (
            f"{rows:,} rows of {source} are longer: row {first.rows[0]} has {first.example}, "
            f"and the longest, row {row}, has {tokens:,} in all"
        )
        drop = "drop the rows"
    limit = f"data.max_length is {options.max_length} tokens"
    return f"{limit} but {found}. Raise data.max_length or {drop} with {option}."


def _describe(findings: dict[str, RowFinding], data: Kind, *, kept: bool = False) -> list[str]:
    words = _WORDS
    if kept:
        words = words | {"boundary": words["retokenized"]}
    elif data == "pairs":
        words = words | {"identical": words["identical_pair"]}
    return [
        f"{_count(len(finding.rows), words[kind])} (first: row {finding.rows[0]}, {finding.example})"
        for kind, finding in findings.items()
    ]


def _count(number: int, words: str) -> str:
    """The number with the words for one or for several: 2 of "row/rows cut" is "2 rows cut"."""
    return f"{number:,} " + re.sub(r"(\w+)/(\w+)", r"\1" if number == 1 else r"\2", words)
