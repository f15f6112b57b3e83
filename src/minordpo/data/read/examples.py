"""Files and hub sets → `Example`."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minordpo.data.read.few_shot import strip_examples
from minordpo.data.read.fields import Row, Text, read_template_kwargs, read_tools, say, shorten
from minordpo.data.read.layout import PAIR_GRADES, UNUSED_TOOLS_NOTE, Kind, Layout
from minordpo.data.read.pairs import TRL_TEXT
from minordpo.data.read.readers import READERS, plain_row
from minordpo.data.read.recognise import different_layout, recognise, unknown_layout
from minordpo.errors import InputError

_HUB_SET = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# A missing or foreign file that would pass for a hub set by its slash: "data/pairs.txt".
_FILE_SUFFIX = re.compile(
    r"\.(txt|tsv|yaml|yml|arrow|gz|zst|zip|tar|xz|pkl|pickle|pt|md|ndjson|xlsx|db)", re.I
)


@dataclass(frozen=True, eq=False)
class Example:
    """A prompt and graded responses to it, all plain text or all chat messages.

    A pair has two responses, the chosen one of grade 1 and the rejected one of grade 0; a labelled response is one of
    grade 1 (desirable) or 0; n ranked ones are of the grades n - 1 to 0, best first.
    """

    prompt: Text
    responses: tuple[Text, ...]
    grades: tuple[float, ...]
    row: int  # 1-based row of the source (the line, for .jsonl)
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """What to call the responses in messages."""
        if len(self.responses) == 1:
            return ("completion",)
        if self.grades == PAIR_GRADES:
            return ("chosen response", "rejected response")
        return tuple(f"response of rank {rank}" for rank in range(1, len(self.responses) + 1))


@dataclass(frozen=True, eq=False)
class LoadedExamples:
    """All examples of one source, in file order, and what the source was."""

    examples: list[Example]
    source: str  # as the user named it, for messages: "pairs.jsonl", "org/name[train]"
    layout: str  # the layout recognised, in words: "TRL text", "LLaMA-Factory ShareGPT", …
    notes: list[str] = field(default_factory=list)  # what was done to rows that the user should know
    kind: Kind = "pairs"  # what the layout holds


def load_examples(
    source: str, *, split: str = "train", revision: str | None = None, strip_few_shot: bool = False
) -> LoadedExamples:
    """All examples of a .jsonl, .json, .parquet or .csv file, or of the hub set "org/name".

    `split` and `revision` choose within a hub set. `strip_few_shot` takes worked examples out of text prompts
    (see `strip_examples`). Empty and identical responses are kept.

    Raises: InputError for what cannot be read, by file and by row (by line in .jsonl).
    """
    if not source.strip():
        raise InputError("the name of the pairs is blank, but a file or a hub set is needed. Name one.")
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix.lower() in READERS)
        example = f", for example {path / inside[0]}" if inside else ""
        raise InputError(f"{source} is a directory, but one file of pairs is needed. Name the file{example}.")
    if suffix in READERS:
        if split != "train" or revision is not None:
            chosen = f"split {split!r}" if split != "train" else f"revision {revision!r}"
            raise InputError(
                f"{source} is one file and has no {chosen}, but a hub set is needed for that. "
                "Leave it out, or name another file."
            )
        if not path.exists():
            raise InputError(f"{source} does not exist, but a file of pairs is needed. {_near_file(path)}")
        unit = "line" if suffix == ".jsonl" else "row"
        return _assemble(READERS[suffix](path, source), source, unit, strip_few_shot)
    if path.exists() or not _HUB_SET.fullmatch(source) or _FILE_SUFFIX.fullmatch(suffix):
        raise InputError(
            f"{source} is neither a hub set (org/name) nor a file that ends in {', '.join(READERS)}. "
            "Convert the file to one of these, .jsonl for example, or correct the name."
        )
    return _load_hub_set(source, split, revision, strip_few_shot)


def examples_from_rows(rows: Iterable[Any], *, source: str, strip_few_shot: bool = False) -> LoadedExamples:
    """All examples of a `datasets.Dataset` or a list of dicts, named `source` in messages.

    Raises: InputError for a row in no known layout, or unlike the first one (row 1).
    """
    is_dataset = hasattr(rows, "with_format")
    if isinstance(rows, str | bytes | Mapping):
        splits = f" with the keys {', '.join(map(str, rows))}" if isinstance(rows, Mapping) else ""
        raise InputError(
            f"{source} is a {type(rows).__name__}{splits}, but a Dataset or a list of dicts is needed. "
            "Choose one split of it, or call load_examples for a file."
        )
    plain = rows.with_format(None) if is_dataset else rows  # type: ignore[attr-defined]  # a Dataset then
    numbered = ((number, plain_row(row, drop_null=is_dataset)) for number, row in enumerate(plain, 1))
    return _assemble(numbered, source, "row", strip_few_shot)


def _load_hub_set(name: str, split: str, revision: str | None, strip_few_shot: bool) -> LoadedExamples:
    import datasets  # slow to import, and files do not need it
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(name, split=split, revision=revision)
    except (OSError, ValueError, DatasetsError) as error:
        reason = shorten(" ".join(str(error).split()).rstrip("."), 200)
        raise InputError(
            f"{name} is no file, and the hub set of that name (split {split!r}, revision "
            f"{revision or 'main'!r}) could not be loaded: {reason}. Check name, split and revision, or "
            "give a file."
        ) from error
    shown = f"{name}@{revision}[{split}]" if revision else f"{name}[{split}]"
    return examples_from_rows(rows, source=shown, strip_few_shot=strip_few_shot)


def _assemble(
    numbered: Iterator[tuple[int, Any]], source: str, unit: str, strip_few_shot: bool
) -> LoadedExamples:
    """Every row as an `Example`; the first row decides the layout."""
    examples: list[Example] = []
    tally: Counter[str] = Counter()
    layout, first_where = None, ""
    for number, row in numbered:
        where = f"{unit} {number} of {source}"
        if not isinstance(row, dict):
            raise InputError(f"{where} is {say(row)}, but an object is needed. Fix or drop it.")
        found = recognise(row, where)
        if layout is None:
            if found is None:
                raise unknown_layout(row, where)
            layout, first_where = found, where
            if strip_few_shot and layout is not TRL_TEXT:
                raise InputError(
                    f"{source} is {layout.name}, strip_few_shot needs {TRL_TEXT.name} ({TRL_TEXT.shape}). "
                    "Turn strip_few_shot off."
                )
        elif found is not layout:
            raise different_layout(row, where, found, layout, first_where)
        examples.append(_example(row, number, layout, where, tally, strip_few_shot))
    if layout is None:
        raise InputError(f"{source} holds no rows, but pairs are needed. Put at least one pair in it.")
    notes = _notes(tally, len(examples), strip_few_shot)
    return LoadedExamples(examples, source, layout.name, notes, layout.kind)


def _example(
    row: Row, number: int, layout: Layout, where: str, tally: Counter[str], strip_few_shot: bool
) -> Example:
    parts = layout.parse(row, where, tally)
    if strip_few_shot:
        question = strip_examples(str(parts.prompt), where)
        if question is not None:
            tally[_STRIPPED] += 1
            parts = parts._replace(prompt=question)
    if layout.is_chat:
        return Example(
            *parts,
            row=number,
            tools=read_tools(row, layout.bare_functions, where),
            template_kwargs=read_template_kwargs(row, where),
        )
    if row.get("tools") or row.get("chat_template_kwargs"):
        tally[UNUSED_TOOLS_NOTE] += 1
    return Example(*parts, row=number)


_STRIPPED = "few-shot examples stripped"


def _notes(tally: Counter[str], rows: int, strip_few_shot: bool) -> list[str]:
    stripped = tally.pop(_STRIPPED, 0)
    notes = [f"{count} of {rows} rows: {note}" for note, count in tally.items()]
    if strip_few_shot:
        notes.append(
            f"strip_few_shot took the examples, and what introduced them, out of {stripped} of {rows} "
            f"prompts; {rows - stripped} had none. Its parser is unverified on MetaMath_DPO_FewShot: "
            "look at some of the prompts"
        )
    return notes


def _near_file(path: Path) -> str:
    folder = path.parent
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f"Did you mean {folder / near[0]}?"
    return "Check the path." if folder.is_dir() else f"Check the path: there is no folder {folder} either."
