"""All pairs of a source → token pairs, with every row accounted for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from minordpo.data.formats import LoadedExamples
from minordpo.data.packing import tree_size
from minordpo.data.rendering import RowProblem
from minordpo.data.show import common_beginning, show_example
from minordpo.data.tokens import TokenExample, TokenOptions, tokenize_examples
from minordpo.errors import InputError

_CHUNK = 256  # rows that go to the tokenizer at once; enough to keep its threads busy
_BAR_FROM = 2000  # rows; fewer are done before a progress bar says anything
_OVERLONG = ("prompt_too_long", "too_long")

# What was found, for one row and for several.
_WORDS = {
    "empty_response": ("empty response", "empty responses"),
    "identical": ("pair with chosen = rejected", "pairs with chosen = rejected"),
    "empty_prompt": ("empty prompt", "empty prompts"),
    "assistant_prompt": ("prompt that ends with the assistant", "prompts that end with the assistant"),
    "response_role": ("response that another role begins", "responses that another role begins"),
    "template_error": ("row that the chat template fails on", "rows that the chat template fails on"),
    "template_prefix": (
        "row whose beginning the chat template renders in two ways",
        "rows whose beginning the chat template renders in two ways",
    ),
    "boundary": ("row with a token across the prompt's end", "rows with a token across the prompt's end"),
    "prompt_too_long": (
        "prompt that leaves no room for a response in data.max_length",
        "prompts that leave no room for a response in data.max_length",
    ),
    "too_long": ("row over data.max_length", "rows over data.max_length"),
    "cut": ("row cut to data.max_length", "rows cut to data.max_length"),
    "duplicate": ("row that repeats an earlier one, kept", "rows that repeat an earlier one, kept"),
}
_RETOKENIZED = (
    "row whose prompt and response were tokenised apart, as at inference",
    "rows whose prompt and response were tokenised apart, as at inference",
)


@dataclass
class Finding:
    """One kind of thing found in a source: the rows, and the first one explained."""

    rows: list[int] = field(default_factory=list)
    example: str = ""
    longest: tuple[int, int] = (0, 0)  # tokens of prompt and response, and the row; for overlong rows

    def add(self, row: int, example: str, tokens: int = 0) -> None:
        """Count one more row."""
        self.example = self.example if self.rows else example
        self.rows.append(row)
        self.longest = max(self.longest, (tokens, row))


@dataclass(frozen=True)
class TokenCounts:
    """Token statistics over the pairs in use: (mean, maximum) each, then sums."""

    prompt: tuple[float, int]
    chosen: tuple[float, int]
    rejected: tuple[float, int]
    beginning: tuple[float, int]  # what both responses begin with
    tree: int  # distinct tokens, each pair a prefix tree: what the engine computes
    padded: int  # tokens of two rows a pair, padded to the longer one


@dataclass(frozen=True)
class DataReport:
    """What became of every row of a source; as text, the block printed before a run."""

    source: str
    layout: str
    notes: list[str]
    read: int
    used: int
    dropped: dict[str, Finding]  # by kind of `RowProblem`: "empty_response", "identical", "too_long", …
    kept: dict[
        str, Finding
    ]  # rows in use that something was done to or is odd about: "cut", "boundary", "duplicate"
    tokens: TokenCounts
    first: str  # the first pair in use, as `show_example` shows it

    def __str__(self) -> str:
        """A readable block: counts, reasons, token statistics, the first pair."""
        lines = [
            f"{self.source}: {_count(self.read, 'row', 'rows')} read as {self.layout}, {self.used:,} used"
        ]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  dropped: {_describe(kind, finding)}" for kind, finding in self.dropped.items()]
        lines += [f"  {_describe(kind, finding, kept=True)}" for kind, finding in self.kept.items()]
        if not self.dropped and not self.kept:
            lines.append("  nothing dropped, cut, repeated or tokenised apart")
        lines.append(f"  {'tokens':<18}{'mean':>10}{'max':>10}")
        for name in ("prompt", "chosen", "rejected", "beginning"):
            mean, most = getattr(self.tokens, name)
            title = "common beginning" if name == "beginning" else name
            lines.append(f"  {title:<18}{mean:>10,.1f}{most:>10,}")
        lines.append(
            f"  {self.tokens.tree:,} distinct tokens to compute; two padded rows a pair would cost "
            f"{self.tokens.padded:,} ({self.tokens.padded / self.tokens.tree:.2f} times as many)"
        )
        return "\n".join([*lines, "", self.first])


@dataclass(frozen=True, eq=False)
class PreparedExamples:
    """The examples in use as tokens, in file order, and what became of the others."""

    examples: list[TokenExample]
    report: DataReport


def prepare_examples(
    loaded: LoadedExamples,
    tokenizer: PreTrainedTokenizerBase,
    options: TokenOptions,
    *,
    invalid: Literal["refuse", "drop"] = "refuse",
    progress: bool = False,
) -> PreparedExamples:
    """The pairs as tokens, with a report on every row; no row goes missing without a word.

    `options.overlong` decides about rows over `max_length`, `invalid` about all other rows that cannot be
    used, and, where responses are cut, about prompts that leave no room for one.

    Raises:
        InputError: rows that cannot be used, all of them counted; or a source in which none can.
    """
    if not loaded.examples:
        raise InputError(f"{loaded.source} has no rows, but at least one pair is needed. Name another file.")
    pairs: list[TokenExample] = []
    problems: dict[str, Finding] = {}
    kept: dict[str, Finding] = {}
    seen: dict[bytes, int] = {}
    show_bar = progress and len(loaded.examples) > _BAR_FROM
    with tqdm(total=len(loaded.examples), desc="tokenising", unit="rows", disable=not show_bar) as bar:
        for start in range(0, len(loaded.examples), _CHUNK):
            chunk = loaded.examples[start : start + _CHUNK]
            for pair, result in zip(chunk, tokenize_examples(chunk, tokenizer, options=options), strict=True):
                if isinstance(result, RowProblem):
                    problems.setdefault(result.kind, Finding()).add(pair.row, str(result), result.tokens)
                    continue
                _note(result, kept, seen)
                pairs.append(result)
            bar.update(len(chunk))
    refused = {kind: finding for kind, finding in problems.items() if not _may_drop(kind, options, invalid)}
    if refused:
        raise InputError(_refusal(loaded.source, refused, options))
    if not pairs:
        reasons = ", ".join(_describe(kind, finding) for kind, finding in problems.items())
        raise InputError(
            f"{loaded.source}: of {_count(len(loaded.examples), 'row', 'rows')} none can be used: {reasons}. "
            "Fix the rows or name another file."
        )
    report = DataReport(
        source=loaded.source,
        layout=loaded.layout,
        notes=loaded.notes,
        read=len(loaded.examples),
        used=len(pairs),
        dropped=problems,
        kept=kept,
        tokens=count_tokens(pairs),
        first=f"the first pair (row {pairs[0].row}) as the model sees it:\n"
        + show_example(pairs[0], tokenizer, color=False),
    )
    return PreparedExamples(pairs, report)


def count_tokens(pairs: list[TokenExample]) -> TokenCounts:
    """Lengths of the pairs' parts, and what they cost packed and padded."""
    lengths = np.array(
        [(len(p.prompt_ids), len(p.chosen.ids), len(p.rejected.ids), common_beginning(p)) for p in pairs]
    )
    prompt, chosen, rejected, beginning = zip(lengths.mean(0).tolist(), lengths.max(0).tolist(), strict=True)
    return TokenCounts(
        prompt,
        chosen,
        rejected,
        beginning,
        tree=sum(tree_size(pair) for pair in pairs),
        padded=int(2 * (lengths[:, 0] + lengths[:, 1:3].max(1)).sum()),
    )


def _note(pair: TokenExample, kept: dict[str, Finding], seen: dict[bytes, int]) -> None:
    """Count what `pair` has to say for itself, and whether it is a repetition."""
    for kind, example in pair.notes.items():
        kept.setdefault(kind, Finding()).add(pair.row, example)
    digest = hashlib.blake2b(digest_size=16)
    for ids in (pair.prompt_ids, pair.chosen.ids, pair.rejected.ids):
        digest.update(len(ids).to_bytes(4, "little") + ids.tobytes())
    first = seen.setdefault(digest.digest(), pair.row)
    if first != pair.row:
        kept.setdefault("duplicate", Finding()).add(pair.row, f"as row {first}")


def _may_drop(kind: str, options: TokenOptions, invalid: str) -> bool:
    if kind not in _OVERLONG:
        return invalid == "drop"
    return options.overlong == "drop" or (options.overlong == "truncate" and invalid == "drop")


def _refusal(source: str, refused: dict[str, Finding], options: TokenOptions) -> str:
    sentences = []
    unusable = {kind: finding for kind, finding in refused.items() if kind not in _OVERLONG}
    if unusable:
        rows = sum(len(finding.rows) for finding in unusable.values())
        kinds = ", ".join(_describe(kind, finding) for kind, finding in unusable.items())
        them = "them" if rows > 1 else "it"
        sentences.append(
            f"{source}: {_count(rows, 'row', 'rows')} cannot be used: {kinds}. "
            f"Fix {them} or drop {them} with data.invalid=drop."
        )
    overlong = [refused[kind] for kind in _OVERLONG if kind in refused]
    if overlong:
        sentences.append(_overlong_refusal(source, overlong, options))
    return " ".join(sentences)


def _overlong_refusal(source: str, overlong: list[Finding], options: TokenOptions) -> str:
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


def _describe(kind: str, finding: Finding, *, kept: bool = False) -> str:
    # A straddling token is a note where the row could be used all the same, a problem where it could not.
    words = _RETOKENIZED if kept and kind == "boundary" else _WORDS[kind]
    return f"{_count(len(finding.rows), *words)} (first: row {finding.rows[0]}, {finding.example})"


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
