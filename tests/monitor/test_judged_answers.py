"""The monitor's answers under the reference: who judges them, and that the value is the stock model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from helpers.tiny_runs import RENAMED, metric_rows, tiny_model, token_pairs, tokenizer, trainer
from minordpo import MonitorCallback
from minordpo.generate.generation import Answer
from minordpo.monitor.probe import Probe, Prompt, prompts_of

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def watched(folder: Path, **settings: Any) -> Any:
    """Two steps at a rate that moves the model far, its answers looked at before and after each."""
    pairs = token_pairs(10)
    monitor = MonitorCallback(tokenizer(), 2, max_new_tokens=7, probe_every=1)
    made = trainer(
        folder,
        model=tiny_model(),
        pairs=pairs[:8],
        eval_dataset=pairs[8:],
        callbacks=[monitor],
        objective="dpo",
        learning_rate=0.3,
        max_steps=2,
        **settings,
    )
    made.train()
    return made


def by_hand(model: Any, prompts: list[np.ndarray], answers: list[list[int]]) -> float:
    """Mean over answers of −log p a token, one plain row at a time."""
    means = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([[*prompt.tolist(), *answer]])
        with torch.no_grad():
            logps = torch.log_softmax(model(input_ids=ids).logits.double(), -1)[0, len(prompt) - 1 : -1]
        means.append(-logps.gather(1, torch.tensor(answer)[:, None]).mean().item())
    return sum(means) / len(means)


def judged(folder: Path) -> dict[int, float]:
    rows = metric_rows(folder)
    return {row["step"]: row["probe/reference_nll"] for row in rows if "probe/reference_nll" in row}


def kept(folder: Path, step: int) -> list[list[int]]:
    rows = [json.loads(line) for line in (folder / "probes.jsonl").read_text().splitlines()]
    mine = [row for row in rows if row["step"] == step]
    assert not any(row["stopped"] for row in mine)
    return [row["token_ids"] for row in mine]


@pytest.mark.parametrize("judge", ["adapter-off", "another-model"])
def test_the_value_is_the_stock_reference_models(tmp_path, judge):
    other = tiny_model(seed=5)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])
    settings: dict[str, Any] = {"peft_config": lora} if judge == "adapter-off" else {"ref_model": other}
    made = watched(tmp_path, **settings)
    prompts = [prompt.ids for prompt in made.monitor().probe.prompts]
    reference = tiny_model() if judge == "adapter-off" else tiny_model(seed=5)
    found = judged(tmp_path)
    assert sorted(found) == [0, 1, 2]
    for step, value in sorted(found.items()):
        assert value == pytest.approx(by_hand(reference, prompts, kept(tmp_path, step)), abs=1e-4), step
    # The tuned model itself would have said something else.
    at_start = next(row for row in metric_rows(tmp_path) if "probe/chosen_nll" in row)
    assert at_start["step"] == 0
    best = [pair.responses[0].ids.tolist() for pair in token_pairs(10)[8:]]
    assert all(pair.responses[0].scored.all() for pair in token_pairs(10)[8:])
    assert at_start["probe/chosen_nll"] == pytest.approx(by_hand(reference, prompts, best), abs=1e-4)
    tuned = by_hand(made.policy.eval(), prompts, kept(tmp_path, 2))
    assert abs(tuned - found[2]) > 0.1


def test_fully_tuned_the_reference_is_gone_and_nothing_is_said_of_it(tmp_path):
    watched(tmp_path)
    assert judged(tmp_path) == {}
    assert [row["step"] for row in metric_rows(tmp_path) if "probe/looping" in row] == [0, 1, 2]


def of_name(measures: list[dict[str, float]], name: str) -> list[float | None]:
    return [each.get(name) for each in measures]


def test_the_end_token_counts_and_an_empty_answer_has_no_value():
    asked: list[list[int]] = []

    def reference(examples: Any) -> list[np.ndarray]:
        asked.extend(example.responses[0].ids.tolist() for example in examples)
        return [
            np.full(len(example.responses[0].ids), -float(place)) for place, example in enumerate(examples, 1)
        ]

    probe = Probe(tokenizer(), [Prompt(np.array([place])) for place in (4, 5, 6)], max_new_tokens=3)
    answers = [Answer("a", (7, 8), True, 3, 2), Answer("", (), False, 0), Answer("b", (9, 9, 9), False, 3)]
    # Answers count alike, however long: 1 nat a token of the first and 2 of the last.
    assert of_name(probe.measures(answers, None, reference), "reference_nll") == [1.0, None, 2.0]
    assert asked == [[7, 8, 2], [9, 9, 9]]
    silent = probe.measures([Answer("", (), False, 0)] * 3, None, reference)
    assert of_name(silent, "reference_nll") == [None] * 3


def test_the_chosen_responses_are_judged_once_and_by_their_scored_tokens():
    pairs = token_pairs(3)
    probe = Probe(tokenizer(), prompts_of(pairs, tokenizer(), 3, most_tokens=None), max_new_tokens=3)
    asked: list[Any] = []

    def reference(examples: Any) -> list[np.ndarray]:
        asked.extend(examples)
        return [np.full(int(each.responses[0].scored.sum()), -0.5) for each in examples]

    silent = Answer("", (), False, 0)
    measures = probe.measures([silent] * 3, None, reference, at_start=True)
    assert of_name(measures, "chosen_nll") == [0.5] * 3
    assert of_name(probe.measures([silent] * 3, None, reference), "chosen_nll") == [None] * 3
    assert [each.responses[0] for each in asked] == [pair.responses[0] for pair in pairs]
    unanswered = Probe(tokenizer(), [Prompt(np.array([4]))], max_new_tokens=3)
    assert of_name(unanswered.measures([silent], None, reference, at_start=True), "chosen_nll") == [None]
