"""The monitor as a plain callback of TRL 1.16's DPOTrainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from helpers.tiny_runs import RENAMED, chat_rows, tiny_model, tokenizer
from minordpo import MonitorCallback
from minordpo.errors import InputError
from minordpo.monitor.health import changes
from minordpo.run_folder.records import ProbeRow, parse_rows

pytestmark = [
    pytest.mark.peer,
    *(pytest.mark.filterwarnings(each) for each in RENAMED),
    # TRL's own: it imports and calls what newer versions of its dependencies rename.
    pytest.mark.filterwarnings("ignore::FutureWarning:trl"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_disable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:trl"),
]

BETA = 0.2


@pytest.fixture(scope="module")
def trl() -> Any:
    return pytest.importorskip("trl", minversion="1.16", reason="TRL 1.16 is not installed")


def theirs(trl: Any, folder: Path, monitor: MonitorCallback, **settings: Any) -> Any:
    quiet = {"max_steps": 8, "logging_steps": 1, "learning_rate": 1e-3, "save_strategy": "no"}
    config = trl.DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        per_device_train_batch_size=4,
        max_length=None,
        use_cpu=True,
        report_to="none",
        bf16=False,
        disable_tqdm=True,
        lr_scheduler_type="constant",
        **(quiet | settings),
    )
    return trl.DPOTrainer(
        tiny_model(),
        ref_model=tiny_model(),
        args=config,
        train_dataset=Dataset.from_list(chat_rows(8)),
        processing_class=tokenizer(),
        callbacks=[monitor],
    )


PROMPTS = [[{"role": "user", "content": "hello 1, how are you?"}], "hello"]


def rows(folder: Path, name: str = "monitor.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_it_reads_trls_logs_as_log_ratios_in_nats_and_answers_the_prompts(trl, tmp_path):
    made = theirs(trl, tmp_path, MonitorCallback(tokenizer(), PROMPTS, max_new_tokens=6, probe_every=3))
    made.train()
    logged = [row for row in made.state.log_history if "rewards/chosen" in row]
    found = [row for row in rows(tmp_path) if "loss" in row]
    assert [row["step"] for row in found] == list(range(1, 9))
    for row, log in zip(found, logged, strict=True):
        assert row["logratios/chosen"] == pytest.approx(log["rewards/chosen"] / BETA)
        assert row["logps/chosen"] == log["logps/chosen"]
    assert abs(found[-1]["logratios/chosen"]) > 0.1
    assert [row["step"] for row in rows(tmp_path) if "probe/looping" in row] == [0, 3, 6, 8]
    assert [row["step"] for row in rows(tmp_path, "probes.jsonl")] == [0, 0, 3, 3, 6, 6, 8, 8]


def test_steps_between_two_logs_are_answered_too(trl, tmp_path):
    monitor = MonitorCallback(tokenizer(), PROMPTS, max_new_tokens=6, probe_every=3)
    theirs(trl, tmp_path, monitor, logging_steps=4).train()
    assert [row["step"] for row in rows(tmp_path) if "loss" in row] == [4, 8]
    assert [row["step"] for row in rows(tmp_path) if "probe/looping" in row] == [0, 3, 6, 8]


def test_a_step_that_is_logged_after_its_end_is_answered_once(trl, tmp_path):
    monitor = MonitorCallback(tokenizer(), PROMPTS, max_new_tokens=6, probe_every=2)
    theirs(trl, tmp_path, monitor, logging_strategy="epoch", max_steps=4).train()
    assert [row["step"] for row in rows(tmp_path) if "loss" in row] == [2, 4]
    assert [row["step"] for row in rows(tmp_path, "probes.jsonl")] == [0, 0, 2, 2, 4, 4]


def test_a_second_run_in_the_folder_takes_nothing_over_from_the_first(trl, tmp_path):
    theirs(trl, tmp_path, MonitorCallback(tokenizer(), PROMPTS, max_new_tokens=3), max_steps=1).train()
    theirs(trl, tmp_path, MonitorCallback(tokenizer(), PROMPTS), max_steps=1).train()
    looks = [row for row in rows(tmp_path) if "probe/looping" in row]
    assert [(row["step"], row["probe/max_new_tokens"]) for row in looks] == [(0, 24), (1, 24)]


class Always(MonitorCallback):
    """Whose answers all loop after the start; what the model says is not what is tested here."""

    def _answer(self, step: int, model: Any, args: Any) -> ProbeRow:
        row = super()._answer(step, model, args)
        return ProbeRow(step, {**row.values, "looping": float(step > 0), "repeated_4grams": 0.0})


def test_it_tells_and_stops_trls_trainer(trl, tmp_path, capsys):
    made = theirs(
        trl, tmp_path, Always(tokenizer(), PROMPTS, max_new_tokens=6, probe_every=3, on_collapse="stop")
    )
    made.train()
    assert made.state.global_step == 3
    said = capsys.readouterr().out
    assert "step 3: collapsed (was " in said
    assert (
        "Try a higher beta (now 0.2), a lower learning_rate (now 0.001) or minordpo.PreferenceTrainer" in said
    )
    assert rows(tmp_path)[-1]["event"] == "health"


def test_what_it_wrote_is_judged_again_offline(trl, tmp_path):
    monitor = MonitorCallback(tokenizer(), PROMPTS, max_new_tokens=6, folder=tmp_path / "watched")
    theirs(trl, tmp_path, monitor, learning_rate=0.1).train()
    written = rows(tmp_path / "watched")
    assert [change.as_json() for change in changes(parse_rows(written))] == [
        row for row in written if "event" in row
    ]


def test_without_prompts_it_is_refused(trl, tmp_path):
    made = theirs(trl, tmp_path, MonitorCallback(tokenizer()))
    with pytest.raises(InputError, match="the monitor has no prompts: outside PreferenceTrainer"):
        made.train()
