"""The monitor in real runs of a tiny model that answers well, and breaks where the rate is huge."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from peft import LoraConfig
from safetensors.torch import save_file

from helpers.tiny_runs import (
    RENAMED,
    arguments,
    metric_rows,
    tiny_model,
    token_pairs,
    tokenizer,
    trainer,
    weights,
)
from minordpo import MonitorCallback
from minordpo.errors import InputError
from minordpo.monitor.callback import KEPT, peer_row
from minordpo.monitor.health import changes
from minordpo.monitor.rollback import bring_back
from minordpo.run_folder.records import parse_rows
from minordpo.train.trainer import PreferenceTrainer

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


@pytest.fixture(scope="module")
def taught() -> dict[str, torch.Tensor]:
    """Weights of a model that gives the chosen answers and ends them; a random one loops from the start."""
    model = tiny_model()
    pairs = token_pairs(12)
    rows = [[*pair.prompt_ids.tolist(), *pair.responses[0].ids.tolist()] for pair in pairs]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    labels = torch.full_like(ids, -100)
    for place, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        start = len(pair.prompt_ids)
        labels[place, start : len(row)] = ids[place, start : len(row)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model(input_ids=ids, labels=labels, attention_mask=(labels >= -100).long()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    return model.state_dict()


# A rate at which the answers break after a few steps; the first ones are small, so that a probe is sound before.
HUGE = {"learning_rate": 0.1, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 4, "max_steps": 8}


def watched(
    folder: Path,
    weights: dict[str, torch.Tensor],
    *,
    monitor: Any = None,
    held_out: bool = True,
    **settings: Any,
) -> Any:
    """A DPO trainer on the taught model with a monitor that answers after every step."""
    model = tiny_model()
    model.load_state_dict(weights)
    pairs = token_pairs(12)
    monitor = monitor or MonitorCallback(tokenizer(), 3, max_new_tokens=30, probe_every=1)
    return trainer(
        folder,
        model=model,
        pairs=pairs[:8],
        objective="dpo",
        callbacks=[monitor],
        **({"eval_dataset": pairs[8:]} if held_out else {}),
        **(HUGE | settings),
    )


def events(folder: Path) -> list[dict[str, Any]]:
    return [row for row in metric_rows(folder) if "event" in row]


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in metric_rows(folder) if "loss" in row]


def acting(on_collapse: str) -> MonitorCallback:
    return MonitorCallback(tokenizer(), 3, max_new_tokens=30, probe_every=1, on_collapse=on_collapse)


def test_a_run_that_breaks_is_told_in_one_line_written_down_and_goes_on(tmp_path, taught, capsys):
    made = watched(tmp_path, taught)
    made.train()
    assert steps(tmp_path) == list(range(1, 9))
    first = next(row for row in events(tmp_path) if row["health"] == "collapsed")
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert len(told) == len(events(tmp_path))
    line = told[events(tmp_path).index(first)]
    assert line.startswith(f"step {first['step']}: collapsed (was {first['was']}): {first['why']}. ")
    assert "The model's text is broken. Try a higher objective.beta (now 0.1), a lower training." in line
    assert "objective.name=minordpo, which stops pushing a rejected answer down" in line
    assert [change.as_json() for change in changes(parse_rows(metric_rows(tmp_path)))] == events(tmp_path)


def test_a_run_at_a_small_rate_stays_healthy_and_says_nothing(tmp_path, taught, capsys):
    made = watched(tmp_path, taught, learning_rate=1e-5)
    made.train()
    assert made.monitor().health == "healthy"
    assert events(tmp_path) == []
    assert "step " not in capsys.readouterr().out


def test_answers_are_kept_to_be_read(tmp_path, taught):
    made = watched(tmp_path, taught, max_steps=2)
    made.train()
    rows = [json.loads(line) for line in (tmp_path / "probes.jsonl").read_text().splitlines()]
    assert [(row["step"], row["prompt"]) for row in rows] == [(s, p) for s in (0, 1, 2) for p in (1, 2, 3)]
    assert "hello 8, how are you?" in rows[0]["asked"]  # the first held-out prompt
    assert rows[0]["answer"] == "Yes, the answer is Yes"
    assert rows[0]["measures"]["stopped"] == 1.0
    probes = [row for row in metric_rows(tmp_path) if "probe/looping" in row]
    assert [row["step"] for row in probes] == [0, 1, 2]
    assert (probes[0]["probe/stopped"], probes[0]["probe/distance"]) == (1.0, 0.0)


def test_stop_ends_the_run_at_the_collapse(tmp_path, taught, capsys):
    made = watched(tmp_path, taught, monitor=acting("stop"))
    made.train()
    (*_, last) = events(tmp_path)
    assert last["health"] == "collapsed"
    assert steps(tmp_path) == list(range(1, last["step"] + 1))
    assert 1 < last["step"] < 8
    assert "Training stops here (monitor.on_collapse=stop)" in capsys.readouterr().out
    assert not (tmp_path / KEPT).exists()


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_rollback_ends_with_the_weights_of_the_last_sound_probe(tmp_path, taught, capsys, kind):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"]) if kind == "adapter" else None
    settings: dict[str, Any] = {"peft_config": lora, "learning_rate": 1.0 if lora else 0.1}
    made = watched(tmp_path, taught, monitor=acting("rollback"), **settings)
    made.train()
    *_, collapse, rollback = events(tmp_path)
    assert (collapse["health"], rollback["event"]) == ("collapsed", "rollback")
    back = rollback["to"]
    assert 1 <= back < collapse["step"]
    assert made.state.global_step == made.last_step.step == back
    assert f"the model is that of step {back} again" in capsys.readouterr().out
    # The same run stopped at that step by hand: its schedule is a constant after the warm-up.
    again = watched(tmp_path / "again", taught, **{**settings, "max_steps": back})
    again.train()
    found, expected = weights(made.model), weights(again.model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    made.evaluate()
    assert metric_rows(tmp_path)[-1]["step"] == back


def test_with_and_without_the_monitor_a_run_ends_with_the_same_bytes(tmp_path, taught):
    ends = []
    for name in ("with", "without"):
        model = tiny_model()
        model.load_state_dict(taught)
        pairs = token_pairs(12)
        callbacks = [acting("rollback")] if name == "with" else []
        made = trainer(
            tmp_path / name,
            model=model,
            pairs=pairs[:8],
            eval_dataset=pairs[8:],
            objective="pairwise_cringe",  # which draws at random each step
            callbacks=callbacks,
            dropout=True,
            gradient_checkpointing=True,
            peft_config=LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.3),
            max_steps=5,
        )
        made.train()
        save_file(weights(made.model), tmp_path / f"{name}.safetensors")
        ends.append(torch.get_rng_state())
        rows = [row for row in metric_rows(tmp_path / name) if "loss" in row]
        ends.append(rows)
    assert (tmp_path / "with.safetensors").read_bytes() == (tmp_path / "without.safetensors").read_bytes()
    assert torch.equal(ends[0], ends[2])
    assert ends[1] == ends[3]


def test_a_stopped_run_that_is_resumed_takes_no_further_step(tmp_path, taught):
    saving = {"save_strategy": "steps", "save_steps": 1}
    whole = watched(tmp_path, taught, monitor=acting("rollback"), **saving)
    whole.train()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    made = watched(tmp_path, taught, monitor=acting("rollback"), **saving)
    made.train(resume_from_checkpoint=True)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert made.state.global_step == whole.state.global_step
    found, expected = weights(made.model), weights(whole.model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_resumed_run_has_the_health_and_the_rows_of_the_uninterrupted_one(tmp_path, taught):
    saving = {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 5}
    whole = watched(tmp_path / "whole", taught, **saving)
    whole.train()
    assert events(tmp_path / "whole")
    watched(tmp_path / "cut", taught, **saving).train()
    for later in (6, 8):
        checkpoint = tmp_path / "cut" / f"checkpoint-{later}"
        assert checkpoint.exists()
        checkpoint.rename(tmp_path / f"later-{later}")
    made = watched(tmp_path / "cut", taught, **saving)
    made.train(resume_from_checkpoint=True)
    assert metric_rows(tmp_path / "cut") == metric_rows(tmp_path / "whole")
    names = ("whole", "cut")
    first, second = ((tmp_path / name / "probes.jsonl").read_bytes() for name in names)
    assert first == second
    assert made.monitor().monitor.verdict == whole.monitor().monitor.verdict


def test_without_held_out_pairs_training_prompts_are_answered_and_that_is_said(tmp_path, taught, capsys):
    made = watched(tmp_path, taught, held_out=False, max_steps=1)
    assert "the monitor answers prompts of the training pairs" in capsys.readouterr().out
    made.train()
    asked = json.loads((tmp_path / "probes.jsonl").read_text().splitlines()[0])["asked"]
    assert "hello 0, how are you?" in asked


def test_a_run_without_a_reference_is_watched_by_its_text(tmp_path, taught):
    model = tiny_model()
    model.load_state_dict(taught)
    pairs = token_pairs(12)
    made = PreferenceTrainer(
        model,
        objective="simpo",
        args=arguments(tmp_path, **HUGE),
        train_dataset=pairs[:8],
        eval_dataset=pairs[8:],
        processing_class=tokenizer(),
        measure_reference=False,
        callbacks=[acting("stop")],
    )
    made.train()
    assert events(tmp_path)[-1]["health"] == "collapsed"
    assert not any("logratios/chosen" in row for row in metric_rows(tmp_path))


def test_sharded_weights_are_not_asked_for_answers_and_that_is_said_once(
    tmp_path, taught, capsys, monkeypatch
):
    made = watched(tmp_path, taught)
    state = SimpleNamespace(distributed_type=DistributedType.FSDP)
    monkeypatch.setattr("minordpo.monitor.callback.AcceleratorState", lambda: state)
    for _ in range(2):
        made.train()
    assert capsys.readouterr().out.count("sharded by FSDP, so the monitor answers no prompts") == 1
    assert not any("probe/looping" in row for row in metric_rows(tmp_path))
    with pytest.raises(InputError, match="on_collapse is rollback, but the weights are sharded by FSDP"):
        watched(tmp_path, taught, monitor=acting("rollback"))


def test_two_monitors_are_refused(tmp_path):
    with pytest.raises(InputError, match="callbacks holds 2 MonitorCallbacks, but one sees everything"):
        trainer(tmp_path, callbacks=[acting("warn"), acting("stop")])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"on_collapse": "explode"}, "on_collapse is 'explode', but warn, stop or rollback is needed"),
        ({"probe_every": 0}, "probe_every is 0, but auto or 1 step or more is needed"),
        ({"probe_every": "often"}, "probe_every is 'often', but auto or 1"),
        ({"prompts": 0}, "prompts is 0, but at least 1 is needed"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0, but auto or 1 token or more is needed"),
        ({"max_new_tokens": "few"}, "max_new_tokens is 'few', but auto or 1 token or more is needed"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        MonitorCallback(tokenizer(), **settings)


def test_prompts_that_leave_no_room_for_an_answer_are_left_out_and_that_is_said(tmp_path, taught, capsys):
    made = watched(tmp_path, taught, monitor=MonitorCallback(tokenizer(), 3, max_new_tokens=511), max_steps=1)
    made.train()
    assert "no prompt leaves room for monitor.max_new_tokens=511" in capsys.readouterr().out
    assert not any("probe/looping" in row for row in metric_rows(tmp_path))


def test_by_themselves_answers_are_as_long_as_the_run_affords_and_stay_so_when_it_is_resumed(
    tmp_path, taught
):
    monitor = MonitorCallback(tokenizer(), 3)
    made = watched(tmp_path, taught, monitor=monitor, max_steps=1)
    made.train()
    looks = [row for row in metric_rows(tmp_path) if "probe/looping" in row]
    assert [row["probe/max_new_tokens"] for row in looks] == [24, 24]
    assert monitor.make_probe(made.model, 90).max_new_tokens == 48
    assert monitor.make_probe(made.model, 90, parse_rows(looks)).max_new_tokens == 24


def test_a_run_that_is_resumed_after_its_last_step_has_the_health_it_ended_with(tmp_path, taught):
    saving = {"save_strategy": "steps", "save_steps": 8}
    whole = watched(tmp_path, taught, **saving)
    whole.train()
    made = watched(tmp_path, taught, **saving)
    made.train(resume_from_checkpoint=True)
    assert made.monitor().monitor.verdict == whole.monitor().monitor.verdict
    assert made.monitor().health != "healthy"


def test_kept_weights_that_are_damaged_or_of_another_model_are_refused(tmp_path):
    model, file = tiny_model(), tmp_path / "weights.safetensors"
    with pytest.raises(InputError, match="the last sound weights, cannot be read"):
        bring_back(model, file, main=True)
    file.write_bytes(b"\0" * 20)
    with pytest.raises(InputError, match="the last sound weights, cannot be read"):
        bring_back(model, file, main=True)
    save_file({"other": torch.zeros(2)}, file, metadata={"step": "1"})
    with pytest.raises(InputError, match="holds the weights of another model"):
        bring_back(model, file, main=True)


def test_a_peers_rewards_are_taken_as_log_ratios_over_its_beta():
    logs = {"loss": 0.6, "rewards/chosen": -0.5, "logps/chosen": -30.0}
    expected = {"step": 3, "loss": 0.6, "logps/chosen": -30.0}
    assert peer_row(logs, 3, beta=0.1).as_json() == expected | {"logratios/chosen": -5.0}
    assert peer_row(logs, 3, beta=None).as_json() == expected
    # A reference-free trainer's reward is β times the log-prob itself.
    assert peer_row(logs | {"rewards/chosen": -3.0}, 3, beta=0.1).as_json() == expected
