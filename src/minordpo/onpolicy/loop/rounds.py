"""One round: which prompts, which pairs, which run."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minordpo.config import RunConfig
from minordpo.data.read.examples import LoadedExamples, load_examples
from minordpo.errors import InputError
from minordpo.onpolicy.loop.config import LoopConfig
from minordpo.run_folder.files import read_jsonl, write_jsonl
from minordpo.verify.prompts import AskedPrompt, Prompts


@dataclass(frozen=True)
class Round:
    """A round's number, from 1, and where its pieces are."""

    config: LoopConfig
    number: int

    @property
    def name(self) -> str:
        """The name of the round's run folder and of its files."""
        return f"round-{self.number}"

    def _file(self, kind: str) -> Path:
        return Path(self.config.output) / kind / f"{self.name}.jsonl"

    @property
    def prompts(self) -> Path:
        """The prompts that are asked."""
        return self._file("prompts")

    @property
    def pairs(self) -> Path:
        """The pairs of the model's own answers."""
        return self._file("pairs")

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.config.output) / self.name

    @property
    def data(self) -> Path:
        """The file that the round trains on: its pairs, or with `mix.path` its pairs and given ones."""
        return self.pairs if self.config.mix.path is None else self._file("mixed")

    @property
    def start(self) -> str:
        """The model that the round starts from."""
        return self.config.model if self.number == 1 else str(Round(self.config, self.number - 1).run)

    def training(self) -> RunConfig:
        """The round's run config."""
        return self.config.training(self.start, self.data, self.run)

    def write_prompts(self, all_prompts: Prompts) -> None:
        """Write the prompts that the round asks, where an earlier start has not."""
        if not self.prompts.exists():
            self.prompts.parent.mkdir(parents=True, exist_ok=True)
            write_prompts(self.prompts, all_prompts, self.config, self.number)

    def write_data(self) -> int:
        """Write the mixed data, where given pairs are mixed in; the number of given pairs among them.

        Raises:
            InputError: the given pairs cannot be read, or are text where the answers are chats.
        """
        mix = self.config.mix
        if mix.path is None:
            return 0
        own = [row for _, row in read_jsonl(self.pairs)]
        given = given_pairs(load_examples(mix.path), chat=isinstance(own[0]["prompt"], list))
        drawn = given
        if mix.rows is not None and mix.rows < len(given):
            order = _shuffled(range(len(given)), self.config.seed, "given pairs")
            start = (self.number - 1) * mix.rows
            drawn = [given[order[place % len(given)]] for place in range(start, start + mix.rows)]
        self.data.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(self.data, _shuffled([*own, *drawn], self.config.seed + self.number, "mixed pairs"))
        return len(drawn)


def prompts_of_round(prompts: Sequence[AskedPrompt], config: LoopConfig, number: int) -> list[AskedPrompt]:
    """The prompts of round `number`: all, or so many in an order of their own, from the beginning again at the end.

    Rounds share no prompt as long as there are others.
    """
    each = config.sampling.prompts_per_round
    if each is None or each >= len(prompts):
        return list(prompts)
    order = _shuffled(range(len(prompts)), config.seed, "prompts")
    places = (order[place % len(prompts)] for place in range((number - 1) * each, number * each))
    return [prompts[place] for place in sorted(places)]


def write_prompts(path: Path, prompts: Prompts, config: LoopConfig, number: int) -> None:
    """Write the prompts of round `number` as a file of prompts.

    Raises:
        InputError: it cannot be written.
    """
    write_jsonl(path, map(_prompt_row, prompts_of_round(prompts.prompts, config, number)))


def _shuffled(values: Sequence[Any], seed: int, what: str) -> list[Any]:
    shuffled = list(values)
    random.Random(f"{what}, seed {seed}").shuffle(shuffled)
    return shuffled


def _prompt_row(prompt: AskedPrompt) -> dict[str, Any]:
    """A row that `read_prompts` reads as this prompt."""
    answer = {} if prompt.asked.answer is None else {"answer": prompt.asked.answer}
    return {**prompt.asked.facts, **prompt.columns(), **answer}


def given_pairs(loaded: LoadedExamples, *, chat: bool) -> list[dict[str, Any]]:
    """Pairs of a file as rows like a round's own.

    Raises:
        InputError: the file holds no pairs, or text where chats are needed or the other way round.
    """
    if loaded.kind != "pairs":
        raise InputError(
            f"{loaded.source} holds {loaded.kind} responses ({loaded.layout}), but mix.path needs pairs. Name another "
            "file"
        )
    rows = []
    for each in loaded.examples:
        if isinstance(each.prompt, list) != chat:
            found, needed = ("chats", "text") if not chat else ("text", "chats")
            raise InputError(
                f"row {each.row} of {loaded.source} is {found}, but the answers of the round are {needed}. Give pairs "
                "of one kind: questions are asked as chats unless sampling.plain_text is true"
            )
        row: dict[str, Any] = {
            "prompt": each.prompt,
            "chosen": each.responses[0],
            "rejected": each.responses[1],
        }
        row |= {"tools": each.tools} if each.tools else {}
        row |= {"chat_template_kwargs": each.template_kwargs} if each.template_kwargs else {}
        rows.append(row)
    return rows


def read_report(path: Path) -> dict[str, Any]:
    """The report beside a round's pairs."""
    return dict(json.loads(path.read_text(encoding="utf-8")))
