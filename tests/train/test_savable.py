"""What could not be saved, or would not load again, is repaired and told before the first step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from helpers.tiny_runs import RENAMED, chat_rows, save_tiny, write_config, write_rows
from minordpo.cli import main
from minordpo.engine.models import load_model

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def set_up(folder: Path, **sections: Any) -> Path:
    save_tiny(folder / "base")
    write_rows(folder / "rows.jsonl", chat_rows(10))
    paths = {"base": folder / "base", "pairs": folder / "rows.jsonl", "output": folder / "run"}
    return write_config(folder / "config.yaml", **paths, **sections)


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "said", "kept"),
    [
        ({"temperature": 0.7}, "do_sample is set to true", {"temperature": 0.7, "do_sample": True}),
        ({"top_k": 3, "top_p": 0.9}, "do_sample is set to true", {"top_k": 3, "do_sample": True}),
        ({"early_stopping": True}, "its token ids alone are kept", {"eos_token_id": 2}),
    ],
)
@pytest.mark.parametrize("lora", [None, {"r": 2, "target_modules": ["q_proj"]}])
def test_a_generation_config_that_does_not_validate_is_repaired(tmp_path, capsys, values, said, kept, lora):
    config = set_up(tmp_path, **({"lora": lora} if lora else {}))
    change(tmp_path / "base" / "generation_config.json", **values)
    assert main(["train", str(config)]) == 0
    assert said in capsys.readouterr().out
    load_model(str(tmp_path / "run"))
    if lora is None:
        saved = json.loads(
            (tmp_path / "run" / "model" / "generation_config.json").read_text(encoding="utf-8")
        )
        assert kept.items() <= saved.items()


def test_a_padding_token_beyond_the_embeddings_stays_out_of_the_saved_config(tmp_path, capsys):
    config = set_up(tmp_path, training={"save_steps": 2})
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.add_special_tokens({"pad_token": "<padding>"})
    tokenizer.save_pretrained(tmp_path / "base")
    assert main(["train", str(config)]) == 0
    assert "padding token '<padding>' has the id" in capsys.readouterr().out
    load_model(str(tmp_path / "run"))
    load_model(str(next((tmp_path / "run" / "checkpoints").glob("checkpoint-*"))))


def test_a_config_whose_padding_token_has_no_embedding_is_refused(tmp_path, capsys):
    config = set_up(tmp_path)
    change(tmp_path / "base" / "config.json", pad_token_id=99_999)
    assert main(["train", str(config)]) == 2
    assert "Set pad_token_id in its config.json" in capsys.readouterr().err


def test_a_dry_run_tells_it_too(tmp_path, capsys):
    config = set_up(tmp_path)
    change(tmp_path / "base" / "generation_config.json", temperature=0.7)
    assert main(["train", str(config), "--dry-run"]) == 0
    assert "do_sample is set to true" in capsys.readouterr().out


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = set_up(tmp_path)
    text = config.read_text(encoding="utf-8").replace(str(tmp_path), "~")
    config.write_text(text, encoding="utf-8")
    assert "~/base" in text
    assert main(["train", "~/config.yaml"]) == 0
    assert main(["train", "~/config.yaml", "output=~/other", "model.reference=~/base"]) == 0
    score = ["score", "~/run", "--pairs", "~/rows.jsonl", "--reference", "~/base", "--out", "~/scores.jsonl"]
    assert main(score) == 0
    assert main(["export", "~/run", "~/plain"]) == 0
    assert {each.name for each in tmp_path.iterdir()} >= {"run", "other", "scores.jsonl", "plain"}
    assert not (tmp_path / "~").exists()
