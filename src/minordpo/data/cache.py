"""Tokens on disk: made once of the same rows, tokenizer and options, by whichever process comes first.

MINORDPO_CACHE/tokens/KEY/
    examples.arrow    the examples (`StoredExamples`), mapped by every run, rank and sweep worker that uses them
    report.json       what became of every row; written last, so that without it nothing was made

The key is of content: a file that was moved is found again, one that was changed is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from minordpo.data.checks import PreparedExamples, RowFinding
from minordpo.data.prepare import Invalid, prepare_rows
from minordpo.data.read.accounting import Unread
from minordpo.data.read.reading import ReadOptions
from minordpo.data.read.rows import Rows
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenOptions
from minordpo.run_folder import names
from minordpo.run_folder.files import is_left_over, replacing, writing
from minordpo.run_folder.lock import locked

TOKENS_VERSION = 2  # raise it when the same rows become other tokens, other masks or another report
_BLOCK = 1 << 20  # bytes that are hashed at a time


class _Damaged(ValueError):
    """A file of the cache is not the one that was written."""


def cached_examples(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    options: TokenOptions,
    *,
    cache: Path,
    invalid: Invalid = "refuse",
    reading: ReadOptions | None = None,
    limit: int | None = None,
    progress: bool = False,
) -> PreparedExamples:
    """The first `limit` rows as `prepare_examples` has them, from the cache, where they are put if they are not there.

    Of several processes that need the same one makes it, and the others wait.

    Raises:
        InputError: rows that cannot be read or used, or a cache that cannot be written.
    """
    content, expected = rows.digest()
    reading = reading or ReadOptions()
    how = (invalid, dataclasses.astuple(reading), limit)
    folder = cache / names.CACHED_TOKENS / _key(content, tokenizer, options, how)
    found = _opened(folder, rows.source)
    if found is not None:
        return found
    with writing(folder, names.CACHE_ADVICE), _alone(folder):
        found = _opened(folder, rows.source, tell=True)
        if found is not None:
            return found
        for file in folder.iterdir():  # a killed process leaves what it had begun
            if is_left_over(file):
                file.unlink()
        (folder / names.TOKENS_REPORT).unlink(missing_ok=True)
        with replacing(folder / names.TOKENS) as aside:
            made = prepare_rows(
                rows,
                aside,
                tokenizer,
                options,
                invalid=invalid,
                reading=reading,
                limit=limit,
                expected=expected,
                progress=progress,
            )
        examples = StoredExamples.opened(folder / names.TOKENS)
        made = dataclasses.replace(made, examples=examples)
        with replacing(folder / names.TOKENS_REPORT) as aside:
            aside.write_text(json.dumps(_record(made, folder, rows.source)), encoding="utf-8")
    return made


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock."""

    def busy() -> None:
        if os.environ.get("RANK", "0") == "0":
            print("another process tokenises the same rows: this one waits for it", flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, busy=busy):
        yield


def _record(made: PreparedExamples, folder: Path, source: str) -> dict[str, Any]:
    facts = {
        "tokens": _digest_of(folder / names.TOKENS),
        "report": made.report.removeprefix(source),  # which may go by another name next time
        "dropped": {kind: dataclasses.astuple(each) for kind, each in made.dropped.items()},
        "kept": {kind: dataclasses.astuple(each) for kind, each in made.kept.items()},
        "unread": [[*each, count] for each, count in made.unread.items()],
    }
    return {"digest": xxhash.xxh3_128_hexdigest(json.dumps(facts).encode()), **facts}


def _opened(folder: Path, source: str, *, tell: bool = False) -> PreparedExamples | None:
    """Return the examples that the folder holds, or None; with `tell`, print why a damaged folder is not used."""
    file = folder / names.TOKENS_REPORT
    if not file.exists():
        return None
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if facts.pop("digest") != xxhash.xxh3_128_hexdigest(json.dumps(facts).encode()):
            raise _Damaged(f"{names.TOKENS_REPORT} was changed")
        if facts["tokens"] != _digest_of(folder / names.TOKENS):
            raise _Damaged(f"{names.TOKENS} was changed")
        examples = StoredExamples.opened(folder / names.TOKENS)
        dropped, kept = (
            {
                kind: RowFinding(rows, example, tuple(longest))
                for kind, (rows, example, longest) in each.items()
            }
            for each in (facts["dropped"], facts["kept"])
        )
        unread = {Unread(what, advice): count for what, advice, count in facts["unread"]}
        return PreparedExamples(examples, dropped, kept, source + facts["report"], unread)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        if tell:
            said = str(error) if isinstance(error, _Damaged) else f"{type(error).__name__}: {error}"
            print(f"{folder} is damaged ({said}): the rows are tokenised anew", flush=True)
        return None


def _digest_of(file: Path) -> str:
    digest = xxhash.xxh3_128()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _key(
    content: str, tokenizer: PreTrainedTokenizerBase, options: TokenOptions, how: tuple[Any, ...]
) -> str:
    parts = [TOKENS_VERSION, content, tokenizer_digest(tokenizer), dataclasses.astuple(options), how]
    return xxhash.xxh3_128_hexdigest(json.dumps(parts).encode())


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex digest of all of a tokenizer that tokens depend on, chat template included, and not of where it came from."""
    template = json.dumps(tokenizer.chat_template)
    facts = [
        type(tokenizer).__name__,
        template,
        tokenizer.special_tokens_map,
        tokenizer.split_special_tokens,
        # Of which a template may show the day.
        str(datetime.date.today()) if "strftime_now" in template else "",
        *(version(name) for name in ("transformers", "tokenizers", "jinja2")),
    ]
    digest = xxhash.xxh3_128(json.dumps(facts, default=str).encode())
    if isinstance(tokenizer, PreTrainedTokenizerFast):
        backend = tokenizer.backend_tokenizer
        backend.no_padding()  # what the last call left there; every call says it anew
        backend.no_truncation()
        digest.update(backend.to_str().encode())
        return digest.hexdigest()
    given = {
        name: value for name, value in tokenizer.init_kwargs.items() if not name.endswith(("path", "file"))
    }
    digest.update(json.dumps([given, tokenizer.get_vocab()], default=str, sort_keys=True).encode())
    digest.update(repr(sorted(tokenizer.added_tokens_decoder.items())).encode())
    with tempfile.TemporaryDirectory() as aside, contextlib.suppress(NotImplementedError):
        tokenizer.save_vocabulary(aside)  # merges and the like
        for file in sorted(Path(aside).iterdir()):
            digest.update(file.read_bytes())
    return digest.hexdigest()
