"""Two models, three questions, and commands that ask them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers.tiny_runs import save_tiny, write_rows
from minordpo.evaluate.evaluation import EvaluationConfig

QUESTIONS = [
    {"question": "How many clips?", "answer": "48/2 = <<48/2=24>>24\n24+48 = <<24+48=72>>72\n#### 72"},
    {"question": "And how many more of them are there in the second of the two boxes?", "answer": "7"},
    {"question": "Why?", "answer": "3 + 4 = <<3+4=7>>7\n#### 7"},
]


def make_world(folder: Path) -> Path:
    """The folder with two models, which have room for the prompt, and a file of questions."""
    save_tiny(folder / "one", max_position_embeddings=1024)
    save_tiny(folder / "two", max_position_embeddings=1024, seed=1)
    write_rows(folder / "q.jsonl", QUESTIONS)
    return folder


def config_of(world: Path, **settings: Any) -> EvaluationConfig:
    """Short answers to the questions."""
    return EvaluationConfig(**{"task": str(world / "q.jsonl"), "max_new_tokens": 6, **settings})


def command(world: Path, *models: Any, out: Path | None = None, **options: Any) -> list[str]:
    """The command line that asks the models the questions."""
    arguments = ["evaluate", *(str(world / m) for m in models), "--task", str(world / "q.jsonl")]
    options = {"max-new-tokens": 6} | ({} if out is None else {"out": out}) | options
    return [*arguments, *(str(each) for name, value in options.items() for each in (f"--{name}", value))]
