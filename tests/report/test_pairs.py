"""`report --pairs`: tokens of held-out pairs under tiny models, against what `score` says of the same pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.small_tokenizers import byte_level
from helpers.tiny_runs import chat_rows, moved, save_tiny, tiny_model, tokenizer, write_config, write_rows
from minordpo.engine.models import save_model
from minordpo.errors import InputError
from minordpo.evaluate.scoring import score_pairs
from minordpo.report import pair_tokens
from minordpo.report.find import find
from minordpo.report.gather import gather
from minordpo.report.pair_tokens import add_pair_tokens, token_texts
from minordpo.run_folder.files import read_jsonl


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Two finished runs of one base, their models made by hand."""
    save_tiny(tmp_path / "base")
    write_rows(tmp_path / "pairs.jsonl", chat_rows(8))
    for place, name in enumerate(("one", "two")):
        folder = tmp_path / "runs" / name
        (folder / "figures").mkdir(parents=True)
        (folder / "figures" / "rewards.png").write_bytes(b"")
        save_model(moved(tiny_model(), by=0.05 * (place + 1)), tokenizer(), folder / "model")
        settings = {"objective": {"beta": 0.1 * (place + 1)}, "data": {"eval": 4}}
        write_config(
            folder / "config.yaml",
            base=tmp_path / "base",
            pairs=tmp_path / "pairs.jsonl",
            output=folder,
            **settings,
        )
    return tmp_path


def test_tokens_are_those_of_score_and_their_texts_make_up_the_response(world: Path):
    said: list[str] = []
    add_pair_tokens(find([world / "runs"]).runs, 3, say=said.append)
    assert [line.rpartition("/")[2] for line in said] == ["pair_tokens.jsonl: 3 pairs"] * 2
    tuned, base = str(world / "runs" / "two" / "model"), str(world / "base")
    scored = {
        r["row"]: r for r in score_pairs(tuned, str(world / "pairs.jsonl"), reference=base, tokens=True)
    }
    rows = [row for _, row in read_jsonl(world / "runs" / "two" / "pair_tokens.jsonl")]
    asked = chat_rows(8)
    assert len({row["row"] for row in rows}) == 3
    for row in rows:
        expected = scored[row["row"]]
        for side in ("chosen", "rejected"):
            assert row[f"{side}_token_ids"] == expected[f"{side}_token_ids"]
            ratios = expected[f"{side}_token_logratios"]
            assert row[f"{side}_token_logratios"] == pytest.approx(ratios, abs=1e-5)
            assert max(map(abs, ratios)) > 0.01
            text = asked[row["row"] - 1][side][0]["content"]
            assert "".join(row[f"{side}_token_texts"]) == f"{text}<|im_end|>\n"
        assert asked[row["row"] - 1]["prompt"][0]["content"] in row["prompt"]


def test_a_report_shows_the_same_pair_under_each_run_and_a_second_one_needs_no_model(world: Path):
    runs = find([world / "runs"]).runs
    add_pair_tokens(runs, 2, say=lambda text: None)
    (world / "base" / "model.safetensors").unlink()
    said: list[str] = []
    add_pair_tokens(runs, 2, say=said.append)
    assert said == []
    pairs = gather(find([world / "runs"]))["pairs"]
    assert [sorted(pair["runs"]) for pair in pairs] == [["0", "1"], ["0", "1"]]
    one, two = (pairs[0]["runs"][run]["chosen"]["ratios"] for run in ("0", "1"))
    assert one != two


def test_runs_of_one_reference_and_the_same_pairs_share_its_pass(world: Path, monkeypatch: Any):
    loaded: list[str] = []
    true = pair_tokens.token_logps

    def watched(path: str, *given: Any, **more: Any) -> Any:
        loaded.append(Path(path).name)
        return true(path, *given, **more)

    read, load_data = 0, pair_tokens.load_data

    def counted(*given: Any) -> Any:
        nonlocal read
        read += 1
        return load_data(*given)

    monkeypatch.setattr(pair_tokens, "token_logps", watched)
    monkeypatch.setattr(pair_tokens, "load_data", counted)
    add_pair_tokens(find([world / "runs"]).runs, 2, say=lambda text: None)
    assert loaded == ["base", "model", "model"]
    assert read == 1


def test_runs_without_a_model_or_held_out_pairs_are_left_out_and_said(world: Path):
    one, two = world / "runs" / "one", world / "runs" / "two"
    (one / "figures" / "rewards.png").unlink()
    config = two / "config.yaml"
    config.write_text(config.read_text().replace("eval: 4", "eval: 0"))
    said: list[str] = []
    add_pair_tokens(find([world / "runs"]).runs, 2, say=said.append)
    assert said == [
        "one has not finished, so its pairs are left out",
        "two holds out no pairs (data.eval), so none is shown token by token",
    ]
    assert not list((world / "runs").rglob("pair_tokens.jsonl"))


def test_a_run_that_measures_no_reference_has_log_probs_alone(world: Path):
    two = world / "runs" / "two"
    settings: dict[str, Any] = {
        "objective": {"name": "sft"},
        "metrics": {"reference": False},
        "data": {"eval": 4},
    }
    write_config(
        two / "config.yaml", base=world / "base", pairs=world / "pairs.jsonl", output=two, **settings
    )
    text = (two / "config.yaml").read_text()
    (two / "config.yaml").write_text(text.replace("  beta: 0.1\n", ""))
    add_pair_tokens(find([two]).runs, 1, say=lambda text: None)
    (pair,) = gather(find([two]))["pairs"]
    assert set(pair["runs"]["0"]["chosen"]) == {"logps"}


def test_fewer_than_one_pair_is_refused(world: Path):
    with pytest.raises(
        InputError, match=r"--pairs is 0, but at least 1 is needed\. Raise it, or leave it out"
    ):
        add_pair_tokens(find([world / "runs"]).runs, 0, say=lambda text: None)


def test_a_character_of_several_tokens_stands_at_its_last():
    made = byte_level()
    ids = made("é… Yes", add_special_tokens=False)["input_ids"]
    texts = token_texts(made, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == "é… Yes"
    assert texts[0] == ""
    assert texts[1] == "é"


def test_values_of_another_number_than_texts_are_refused(world: Path):
    one = world / "runs" / "one"
    add_pair_tokens(find([one]).runs, 1, say=lambda text: None)
    ((_, row),) = read_jsonl(one / "pair_tokens.jsonl")
    row["chosen_token_texts"].append("more")
    (one / "pair_tokens.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match=r"one has a file in another form than minordpo writes \(ValueError"):
        gather(find([one]))
