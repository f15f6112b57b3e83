"""What a model answers before its first step, kept on disk: runs from the same weights make these answers once.

The tokens of a greedy answer follow from weights, precision, prompts and lengths, and in their last bits from the
batch, the libraries and the machine. All of that is in the key, so what is read is what would have been made.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minordpo.engine.attention import stock_implementation
from minordpo.engine.models import causal_model
from minordpo.engine.reference import as_reference, fingerprint
from minordpo.engine.weights import InitialWeights
from minordpo.errors import InputError
from minordpo.generate.generation import Answer, end_tokens, generate_answers, read_answer
from minordpo.run_folder.files import sync, written_whole

GENERATION_VERSION = 2  # raise it when `generate_answers` would give other tokens


class InitialAnswers:
    """The answers of a model that has taken no step yet, kept in `folder`; with `folder=None` made each time.

    A new adapter is off: it adds nothing before its first step, and the others stay.
    """

    def __init__(self, weights: InitialWeights, *, folder: Path | None) -> None:
        self.weights, self.folder = weights, folder

    def __call__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[np.ndarray],
        *,
        max_new_tokens: int,
        batch_size: int = 8,
        **shown: Any,
    ) -> list[Answer]:
        """As `generate_answers`, `shown` too; the precision is that of the autocast around the call.

        A file that is not whole is said, and its answers are made again.

        Raises:
            InputError: as `generate_answers`, or the folder cannot be written.
        """
        sizes: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
        with as_reference(model, new_adapter=self.weights.new_adapter):
            file = self._file(model, tokenizer, prompts, **sizes)
            rows = None if file is None else _read(file)
            if rows is not None:
                ends = end_tokens(causal_model(model), tokenizer)
                return [read_answer(row, ends, tokenizer) for row in rows]
            answers = generate_answers(model, tokenizer, list(prompts), **sizes, **shown)
        if file is not None:
            _write(file, [list(answer.response_ids) for answer in answers])
        return answers

    def _file(self, model: Any, tokenizer: Any, prompts: Sequence[np.ndarray], **sizes: int) -> Path | None:
        if self.folder is None:
            return None
        digest = fingerprint(model, autocast="none", weights=self.weights.policy)
        device = model.device.type
        autocast = str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "none"
        key = answers_key(model, tokenizer, prompts, content=f"{digest} {autocast}", **sizes)
        return self.folder / f"{key}.json"


def answers_key(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    *,
    content: str,
    max_new_tokens: int,
    batch_size: int,
) -> str:
    """Hex digest of all that these answers' tokens depend on; `content` stands for the weights and their precision."""
    base = causal_model(model)
    on_gpu = base.device.type == "cuda"
    facts: list[Any] = [
        GENERATION_VERSION,
        content,
        *(version(name) for name in ("torch", "transformers", "peft")),
        stock_implementation(base),
        torch.cuda.get_device_name(base.device) if on_gpu else platform.machine(),
        0 if on_gpu else torch.get_num_threads(),  # which products are split, and so summed, by
        sorted(end_tokens(base, tokenizer)),
        max_new_tokens,
        batch_size,
        [len(prompt) for prompt in prompts],
    ]
    digest = xxhash.xxh3_128(json.dumps(facts).encode())
    for prompt in prompts:
        digest.update(np.asarray(prompt, dtype=np.int64).tobytes())
    return digest.hexdigest()


def _read(file: Path) -> list[list[int]] | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        rows = kept["rows"]
        if kept["digest"] == _digest(file, rows):
            return rows
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    tqdm.write(f"{file} is not whole, so its answers are made again", file=sys.stderr)
    return None


def _write(file: Path, rows: list[list[int]]) -> None:
    try:
        with written_whole(file) as aside:
            file.parent.mkdir(parents=True, exist_ok=True)
            aside.write_text(json.dumps({"digest": _digest(file, rows), "rows": rows}), encoding="utf-8")
            sync(aside)
    except InputError as error:
        raise InputError(
            f"{error} Another folder is named by the environment variable MINORDPO_CACHE"
        ) from error


def _digest(file: Path, rows: list[list[int]]) -> str:
    return xxhash.xxh3_128_hexdigest((file.stem + json.dumps(rows)).encode())
