"""Adapters on a quantised base: trained, saved, loaded again, exported; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers.tiny_runs import RENAMED, chat_rows, metric_rows, save_tiny, write_config, write_rows
from minordpo.cli import main
from minordpo.engine.models import causal_model, load_model
from minordpo.engine.quantized import is_quantized
from minordpo.run_folder import names
from minordpo.train.trainer import PreferenceTrainer

pytest.importorskip("bitsandbytes")
pytest.importorskip("torchao")
pytestmark = [
    pytest.mark.filterwarnings(each) for each in (*RENAMED, "ignore::UserWarning", "ignore::FutureWarning")
]

FOUR_BITS = {
    "method": "bitsandbytes",
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "float32",
}
KINDS: dict[str, dict[str, Any]] = {
    "four bits": FOUR_BITS,
    "eight bits": {"method": "bitsandbytes", "load_in_8bit": True},
    "torchao": {"method": "torchao", "quant_type": "Int8WeightOnlyConfig"},
}
LORA = {"r": 4, "target_modules": ["q_proj", "up_proj"]}
# bitsandbytes quantises blocks of 64 weights.
WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}


def set_up(folder: Path, quantization: Any, **sections: Any) -> Path:
    save_tiny(folder / "base", **WIDE)
    write_rows(folder / "rows.jsonl", chat_rows(10))
    sections = {"lora": LORA, "training": {"max_steps": 6, "learning_rate": 1e-2}} | sections
    return write_config(
        folder / "config.yaml",
        base=folder / "base",
        pairs=folder / "rows.jsonl",
        output=folder / "run",
        model={"quantization": quantization},
        **sections,
    )


def scored(folder: Path, model: Path, reference: Path) -> list[dict[str, Any]]:
    out = folder / "scores.jsonl"
    command = ["score", str(model), "--pairs", str(folder / "rows.jsonl"), "--reference", str(reference)]
    assert main([*command, "--out", str(out), "--overwrite"]) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_trains_is_loaded_as_it_was_trained_and_exported_without_a_difference(tmp_path, kind):
    assert main(["train", str(set_up(tmp_path, KINDS[kind])), "objective.name=dpo"]) == 0
    steps = [row for row in metric_rows(tmp_path / "run") if "loss" in row]
    assert steps[0]["largest_logratio"] < 1e-5
    assert steps[-1]["loss"] < 0.9 * steps[0]["loss"]
    saved = json.loads((tmp_path / "run" / "model" / names.ADAPTER_BASE).read_text(encoding="utf-8"))
    assert saved == {"quantization": KINDS[kind]}
    assert is_quantized(causal_model(load_model(str(tmp_path / "run"))))
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "plain")]) == 0
    exported = load_model(str(tmp_path / "plain"))
    assert not is_quantized(causal_model(exported))
    assert {p.dtype for p in exported.parameters()} == {torch.float32}
    rows = scored(tmp_path, tmp_path / "run", tmp_path / "plain")
    assert max(abs(row["chosen_logratio"]) for row in rows) < 1e-3
    moved = scored(tmp_path, tmp_path / "plain", tmp_path / "base")
    assert np.mean([abs(row["chosen_logratio"]) for row in moved]) > 0.1
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "was quantised" in card


def test_a_run_that_was_cut_off_resumes_to_the_same_adapter(tmp_path, monkeypatch):
    config = set_up(tmp_path, FOUR_BITS)
    outputs = {name: f"output={tmp_path / name}" for name in ("whole", "cut")}
    assert main(["train", str(config), outputs["whole"], "training.save_steps=2"]) == 0
    accumulate = PreferenceTrainer._accumulate

    def cut_off(self: Any, *given: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return accumulate(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(PreferenceTrainer, "_accumulate", cut_off)
        assert main(["train", str(config), outputs["cut"], "training.save_steps=2"]) != 0
    assert main(["train", str(config), outputs["cut"], "training.save_steps=2", "--resume"]) == 0
    whole, cut = (dict(load_model(str(tmp_path / name)).named_parameters()) for name in outputs)
    adapters = [name for name in whole if "lora" in name]
    assert adapters
    assert all(torch.equal(whole[name], cut[name]) for name in adapters)


@pytest.mark.parametrize(
    ("quantization", "sections", "said"),
    [
        ({"method": "bnb", "load_in_4bit": True}, {}, "model.quantization.method is 'bnb'"),
        ({"method": "bitsandbytes"}, {}, "nothing would be quantised"),
        (
            {"method": "bitsandbytes", "load_in_4bits": True},
            {},
            "load_in_4bits is no key of BitsAndBytesConfig",
        ),
        ({"method": "bitsandbytes", "load_in_4bit": "yes"}, {}, "load_in_4bit must be a boolean"),
        ({"method": "torchao", "quant_type": "Int8"}, {}, "quant_type is 'Int8'"),
        (
            {"method": "torchao", "quant_type": "Int8WeightOnlyConfig", "groups": 3},
            {},
            "groups is no key of Int8Weight",
        ),
        (FOUR_BITS, {"lora": None}, "every weight would be tuned"),
    ],
)
def test_what_cannot_be_quantised_is_refused_before_the_model_is_read(
    tmp_path, capsys, quantization, sections, said
):
    config = set_up(tmp_path, quantization, **sections)
    assert main(["train", str(config)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()
