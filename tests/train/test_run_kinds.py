"""Whole runs on labelled and ranked responses, of every objective, with and without a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_runs import RENAMED, chat_rows, metric_rows, save_tiny, trainer, write_config, write_rows
from minordpo.cli import main
from minordpo.config import load_config
from minordpo.errors import InputError
from minordpo.objectives import OBJECTIVES, resolve
from minordpo.train.dry_run.estimate import dry_run
from minordpo.train.run import run

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def labelled_rows(count: int, *, desirable_only: bool = False) -> list[dict[str, Any]]:
    """Each pair's chosen response, and between them rejected ones."""
    rows = []
    for number, row in enumerate(chat_rows(count)):
        label = desirable_only or number % 3 > 0
        completion = row["chosen"] if label else row["rejected"]
        rows.append({"prompt": row["prompt"], "completion": completion, "label": label})
    return rows


def ranked_rows(count: int) -> list[dict[str, Any]]:
    """Two to four responses a prompt, of scores that do not follow the file's order."""
    rows = []
    for number, row in enumerate(chat_rows(count)):
        texts = [row["chosen"], row["rejected"], *(answer(f"No {i} {number}") for i in range(number % 3))]
        scores = [float((7 * place + number) % 5) for place in range(len(texts))]
        rows.append({"prompt": row["prompt"], "responses": texts, "scores": scores})
    return rows


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


ROWS = {"pairs": chat_rows, "labelled": labelled_rows, "ranked": ranked_rows}


def set_up(folder: Path, rows: list[dict[str, Any]], name: str, **sections: Any) -> Path:
    save_tiny(folder / "base")
    write_rows(folder / "rows.jsonl", rows)
    config = write_config(
        folder / "config.yaml",
        base=folder / "base",
        pairs=folder / "rows.jsonl",
        output=folder / "run",
        **sections,
    )
    text = config.read_text().replace("beta: 0.1", "").replace("name: minordpo", f"name: {name}")
    config.write_text(text)
    return config


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", [*sorted(OBJECTIVES), "minordpo + 0.1*sft"])
def test_every_objective_trains_on_pairs(tmp_path, name):
    assert main(["train", str(set_up(tmp_path, chat_rows(10), name))]) == 0
    steps = [row for row in metric_rows(tmp_path / "run") if "loss" in row]
    assert len(steps) == 3
    # policy = reference: nothing has moved before the first step, and something has before the last
    assert steps[0]["logratios/chosen"] == pytest.approx(0, abs=1e-3)
    assert abs(steps[-1]["logratios/chosen"]) > 1e-3
    assert steps[0]["grad_norm"] > 0
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"tuned with `{name}`" in card
    for term in resolve(name, {}).terms:
        assert f"\n    {term.spec.formula.rstrip('.')}\n" in card
    responses = rows_of(tmp_path / "run" / "responses.jsonl")
    assert [(row["step"], row["split"]) for row in responses] == [
        (1, "train"),
        (2, "train"),
        (3, "train"),
        (3, "eval"),
    ]
    for row, step in zip(responses, steps, strict=False):
        chosen = [values[0] for values in row["logratios"]]
        assert sum(chosen) / len(chosen) == pytest.approx(step["logratios/chosen"], abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for name, spec in OBJECTIVES.items() for kind in sorted(spec.data - {"pairs"})],
)
def test_labelled_and_ranked_responses_train_end_to_end(tmp_path, kind, name):
    only = {"desirable_only": True} if kind == "labelled" and not OBJECTIVES[name].undesirable else {}
    assert main(["train", str(set_up(tmp_path, ROWS[kind](11, **only), name))]) == 0
    steps = [row for row in metric_rows(tmp_path / "run") if "loss" in row]
    assert len(steps) == 3
    assert ("rewards/accuracies" in steps[0]) == (kind == "ranked")
    assert (tmp_path / "run" / "figures" / "rewards.png").exists()
    lengths = {len(each) for row in rows_of(tmp_path / "run" / "responses.jsonl") for each in row["logps"]}
    assert lengths == ({1} if kind == "labelled" else {2, 3, 4})


def test_kto_trains_on_desirable_responses_alone(tmp_path):
    assert main(["train", str(set_up(tmp_path, labelled_rows(10, desirable_only=True), "kto"))]) == 0
    assert all("logratios/rejected" not in row for row in metric_rows(tmp_path / "run"))


def test_a_run_without_a_reference_says_nothing_of_log_ratios(tmp_path, monkeypatch):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    config = set_up(tmp_path, chat_rows(10), "simpo")
    assert main(["train", str(config), "metrics.reference=false"]) == 0
    for row in metric_rows(tmp_path / "run"):
        assert not [name for name in row if "logratios" in name or "rewards" in name or "reference" in name]
    # No log-probs: the answers before training alone are kept.
    assert [each.name for each in (tmp_path / "cache" / "reference").iterdir()] == ["answers"]
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "- Reference: none." in card
    assert "The chosen responses have a mean log-prob of -" in card
    assert "log-ratio of" not in card
    assert all("logratios" not in row for row in rows_of(tmp_path / "run" / "responses.jsonl"))


def test_without_and_with_a_reference_to_measure_the_model_is_the_same(tmp_path):
    config = set_up(tmp_path, chat_rows(10), "orpo")
    for name, setting in (("with", "true"), ("without", "false")):
        output = tmp_path / name
        assert main(["train", str(config), f"metrics.reference={setting}", f"output={output}"]) == 0
    weights = [(tmp_path / n / "model" / "model.safetensors").read_bytes() for n in ("with", "without")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "labelled",
            "minordpo",
            r"labelled responses \(prompt, completion, label\), but the objective minordpo needs pairs .*"
            r"Objectives for this data: kto, minor_sft, sft$",
        ),
        (
            "ranked",
            "kto",
            r"ranked responses .*, but the objective kto needs pairs .* or labelled.*: minor_sft, rrhf, sft$",
        ),
        ("labelled", "sft", r"4 responses labelled undesirable, for which the objective sft has no use"),
    ],
)
def test_data_that_an_objective_cannot_use_is_refused_with_those_that_can(
    tmp_path, capsys, kind, name, message
):
    config = set_up(tmp_path, ROWS[kind](12), name, data={"eval": 0}, samples={"prompts": 0})
    with pytest.raises(InputError, match=message):
        run(load_config(config, []))
    capsys.readouterr()
    assert main(["train", str(config)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_kto_needs_two_prompts_a_step(tmp_path):
    with pytest.raises(
        InputError, match="kto compares with responses to other prompts of the step, but a step has 1"
    ):
        trainer(tmp_path, objective="kto", per_device_train_batch_size=1)


def test_single_responses_among_pairs_are_refused(tmp_path):
    from helpers.tiny_runs import token_pairs
    from minordpo.data.tokens import TokenExample

    pairs = token_pairs(4)
    single = TokenExample(pairs[0].prompt_ids, pairs[0].responses[:1], (1.0,), row=9)
    with pytest.raises(InputError, match="train_dataset holds 1 single responses among 5 examples"):
        trainer(tmp_path, pairs=[*pairs, single])


@pytest.mark.parametrize(
    ("name", "prompts"),
    # 8 and 2 held out; kto also each prompt of three steps, and of those held out, with another's responses
    [("kto", 22), ("simpo", 10), ("pairwise_cringe", 10)],
)
def test_a_dry_run_counts_what_the_objective_needs(tmp_path, monkeypatch, name, prompts):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    dry_run(load_config(set_up(tmp_path, chat_rows(10), name), []), say=said.append)
    (text,) = said
    assert f"for the {prompts} of {prompts} prompts that are not in the cache" in text
