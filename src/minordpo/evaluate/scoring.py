"""Log-probs of preference pairs and of answers under a model; of pairs also log-ratios to a reference."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from minordpo.data.prepare import prepare_examples
from minordpo.data.read.examples import load_examples
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenExample, TokenOptions, TokenResponse
from minordpo.engine.check import check_engine, refuse_unknown_tokens
from minordpo.engine.logprobs import engine_attention
from minordpo.engine.models import load_model, load_tokenizer, switch_off_dropout
from minordpo.engine.reference import reference_logps
from minordpo.engine.reference_cache import ReferenceCache
from minordpo.errors import InputError
from minordpo.generate.generation import Answer

TOKEN_BUDGET = 16384  # tokens of a row on a GPU …
_ON_A_CPU = 2048  # … and on a CPU, where longer ones no longer fit into its caches


def score_pairs(
    model: str,
    pairs: str,
    *,
    reference: str | None = None,
    tokens: bool = False,
    dtype: str = "float32",
    split: str = "train",
    say: Any = None,
) -> Iterator[dict[str, Any]]:
    """One row a usable pair: sums in nats, lengths in scored tokens, log-ratios if there is a reference.

    `index` counts the source's rows from 0; `row` is the row as messages and a run's `responses.jsonl` name it, from 1
    (of a .jsonl file the line, blank ones counted). `say` receives the report on the rows. Nothing is cut.

    Raises:
        InputError: pairs or models that cannot be used, or a reference with another vocabulary.
    """
    tokenizer = load_tokenizer(model)
    loaded = load_examples(pairs, split=split, invalid="drop")
    if loaded.kind != "pairs":
        raise InputError(
            f"{pairs} holds {loaded.kind} responses ({loaded.layout}), but score needs pairs: prompt, chosen, "
            "rejected. Name a file of pairs"
        )
    prepared = prepare_examples(
        loaded, tokenizer, TokenOptions(max_length=None), invalid="drop", progress=True
    )
    if say is not None:
        say(str(prepared.report))
    index = {pair.row: i for i, pair in enumerate(loaded.examples)}
    policy = token_logps(model, prepared.examples, dtype=dtype)
    ref = token_logps(reference, prepared.examples, dtype=dtype) if reference is not None else None
    for row in score_examples(prepared.examples, policy, ref, tokens=tokens):
        yield {"index": index[row["row"]], **row}


def score_examples(
    pairs: Sequence[TokenExample],
    policy: Sequence[np.ndarray],
    ref: Sequence[np.ndarray] | None,
    *,
    tokens: bool = False,
) -> Iterator[dict[str, Any]]:
    """What `score_pairs` says of each pair but its index, from the log-probs of its tokens (`token_logps`)."""
    for place, pair in enumerate(pairs):
        row: dict[str, Any] = {"row": pair.row}
        lengths = [int(response.scored.sum()) for response in pair.responses]
        parts = dict(zip(("chosen", "rejected"), np.split(policy[place], lengths[:1]), strict=True))
        ref_parts = {} if ref is None else dict(zip(parts, np.split(ref[place], lengths[:1]), strict=True))
        row |= {f"{name}_logp": sum_logps(logps) for name, logps in parts.items()}
        row |= {f"{name}_tokens": length for name, length in zip(parts, lengths, strict=True)}
        row |= {f"{n}_logratio": row[f"{n}_logp"] - sum_logps(logps) for n, logps in ref_parts.items()}
        for (name, logps), response in zip(parts.items(), pair.responses, strict=True):
            if not tokens:
                break
            row[f"{name}_token_ids"] = response.ids[response.scored].tolist()
            row[f"{name}_token_logps"] = logps.tolist()
            if ref_parts:
                ratios = logps.astype(np.float64) - ref_parts[name].astype(np.float64)
                row[f"{name}_token_logratios"] = ratios.tolist()
        yield row


def sum_logps(logps: np.ndarray) -> float:
    """The sum of token log-probs, in double precision."""
    return float(logps.sum(dtype=np.float64))


def answer_examples(prompts: Sequence[np.ndarray], answers: Sequence[Sequence[Answer]]) -> list[TokenExample]:
    """The answers in order as responses whose every token is scored, the end token too.

    Those of a prompt are one example, or several where they do not fit into a row.
    """
    rows: list[tuple[np.ndarray, list[TokenResponse]]] = []
    for prompt, given in zip(prompts, answers, strict=True):
        size = TOKEN_BUDGET
        for answer in given:
            if size + answer.tokens > TOKEN_BUDGET:
                rows.append((prompt, []))
                size = len(prompt)
            rows[-1][1].append(answer.all_scored())
            size += answer.tokens
    return [
        TokenExample(prompt, tuple(responses), (0.0,) * len(responses), number)
        for number, (prompt, responses) in enumerate(rows, 1)
    ]


def split_responses(examples: Sequence[TokenExample], logps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Token log-probs of examples as one array a response."""
    return [
        part
        for example, values in zip(examples, logps, strict=True)
        for part in np.split(values, np.cumsum([int(r.scored.sum()) for r in example.responses])[:-1])
    ]


def token_logps(
    path: str, pairs: Sequence[TokenExample], *, dtype: str, **loading: Any
) -> Sequence[np.ndarray]:
    """(chosen tokens + rejected tokens,) float32 log-probs in nats of each pair, chosen first.

    `loading` are further arguments of `load_model`.
    """
    model = load_model(path, dtype=dtype, **loading)
    stored = StoredExamples.of(pairs)
    refuse_unknown_tokens(model, stored.largest_id, remedy="Name a reference of the same family")
    switch_off_dropout(model)  # the check runs in training mode too
    checked = check_engine(model, longest=stored.longest)
    if line := checked.line(stored):
        tqdm.write(f"{path}: {line}", file=sys.stderr)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cast(nn.Module, model).to(device)
    with engine_attention(model):
        return reference_logps(
            model,
            stored,
            ReferenceCache(None, ""),
            token_budget=TOKEN_BUDGET if device.type == "cuda" else _ON_A_CPU,
            progress=True,
            label=f"scoring {path}",
            least_tokens=1,  # rows are filled
        )
