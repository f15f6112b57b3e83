"""Answers before a run's first step: made once for each content, and never served to a model that has moved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

import minordpo.generate.answer_cache as kept
from helpers.tiny_models import tiny
from helpers.tiny_runs import (
    RENAMED,
    chat_rows,
    moved,
    save_tiny,
    tiny_model,
    token_pairs,
    tokenizer,
    trainer,
    write_config,
    write_rows,
)
from helpers.word_models import model_of, prompts_of, tokenizer_of
from minordpo import MonitorCallback
from minordpo.cli import main
from minordpo.engine.models import REFERENCE_ADAPTER, causal_model
from minordpo.engine.weights import InitialWeights
from minordpo.errors import InputError
from minordpo.generate.answer_cache import InitialAnswers, answers_key
from minordpo.generate.generation import Answer, generate_answers
from minordpo.train.adapters import add_adapter

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def asked(model: Any, folder: Path | None, *, new_adapter: bool = False, **settings: Any) -> list[Answer]:
    """Answers of up to nine tokens to three prompts, by one who asks anew."""
    first = InitialAnswers(InitialWeights(model, None, new_adapter=new_adapter), folder=folder)
    return first(model, tokenizer_of(), prompts_of(7, 3, 5), **{"max_new_tokens": 9} | settings)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts were really answered, each time that any were."""
    counts: list[int] = []

    def counted(model: Any, tokenizer: Any, prompts: list[np.ndarray], **settings: Any) -> list[Answer]:
        counts.append(len(prompts))
        return generate_answers(model, tokenizer, prompts, **settings)

    monkeypatch.setattr(kept, "generate_answers", counted)
    return counts


def test_the_same_answers_are_made_once_and_read_back_equal(tmp_path, made):
    model = model_of()
    ends = tokenizer_of().convert_tokens_to_ids("<end>")
    model.generation_config.eos_token_id = ends
    fresh = asked(model, tmp_path)
    again = asked(model, tmp_path)
    assert made == [3]
    assert fresh == again == asked(model, None)
    assert {answer.tokens for answer in fresh} <= set(range(1, 10))


def test_an_answer_that_ended_is_read_back_with_the_token_that_ended_it(tmp_path, made):
    model = model_of()
    (answer, *_) = asked(model, None)
    model.generation_config.eos_token_id = answer.token_ids[3]
    fresh = asked(model, tmp_path)
    assert any(each.stopped for each in fresh)
    assert asked(model, tmp_path) == fresh
    assert made == [3, 3]  # without a folder, and with one


@pytest.mark.parametrize("rank", [2, 8])
def test_a_new_adapter_is_off_so_that_its_draw_and_seed_do_not_matter(tmp_path, made, rank):
    base = asked(model_of(), None)
    for seed in (1, 2):
        torch.manual_seed(seed)
        adapted = add_adapter(model_of(), LoraConfig(**LORA | {"r": rank}))
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.add_(10.0)  # so that it would be heard
        assert asked(adapted, None) != base
        assert asked(adapted, tmp_path, new_adapter=True) == base
        assert all(p.requires_grad == ("lora_" in name) for name, p in adapted.named_parameters())
    assert made == [3] * 4  # three without a folder, one with it


def test_an_adapter_below_the_new_one_stays_and_counts(tmp_path, made):
    found = []
    for seed in (1, 2):
        below = get_peft_model(model_of(), LoraConfig(**LORA), adapter_name=REFERENCE_ADAPTER)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in below.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
        alone = asked(below, None)
        adapted = add_adapter(below, LoraConfig(**LORA))
        assert REFERENCE_ADAPTER in adapted.peft_config
        found.append(asked(adapted, tmp_path, new_adapter=True))
        assert found[-1] == alone
    assert found[0] != found[1]
    assert made == [3] * 4  # of each seed one without a folder, and one with it


def test_other_weights_precision_prompts_lengths_or_ends_are_other_answers(tmp_path, made):
    model = model_of()
    asked(model, tmp_path)
    asked(model, tmp_path, max_new_tokens=8)
    asked(model, tmp_path, batch_size=2)
    with torch.autocast("cpu", torch.bfloat16):
        asked(model, tmp_path)
    asked(model_of(eos_token_id=77), tmp_path)
    asked(moved(model_of(), by=0.01), tmp_path)
    asked(tiny("Qwen2", eos_token_id=None, pad_token_id=None), tmp_path)
    InitialAnswers(InitialWeights(model, None, new_adapter=False), folder=tmp_path)(
        model, tokenizer_of(), prompts_of(7, 3), max_new_tokens=9
    )
    assert made == [3] * 7 + [2]
    assert len(files(tmp_path)) == 8


def test_where_one_prompt_ends_and_the_next_begins_is_part_of_the_key():
    model, tokenizer = model_of(), tokenizer_of()
    prompts = [[3, 4, 5], [6]], [[3, 4], [5, 6]]
    keys = {
        answers_key(
            model,
            tokenizer,
            [np.array(each, np.int32) for each in both],
            content="",
            max_new_tokens=4,
            batch_size=2,
        )
        for both in prompts
    }
    assert len(keys) == 2


@pytest.mark.parametrize("damage", ["another-files", "changed", "cut", "empty", "no-object"])
def test_a_file_that_is_not_whole_is_said_and_its_answers_made_again(tmp_path, made, capsys, damage):
    model = model_of()
    fresh = asked(model, tmp_path)
    (file,) = files(tmp_path)
    text = file.read_text()
    rows = json.loads(text)
    rows["rows"][0][0] += 1
    asked(model, tmp_path / "other", max_new_tokens=8)
    (other,) = files(tmp_path / "other")
    file.write_text(
        {
            "another-files": other.read_text(),
            "changed": json.dumps(rows),
            "cut": text[:-20],
            "empty": "",
            "no-object": "[1]",
        }[damage]
    )
    made.clear()
    assert asked(model, tmp_path) == fresh
    assert made == [3]
    assert f"{file} is not whole, so its answers are made again" in capsys.readouterr().err
    assert file.read_text() == text


def test_a_cache_that_cannot_be_written_is_said_with_what_helps(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written.*environment variable MINORDPO_CACHE"):
        asked(model_of(), tmp_path / "file" / "answers")


def test_a_second_run_of_the_model_answers_nothing_before_training(tmp_path, made, monkeypatch):
    save_tiny(tmp_path / "base")
    write_rows(tmp_path / "pairs.jsonl", chat_rows(10))
    found = []
    for cache, beta in (("one", 0.1), ("one", 0.5), ("two", 0.5)):
        monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / cache))
        output = tmp_path / f"{cache}-{beta}"
        config = write_config(
            tmp_path / "run.yaml", base=tmp_path / "base", pairs=tmp_path / "pairs.jsonl", output=output
        )
        made.clear()
        assert main(["train", str(config), f"objective.beta={beta}"]) == 0
        # Samples and the monitor's prompts, each as a batch; those after a step are not asked for here.
        assert made == ([] if (cache, beta) == ("one", 0.5) else [2, 2])
        before = [line for line in (output / "samples.jsonl").read_text().splitlines() if '"before"' in line]
        probes = (output / "probes.jsonl").read_bytes().splitlines()
        found.append((before, [line for line in probes if b'"step": 0,' in line]))
        assert [len(each) for each in found[-1]] == [2, 2]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "adapter"])
def test_under_autocast_the_monitors_initial_answers_are_its_own(tmp_path, made, adapter):
    seen = []
    for bf16 in (False, True):
        monitor = MonitorCallback(tokenizer(), 2, max_new_tokens=6)
        pairs = token_pairs(10)
        built = trainer(
            tmp_path / str(bf16),
            pairs=pairs[:8],
            eval_dataset=pairs[8:],
            callbacks=[monitor],
            cache=tmp_path / "cache",
            peft_config=None if adapter is None else LoraConfig(**adapter),
            bf16=bf16,
            max_steps=1,
        )
        base = causal_model(built.policy)
        types: list[torch.dtype] = []

        def seen_type(module: Any, given: Any, found: torch.Tensor, base=base, types=types) -> None:
            if base.config._attn_implementation == "sdpa":  # while it generates
                types.append(found.dtype)

        layer = next(module for name, module in base.named_modules() if name.endswith("o_proj"))
        handle = layer.register_forward_hook(seen_type)
        built.train()
        handle.remove()
        seen.append(set(types))
    assert seen == [{torch.float32}, {torch.bfloat16}]
    assert made == [2, 2]


def test_a_second_training_begins_with_the_answers_of_the_model_as_it_is(tmp_path, made):
    monitor = MonitorCallback(tokenizer(), 2, max_new_tokens=6)
    pairs = token_pairs(10)
    built = trainer(
        tmp_path,
        model=tiny_model(),
        pairs=pairs[:8],
        eval_dataset=pairs[8:],
        callbacks=[monitor],
        cache=tmp_path / "cache",
        learning_rate=0.1,
    )
    built.train()
    assert made == [2]
    built.train()
    assert made == [2]  # made anew, and not kept
    rows = [json.loads(line) for line in (tmp_path / "probes.jsonl").read_text().splitlines()]
    expected = generate_answers(
        built.policy, tokenizer(), [p.ids for p in monitor.probe.prompts], max_new_tokens=6
    )
    steps = [row["step"] for row in rows]
    assert steps == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [tuple(row["token_ids"]) for row in rows[-2:]] == [answer.token_ids for answer in expected]
    assert len(files(tmp_path / "cache" / "answers")) == 1
