"""Prompts → answers by vLLM: token ids to the server, token ids back."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase

from minordpo.engine.export import export_model
from minordpo.engine.models import model_config
from minordpo.errors import InputError
from minordpo.generate.generation import (
    Answer,
    GenerationOptions,
    Sampling,
    ends_of,
    read_answer,
    refuse_prompts,
)
from minordpo.generate.vllm_server import ServedModel, VllmServer, servable, serving, vllm_program

VLLM_LEAST_TEMPERATURE = 0.01  # vLLM takes a lower one for this, and says so in its log alone


def stream_vllm_answers(
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    options: GenerationOptions,
    *,
    dtype: str = "float32",
    done: Collection[int] = frozenset(),
    version: Callable[[str], None] = lambda _: None,
) -> Generator[tuple[int, Answer], None, None]:
    """(row, answer) as each is finished, row = prompt · samples + sample; what `stream_answers` gives, made by vLLM.

    `batch_size` answers are made at a time. The distribution is the model's own, at the temperature, and the end
    tokens are those of `end_tokens`. Each answer has a seed of its own, so answers do not depend on where a run is
    cut, but they are other answers than those of `stream_answers`. `version` receives vLLM's version before them.

    Raises:
        InputError: what `stream_answers` refuses, an adapter that is no LoRA, or a server that fails.
    """
    model = servable(path)
    refuse_prompts(model_config(path), prompts, options.max_new_tokens)
    left = set(range(len(prompts) * options.samples)).difference(done)
    order = sorted(left, key=lambda row: (-len(prompts[row // options.samples]), row))
    if not order:
        return
    room = len(prompts[order[0] // options.samples]) + options.max_new_tokens
    with contextlib.ExitStack() as stack:
        if model.merge is not None:
            model = stack.enter_context(_merged(path, model.merge))
        ends = ends_of(_generation_config(model.path), tokenizer)
        requests = (
            (row, _request(model, prompts[row // options.samples], row % options.samples, options, ends))
            for row in order
        )
        # The server ends first, and with it the requests that the pool waits for.
        pool = stack.enter_context(ThreadPoolExecutor(options.batch_size))
        server = stack.enter_context(serving(model, dtype=dtype, room=room, at_once=options.batch_size))
        version(server.version())
        for row, ids in _replies(pool, server, requests, options.batch_size):
            yield row, read_answer(ids, ends, tokenizer)


@contextlib.contextmanager
def _merged(path: str, what: str) -> Iterator[ServedModel]:
    """The model with its adapters merged into its weights, in a folder that goes at the end."""
    vllm_program()  # before the weights are read
    with tempfile.TemporaryDirectory(prefix="minordpo-merged-") as folder:
        out = Path(folder) / "merged"
        tqdm.write(f"vLLM does not compute {what}: {path} is merged into {out} for it", file=sys.stderr)
        export_model(path, out)
        yield ServedModel(str(out))


def _replies(
    pool: ThreadPoolExecutor, server: VllmServer, requests: Iterator[tuple[int, dict[str, Any]]], at_once: int
) -> Iterator[tuple[int, list[int]]]:
    """(row, tokens) as the replies come, with `at_once` requests under way."""
    asked: dict[Future[list[int]], int] = {}
    while True:
        while len(asked) < at_once and (following := next(requests, None)) is not None:
            row, request = following
            asked[pool.submit(_tokens, server, request)] = row
        if not asked:
            return
        for future in wait(asked, return_when=FIRST_COMPLETED).done:
            yield asked.pop(future), future.result()


def _request(
    model: ServedModel, prompt: np.ndarray, sample: int, options: GenerationOptions, ends: frozenset[int]
) -> dict[str, Any]:
    """The body of a request for one answer."""
    request = {
        "model": model.name,
        "prompt": [int(token) for token in prompt],
        "max_tokens": options.max_new_tokens,
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": -1,
        "ignore_eos": True,  # vLLM's own idea of an end; ours are named
        "stop_token_ids": sorted(ends),
        "return_token_ids": True,
    }
    if options.sampling is None:
        return request
    drawn = {"temperature": options.sampling.temperature, "seed": _seed(options.sampling, prompt, sample)}
    return request | drawn


def _seed(sampling: Sampling, prompt: np.ndarray, sample: int) -> int:
    """The seed in [0, 2⁶³) that belongs to one sample of one prompt."""
    content = xxhash.xxh3_128_intdigest(np.asarray(prompt, dtype=np.int64).tobytes())
    return int(np.random.default_rng([sampling.seed, sample, content]).integers(2**63 - 1, endpoint=True))


def _tokens(server: VllmServer, request: Mapping[str, Any]) -> list[int]:
    """All generated tokens of one answer, an end token included.

    Raises:
        InputError: the server gives none, or an answer that ended neither by an end token nor by its length.
    """
    choice = server.complete(request)
    ids, ended = choice.get("token_ids"), choice.get("finish_reason")
    if not isinstance(ids, list):
        raise InputError(
            "the vLLM server's reply has no token_ids: its version is too old. Install vLLM 0.10.2 or newer"
        )
    whole = ids[-1:] and (ids[-1] in request["stop_token_ids"] or len(ids) == request["max_tokens"])
    if ended not in ("stop", "length") or not whole:
        raise server.failure(
            f"the vLLM server ended an answer by {ended} after {len(ids)} tokens, neither at an end token nor at "
            f"max_new_tokens ({request['max_tokens']})"
        )
    return ids


def _generation_config(path: str) -> GenerationConfig:
    """The generation_config that the model would be loaded with."""
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:  # it has none
        return GenerationConfig.from_model_config(model_config(path))
