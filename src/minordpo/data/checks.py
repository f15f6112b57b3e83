"""All examples of a source → token examples, with every row accounted for."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import chain
from typing import Literal

import numpy as np
import yaml
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from minordpo.data.packing import tree_size
from minordpo.data.read.examples import LoadedExamples
from minordpo.data.read.layout import Kind
from minordpo.data.rendering import RowProblem
from minordpo.data.show import common_beginning, show_example
from minordpo.data.tokens import TokenExample, TokenOptions, tokenize_examples
from minordpo.errors import InputError

_CHUNK = 256  # rows that go to the tokenizer at once; enough to keep its threads busy
_BAR_FROM = 2000  # rows; fewer are done before a progress bar says anything
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
class PreparedExamples:
    """The examples in use as tokens, in file order, and what became of every row."""

    examples: list[TokenExample]
    dropped: dict[str, RowFinding]  # by kind of `RowProblem`: "empty_response", "identical", "too_long", …
    # Rows in use that are odd or were changed: "cut", "boundary", "duplicate", "contradiction".
    kept: dict[str, RowFinding]
    report: str  # all of it in words: the block printed before a run


def prepare_examples(
    loaded: LoadedExamples,
    tokenizer: PreTrainedTokenizerBase,
    options: TokenOptions,
    *,
    invalid: Literal["refuse", "drop"] = "refuse",
    progress: bool = False,
) -> PreparedExamples:
    """The examples as tokens, with a report on every row; no row goes missing without a word.

    `options.overlong` decides about rows over `max_length`, `invalid` about all other rows that cannot be
    used, and, where responses are cut, about prompts that leave no room for one.

    Raises: InputError for rows that cannot be used, all of them counted, or a source in which none can.
    """
    if not loaded.examples:
        raise InputError(f"{loaded.source} has no rows, but at least one is needed. Name another file.")
    examples: list[TokenExample] = []
    problems: dict[str, RowFinding] = defaultdict(RowFinding)
    kept: dict[str, RowFinding] = defaultdict(RowFinding)
    seen: dict[bytes, int] = {}
    show_bar = progress and len(loaded.examples) > _BAR_FROM
    with tqdm(total=len(loaded.examples), desc="tokenising", unit="rows", disable=not show_bar) as bar:
        for start in range(0, len(loaded.examples), _CHUNK):
            chunk = loaded.examples[start : start + _CHUNK]
            results = tokenize_examples(chunk, tokenizer, options=options)
            for example, result in zip(chunk, results, strict=True):
                if isinstance(result, RowProblem):
                    problems[result.kind].add(example.row, str(result), result.tokens)
                    continue
                _note(result, kept, seen)
                examples.append(result)
            bar.update(len(chunk))
    refused = {kind: finding for kind, finding in problems.items() if not _may_drop(kind, options, invalid)}
    if refused:
        raise InputError(_refusal(loaded, refused, options))
    if not examples:
        raise InputError(
            f"{loaded.source}: of {_count(len(loaded.examples), 'row/rows')} none can be used: "
            f"{', '.join(_describe(problems, loaded.kind))}. Fix the rows or name another file."
        )
    first = examples[0]
    what = "pair" if loaded.kind == "pairs" else "example"
    shown = show_example(first, tokenizer, kind=loaded.kind, color=False)
    report = [
        *_report(loaded, examples, problems, kept),
        f"\nthe first {what} (row {first.row}) as the model sees it:\n{shown}",
    ]
    return PreparedExamples(examples, problems, kept, "\n".join(report))


def _report(
    loaded: LoadedExamples,
    examples: list[TokenExample],
    dropped: dict[str, RowFinding],
    kept: dict[str, RowFinding],
) -> Iterator[str]:
    """A readable block, line by line: counts, reasons, token statistics."""
    used, kind = len(examples), loaded.kind
    read = _count(len(loaded.examples), "row/rows")
    yield f"{loaded.source}: {read} read as {loaded.layout}, {used:,} used"
    yield from (f"  note: {note}" for note in loaded.notes)
    yield from (f"  dropped: {found}" for found in _describe(dropped, kind))
    yield from (f"  {found}" for found in _describe(kept, kind, kept=True))
    if not dropped and not kept:
        yield "  nothing dropped, cut, repeated, contradicted or tokenised apart"
    if kind == "labelled":
        desirable = sum(example.grades[0] > 0 for example in examples)
        yield f"  {desirable:,} desirable, {used - desirable:,} undesirable"
        if desirable in (0, used):
            yield "  note: with one label alone nothing is contrasted; add the other, or imitate with sft"
    prompts = [len(example.prompt_ids) for example in examples]
    lengths = [[len(response.ids) for response in example.responses] for example in examples]
    if kind == "ranked":
        counts = [len(each) for each in lengths]
        yield f"  {np.mean(counts):.1f} responses to a prompt on average, {max(counts)} at most"
    yield f"  {'tokens':<18}{'mean':>10}{'max':>10}"
    names = {"pairs": ["chosen", "rejected"], "labelled": ["completion"], "ranked": []}[kind]
    parts = {"prompt": prompts, **{name: [each[i] for each in lengths] for i, name in enumerate(names)}}
    if kind == "ranked":
        parts["responses"] = list(chain.from_iterable(lengths))
    if kind != "labelled":
        parts["common beginning"] = [common_beginning(example) for example in examples]
    for name, counts in parts.items():
        yield f"  {name:<18}{np.mean(counts):>10,.1f}{max(counts):>10,}"
    tree = sum(tree_size(example) for example in examples)  # what the engine computes
    if kind == "labelled":
        yield f"  {tree:,} tokens to compute"  # a prompt with one response shares with nothing
        return
    padded = sum(len(each) * (prompt + max(each)) for prompt, each in zip(prompts, lengths, strict=True))
    rows = "two padded rows a pair" if kind == "pairs" else "a padded row for each response"
    times = f"{padded / tree:.2f} times as many"
    yield f"  {tree:,} distinct tokens to compute; {rows} would cost {padded:,} ({times})"


def _note(example: TokenExample, kept: dict[str, RowFinding], seen: dict[bytes, int]) -> None:
    """Count the notes of `example`, and whether an earlier row has the same responses.

    `seen` holds the first row of each prompt with its responses, and of each judgement on these.
    """
    for kind, words in example.notes.items():
        kept[kind].add(example.row, words)
    responses = [_digest(response.ids.tobytes()) for response in example.responses]
    content = _digest(_digest(example.prompt_ids.tobytes()), *sorted(responses))
    judgement = _digest(content, *responses, np.array(example.grades).tobytes())
    first = seen.setdefault(judgement, example.row)
    if first != example.row:
        kept["duplicate"].add(example.row, f"as row {first}")
        return
    first = seen.setdefault(content, example.row)
    if first != example.row:
        how = "labels the same completion otherwise" if len(responses) == 1 else "has them in another order"
        kept["contradiction"].add(example.row, f"row {first} {how}")


def _digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


def _may_drop(kind: str, options: TokenOptions, invalid: str) -> bool:
    if kind not in _OVERLONG:
        return invalid == "drop"
    return options.overlong == "drop" or (options.overlong == "truncate" and invalid == "drop")


def _refusal(loaded: LoadedExamples, refused: dict[str, RowFinding], options: TokenOptions) -> str:
    sentences = []
    unusable = {kind: finding for kind, finding in refused.items() if kind not in _OVERLONG}
    if unusable:
        rows = sum(len(finding.rows) for finding in unusable.values())
        them = "them" if rows > 1 else "it"
        sentences.append(
            f"{loaded.source}: {_count(rows, 'row/rows')} cannot be used: "
            f"{', '.join(_describe(unusable, loaded.kind))}. Fix {them} or drop {them} with data.invalid=drop."
        )
    overlong = [refused[kind] for kind in _OVERLONG if kind in refused]
    if overlong:
        sentences.append(_overlong_refusal(loaded.source, overlong, options))
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
