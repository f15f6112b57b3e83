"""Greedy answers kept on disk by what they depend on: runs of one model on the same prompts make them once.

An answer's tokens follow from weights, precision, prompts and lengths, and in their last bits from the batch, the
libraries and the machine. All of that is in the key, so what is read is what would have been made.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
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
from minordpo.errors import InputError
from minordpo.generate.generation import Answer, end_tokens, generate_answers, read_answer
from minordpo.run_folder.files import written_whole

GENERATION_VERSION = 1  # raise it when `generate_answers` would give other tokens


def kept_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    *,
    content: str,
    folder: Path,
    max_new_tokens: int,
    batch_size: int = 8,
    progress: str | None = None,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """As `generate_answers`, from `folder` where these answers were made before, else made and kept there.

    `content` stands for the weights and the precision that the model runs in. A file that is not whole is said, and
    made again.

    Raises:
        InputError: as `generate_answers`, or the folder cannot be written.
    """
    key = answers_key(
        model, tokenizer, prompts, content=content, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    file = kept_file(folder, key)
    rows = _read(file, key)
    if rows is not None:
        ends = end_tokens(causal_model(model), tokenizer)
        return [read_answer(row, ends, tokenizer) for row in rows]
    answers = generate_answers(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
        on_answer=on_answer,
    )
    _write(file, key, [list(answer.response_ids) for answer in answers])
    return answers


def answers_key(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    *,
    content: str,
    max_new_tokens: int,
    batch_size: int,
) -> str:
    """Hex digest of all that these answers' tokens depend on."""
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


def kept_file(folder: Path, key: str) -> Path:
    """Where the answers of that key are, or would be."""
    return folder / f"{key}.json"


def _read(file: Path, key: str) -> list[list[int]] | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        rows = kept["rows"]
        if kept["digest"] == _digest(key, rows):
            return rows
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    tqdm.write(f"{file} is not whole, so its answers are made again", file=sys.stderr)
    return None


def _write(file: Path, key: str, rows: list[list[int]]) -> None:
    try:
        with written_whole(file) as aside:
            file.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("w", encoding="utf-8") as handle:
                handle.write(json.dumps({"digest": _digest(key, rows), "rows": rows}))
                handle.flush()
                os.fsync(handle.fileno())
    except InputError as error:
        raise InputError(
            f"{error} Another folder is named by the environment variable MINORDPO_CACHE"
        ) from error


def _digest(key: str, rows: list[list[int]]) -> str:
    return xxhash.xxh3_128_hexdigest((key + json.dumps(rows)).encode())
