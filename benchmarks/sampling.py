"""How many tokens a second are drawn for pairs of own answers, by `minordpo data sample`'s way and by `generate()`?

    python benchmarks/sampling.py --model FOLDER --questions train.jsonl

Both draw at temperature 1 from the whole distribution, the same prompts in the same batch, in turn. A token counts if
it stands before the end of its answer or ends it. Seconds are of the wall clock and of the processor: where others run
on the machine, the latter are the better.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from common import append_rows, machine
from minordpo.generate.generation import Sampling, end_tokens, generate_answers
from minordpo.generate.prompts import question_prompts
from minordpo.run_folder.files import read_jsonl

PROMPT = "{question}\nSolve it step by step. End with a line of the form: So the answer is: 7"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--questions", required=True, type=Path, help="questions of GSM8K")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument(
        "--samples", type=int, default=8, help="answers to each prompt; all of them are one batch"
    )
    parser.add_argument("--new", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sampling.csv")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    questions = [row["question"] for _, row in read_jsonl(arguments.questions)][: arguments.prompts]
    prompts = question_prompts(tokenizer, questions, prompt=PROMPT)
    ends = end_tokens(model, tokenizer)
    found: dict[str, list[tuple[float, float, int]]] = {"generate": [], "ours": []}
    for number in range(arguments.rounds):
        for who, draw in (("generate", _by_generate), ("ours", _by_ours)):
            wall, processor = time.perf_counter(), time.process_time()
            tokens = draw(model, tokenizer, prompts, ends, arguments, seed=number)
            found[who].append((time.perf_counter() - wall, time.process_time() - processor, tokens))
    facts = {name: getattr(arguments, name) for name in ("prompts", "samples", "new", "rounds")}
    rows = []
    for who, runs in found.items():
        rates = [[tokens / seconds[place] for *seconds, tokens in runs] for place in (0, 1)]
        rows.append(
            {
                **machine(),
                **facts,
                "who": who,
                "tokens": round(median(tokens for *_, tokens in runs)),
                "tokens_a_second": round(median(rates[0]), 1),
                "tokens_a_cpu_second": round(median(rates[1]), 1),
            }
        )
        print("  ".join(f"{name} {value}" for name, value in rows[-1].items() if name not in machine()))
    append_rows(arguments.out, rows)
    return 0


def _by_ours(
    model: Any,
    tokenizer: Any,
    prompts: list[np.ndarray],
    ends: Any,
    arguments: argparse.Namespace,
    *,
    seed: int,
) -> int:
    answers = generate_answers(
        model,
        tokenizer,
        prompts,
        max_new_tokens=arguments.new,
        batch_size=len(prompts) * arguments.samples,
        samples=arguments.samples,
        sampling=Sampling(seed=seed),
    )
    return sum(answer.tokens for answer in answers)


def _by_generate(
    model: Any,
    tokenizer: Any,
    prompts: list[np.ndarray],
    ends: Any,
    arguments: argparse.Namespace,
    *,
    seed: int,
) -> int:
    torch.manual_seed(seed)
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, longest - len(prompt) :] = 1
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=arguments.new,
        num_return_sequences=arguments.samples,
        eos_token_id=sorted(ends),
        pad_token_id=0,
    )
    with torch.no_grad():
        made = model.generate(ids, attention_mask=mask, generation_config=config)[:, longest:].tolist()
    ended = ([token in ends for token in row] for row in made)
    return sum(row.index(True) + 1 if True in row else len(row) for row in ended)


if __name__ == "__main__":
    raise SystemExit(main())
