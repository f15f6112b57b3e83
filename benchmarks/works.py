"""Six kinds of work, minordpo beside TRL's DPOTrainer in its fastest setting: seconds, memory, tokens and their ratios.

    python benchmarks/works.py --gsm8k FOLDER --chat FILE            # all six
    python benchmarks/works.py --gsm8k FOLDER --works close adapter  # two of them

    close        close pairs of GSM8K, 8 a step, full tuning
    adapter      the same with a LoRA adapter of rank 16 on every layer
    chat         pairs of chats with answers of different lengths, 4 a step
    prompts      worked examples before each question, some 700 tokens, and answers of a few tokens, 4 pairs a step
    vocabulary   close pairs, 4 a step, a vocabulary of 262,144
    long         answers of 8,192 tokens under gradient checkpointing, one pair a step, the first 6 layers

The model is SmolLM2-135M-Instruct (`make test-setup` installs it), in bfloat16 where the processor has units for it.
Each comparison is one of `step.py`; the rows go to steps.csv.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import step
from minordpo.errors import InputError

ENDING = "So the answer is: "
LONG = 8192


@dataclass(frozen=True)
class Work:
    """A comparison: what is trained, on which pairs, and the options of step.py."""

    model: str
    pairs: str
    options: tuple[str, ...]


WORKS = {
    "close": Work("whole", "close.jsonl", ("--pairs-per-step=8",)),
    "adapter": Work("whole", "close.jsonl", ("--pairs-per-step=8", "--lora")),
    "chat": Work("whole", "chat.json", ("--pairs-per-step=4",)),
    "prompts": Work("whole", "prompts.jsonl", ("--pairs-per-step=4",)),
    "vocabulary": Work("wide", "close.jsonl", ("--pairs-per-step=4",)),
    "long": Work(
        "short", "long.jsonl", ("--pairs-per-step=1", "--checkpointing", "--max-length=20000", "--warm-up=0")
    ),
}


def main() -> int:
    arguments = _parser().parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    dtype = arguments.dtype or ("bfloat16" if has_bfloat16_units() else "float32")
    for name in arguments.works:
        work = WORKS[name]
        model, pairs = arguments.folder / f"model-{work.model}", arguments.folder / work.pairs
        if not model.exists():
            _model(model, work.model)
        if not pairs.exists():
            PAIRS[work.pairs](pairs, arguments)
        given = [
            f"--model={model}",
            f"--pairs={pairs}",
            f"--work={name}",
            f"--dtype={dtype}",
            f"--out={arguments.out}",
        ]
        given += [f"--rounds={arguments.rounds}", f"--steps={arguments.steps}", *work.options]
        if arguments.trl_batch:
            given.append(f"--trl-batch={min(arguments.trl_batch, int(work.options[0].split('=')[1]))}")
        print(f"{name}:", flush=True)
        print(step.table(step.compare(step.parser().parse_args(given))), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gsm8k", type=Path, required=True, help="folder with train.jsonl of GSM8K")
    parser.add_argument("--chat", type=Path, help="pairs of chats, in any layout (for the work chat)")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: by the processor")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--trl-batch", type=int, help="pairs of TRL's padded batches (default: a whole step)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "minordpo-works",
        help="where inputs are made",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "steps.csv")
    return parser


def has_bfloat16_units() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


# ---- models ----
def _model(path: Path, kind: str) -> None:
    # In a process of its own, as all that imports torch: the parent of the measurements must stay small.
    maker = Path(__file__).with_name("smollm2_models.py")
    subprocess.run([sys.executable, str(maker), kind, str(path)], check=True)


# ---- pairs ----
def _close(path: Path, arguments: argparse.Namespace) -> None:
    command = ["minordpo", "data", "corrupt", str(arguments.gsm8k / "train.jsonl"), str(path)]
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)


def _chat(path: Path, arguments: argparse.Namespace) -> None:
    if arguments.chat is None:
        raise InputError("the work chat needs pairs of chats. Name a file with --chat")
    path.write_bytes(arguments.chat.read_bytes())


def _problems(arguments: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Question, worked answer without its marks, and the number."""
    for line in (arguments.gsm8k / "train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        worked, _, number = row["answer"].partition("####")
        pieces = [piece.partition(">>")[2] if ">>" in piece else piece for piece in worked.split("<<")]
        yield row["question"], "".join(pieces).strip(), number.strip().replace(",", "")


def _prompts(path: Path, arguments: argparse.Namespace) -> None:
    problems, numbers = list(_problems(arguments)), random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for question, _, number in problems[:200]:
            shown = numbers.sample(problems[200:], 4)
            before = "\n\n".join(f"Question: {q}\nAnswer: {worked}\n{ENDING}{n}" for q, worked, n in shown)
            prompt = [
                {
                    "role": "user",
                    "content": f"{before}\n\nQuestion: {question}\nAnswer with the number alone.",
                }
            ]
            answers = [f"{ENDING}{number}.", f"{ENDING}{int(number) + numbers.choice((-2, -1, 1, 2))}."]
            chosen, rejected = ([{"role": "assistant", "content": text}] for text in answers)
            file.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")


def _long(path: Path, arguments: argparse.Namespace) -> None:
    """Two answers of about 8,192 tokens: worked problems one after another, of which some are wrong in the other."""
    problems, numbers = list(_problems(arguments)), random.Random(0)
    letters = LONG * 3.1  # GSM8K has so many a token with this tokenizer, as near as it matters
    with path.open("w", encoding="utf-8") as file:
        for _ in range(4):
            numbers.shuffle(problems)
            right, wrong, length = [], [], 0
            for question, worked, number in problems:
                if length > letters:
                    break
                right.append(f"{question}\n{worked}\n{ENDING}{number}")
                wrong.append(f"{question}\n{worked}\n{ENDING}{int(number) + 1}")
                length += len(right[-1])
            prompt = [{"role": "user", "content": "Write worked problems."}]
            chosen, rejected = (
                [{"role": "assistant", "content": "\n\n".join(text)}] for text in (right, wrong)
            )
            file.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")


PAIRS = {"close.jsonl": _close, "chat.json": _chat, "prompts.jsonl": _prompts, "long.jsonl": _long}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"works.py: {error}")
