"""A run on several sources: reports, metrics and held-out measures by source, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from helpers.places import SHARED
from helpers.tiny_runs import (
    RENAMED,
    chat_rows,
    measured_rows,
    save_tiny,
    text_rows,
    tokenizer,
    write_config,
    write_rows,
)
from minordpo.cli import main
from minordpo.config import dump_config, load_config
from minordpo.data.make.close_pairs import corrupt_file
from minordpo.data.make.problems import write_problems
from minordpo.errors import InputError
from minordpo.run_folder.files import read_jsonl
from minordpo.train.run_data import load_data

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def source(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    write_rows(folder / f"{name}.jsonl", rows)
    return str(folder / f"{name}.jsonl")


def config(folder: Path, train: Any, **data: Any) -> Path:
    if not (folder / "base").exists():
        save_tiny(folder / "base")
    file = write_config(folder / "config.yaml", base=folder / "base", pairs="x", output=folder / "run")
    sections = yaml.safe_load(file.read_text())
    sections["data"] = {"train": train, **data}
    file.write_text(yaml.safe_dump(sections))
    return file


def mixed(folder: Path) -> list[Any]:
    """Two sources of chats and one of text under other names."""
    renamed = [{"ask": r["prompt"], "good": r["chosen"], "bad": r["rejected"]} for r in text_rows(6)]
    return [
        source(folder, "chats", chat_rows(12)),
        {
            "path": source(folder, "texts", renamed),
            "name": "renamed",
            "columns": {"prompt": "ask", "chosen": "good", "rejected": "bad"},
            "weight": 2,
            "text_as": "chat",
        },
        {
            "path": source(folder, "short", [{**r, "score": 1} for r in chat_rows(9)]),
            "limit": 5,
            "weight": 0.5,
        },
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run on three sources."""
    folder = tmp_path_factory.mktemp("mixed")
    file = config(folder, mixed(folder), eval=5)
    assert (
        main(
            [
                "train",
                str(file),
                "training.max_steps=4",
                "training.eval_strategy=steps",
                "training.eval_steps=2",
            ]
        )
        == 0
    )
    return folder / "run"


def test_steps_tell_of_each_source_how_many_prompts_and_their_means(run):
    rows = [row for row in measured_rows(run) if "loss" in row]
    assert len(rows) == 4
    for row in rows:
        counts = {
            n: row[f"sources/{n}/prompts"]
            for n in ("chats", "renamed", "short")
            if f"sources/{n}/prompts" in row
        }
        total = sum(counts.values())
        for name in ("loss", "logratios/margin", "rewards/accuracies"):
            parts = [row[f"sources/{source}/{name}"] * count for source, count in counts.items()]
            assert sum(parts) / total == pytest.approx(row[name], abs=1e-5)


def test_held_out_measures_are_told_of_each_source(run):
    rows = [row for row in measured_rows(run) if "eval_loss" in row]
    counts = {n: rows[0][f"eval_sources/{n}/prompts"] for n in ("chats", "renamed", "short")}
    assert sum(counts.values()) == 5
    assert all(counts.values())
    for row in rows:
        parts = [row[f"eval_sources/{n}/loss"] * count for n, count in counts.items()]
        assert sum(parts) / 5 == pytest.approx(row["eval_loss"], abs=1e-5)


def test_rows_of_different_sources_have_different_numbers(run):
    lines = [row for _, row in read_jsonl(run / "responses.jsonl")]
    met = {row for line in lines for row in line["rows"]}
    assert max(met) > 12
    assert max(met) <= 12 + 6 + 5


def test_data_json_and_the_card_say_what_was_read_of_each_source(run):
    told = json.loads((run / "data.json").read_text())
    assert "chats: " in told["report"]
    assert "renamed: 6 to train on" in told["report"] or "renamed: 5 to train on" in told["report"]
    assert [(each["what"], each["rows"]) for each in told["unread"]] == [("column score", 5)]
    card = (run / "model" / "README.md").read_text()
    assert "are of `renamed`" in card
    assert "`column score` (5)" in card


def test_the_report_page_says_what_was_not_read(run, tmp_path):
    assert main(["report", str(run), "--out", str(tmp_path / "page")]) == 0
    assert "column score" in (tmp_path / "page" / "index.html").read_text()


def test_a_config_with_sources_reads_back_as_it_was_written(tmp_path):
    loaded = load_config(config(tmp_path, mixed(tmp_path), weight_by="steps"), [])
    (tmp_path / "again.yaml").write_text(dump_config(loaded))
    assert load_config(tmp_path / "again.yaml", []) == loaded
    assert [each.called for each in loaded.data.train if not isinstance(each, str)] == ["renamed", "short"]


def test_held_out_sources_may_be_named_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    held = [
        source(tmp_path, "one", chat_rows(3)),
        {"path": source(tmp_path, "two", chat_rows(5)), "limit": 2},
    ]
    data = load_data(
        load_config(config(tmp_path, source(tmp_path, "pairs", chat_rows(8)), eval=held), []), tokenizer()
    )
    assert data.mixture is None
    assert data.held_out_sources is not None
    assert data.held_out_sources.names == ("one", "two")
    assert data.held_out_sources.counts.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"limit": 3},
            "data.limit is 3, but data.train is a list of sources. Give each source its own limit",
        ),
        ({"train": [{"weight": 0}]}, "data.train has a weight that is not above 0"),
        ({"train": [{"weight": -1.5}]}, "data.train has a weight that is not above 0"),
        ({"train": [{"weight": 0.01}]}, "has the source a, of which a pass over the data would have no row"),
        ({"train": [{"name": "b"}]}, "data.train has two sources that are called b"),
        ({"train": [{"name": "a/c"}]}, "data.train has a source whose name has a slash"),
        ({"train": [{"columns": {"prompt": "ask"}}]}, "line 1 of .*a.jsonl has no column 'ask'"),
        ({"eval": [{"weight": 2}]}, "data.eval gives weights, but held-out pairs are each measured once"),
        ({"train": "one", "weight_by": "steps"}, "data.weight_by is steps, but data.train is one source"),
        ({"train": []}, "data.train is an empty list, but one source at least is needed"),
        (
            {"train": [{"wieght": 2}]},
            r"data.train\[1\].wieght is not a key of minordpo. Did you mean data.train\[1\].weight",
        ),
        ({"train": [{"limit": 0}]}, r"data.train\[1\].limit is 0, but 1 or more"),
    ],
)
def test_a_mixture_that_means_nothing_is_refused(tmp_path, monkeypatch, change, words):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    a, b = (source(tmp_path, name, chat_rows(4)) for name in "ab")

    def named(given: Any) -> Any:
        if isinstance(given, str):
            return a
        return [{"path": a, **each} for each in given] + ([b] if given else [])

    keys = {"train": named(change.get("train", [{}]))} | {
        k: v for k, v in change.items() if k not in ("train", "eval")
    }
    keys |= {"eval": named(change["eval"])} if "eval" in change else {}
    with pytest.raises(InputError, match=words) as refused:
        load_data(load_config(config(tmp_path, **keys), []), tokenizer())
    assert "\n" not in str(refused.value)


@pytest.mark.shared
def test_three_sources_of_real_data_are_one_mixture(tmp_path, monkeypatch):
    if not SHARED.exists():
        pytest.skip("the shared data folder is not beside the checkout")
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "gsm8k.jsonl").write_text(
        "".join((SHARED / "data" / "gsm8k" / "train.jsonl").read_text().splitlines(keepends=True)[:200])
    )
    write_problems(tmp_path / "problems.jsonl", n=150, seed=0)
    for name in ("gsm8k", "problems"):
        corrupt_file(tmp_path / f"{name}.jsonl", tmp_path / f"{name}-pairs.jsonl")
    chat = str(SHARED / "data" / "chat" / "dpo_en_demo.json")
    train = [
        {"path": str(tmp_path / "gsm8k-pairs.jsonl"), "name": "gsm8k", "weight": 2},
        {"path": str(tmp_path / "problems-pairs.jsonl"), "name": "problems", "limit": 100},
        {"path": chat, "name": "chat"},
    ]
    file = config(tmp_path, train, eval=30, weight_by="steps", max_length=None)
    data = load_data(load_config(file, []), tokenizer())
    assert data.mixture is not None
    assert data.held_out_sources is not None
    assert data.mixture.sources.names == ("gsm8k", "problems", "chat")
    counts = data.mixture.sources.counts + data.held_out_sources.counts
    assert counts[1:].tolist() == [100, 240]
    assert counts[0] > 100
    assert np.round(data.mixture.drawn() / data.mixture.drawn().sum(), 2).tolist() == [0.5, 0.25, 0.25]
    assert "read as LLaMA-Factory ShareGPT" in data.report
