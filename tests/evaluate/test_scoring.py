"""Scores of pairs against stock transformers, token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import oracle
from helpers.small_tokenizers import byte_level
from helpers.tiny_runs import (
    chat_rows,
    moved,
    save_tiny,
    text_rows,
    tiny_model,
    token_pairs,
    tokenizer,
    write_rows,
)
from minordpo.engine.models import save_model
from minordpo.errors import InputError
from minordpo.evaluate.scoring import score_pairs


@pytest.fixture
def world(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "base")
    save_model(moved(tiny_model(), by=0.05), tokenizer(), tmp_path / "tuned")
    write_rows(tmp_path / "pairs.jsonl", chat_rows(5))
    return tmp_path


def scores(world: Path, model: str = "tuned", **options: Any) -> list[dict[str, Any]]:
    return list(score_pairs(str(world / model), str(world / "pairs.jsonl"), **options))


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2", "Qwen3", "GPT2"])
def test_token_scores_are_those_of_the_stock_model(tmp_path, architecture):
    model = tiny_model(architecture=architecture)
    save_model(model, tokenizer(), tmp_path / "model")
    write_rows(tmp_path / "pairs.jsonl", chat_rows(4))
    pairs = token_pairs(4)
    expected = iter(oracle.scored_logps(oracle.stock_copy(model), pairs))
    for pair, row in zip(pairs, scores(tmp_path, "model", tokens=True), strict=True):
        for name, response in zip(("chosen", "rejected"), pair.responses, strict=True):
            logps = next(expected).detach().numpy()
            np.testing.assert_allclose(row[f"{name}_token_logps"], logps, rtol=0, atol=1e-4)
            assert row[f"{name}_logp"] == pytest.approx(logps.sum(), abs=1e-3)
            assert row[f"{name}_tokens"] == len(logps)
            assert row[f"{name}_token_ids"] == response.ids[response.scored].tolist()


def test_with_a_reference_there_are_log_ratios(world):
    plain, base = scores(world), scores(world, "base")
    for row, tuned, ref in zip(
        scores(world, reference=str(world / "base"), tokens=True), plain, base, strict=True
    ):
        for name in ("chosen", "rejected"):
            assert row[f"{name}_logratio"] == pytest.approx(
                tuned[f"{name}_logp"] - ref[f"{name}_logp"], abs=1e-6
            )
            assert sum(row[f"{name}_token_logratios"]) == pytest.approx(row[f"{name}_logratio"], abs=1e-4)
        assert abs(row["chosen_logratio"]) > 0.01
    assert set(plain[0]) == {
        "index",
        "row",
        "chosen_logp",
        "rejected_logp",
        "chosen_tokens",
        "rejected_tokens",
    }


def test_rows_that_cannot_be_scored_are_left_out_and_reported_and_the_index_says_which(world):
    rows = chat_rows(5)
    rows[1]["rejected"] = rows[1]["chosen"]
    rows[3]["chosen"][0]["content"] = ""
    write_rows(world / "pairs.jsonl", rows)
    said: list[str] = []
    assert [row["index"] for row in scores(world, say=said.append)] == [0, 2, 4]
    assert "dropped: 1 pair with chosen = rejected (first: row 2" in said[0]
    assert "3 used" in said[0]


def test_a_row_is_named_as_messages_and_runs_name_it_whatever_its_index(world):
    rows = chat_rows(4)
    rows[1]["rejected"] = rows[1]["chosen"]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (world / "pairs.jsonl").write_text("\n\n" + lines)  # blank lines count as lines of the file
    said: list[str] = []
    found = scores(world, say=said.append)
    assert [(row["index"], row["row"]) for row in found] == [(0, 3), (2, 5), (3, 6)]
    assert "(first: row 4, " in said[0]


def test_long_rows_are_scored_whole(world):
    rows = text_rows(1)
    rows[0]["chosen"] = "Yes, " * 600
    write_rows(world / "pairs.jsonl", rows)
    save_model(tiny_model(max_position_embeddings=4096), tokenizer(), world / "tuned")
    assert scores(world)[0]["chosen_tokens"] > 1024


def test_bfloat16_weights_are_near_float32_ones(world):
    wide, narrow = scores(world), scores(world, dtype="bfloat16")
    assert [row["chosen_logp"] for row in narrow] == pytest.approx(
        [row["chosen_logp"] for row in wide], rel=0.03
    )
    assert narrow != wide


def test_a_reference_with_another_vocabulary_is_refused(world):
    save_model(tiny_model(vocab_size=50), byte_level(), world / "other")
    with pytest.raises(
        InputError, match=r"other knows 50 tokens, but the pairs have token \d+: .* Name a reference of the"
    ):
        scores(world, reference=str(world / "other"))


def test_only_pairs_are_scored(world):
    row = {"prompt": "hello", "completion": " you", "label": True}
    write_rows(world / "labelled.jsonl", [row])
    with pytest.raises(
        InputError, match=r"labelled.jsonl holds labelled responses .*, but score needs pairs"
    ):
        list(score_pairs(str(world / "tuned"), str(world / "labelled.jsonl")))
