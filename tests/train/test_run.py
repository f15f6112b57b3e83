"""A whole run through the command line: what is in its folder, and what a run that fails leaves behind."""

from __future__ import annotations

import json
import os
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_runs import (
    RENAMED,
    chat_rows,
    measured_rows,
    metric_rows,
    save_tiny,
    tiny_model,
    write_config,
    write_rows,
)
from minordpo.cli import main
from minordpo.config import load_config
from minordpo.engine.export import export_model
from minordpo.engine.models import load_model, load_tokenizer, save_model
from minordpo.errors import InputError
from minordpo.run_folder.files import read_jsonl
from minordpo.run_folder.lock import only_here
from minordpo.train import run as run_module
from minordpo.train.run import run

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

IDS = torch.arange(3, 30)[None]


def set_up(folder: Path, *, rows: Any = None, **sections: Any) -> Path:
    save_tiny(folder / "base")
    write_rows(folder / "pairs.jsonl", chat_rows(10) if rows is None else rows)
    return write_config(
        folder / "config.yaml",
        base=folder / "base",
        pairs=folder / "pairs.jsonl",
        output=folder / "run",
        **sections,
    )


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """One run, with what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    assert main(["train", str(set_up(folder)), "objective.beta=0.2", "training.max_steps=4"]) == 0
    return folder


def test_a_run_folder_is_complete(finished_run):
    names = {each.name for each in (finished_run / "run").iterdir()}
    assert names == {
        "config.yaml",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "responses.jsonl",
        "samples.jsonl",
        "probes.jsonl",
        "model",
        "checkpoints",
        "figures",
    }
    assert (finished_run / "run" / "figures" / "rewards.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_config_of_a_run_reloads_to_an_equal_one(finished_run):
    wanted = load_config(finished_run / "config.yaml", ["objective.beta=0.2", "training.max_steps=4"])
    assert load_config(finished_run / "run" / "config.yaml", []) == wanted
    assert wanted.objective.hyper == {"beta": 0.2}


def test_the_environment_says_what_ran_on_what(finished_run):
    facts = json.loads((finished_run / "run" / "environment.json").read_text())
    assert facts["torch"] == torch.__version__.split("+")[0] or facts["torch"] == torch.__version__
    assert {"minordpo", "transformers", "peft", "python", "platform", "command", "threads"} <= facts.keys()
    assert (facts["pairs"], facts["held_out_pairs"], facts["processes"]) == (8, 2, 1)
    assert len(facts["data_digest"]) == 32


def test_metrics_have_each_step_and_the_held_out_pairs_at_the_end(finished_run):
    rows = measured_rows(finished_run / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 4]
    assert rows[-1]["eval_rewards/accuracies"] in (0.0, 0.5, 1.0)
    assert rows[2]["rewards/chosen"] == pytest.approx(0.2 * rows[2]["logratios/chosen"])
    assert rows[3]["learning_rate"] == pytest.approx(1e-3 / 4)


def test_samples_are_answers_to_held_out_prompts_before_and_after(finished_run):
    rows = [row for _, row in read_jsonl(finished_run / "run" / "samples.jsonl")]
    assert [row["when"] for row in rows] == ["before", "before", "after", "after"]
    assert [row["row"] for row in rows[:2]] == [row["row"] for row in rows[2:]]
    asked = chat_rows(10)[rows[0]["row"] - 1]["prompt"][0]["content"]
    assert asked in rows[0]["prompt"]
    assert all(1 <= row["tokens"] <= 4 for row in rows)


def test_the_model_is_the_last_checkpoint_with_its_tokenizer_and_a_card(finished_run):
    folder = finished_run / "run"
    tuned = logits(load_model(str(folder / "model")))
    assert torch.equal(tuned, logits(load_model(str(folder / "checkpoints" / "checkpoint-4"))))
    assert not torch.allclose(tuned, logits(tiny_model()), atol=1e-3)
    assert load_tokenizer(str(folder / "model")).chat_template
    card = (folder / "model" / "README.md").read_text()
    last = metric_rows(folder)[-1]
    assert "Tuned on preferences with minordpo" in card
    assert f"than under the reference: log-ratio {last['eval_logratios/chosen']:+.2f} nats." in card
    assert "beta: 0.2" in card
    for _, row in read_jsonl(folder / "samples.jsonl"):
        assert f"**Row {row['row']}: the prompt**\n\n```\n{row['prompt'].strip()}\n```" in card


def test_a_run_folder_is_scored_and_tuned_further_as_the_model_in_it(finished_run, tmp_path, capsys):
    made, pairs = finished_run / "run", str(finished_run / "pairs.jsonl")
    found = []
    for model in (made, made / "model", made / "checkpoints" / "checkpoint-4"):
        assert main(["score", str(model), "--pairs", pairs, "--reference", str(made)]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] == found[2]
    assert {json.loads(line)["chosen_logratio"] for line in found[0].splitlines()} == {0.0}
    config = str(finished_run / "config.yaml")
    for key in ("model.path", "model.reference"):
        output = tmp_path / key
        assert main(["train", config, f"{key}={made}", f"output={output}", "training.max_steps=1"]) == 0
        said = load_config(output / "config.yaml", [])
        assert getattr(said.model, key.removeprefix("model.")) == str(made)
    further, against = (
        measured_rows(tmp_path / key)[0]["logps/chosen"] for key in ("model.path", "model.reference")
    )
    assert further != pytest.approx(against, abs=1e-3)  # one started from the tuned model, one from its base


def test_at_most_two_checkpoints_are_kept(finished_run):
    names = sorted(each.name for each in (finished_run / "run" / "checkpoints").iterdir())
    assert names == ["checkpoint-3", "checkpoint-4"]


def test_a_run_is_watched_unless_that_is_switched_off(finished_run, tmp_path, capsys):
    probes = [row["step"] for row in metric_rows(finished_run / "run") if "probe/looping" in row]
    assert probes == [0, 1, 2, 3, 4]
    assert main(["train", str(set_up(tmp_path)), "monitor.enabled=false"]) == 0
    assert "health at the end" not in capsys.readouterr().out
    assert not (tmp_path / "run" / "probes.jsonl").exists()
    assert metric_rows(tmp_path / "run") == measured_rows(tmp_path / "run")


def test_the_monitors_settings_reach_it(tmp_path, capsys):
    settings = ["prompts=1", "max_new_tokens=3", "probe_every=2", "on_collapse=rollback"]
    config = set_up(tmp_path, data={"eval": 3})
    assert main(["train", str(config), *(f"monitor.{each}" for each in settings)]) == 0
    rows = [row for _, row in read_jsonl(tmp_path / "run" / "probes.jsonl")]
    assert [row["step"] for row in rows] == [0, 2, 3]
    assert max(row["tokens"] for row in rows) <= 3
    assert (tmp_path / "run" / "healthy" / "weights.safetensors").exists()
    assert "health at the end: healthy (" in capsys.readouterr().out


def test_a_run_with_an_adapter_exports_to_a_plain_model(tmp_path):
    lora = {"r": 4, "target_modules": "all-linear"}
    assert main(["train", str(set_up(tmp_path, lora=lora, training={"learning_rate": 0.01}))]) == 0
    tuned = logits(load_model(str(tmp_path / "run" / "model")))
    assert not (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "plain")]) == 0
    torch.testing.assert_close(logits(load_model(str(tmp_path / "plain"))), tuned, rtol=0, atol=1e-4)
    assert not torch.allclose(tuned, logits(tiny_model()), atol=1e-3)


def test_a_run_on_bfloat16_autocast_without_held_out_pairs(tmp_path, capsys):
    config = set_up(tmp_path, data={"eval": 0}, training={"bf16": True})
    assert main(["train", str(config)]) == 0
    assert "no pairs are held out (data.eval), so there will be no sample answers" in capsys.readouterr().out
    assert not (tmp_path / "run" / "samples.jsonl").exists()
    assert [row["step"] for row in measured_rows(tmp_path / "run")] == [1, 2, 3]


def test_held_out_pairs_may_be_a_file_of_their_own(tmp_path, capsys):
    held = write_rows(tmp_path / "held.jsonl", chat_rows(14)[10:])
    config = set_up(tmp_path, data={"eval": str(held), "limit": 6})
    assert main(["train", str(config)]) == 0
    facts = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (facts["pairs"], facts["held_out_pairs"]) == (6, 4)
    assert "held out:" in capsys.readouterr().out


def test_the_same_pairs_are_held_out_whatever_the_seed(tmp_path):
    found = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        assert main(["train", str(set_up(folder, training={"seed": seed, "max_steps": 1}))]) == 0
        found.append([row["row"] for _, row in read_jsonl(folder / "run" / "samples.jsonl")])
    assert found[0] == found[1]


def test_another_reference_is_named_by_its_path(tmp_path):
    save_tiny(tmp_path / "other", seed=3)
    config = set_up(tmp_path, model={"reference": str(tmp_path / "other")})
    assert main(["train", str(config)]) == 0
    first = measured_rows(tmp_path / "run")[0]
    assert abs(first["logratios/chosen"]) > 0.1
    assert "largest_logratio" not in first


def test_save_strategies_other_than_steps_need_no_save_steps(tmp_path):
    config = set_up(tmp_path, training={"save_strategy": "epoch", "num_train_epochs": 2, "max_steps": -1})
    assert main(["train", str(config)]) == 0
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "checkpoint-2",
        "checkpoint-4",
    ]


def test_a_run_that_is_refused_leaves_nothing_in_the_way_of_the_corrected_one(tmp_path):
    config = set_up(tmp_path)
    for wrong in (
        "data.max_length=5",
        "data.train=none.jsonl",
        "training.eval_on_start=3",
        "data.eval=10",
        "samples.max_new_tokens=100000",
    ):
        assert main(["train", str(config), wrong]) == 2
        assert not (tmp_path / "run").exists()
    with pytest.raises(
        InputError, match=r"data\.eval holds out 10 pairs, but .* has only 10 usable ones. Lower"
    ):
        run(load_config(config, ["data.eval=10"]))
    assert main(["train", str(config)]) == 0


def test_what_an_objective_or_precision_cannot_have_is_refused(tmp_path):
    config = set_up(tmp_path)
    with pytest.raises(InputError, match=r"metrics.reference is false, .* Leave metrics.reference out"):
        run(load_config(config, ["metrics.reference=false"]))
    with pytest.raises(InputError, match=r"model.dtype is bfloat16 and every weight would be tuned"):
        run(load_config(config, ["model.dtype=bfloat16"]))


@pytest.mark.parametrize("start", ["false", "olora"])
def test_a_start_of_the_adapter_away_from_the_reference_is_refused_before_the_data_are_read(
    tmp_path, monkeypatch, start
):
    monkeypatch.setattr(run_module, "load_data", None)
    config = load_config(set_up(tmp_path), [f"lora.init_lora_weights={start}"])
    with pytest.raises(InputError, match=r"lora\.init_lora_weights is .*(false|olora).* Leave it out"):
        run(config)
    assert not (tmp_path / "run").exists()


# ---- a disk that fills up ----
@pytest.mark.parametrize(
    ("limit", "what"),
    [
        (300, r"run cannot be written: .*"),
        (20_000, r"checkpoint-1 cannot be written: .*then go on with --resume"),  # the weights do not fit
        (
            180_000,
            r"checkpoint-1 cannot be written: .*then go on with --resume",
        ),  # the optimizer's state does not
    ],
)
def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on_once_there_is_room(
    tmp_path, capsys, limit, what
):
    config = str(set_up(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # larger files fail to be written
    try:
        status = main(["train", config])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("minordpo: ")
    assert re.search(what, last)
    assert not list((tmp_path / "run").rglob("checkpoint-*"))
    assert not (tmp_path / "run" / "model").exists()
    assert main(["train", config, "--resume"]) == 0
    assert (tmp_path / "run" / "figures" / "rewards.png").exists()


def test_a_model_that_cannot_be_saved_leaves_its_checkpoint_to_go_on_from(tmp_path, monkeypatch, capsys):
    config = str(set_up(tmp_path))
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == "model":
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main(["train", config]) == 2
    assert "run/model cannot be written: No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()
    assert not [each for each in (tmp_path / "run").iterdir() if each.name.startswith(".model")]
    steps = metric_rows(tmp_path / "run")
    assert main(["train", config, "--resume"]) == 0
    assert metric_rows(tmp_path / "run") == steps
    export_model(str(tmp_path / "run"), tmp_path / "plain")


def test_metrics_that_cannot_be_written_stop_the_run(tmp_path, monkeypatch, capsys):
    config = str(set_up(tmp_path))
    opened = Path.open

    def full(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "metrics.jsonl" and args[:1] == ("a",):
            raise OSError(28, "No space left on device")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    assert main(["train", config]) == 2
    assert (
        "metrics.jsonl cannot be written: No space left on device. Free some space" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("output", "said"),
    [("file/run", "is a file"), ("x" * 300, "File name too long")],
)
def test_an_output_that_cannot_be_made_is_refused_before_the_data_are_read(
    tmp_path, monkeypatch, output, said
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(run_module, "load_data", None)
    config = write_config(
        tmp_path / "c.yaml", base=tmp_path, pairs=tmp_path / "none.jsonl", output=tmp_path / output
    )
    with pytest.raises(InputError, match=rf"cannot be written: .*{said}. Name another output"):
        run(load_config(config, []))


def test_two_processes_do_not_train_in_one_folder(tmp_path, capsys):
    config = str(set_up(tmp_path))
    with only_here(tmp_path / "run"):
        assert main(["train", config]) == 2
    assert "another process is training in" in capsys.readouterr().err
    assert main(["train", config]) == 0  # the lock is gone


def test_a_worker_that_outlives_its_run_does_not_keep_the_folder(tmp_path):
    asleep, awake = os.pipe()
    waiting, born = os.pipe()
    with only_here(tmp_path / "run"):
        (tmp_path / "run" / "config.yaml").write_text("")
        child = os.fork()
        if child == 0:
            os.write(born, b"x")
            os.read(asleep, 1)
            os._exit(0)
        os.read(waiting, 1)
    try:
        with only_here(tmp_path / "run"):
            pass
    finally:
        os.write(awake, b"x")
        os.waitpid(child, 0)


def test_a_run_that_another_process_began_meanwhile_is_not_written_over(tmp_path, monkeypatch, capsys):
    config = str(set_up(tmp_path))
    read = run_module.load_data

    def slowly(*given: Any) -> Any:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").write_text("of the other")
        return read(*given)

    monkeypatch.setattr(run_module, "load_data", slowly)
    assert main(["train", config]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_text() == "of the other"


@pytest.mark.parametrize("key", ["model.path", "model.reference"])
def test_a_model_that_lacks_the_pairs_tokens_is_refused(tmp_path, key):
    config = set_up(tmp_path)
    small = tmp_path / "small"
    save_model(tiny_model(vocab_size=100), load_tokenizer(str(tmp_path / "base")), small)
    with pytest.raises(
        InputError, match=r"small knows 100 tokens, but the pairs have token \d+: .* Name a (model|reference)"
    ):
        run(load_config(config, [f"{key}={small}"]))
