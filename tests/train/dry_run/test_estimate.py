"""The dry run: what it counts, what it refuses, and that it leaves no trace."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

import minordpo.train.dry_run.estimate as estimate
import minordpo.train.dry_run.measure as measure
from helpers.tiny_runs import (
    RENAMED,
    arguments,
    chat_rows,
    save_tiny,
    tiny_model,
    token_pairs,
    trainer,
    write_config,
    write_rows,
)
from minordpo.cli import main
from minordpo.config import RunConfig, dump_config, load_config
from minordpo.data.packing import tree_size
from minordpo.data.stored import StoredExamples
from minordpo.errors import InputError
from minordpo.train.dry_run.estimate import evaluations, plan_steps
from minordpo.train.dry_run.measure import measure_row
from minordpo.train.loader import step_loader
from minordpo.train.row_memory import SavedBytes, optimizer_state_bytes
from minordpo.train.run import build_trainer, load_data, load_run_tokenizer, run

# transformers 5.23 renames the setting that 5.17 knows.
_RENAMED_SETTING = "ignore:`gradient_checkpointing` is deprecated:FutureWarning"
pytestmark = [pytest.mark.filterwarnings(each) for each in (*RENAMED, _RENAMED_SETTING)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a file of 14 pairs."""
    folder = tmp_path_factory.mktemp("shared")
    save_tiny(folder / "model")
    write_rows(folder / "pairs.jsonl", chat_rows(14))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config(shared: Path, tmp_path: Path, *overrides: str, output: str = "out") -> RunConfig:
    file = write_config(
        tmp_path / "run.yaml", base=shared / "model", pairs=shared / "pairs.jsonl", output=tmp_path / output
    )
    return load_config(file, overrides)


def dry_run(made: RunConfig) -> str:
    """What the dry run says, all at once."""
    said: list[str] = []
    estimate.dry_run(made, say=said.append)
    (report,) = said
    return report


def fill_cache(made: RunConfig) -> None:
    """The reference pass of a run."""
    tokens = load_run_tokenizer(made)
    built = build_trainer(made, tokens, load_data(made, tokens), Path(made.output))
    built.precompute_reference()


def line(report: str, name: str) -> str:
    return next(each for each in report.splitlines() if each.startswith(f"{name} "))


def everything_below(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_a_dry_run_reports_and_writes_nothing_but_tokens(shared: Path, tmp_path: Path, cache: Path):
    made = config(shared, tmp_path)
    load_data(made, load_run_tokenizer(made))
    assert [each.name for each in cache.iterdir()] == ["tokens"]
    before = everything_below(tmp_path), everything_below(shared)
    report = dry_run(made)
    assert (everything_below(tmp_path), everything_below(shared)) == before
    assert not (tmp_path / "out").exists()
    # 14 pairs, 2 held out: 12 in steps of 4.
    assert line(report, "steps") == "steps      3 of 4 pairs: 1 epochs of 12 pairs"
    assert "for the 14 of 14 prompts that are not in the cache" in line(report, "reference")
    assert "1 × 2 held-out pairs" in line(report, "training")
    assert f"{tmp_path / 'out'} can be used" in line(report, "output")
    assert "14 rows read as TRL chat" in report


def test_after_the_reference_pass_of_a_run_no_pair_is_missing(shared: Path, tmp_path: Path):
    fill_cache(config(shared, tmp_path, output="first"))
    report = dry_run(config(shared, tmp_path, "objective.beta=0.5"))
    assert line(report, "reference") == "reference  no time: all 14 prompts are in the cache"
    other_tokens = dry_run(config(shared, tmp_path, "data.score_end=end_of_turn"))
    assert "for the 14 of 14 prompts" in line(other_tokens, "reference")
    other_precision = dry_run(config(shared, tmp_path, "training.bf16=true"))
    assert "for the 14 of 14 prompts" in line(other_precision, "reference")


def test_pairs_of_an_interrupted_reference_pass_are_not_counted_again(shared: Path, tmp_path: Path):
    fill_cache(config(shared, tmp_path, "data.limit=9", output="first"))
    report = dry_run(config(shared, tmp_path))
    assert "for the 5 of 14 prompts that are not in the cache" in line(report, "reference")


def test_the_reference_of_an_adapter_is_the_model_without_it(shared: Path, tmp_path: Path):
    adapted = "lora={r: 2, target_modules: all-linear}"
    fill_cache(config(shared, tmp_path, adapted, output="first"))
    report = dry_run(config(shared, tmp_path, adapted, "training.seed=7"))  # the adapter is drawn anew
    assert line(report, "reference") == "reference  no time: all 14 prompts are in the cache"
    assert re.search(r"weights, [\d.]+ k of them trained", line(report, "model"))


def test_another_reference_has_its_own_cache_and_memory(shared: Path, tmp_path: Path):
    save_tiny(tmp_path / "other", seed=1)
    fill_cache(config(shared, tmp_path, output="first"))
    alone = dry_run(config(shared, tmp_path))
    report = dry_run(config(shared, tmp_path, f"model.reference={tmp_path / 'other'}"))
    assert "for the 14 of 14 prompts" in line(report, "reference")
    once, twice = (re.search(r"weights ([\d.]+) MB", each) for each in (alone, report))
    assert float(twice[1]) == 2 * float(once[1])


def test_the_plan_counts_the_tokens_that_the_loader_gives(tmp_path: Path):
    made = trainer(tmp_path, pairs=token_pairs(11), max_steps=-1, num_train_epochs=2, token_budget=150)
    plan = plan_steps(made)
    steps = list(step_loader(made.train_dataset, made.sampler, made.packer))
    rows = [batch for step in steps for batch in step.batches]
    assert plan.steps == 2 * len(steps) == 6
    assert len(rows) > len(steps)
    assert plan.tokens == plan.own_tokens == 2 * sum(len(batch.input_ids) for batch in rows)
    assert plan.largest_row == max(len(batch.input_ids) for batch in rows)
    assert tuple(plan.typical_row) in [batch.indices for batch in steps[0].batches]


def test_a_run_shorter_than_an_epoch_counts_only_its_steps(tmp_path: Path):
    made = trainer(tmp_path, pairs=token_pairs(12), max_steps=2)
    rows = [
        batch
        for step in list(step_loader(made.train_dataset, made.sampler, made.packer))[:2]
        for batch in step.batches
    ]
    assert plan_steps(made).tokens == sum(len(batch.input_ids) for batch in rows)


def test_of_two_processes_each_counts_its_own_share(tmp_path: Path):
    made = trainer(tmp_path, pairs=token_pairs(8), max_steps=1, per_device_train_batch_size=8)
    plans = []
    for rank in range(2):
        made.packer.world, made.packer.rank = 2, rank
        plans.append(plan_steps(made))
    assert plans[0].tokens == plans[1].tokens == plans[0].own_tokens + plans[1].own_tokens
    assert not set(plans[0].typical_row) & set(plans[1].typical_row)


def test_measuring_a_row_changes_no_weight_and_leaves_no_gradient(tmp_path: Path):
    made = trainer(tmp_path)
    before = {name: weight.clone() for name, weight in made.model.state_dict().items()}
    found = measure_row(made, [0, 1])
    assert all(torch.equal(before[name], weight) for name, weight in made.model.state_dict().items())
    assert all(weight.grad is None for weight in made.model.parameters())
    assert found.training_seconds > 0
    assert found.reference_seconds > 0


def test_gradient_checkpointing_keeps_fewer_bytes(tmp_path: Path):
    deep = {"num_hidden_layers": 6}
    plain = measure_row(trainer(tmp_path, model=tiny_model(**deep)), [0, 1, 2, 3])
    settings = {"gradient_checkpointing": True}
    made = trainer(tmp_path, model=tiny_model(**deep), **settings)
    checkpointed = measure_row(made, [0, 1, 2, 3])
    assert checkpointed.activation_bytes < plain.activation_bytes / 3


def test_what_autograd_keeps_is_counted_once_and_weights_are_not():
    layer = torch.nn.Linear(8, 8, bias=False)
    saved = SavedBytes(layer)
    states = torch.ones(4, 8, requires_grad=True)
    with saved.counted():
        # The product keeps the states and the weight, each square its input, which both squares share.
        product = layer(states)
        (product**2 + product**2).sum().backward()
    assert saved.bytes == 2 * 4 * 8 * 4


@pytest.mark.parametrize(
    ("optimizer", "bytes_a_weight"),
    [("adamw_torch", 8), ("adamw_torch_fused", 8), ("sgd", 0), ("rmsprop", 4), ("adafactor", 2 * 4 / 256)],
)
def test_the_optimizer_is_tried_for_what_it_keeps(tmp_path: Path, optimizer: str, bytes_a_weight: float):
    assert optimizer_state_bytes(arguments(tmp_path, optim=optimizer)) == bytes_a_weight


def test_an_optimizer_that_cannot_be_tried_is_counted_as_adamw(shared: Path, tmp_path: Path):
    settings = ("training.optim=galore_adamw", "training.optim_target_modules=all-linear")
    report = dry_run(config(shared, tmp_path, *settings))
    assert "what galore_adamw keeps could not be tried; it is counted as AdamW's" in report


@pytest.mark.parametrize(
    ("settings", "times"),
    [
        ({}, 1),
        ({"eval_strategy": "steps", "eval_steps": 4}, 3),
        ({"eval_strategy": "steps", "eval_steps": 5}, 2),
        ({"eval_strategy": "steps", "eval_steps": 0.25}, 4),
        ({"eval_strategy": "epoch"}, 4),
        ({"eval_strategy": "epoch", "eval_on_start": True}, 5),
    ],
)
def test_the_held_out_pairs_are_counted_as_often_as_measured(tmp_path: Path, settings: dict, times: int):
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **settings)
    assert evaluations(args, steps=10, steps_an_epoch=3) == times


def refusal(refuses: Callable[[RunConfig], Any], made: RunConfig) -> str:
    with pytest.raises(InputError) as caught:
        refuses(made)
    return str(caught.value)


def block(out: Path, by: str) -> None:
    if by == "a file":
        out.write_text("notes")
    else:
        out.mkdir()
        (out / ("config.yaml" if by == "another run" else "notes.txt")).write_text("")


@pytest.mark.parametrize("blocked", ["a file", "another run", "other files"])
def test_an_output_that_cannot_be_used_is_refused_as_in_a_run(shared: Path, tmp_path: Path, blocked: str):
    block(tmp_path / "out", blocked)
    made = config(shared, tmp_path)
    said = refusal(dry_run, made)
    assert said == refusal(run, made)
    assert "holds another run" in said if blocked == "another run" else "is not a run folder" in said


@pytest.mark.parametrize("blocked", ["a file", "another run", "other files"])
def test_with_an_output_that_cannot_be_used_the_estimates_still_come_first(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], blocked: str
):
    block(tmp_path / "out", blocked)
    file = write_config(
        tmp_path / "run.yaml", base=shared / "model", pairs=shared / "pairs.jsonl", output=tmp_path / "out"
    )
    capsys.readouterr()
    assert main(["train", str(file), "--dry-run"]) == 2
    said = capsys.readouterr()
    assert "14 rows read as TRL chat" in said.out
    assert line(said.out, "training").startswith("training   about ")
    assert re.fullmatch(r"output     it would take about [\d.]+ MB", line(said.out, "output"))
    last = said.err.splitlines()[-1]
    assert re.match(
        r"minordpo: .*out (holds another run|exists and is not a run folder)\. Name another", last
    )


def test_another_refusal_is_said_before_that_of_the_output(shared: Path, tmp_path: Path):
    block(tmp_path / "out", "other files")
    for override in ("data.max_length=20", "objective.gamma=1", "training.push_to_hub=true"):
        free = refusal(dry_run, config(shared, tmp_path, override, output="free"))
        said = refusal(dry_run, config(shared, tmp_path, override))
        assert (
            said
            == f"{free.rstrip('.')}. Besides: {tmp_path / 'out'} exists and is not a run folder. Name another output"
        )


def test_the_dry_run_of_a_run_gone_on_with_takes_its_folder(shared: Path, tmp_path: Path):
    made = config(shared, tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text(dump_config(made))
    said: list[str] = []
    estimate.dry_run(made, resume=True, say=said.append)
    assert f"{tmp_path / 'out'} can be used" in line(said[0], "output")
    with pytest.raises(InputError, match="was started with another config"):
        estimate.dry_run(config(shared, tmp_path, "objective.beta=0.7"), resume=True, say=said.append)
    assert len(said) == 2


def test_an_output_below_a_file_is_refused(shared: Path, tmp_path: Path):
    (tmp_path / "notes").write_text("")
    made = config(shared, tmp_path, output="notes/out")
    with pytest.raises(InputError, match=r"out cannot be written: .*notes is a file\. Name another output"):
        dry_run(made)


def test_an_output_where_nothing_may_be_written_is_refused(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(estimate.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(InputError, match=r"out cannot be written: .* allows no writing"):
        dry_run(config(shared, tmp_path))


@pytest.mark.parametrize(
    "override",
    [
        "metrics.reference=false",
        "model.dtype=bfloat16",
        "objective.gamma=1",
        "data.max_length=20",
        "data.eval=14",
        "training.label_smoothing_factor=0.1",
        "samples.max_new_tokens=100000",
    ],
)
def test_what_a_run_refuses_a_dry_run_refuses(shared: Path, tmp_path: Path, override: str):
    dry = refusal(dry_run, config(shared, tmp_path, override))
    assert dry == refusal(run, config(shared, tmp_path, override))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    ],
)
def test_a_row_that_does_not_fit_in_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
):
    monkeypatch.setattr(measure, "preference_step", raising(error))
    with pytest.raises(
        InputError, match=r"memory runs out on a row of \d+ tokens\. Lower training\.token_budget"
    ):
        measure_row(trainer(tmp_path), [0])


def test_another_error_in_the_measured_row_is_not_taken_for_missing_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(measure, "preference_step", raising(RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        measure_row(trainer(tmp_path), [0])


def raising(error: Exception) -> Callable[..., None]:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


def test_memory_that_is_not_there_is_said_with_what_helps(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(estimate, "_memory_there", lambda device: 1000)
    assert "that is more than there is: " in dry_run(config(shared, tmp_path))


def test_a_disk_that_is_too_small_is_said(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: usage)
    assert "that is more than is left: name another output" in dry_run(config(shared, tmp_path))


def test_what_is_trained_and_kept_is_counted_by_hand(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = trainer(tmp_path)
    weights = sum(p.numel() for p in made.model.parameters())
    plan = plan_steps(made)
    found = measure.RowCost(0.5, 2.0, 1e9 / plan.largest_row)
    (memory, *_) = estimate._memory_lines(made, plan, found, 8.0)
    # 4 bytes of weight and gradient each, 8 of AdamW: 16 a weight beside the activations' 1 GB.
    assert memory[1].startswith(f"about {1 + 16 * weights / 1e9:.2g} GB at its peak")
    missing = StoredExamples.of(token_pairs(1))
    reference, training = estimate._time_lines(made, plan, found, missing)
    assert training[1].startswith(measure.duration(2.0 * plan.tokens))
    size = tree_size(token_pairs(1)[0])
    assert reference[1].startswith(measure.duration(0.5 * size))
    monkeypatch.setattr(type(made.args), "world_size", 2)  # two processes compute it together
    assert estimate._time_lines(made, plan, found, missing)[0][1].startswith(measure.duration(0.25 * size))


def test_an_argument_that_the_run_refuses_is_refused_in_a_dry_run(shared: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"training\.push_to_hub is not supported"):
        dry_run(config(shared, tmp_path, "training.push_to_hub=true"))
