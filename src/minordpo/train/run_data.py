"""The sources that a config names → what a run trains on and holds out, and the report on every row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from minordpo.config import DataConfig, RunConfig
from minordpo.config.schema import SourceConfig, sources_of
from minordpo.data.cache import cached_examples
from minordpo.data.checks import PreparedExamples
from minordpo.data.mixture import Mixture, SourceOf, held_out_places
from minordpo.data.read.accounting import Unread
from minordpo.data.read.reading import ReadOptions
from minordpo.data.read.rows import is_file, open_rows
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenOptions
from minordpo.errors import InputError
from minordpo.run_folder import names
from minordpo.train.refusals import refuse_first


@dataclass(frozen=True, eq=False)
class RunData:
    """What a run trains on and what it holds out."""

    train: StoredExamples
    held_out: StoredExamples | None
    report: str
    mixture: Mixture | None = None  # where data.train is a list of sources
    held_out_sources: SourceOf | None = None  # where there are several of the held-out examples
    unread: dict[str, dict[Unread, int]] = field(
        default_factory=dict
    )  # by source: what of its rows nothing reads

    def as_json(self) -> str:
        """The text of the run folder's data.json."""
        unread = [
            {"source": source, "what": each.what, "rows": count, "advice": each.advice}
            for source, found in self.unread.items()
            for each, count in found.items()
        ]
        return json.dumps({"report": self.report, "unread": unread}, indent=1, ensure_ascii=False) + "\n"


@dataclass(frozen=True, eq=False)
class _Joined:
    """The examples of several sources, one source after the other."""

    examples: StoredExamples
    sources: SourceOf
    report: str
    unread: dict[str, dict[Unread, int]]


def load_data(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> RunData:
    """Training and held-out pairs, and the report on their rows."""
    data = config.data
    several = isinstance(data.train, tuple)
    refuse_first(
        {
            "limit_of_several": several and data.limit is not None,
            "weight_by_of_one": not several and data.weight_by != "rows",
        },
        limit=data.limit,
        weight_by=data.weight_by,
    )
    found = _joined(sources_of(data.train), data, tokenizer, "train")
    if data.eval is None or isinstance(data.eval, int):
        return _split(found, data, data.eval or 0)
    held_out = _joined(sources_of(data.eval), data, tokenizer, "eval")
    mixture = _mixture(found, data) if several else None
    report = f"{found.report}{_mixed(mixture)}\n\nheld out:\n{held_out.report}"
    of_held_out = held_out.sources if isinstance(data.eval, tuple) else None
    unread = found.unread | held_out.unread
    return RunData(found.examples, held_out.examples, report, mixture, of_held_out, unread)


def _split(found: _Joined, data: DataConfig, count: int) -> RunData:
    """The examples, of which `count` are held out."""
    several = isinstance(data.train, tuple)
    if not count:
        mixture = _mixture(found, data) if several else None
        return RunData(found.examples, None, f"{found.report}{_mixed(mixture)}", mixture, None, found.unread)
    usable = len(found.examples)
    refuse_first({"all_held_out": count >= usable}, wanted=count, source=data.train_name, usable=usable)
    # The same pairs whatever the run's seed, so that runs of a sweep are measured on equal terms.
    if several:
        out = held_out_places(found.sources, count)
    else:
        out = np.sort(np.random.default_rng(0).permutation(usable)[:count])
    kept = np.setdiff1d(np.arange(usable), out)
    train, held_out = found.sources.take(kept), found.sources.take(out)
    mixture = _mixture(found, data, train) if several else None
    told = f" ({_counted(held_out)})" if several else ""
    report = f"{found.report}{_mixed(mixture)}\nheld out: {count} of these rows{told}"
    of_held_out = held_out if several else None
    return RunData(
        found.examples.take(kept), found.examples.take(out), report, mixture, of_held_out, found.unread
    )


def _joined(
    sources: Sequence[SourceConfig], data: DataConfig, tokenizer: PreTrainedTokenizerBase, split: str
) -> _Joined:
    called = [source.called for source in sources]
    twice = next((name for name in called if called.count(name) > 1), None)
    refuse_first(
        {
            "same_name": twice is not None,
            "weight": any(not 0 < source.weight < float("inf") for source in sources),
            "weight_of_held_out": split == "eval" and any(source.weight != 1 for source in sources),
            "name_with_slash": any("/" in name for name in called),
        },
        key=f"data.{split}",
        name=twice,
        names=", ".join(called),
    )
    found = [_prepared(source, data, tokenizer, split) for source in sources]
    parts, reports, first = [], [], 0
    for name, each in zip(called, found, strict=True):
        parts.append(each.examples.numbered_from(first))
        numbered = f"\n  its row n is row n + {first:,} in this run's files" if first else ""
        reports.append(f"{name}: {each.report}{numbered}" if len(sources) > 1 else each.report)
        rows = [row for kind in each.dropped.values() for row in kind.rows]
        first += max([int(each.examples.rows.max()), *rows])
    numbers = np.repeat(np.arange(len(parts)), [len(each) for each in parts])
    examples = parts[0] if len(parts) == 1 else StoredExamples.joined(parts)
    unread = {source.path: each.unread for source, each in zip(sources, found, strict=True) if each.unread}
    return _Joined(examples, SourceOf(tuple(called), numbers), "\n\n".join(reports), unread)


def _prepared(
    source: SourceConfig, data: DataConfig, tokenizer: PreTrainedTokenizerBase, split: str
) -> PreparedExamples:
    reading = ReadOptions.of(
        data.columns if source.columns is None else source.columns,
        text_as=source.text_as or data.text_as,
        text_system=data.text_system,
        strip_few_shot=data.strip_few_shot,
    )
    # A split that is given for all sources is meant for the hub sets among them.
    usual = data.split if split == "train" else data.eval_split
    several = isinstance(getattr(data, split), tuple)
    if is_file(source.path) and (split == "eval" or several) and source.split is None:
        usual = "train"
    return cached_examples(
        open_rows(source.path, split=source.split or usual, columns=reading.given_names),
        tokenizer,
        TokenOptions(max_length=data.max_length, overlong=data.overlong, score_end=data.score_end),
        cache=names.cache_folder(),
        invalid=data.invalid,
        reading=reading,
        limit=source.limit or (data.limit if split == "train" else None),
        progress=True,
    )


def _mixture(found: _Joined, data: DataConfig, of_train: SourceOf | None = None) -> Mixture:
    """The mixture of the training examples.

    Raises:
        InputError: a source has so small a weight that a pass has none of it.
    """
    weights = tuple(float(source.weight) for source in sources_of(data.train))
    mixture = Mixture(of_train or found.sources, weights, data.weight_by)
    missing = [name for name, count in zip(mixture.sources.names, mixture.drawn(), strict=True) if not count]
    if missing or not mixture.sources.counts.all():
        empty = missing or [
            name
            for name, count in zip(mixture.sources.names, mixture.sources.counts, strict=True)
            if not count
        ]
        raise InputError(
            f"data.train has the source {empty[0]}, of which a pass over the data would have no row. Raise its weight, "
            "give it more rows, lower data.eval, or leave it out"
        )
    return mixture


def _mixed(mixture: Mixture | None) -> str:
    return "" if mixture is None else "\n\n" + "\n".join(["mixed:", *mixture.lines()])


def _counted(sources: SourceOf) -> str:
    return ", ".join(f"{count} of {name}" for name, count in zip(sources.names, sources.counts, strict=True))
