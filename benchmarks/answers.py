"""How long do greedy answers take, by transformers' `generate()` and by ours, and are they the same tokens?

    python benchmarks/answers.py --model FOLDER --later RUN/model --questions test.jsonl --pairs pairs.json

The two alternate in one process. What is answered: the first questions of a GSM8K file in the demo's prompt, the same
behind worked examples, and the prompts of pairs. "first" has no answers that are expected; "again" are those of the
`--later` model, expected to be the answers of `--model`, as each probe of a run but the first has the last one's.
Seconds are of the wall clock and of the processor: where others run on the machine, neither is exact.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import append_rows, machine, read_pairs
from minordpo.generate.decoding import common_beginning
from minordpo.generate.generation import (
    _ready_to_generate,
    end_tokens,
    generate_answers,
    generate_plainly,
    read_answer,
)
from minordpo.generate.prompts import question_prompts
from minordpo.run_folder.files import read_jsonl

PROMPT = "{question}\nSolve it step by step. End with a line of the form: So the answer is: 7"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--later", help="the same model after some training")
    parser.add_argument("--questions", required=True, help="questions of GSM8K")
    parser.add_argument("--pairs", required=True, help="pairs in any layout that minordpo reads")
    parser.add_argument("--prompts", type=int, default=4, help="answered in one batch")
    parser.add_argument("--new", type=int, default=48, help="most tokens of an answer")
    parser.add_argument("--shots", type=int, default=4, help="worked examples before each question")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "answers.csv")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    work = _prompts(tokenizer, arguments)
    expected: dict[str, Any] = {}
    rows = []
    for look, named in (("first", arguments.model), ("again", arguments.later)):
        if named is None:
            continue
        model = AutoModelForCausalLM.from_pretrained(named, dtype=torch.float32).eval()
        for name, prompts in tqdm(work.items(), desc=look):
            facts = {
                "prompts": len(prompts),
                "prompt_tokens": sum(map(len, prompts)),
                "common_tokens": len(common_beginning(prompts)),
                "new_tokens": arguments.new,
            }
            answers, measured = _measure(model, tokenizer, prompts, expected.get(name), arguments)
            expected[name] = [answer.response_ids for answer in answers]
            rows.append({**machine(), "work": name, "look": look, **facts, **measured})
    append_rows(arguments.out, rows)
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items() if name not in machine()))
    return 0


def _prompts(tokenizer: Any, arguments: argparse.Namespace) -> dict[str, list[np.ndarray]]:
    count, shots = arguments.prompts, arguments.shots
    asked = [row for _, row in read_jsonl(Path(arguments.questions))][: count + shots]
    questions = [row["question"] for row in asked[:count]]
    worked = "".join(f"{row['question']}\n{row['answer']}\n\n" for row in asked[count:])
    _, pairs = read_pairs(arguments.pairs, tokenizer, count, max_length=1024)
    return {
        "GSM8K": question_prompts(tokenizer, questions, prompt=PROMPT),
        f"GSM8K, {shots} shots": question_prompts(tokenizer, questions, prompt=worked + PROMPT),
        "chat": [pair.prompt_ids for pair in pairs],
    }


def _plainly(model: Any, tokenizer: Any, prompts: list[np.ndarray], *, max_new_tokens: int) -> list[Any]:
    ends = end_tokens(model, tokenizer)
    with _ready_to_generate(model):
        rows = generate_plainly(model, prompts, ends, max_new_tokens)
    return [read_answer(row, ends, tokenizer) for row in rows]


def _measure(
    model: Any, tokenizer: Any, prompts: list[np.ndarray], likely: Any, arguments: argparse.Namespace
) -> tuple[list[Any], dict[str, Any]]:
    """The answers, and medians over alternated rounds."""
    ours = functools.partial(generate_answers, likely=likely, batch_size=len(prompts))
    wall, processor, answers = defaultdict(list), defaultdict(list), {}
    for _ in range(arguments.rounds):
        for name, make in (("generate", _plainly), ("ours", ours)):
            began, used = time.perf_counter(), time.process_time()
            answers[name] = make(model, tokenizer, prompts, max_new_tokens=arguments.new)
            wall[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - used)
    same = [a.response_ids for a in answers["generate"]] == [b.response_ids for b in answers["ours"]]
    return answers["ours"], {
        **{f"{name}_s": round(median(values), 3) for name, values in wall.items()},
        **{f"{name}_cpu_s": round(median(values), 3) for name, values in processor.items()},
        "cpu_ratio": round(median(processor["ours"]) / median(processor["generate"]), 3),
        "same_tokens": same,
    }


if __name__ == "__main__":
    raise SystemExit(main())
