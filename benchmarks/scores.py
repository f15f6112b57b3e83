"""Are the values of `minordpo score` those of stock transformers, one sequence at a time, in float32?

    python benchmarks/scores.py --model FOLDER --pairs FILE --n 50

Stock means: the conversation rendered and tokenised by the tokenizer's own chat template, `AutoModelForCausalLM`
with its default attention, each response in a forward of its own, and a log-softmax (in float64) over the whole
vocabulary. The packing, the attention, the head and the tokens of ours meet none of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import append_rows, machine, read_pairs
from minordpo.errors import InputError
from minordpo.run_folder.files import write_jsonl


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--pairs", required=True, help="pairs in any layout that minordpo reads")
    parser.add_argument("--n", type=int, default=50, help="pairs compared")
    parser.add_argument("--max-length", type=int, default=1024, help="pairs with more tokens are passed over")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "scores.csv")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    rows, _ = read_pairs(arguments.pairs, tokenizer, arguments.n, max_length=arguments.max_length)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    token, sequence, tokens = _largest_differences(model, tokenizer, rows, score(arguments.model, rows))
    result = {
        **machine(),
        "model": Path(arguments.model).name,
        "pairs": Path(arguments.pairs).name,
        "n": len(rows),
        "scored_tokens": tokens,
        "max_token_difference": f"{token:.3g}",
        "max_sequence_difference": f"{sequence:.3g}",
    }
    append_rows(arguments.out, [result])
    print("\n".join(f"{name.ljust(24)}{value}" for name, value in result.items()))
    return 0


def score(model: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `minordpo score --tokens` says of the rows."""
    with tempfile.TemporaryDirectory() as folder:
        pairs, out = Path(folder) / "pairs.jsonl", Path(folder) / "scores.jsonl"
        write_jsonl(pairs, rows)
        command = [
            sys.executable,
            "-m",
            "minordpo",
            "score",
            model,
            "--pairs",
            str(pairs),
            "--tokens",
            "--out",
            str(out),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"minordpo score failed:\n{done.stderr}")
        scores = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    if [each["index"] for each in scores] != list(range(len(rows))):
        raise SystemExit(f"minordpo score left rows out: {len(scores)} of {len(rows)} came back")
    return scores


def _largest_differences(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], scores: list[dict[str, Any]]
) -> tuple[float, float, int]:
    """The largest difference of a token's and of a sequence's log-prob, in nats, and the tokens compared."""
    token, sequence, tokens = 0.0, 0.0, 0
    for number, (row, scored) in enumerate(zip(rows, scores, strict=True)):
        for name in ("chosen", "rejected"):
            prompt, whole = _ids(tokenizer, row, name)
            if whole[len(prompt) :] != scored[f"{name}_token_ids"]:
                raise SystemExit(
                    f"pair {number}: the {name} response's scored tokens are not the stock template's"
                )
            stock = _stock_logps(model, prompt, whole).cpu()
            ours = torch.tensor(scored[f"{name}_token_logps"], dtype=torch.float64)
            token = max(token, (ours - stock).abs().max().item())
            sequence = max(sequence, abs(scored[f"{name}_logp"] - stock.sum().item()))
            tokens += len(ours)
    return token, sequence, tokens


def _ids(tokenizer: Any, row: dict[str, Any], name: str) -> tuple[list[int], list[int]]:
    """Prompt, and prompt with response, as the tokenizer itself makes them."""
    if isinstance(row["prompt"], str):
        ended = row[name].removesuffix(tokenizer.eos_token) + tokenizer.eos_token
        return tokenizer(row["prompt"])["input_ids"], tokenizer(row["prompt"] + ended)["input_ids"]
    render = {"tools": row.get("tools"), "return_dict": True, **row.get("chat_template_kwargs", {})}
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, **render)["input_ids"]
    whole = tokenizer.apply_chat_template(row["prompt"] + row[name], **render)["input_ids"]
    return prompt, whole


@torch.no_grad()
def _stock_logps(model: Any, prompt: list[int], whole: list[int]) -> Tensor:
    ids = torch.tensor([whole], device=model.device)
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    # In float64: PyTorch's float32 log-softmax over 49152 tokens errs by 1e-5 nats a token, always the same way, which
    # adds up to 8e-4 a response (SmolLM2-135M, torch 2.13 on a CPU, 2026-11-21).
    return logits.double().log_softmax(dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"scores.py: {error}")
