"""Run folders written by hand for reports: of every objective, β, rate and seed that is asked for, in milliseconds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from helpers.tiny_runs import write_config, write_rows

QUESTION = "<|im_start|>user\nHow many beads are 3 times 4 beads?<|im_end|>\n<|im_start|>assistant\n"
EVIL = (
    "</script><script>document.title='broken'</script>"
    "<img src=x onerror=\"document.title='broken'\"><!-- & \u2028 \\"
)


def write_run(
    folder: Path,
    *,
    objective: str = "dpo",
    beta: float | None = 0.1,
    rate: float = 1e-3,
    seed: int = 0,
    steps: int = 12,
    finished: bool = True,
    health: tuple[tuple[int, str], ...] = (),
    **sections: Any,
) -> Path:
    """A run of the objective whose log-ratios move as DPO's (down) or MinorDPO's (apart) do."""
    folder.mkdir(parents=True)
    hyper = {} if beta is None else {"beta": beta}
    training = {"learning_rate": rate, "seed": seed, "max_steps": min(3, steps)}
    write_config(
        folder / "config.yaml",
        base=Path("base"),
        pairs=Path("pairs.jsonl"),
        output=folder,
        training=training,
        **sections,
    )
    text = (folder / "config.yaml").read_text()
    named = f"objective:\n  name: {objective}\n" + "".join(f"  {k}: {v}\n" for k, v in hyper.items())
    (folder / "config.yaml").write_text(text.replace("objective:\n  beta: 0.1\n  name: minordpo\n", named))
    pull = (1 if objective == "minordpo" else -1) * 4000 * rate * (1 + seed / 10) / (1 + 5 * (beta or 0.1))
    rows: list[dict[str, Any]] = [_look(0, 0.0)]
    for step in range(1, steps + 1):
        rows.append(
            {"step": step, "loss": 0.7 / step, "tokens": 100, "seconds": 1.0, **_measures(step, pull, beta)}
        )
        if step % 4 == 0:
            rows += [
                {"step": step, "eval_loss": 0.6, **_measures(step, pull, beta, "eval_")},
                _look(step, 0.02 * step),
            ]
        rows += [
            {"step": step, "event": "health", "health": name, "was": "healthy", "why": "told"}
            for at, name in health
            if at == step
        ]
    write_rows(folder / "metrics.jsonl", rows)
    before, after = f"12 beads, I think. {EVIL}", f"{folder.name} says: 12. {EVIL}"
    write_rows(
        folder / "samples.jsonl",
        [_answer(when, text) for when, text in (("before", before), ("after", after))][: 1 + finished],
    )
    asked = {"prompt": 1, "stopped": False, "tokens": 5, "token_ids": []}
    write_rows(
        folder / "probes.jsonl",
        [
            {**asked, "step": step, "answer": f"{folder.name} at {step}"}
            | ({"asked": QUESTION} if not step else {})
            for step in range(0, steps + 1, 4)
        ],
    )
    facts = {"processor": "x", "threads": 1, "minordpo": "0.1.0", "torch": "2"}
    (folder / "environment.json").write_text(json.dumps(facts))
    if finished:
        (folder / "model").mkdir()
        (folder / "figures").mkdir()
        (folder / "figures" / "rewards.png").write_bytes(b"")
    return folder


def _measures(step: int, pull: float, beta: float | None, prefix: str = "") -> dict[str, float]:
    chosen = pull * step * (0.9 if prefix else 1.0)
    rejected = chosen - abs(pull) * step
    margin = chosen - rejected
    push = (beta or 0.1) / (1 + math.exp((beta or 0.1) * margin))
    values = {
        "logratios/chosen": chosen,
        "logratios/rejected": rejected,
        "logratios/margin": margin,
        "rewards/accuracies": 1.0,
        "coefficient/chosen": -push,
        "coefficient/rejected": push,
    }
    return {prefix + name: value for name, value in values.items()}


def _look(step: int, repeated: float) -> dict[str, Any]:
    return {"step": step, "probe/repeated_4grams": repeated, "probe/looping": 0.0, "probe/tokens": 20.0}


def _answer(when: str, text: str) -> dict[str, Any]:
    return {"when": when, "row": 1, "prompt": QUESTION, "answer": text, "stopped": True, "tokens": 9}


def write_evaluation(
    folder: Path,
    paths: dict[str, tuple[str, float, float | None]],
    *,
    digest: str = "d",
    task: str = "gsm8k",
) -> Path:
    """An evaluation of models: label → path, share of right answers, KL a sequence."""
    folder.mkdir(parents=True)
    settings = {
        "task": task,
        "questions_digest": digest,
        "questions": "100 of beads",
        "prompt": "{question}",
        "max_new_tokens": 9,
    }
    models: dict[str, Any] = {}
    for label, (path, share, kl) in paths.items():
        right = {"share": share, "low": share - 0.1, "high": share + 0.1, "count": 1, "of": 100}
        names = ("strict_accuracy", "flexible_accuracy", "asked_format", "looping", "stopped", "empty")
        models[label] = dict.fromkeys(names, right) | {
            "path": path,
            "repeated_4grams": 0.1,
            "tokens": {"mean": 9.0},
        }
        if kl is not None:
            errors = {"per_sequence_error": 0.5, "per_token_error": 0.01}
            models[label]["samples"] = {"kl": {"per_sequence": kl, "per_token": kl / 9, **errors, "cut": 0.0}}
        (folder / label).mkdir()
        answer = {"row": 1, "question": "3 times 4?", "reference": "12", "answer": f"{label}: 12 {EVIL}"}
        judged = {"strict_right": True, "flexible_right": True, "stopped": True, "tokens": 4}
        write_rows(folder / label / "answers.jsonl", [answer | judged])
    (folder / "evaluation.json").write_text(json.dumps({"settings": settings, "models": {}}))
    (folder / "results.json").write_text(
        json.dumps({"settings": settings, "models": models, "comparisons": []})
    )
    return folder


def write_pair_tokens(folder: Path, *, shift: float = 0.0) -> None:
    """One pair of three tokens each, as `report --pairs` keeps it."""
    row: dict[str, Any] = {"row": 1, "prompt": QUESTION}
    for side, texts in (("chosen", ["12", " beads", EVIL]), ("rejected", ["13", " beads", "\n"])):
        ratios = [-1.5 + shift, 0.25, 0.5]
        row |= {
            f"{side}_token_texts": texts,
            f"{side}_token_logps": [-2.0, -0.5, -0.1],
            f"{side}_token_logratios": ratios,
            f"{side}_logratio": sum(ratios),
        }
    write_rows(folder / "pair_tokens.jsonl", [row])
