"""The paper's recipes, brought down to seconds: a tiny Qwen2 with random weights, few-shot pairs, questions."""

from __future__ import annotations

from pathlib import Path

from helpers.tiny_runs import save_tiny, write_rows

EXAMPLES = "Question: 1+1?\nAnswer: It is 2.\n\nQuestion: 2+2?\nAnswer: It is 4.\n\n"
PAIRS = 14


def write_inputs(folder: Path) -> list[str]:
    """Model, pairs and questions in the folder; the overrides that put them in place of the paper's."""
    save_tiny(
        folder / "qwen2",
        architecture="Qwen2",
        num_hidden_layers=2,
        use_sliding_window=False,
        layer_types=["full_attention"] * 2,
    )
    pairs = [
        {
            "prompt": f"{EXAMPLES}Question: {i}+{i}?\nAnswer:",
            "chosen": f" It is {2 * i}. The answer is: {2 * i}",
            "rejected": f" It is {2 * i + 1 + i % 3}. The answer is: {2 * i}",
        }
        for i in range(PAIRS)
    ]
    write_rows(folder / "metamath.jsonl", pairs)
    questions = [{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(3)]
    write_rows(folder / "questions.jsonl", questions)
    return [
        f"run.model.path={folder / 'qwen2'}",
        f"run.data.train={folder / 'metamath.jsonl'}",
        "run.data.eval=2",
        "run.training.use_cpu=true",
        "run.samples={prompts: 1, max_new_tokens: 2}",
        "run.monitor={prompts: 2, max_new_tokens: 4}",
        f"evaluate.task={folder / 'questions.jsonl'}",
        "evaluate.max_new_tokens=4",
        "evaluate.dtype=float32",
        f"output={folder / 'out'}",
    ]
