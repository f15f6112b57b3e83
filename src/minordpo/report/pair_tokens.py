"""Single pairs, token by token, under each run and its reference: computed once, kept in pair_tokens.jsonl.

A row is what `minordpo score --tokens --reference` says of the pair, with the prompt and the text of each scored token.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from minordpo.config import DataConfig, ModelConfig, ObjectiveConfig, RunConfig, load_config
from minordpo.data.coder import Coder
from minordpo.data.show import text_pieces
from minordpo.data.tokens import TokenExample
from minordpo.engine.models import model_folder
from minordpo.errors import InputError
from minordpo.evaluate.scoring import score_examples, token_logps
from minordpo.report.find import FoundRun
from minordpo.report.pairs import SIDES
from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl, write_jsonl
from minordpo.run_folder.ownership import finished
from minordpo.train.run import load_data, load_run_tokenizer


def add_pair_tokens(runs: Sequence[FoundRun], count: int, *, say: Callable[[str], None]) -> None:
    """Give each finished run the tokens of its first `count` held-out pairs, unless it has as many.

    `say` gets a line a run.

    Raises:
        InputError: `count` is below 1, or models, data or a folder that cannot be used any more.
    """
    if count < 1:
        raise InputError(f"--pairs is {count}, but at least 1 is needed. Raise it, or leave it out")
    # Runs share the pairs that they hold out, and what their reference says of them.
    held_out, reference = _once(_held_out_pairs), functools.cache(_reference)
    for run in runs:
        file = run.folder / names.PAIR_TOKENS
        if file.exists() and sum(1 for _ in read_jsonl(file)) >= count:
            continue
        if not finished(run.folder):
            say(f"{run.label} has not finished, so its pairs are left out")
            continue
        config = load_config(run.folder / names.CONFIG, [])
        pairs = held_out(config.model, config.data, count)
        if not pairs:
            say(f"{run.label} holds out no pairs (data.eval), so none is shown token by token")
            continue
        tokenizer, model = load_run_tokenizer(config), config.model
        ref = reference(model, pairs) if config.metrics.reference else None
        path = str(run.folder / names.MODEL)
        policy = token_logps(path, list(pairs), dtype=model.dtype, trust_remote_code=model.trust_remote_code)
        scored = score_examples(pairs, policy, ref, tokens=True)
        rows = (_with_texts(row, pair, tokenizer) for row, pair in zip(scored, pairs, strict=True))
        write_jsonl(file, rows)
        say(f"{file}: {len(pairs)} pairs")


def _once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called once for equal arguments, which may hold mappings."""
    known: dict[str, Any] = {}

    def called(*arguments: Any) -> Any:
        key = repr(arguments)
        if key not in known:
            known[key] = function(*arguments)
        return known[key]

    return called


def _held_out_pairs(model: ModelConfig, data: DataConfig, count: int) -> tuple[TokenExample, ...]:
    """The first `count` held-out examples of a run on these that have two responses."""
    config = RunConfig(model=model, data=data, objective=ObjectiveConfig(name="dpo"), output=".")
    held_out: Sequence[TokenExample] = load_data(config, load_run_tokenizer(config)).held_out or []
    return tuple(itertools.islice((each for each in held_out if len(each.responses) == 2), count))


def _reference(model: ModelConfig, pairs: tuple[TokenExample, ...]) -> Sequence[np.ndarray]:
    """(chosen + rejected tokens,) of each pair under the reference of a run of that model."""
    how: dict[str, Any] = {"dtype": model.dtype, "trust_remote_code": model.trust_remote_code}
    if model.reference is None:  # else they say how model.path is read, and nothing of another reference
        how |= {"gguf_file": model.gguf_file, "revision": model.revision}
    return token_logps(model_folder(model.reference or model.path), list(pairs), **how)


def _with_texts(
    row: dict[str, Any], pair: TokenExample, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    texts = {f"{side}_token_texts": token_texts(tokenizer, row[f"{side}_token_ids"]) for side in SIDES}
    return {**row, "prompt": tokenizer.decode(pair.prompt_ids.tolist()), **texts}


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; a character of several tokens stands at its last one."""
    pieces = text_pieces([], list(ids), [True] * len(ids), Coder(tokenizer))
    return [text for piece in pieces for text in (*[""] * (piece.tokens - 1), piece.text)]
