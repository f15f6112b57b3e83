"""Answers by a real vLLM server beside those of our own decoding."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model

from helpers.short_answers import save_short_answers
from helpers.tiny_runs import RENAMED, moved
from minordpo.engine.models import load_model, load_tokenizer, save_model
from minordpo.evaluate.scoring import answer_examples, split_responses, token_logps
from minordpo.generate.generation import GenerationOptions, Sampling, generate_answers
from minordpo.generate.vllm_answers import stream_vllm_answers

pytestmark = [
    *(pytest.mark.filterwarnings(each) for each in RENAMED),
    pytest.mark.skipif(
        shutil.which(os.environ.get("MINORDPO_VLLM", "vllm")) is None, reason="vLLM is not installed"
    ),
]
TEXTS = ("one", "two and two", "three and more of it")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model's folder; vLLM's attention on a CPU knows no narrower heads."""
    return save_short_answers(tmp_path_factory.mktemp("vllm") / "model", TEXTS, steps=30, head_dim=32)


@pytest.fixture(autouse=True)
def quick_start(monkeypatch):
    monkeypatch.setenv("MINORDPO_VLLM_OPTIONS", "--enforce-eager")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; most of the machine's memory otherwise


def asked(model):
    tokenizer = load_tokenizer(str(model))
    return tokenizer, [np.array(tokenizer(text)["input_ids"]) for text in TEXTS]


def test_the_most_likely_tokens_of_an_adapter_are_ours(model, tmp_path):
    adapted = get_peft_model(
        load_model(str(model)), LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"])
    )
    save_model(moved(adapted, by=0.2), None, tmp_path / "adapter")
    path = str(tmp_path / "adapter")
    tokenizer, prompts = asked(model)
    options = GenerationOptions(max_new_tokens=8)
    found = dict(stream_vllm_answers(path, tokenizer, prompts, options))
    ours = generate_answers(load_model(path), tokenizer, prompts, max_new_tokens=8)
    assert [found[row] for row in range(3)] == ours
    plain = generate_answers(load_model(str(model)), tokenizer, prompts, max_new_tokens=8)
    assert ours != plain


def test_samples_have_the_length_and_log_probs_of_ours_and_do_not_depend_on_where_a_run_is_cut(model):
    tokenizer, prompts = asked(model)
    options = GenerationOptions(
        max_new_tokens=12, batch_size=24, samples=100, sampling=Sampling(temperature=1.0)
    )
    found = dict(stream_vllm_answers(str(model), tokenizer, prompts, options))
    assert sorted(found) == list(range(300))
    ours = generate_answers(
        load_model(str(model)), tokenizer, prompts, max_new_tokens=12, batch_size=100, samples=100,
        sampling=Sampling(temperature=1.0),
    )  # fmt: skip
    by_both = []
    for answers in (ours, [found[row] for row in range(300)]):
        assert all(answer.stopped or answer.tokens == 12 for answer in answers)
        examples = answer_examples(prompts, [answers[start : start + 100] for start in (0, 100, 200)])
        logps = split_responses(examples, token_logps(str(model), examples, dtype="float32"))
        even = [len(answer.text) % 2 == 0 for answer in answers]
        by_both.append(
            np.array([[e, a.tokens, p.sum()] for e, a, p in zip(even, answers, logps, strict=True)])
        )
    means = [each.mean(axis=0) for each in by_both]
    errors = np.sqrt(sum(each.var(axis=0) / len(each) for each in by_both))
    print("pass rate, tokens, log-prob:", *means, "errors", errors)
    assert (np.abs(means[0] - means[1]) < 4 * errors).all()
    done = set(range(0, 300, 2))
    again = dict(stream_vllm_answers(str(model), tokenizer, prompts, options, done=done))
    assert sorted(again) == sorted(set(found) - done)
    # Batches round otherwise, which may move a token here and there.
    assert sum(again[row] == found[row] for row in again) >= 145
    assert len({found[row].token_ids for row in range(100)}) > 5
