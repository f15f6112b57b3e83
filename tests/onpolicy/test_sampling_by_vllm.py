"""`minordpo data sample --backend vllm` with a real server."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from peft import LoraConfig, get_peft_model

from helpers.short_answers import save_short_answers
from helpers.tiny_runs import RENAMED, moved, write_rows
from minordpo.cli import main
from minordpo.engine.models import load_model, load_tokenizer, save_model
from minordpo.generate.generation import generate_answers
from minordpo.onpolicy.sample_files import SampleFiles
from minordpo.verify.prompts import read_prompts

pytestmark = [
    *(pytest.mark.filterwarnings(each) for each in RENAMED),
    pytest.mark.skipif(
        shutil.which(os.environ.get("MINORDPO_VLLM", "vllm")) is None, reason="vLLM is not installed"
    ),
]
TEXTS = ("one", "two and two", "three and more of it")


def test_the_command_samples_a_merged_adapter_and_goes_on_by_the_same_backend_alone(
    tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("MINORDPO_VLLM_OPTIONS", "--enforce-eager")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    base = save_short_answers(tmp_path / "base", TEXTS, steps=30, head_dim=32)
    adapted = get_peft_model(
        load_model(str(base)), LoraConfig(r=4, use_dora=True, target_modules=["v_proj", "up_proj"])
    )
    folder, out = tmp_path / "adapter", tmp_path / "pairs.jsonl"
    save_model(moved(adapted, by=0.2), None, folder)
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": text} for text in TEXTS])
    command = ["data", "sample", str(folder), "--prompts", str(prompts), "--out", str(out), "--pairs", "all"]
    command += ["--verify", "helpers.own_verifiers:even", "--allow-code", "--max-new-tokens", "8"]
    command += ["--temperature", "0.01", "--samples", "2"]
    # At that temperature one token has all the probability, so no row is made of the two answers alike.
    assert main([*command, "--backend", "vllm"]) == 2
    assert "vLLM does not compute use_dora" in capfd.readouterr().err
    rows = [json.loads(line) for line in SampleFiles(out).answers.read_text(encoding="utf-8").splitlines()]
    tokenizer = load_tokenizer(str(folder))
    tokens = read_prompts(str(prompts), split="train", template="{question}", plain_text=False).tokens(
        tokenizer
    )
    ours = generate_answers(load_model(str(folder)), tokenizer, tokens, max_new_tokens=8)
    assert [(row["token_ids"], row["end_token"]) for row in rows[::2]] == [
        (list(answer.token_ids), answer.end_token) for answer in ours
    ]
    assert rows[::2] == [{**row, "sample": 0} for row in rows[1::2]]
    (version,) = json.loads(SampleFiles(out).settings.read_text(encoding="utf-8"))["vllm"]
    assert version[0].isdigit()
    assert main(command) == 2
    assert 'backend was "vllm", not "transformers"' in capfd.readouterr().err
    assert len(SampleFiles(out).answers.read_text(encoding="utf-8").splitlines()) == 6
