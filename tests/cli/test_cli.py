"""What the user can correct: exit status 2, one line that says how, no traceback, and nothing overwritten."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.forked import Forked
from helpers.small_tokenizers import byte_level
from helpers.tiny_runs import RENAMED, chat_rows, save_tiny, text_rows, tiny_model, write_config, write_rows
from minordpo import __version__, cli
from minordpo.cli import main
from minordpo.engine.models import save_model
from minordpo.errors import InputError, TrainingStopped

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model, pairs and a config; no test writes into its output."""
    folder = tmp_path_factory.mktemp("world")
    save_tiny(folder / "base")
    save_model(tiny_model(), byte_level(template=None), folder / "no-template")
    save_model(tiny_model(vocab_size=200), None, folder / "other-vocabulary")
    save_model(tiny_model(), byte_level(), folder / "no-weights")
    (folder / "no-weights" / "model.safetensors").unlink()
    write_rows(folder / "pairs.jsonl", chat_rows(8))
    (folder / "empty.jsonl").write_text("")
    write_rows(folder / "same.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    write_config(folder / "c.yaml", base=folder / "base", pairs=folder / "pairs.jsonl", output=folder / "run")
    return folder


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line of the error output."""
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("minordpo: ")
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "training.learning_rat=1",
            r"training\.learning_rat is not a key .* Did you mean training\.learning_rate\?",
        ),
        ("modle.path=x", r"modle is not a key of minordpo\. Did you mean model\?"),
        ("objective.name=minor_dpo", r"'minor_dpo', which is no objective \(did you mean minordpo\?\)"),
        ("objective.bata=1", r"minordpo has no hyper-parameter 'bata' \(did you mean beta\?\)"),
        ("objective.beta=0", r"objective\.beta is 0, but must be a number above 0"),
        ("data.train=pears.jsonl", r"pears\.jsonl does not exist, but a file of pairs is needed\."),
        ("data.train={}/pair.jsonl", r"pair\.jsonl does not exist.* Did you mean .*pairs\.jsonl\?"),
        ("data.train={}/empty.jsonl", r"empty\.jsonl holds no rows, but pairs are needed"),
        ("data.train={}/same.jsonl", r"1 row cannot be used: 1 pair with chosen = rejected"),
        (
            "data.max_length=12",
            r"data\.max_length is 12 tokens but .* has a prompt of \d+.*Raise data\.max_length",
        ),
        ("data.eval=8", r"data\.eval holds out 8 pairs, but .* Lower data\.eval"),
        ("model.path={}/no-weights", r"holds a config but no weights \(\*\.safetensors\)"),
        ("model.path={}/nowhere", r"model '.*nowhere' is not a folder"),
        ("model.path={}/no-template", r"chat template"),
        ("model.path={}/other-vocabulary", r"no tokenizer can be read from .*other-vocabulary"),
        ("model.reference={}/nowhere", r"model '.*nowhere' is not a folder"),
        ("model.dtype=bfloat16", r"model\.dtype is bfloat16 and every weight would be tuned"),
        ("training.fp16=true", r"training\.fp16 is not supported: .* use bf16\. Leave it out"),
        ("training.push_to_hub=true", r"training\.push_to_hub is not supported: .*upload the finished model"),
        ("training.output_dir=x", r"training\.output_dir is given, but the run folder is output"),
        ("training.eval_strategy=sometimes", r"training\.eval_strategy"),
        (
            "lora={{r: 0}}",
            r"lora cannot be applied to LlamaForCausalLM: `r` should be a positive integer.*\. Change",
        ),
        (
            "lora={{target_modules: [query]}}",
            r"lora.target_modules names query, which LlamaForCausalLM does not have",
        ),
        ("output={}/pairs.jsonl", r"pairs\.jsonl exists and is not a run folder\. Name another output"),
        ("output={}/base", r"base exists and is not a run folder\. Name another output"),
        ("nonsense", r"override 'nonsense' is not of the form section\.key=value"),
    ],
)
def test_train_says_what_to_correct(world, capsys, override, said):
    before = {each: each.stat().st_mtime_ns for each in world.rglob("*")}
    assert main(["train", str(world / "c.yaml"), override.format(world)]) == 2
    line = one_line(capsys)
    assert re.search(said, line), line
    assert {each: each.stat().st_mtime_ns for each in world.rglob("*")} == before


def test_a_config_that_is_missing_is_said(tmp_path, capsys):
    assert main(["train", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml does not exist. A run config in YAML is needed" in one_line(capsys)


@pytest.fixture
def run_folder(world, tmp_path):
    """A folder that looks like an unfinished run of the config, with something of its own in it."""
    config = world / "c.yaml"
    assert main(["train", str(config), f"output={tmp_path}/run", "training.max_steps=1"]) == 0
    (tmp_path / "run" / "figures" / "rewards.png").unlink()
    return tmp_path / "run"


def test_a_run_in_the_output_folder_is_neither_overwritten_nor_gone_on_with_differently(
    world, run_folder, capsys
):
    before = {each: each.stat().st_mtime_ns for each in run_folder.rglob("*")}
    again = ["train", str(world / "c.yaml"), f"output={run_folder}", "training.max_steps=1"]
    capsys.readouterr()
    assert main(again) == 2
    assert "run holds another run. Name another output, or go on with it by --resume" in one_line(capsys)
    assert main([*again, "objective.beta=0.3", "--resume"]) == 2
    said = one_line(capsys)
    assert (
        "was started with another config (beta: 0.1, not beta: 0.3). Resume it with its own config.yaml"
        in said
    )
    assert {each: each.stat().st_mtime_ns for each in run_folder.rglob("*")} == before
    assert main([*again, "--resume"]) == 0


def test_training_that_stops_by_itself_is_one_line_and_status_one(monkeypatch, capsys, world):
    def stopped(*args: Any, **kwargs: Any) -> None:
        raise TrainingStopped("the loss of step 3 is nan. Lower training.learning_rate")

    monkeypatch.setattr("minordpo.train.run.run", stopped)
    assert main(["train", str(world / "c.yaml")]) == 1
    assert one_line(capsys) == "minordpo: the loss of step 3 is nan. Lower training.learning_rate\n"


def test_a_message_of_several_lines_is_one_line(monkeypatch, capsys, world):
    def refused(*args: Any, **kwargs: Any) -> None:
        raise InputError("first\n  second")

    monkeypatch.setattr("minordpo.train.run.run", refused)
    assert main(["train", str(world / "c.yaml")]) == 2
    assert one_line(capsys) == "minordpo: first second\n"


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, world):
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("minordpo.train.run.run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", str(world / "c.yaml")])


def test_an_interrupt_is_one_line_that_says_how_to_go_on(monkeypatch, capsys, world):
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("minordpo.train.run.run", interrupted)
    assert main(["train", str(world / "c.yaml")]) == 130
    assert one_line(capsys) == "minordpo: stopped; go on with the same command and --resume\n"


# ---- export ----
def test_export_says_what_to_correct(world, tmp_path, capsys):
    for source, target, said in (
        (world / "nowhere", tmp_path / "out", "is not a folder"),
        (world / "no-weights", tmp_path / "out", "holds a config but no weights"),
        (world / "base", world / "base", "exists already. Name a new folder"),
        (world / "other-vocabulary", tmp_path / "out", "no tokenizer can be read from"),
    ):
        assert main(["export", str(source), str(target)]) == 2
        assert said in one_line(capsys)
    assert not (tmp_path / "out").exists()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("")
    assert main(["export", str(tmp_path / "unfinished"), str(tmp_path / "out")]) == 2
    assert "unfinished is a run without a model/: it is not finished. Go on with it by --resume" in one_line(
        capsys
    )


# ---- score ----
def test_score_explains_both_names_of_a_row(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["score", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "index counts the rows from 0; row counts from 1 as error messages and a run's responses.jsonl do"
        in said
    )


def test_score_prints_a_json_line_a_pair_and_reports_apart(world, capsys):
    assert main(["score", str(world / "base"), "--pairs", str(world / "pairs.jsonl"), "--tokens"]) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [(row["index"], row["row"]) for row in rows] == [(i, i + 1) for i in range(8)]
    assert all(len(row["chosen_token_logps"]) == row["chosen_tokens"] for row in rows)
    assert "8 rows read as TRL chat, 8 used" in printed.err


def test_score_writes_a_whole_file_or_none(world, tmp_path, capsys, monkeypatch):
    out = tmp_path / "scores.jsonl"
    command = ["score", str(world / "base"), "--pairs", str(world / "pairs.jsonl"), "--out", str(out)]
    assert main(command) == 0
    written = out.read_bytes()
    assert written.count(b"\n") == 8
    capsys.readouterr()
    assert main(command) == 2
    assert "scores.jsonl exists already" in one_line(capsys)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main([*command, "--overwrite"]) == 2
    assert "scores.jsonl cannot be written: No space left on device" in capsys.readouterr().err
    assert out.read_bytes() == written
    assert [each.name for each in tmp_path.iterdir()] == ["scores.jsonl"]
    assert main([*command, "--overwrite", "--reference", str(world / "base")]) == 0
    assert json.loads(out.read_text().splitlines()[0])["chosen_logratio"] == 0


def test_score_says_what_to_correct(world, tmp_path, capsys):
    pairs = ["--pairs", str(world / "pairs.jsonl")]
    assert main(["score", str(world / "nowhere"), *pairs]) == 2
    assert "is not a folder" in one_line(capsys)
    assert main(["score", str(world / "base"), "--pairs", str(world / "none.jsonl")]) == 2
    assert "does not exist, but a file of pairs is needed" in one_line(capsys)
    out = tmp_path / "no" / "scores.jsonl"
    assert main(["score", str(world / "base"), *pairs, "--out", str(out)]) == 2
    assert "there is no folder" in capsys.readouterr().err.splitlines()[-1]


def test_text_rows_need_no_template(world, tmp_path, capsys):
    pairs = write_rows(tmp_path / "text.jsonl", text_rows(3))
    assert main(["score", str(world / "no-template"), "--pairs", str(pairs)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


# ---- the command itself ----
def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"minordpo {__version__}\n"


@pytest.mark.parametrize("command", [each.name for each in cli.COMMANDS])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert f"usage: minordpo {command}" in said
    assert ("objective.name" in said) == (command in ("train", "sweep", "lens"))


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = """
import contextlib, io, sys
from minordpo.cli import COMMANDS, main
from minordpo.cli.command import CommandGroup
for each in COMMANDS:
    for below in each.commands if isinstance(each, CommandGroup) else [None]:
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            main([each.name, *([below.name] if below else []), "--help"])
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main(["--help"])
print(sorted({"torch", "transformers", "numpy", "datasets", "pandas", "matplotlib"} & sys.modules.keys()))
"""
    source = str(Path(cli.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_a_reader_that_has_seen_enough_is_no_error(world, tmp_path):
    """`minordpo score … | head -c 1` ends without a traceback."""
    command = ["score", str(world / "base"), "--pairs", str(world / "pairs.jsonl"), "--tokens"]
    pipe, log = tmp_path / "pipe", tmp_path / "said.txt"
    os.mkfifo(pipe)
    process = Forked("helpers.processes:command_into", pipe, command, log=log)
    with pipe.open() as reader:
        assert reader.read(1) == "{"
    assert process.wait() == 0, log.read_text()
    assert "Traceback" not in log.read_text()


def test_scores_do_not_replace_the_pairs(world, capsys):
    pairs = world / "pairs.jsonl"
    before = pairs.read_bytes()
    command = ["score", str(world / "base"), "--pairs", str(pairs), "--out", str(pairs), "--overwrite"]
    assert main(command) == 2
    assert "pairs.jsonl is the file of pairs itself. Name another file to write" in capsys.readouterr().err
    assert pairs.read_bytes() == before


@pytest.mark.parametrize("command", [["data", "problems", "x" * 300], ["export", "x" * 300, "out"]])
def test_a_name_too_long_for_the_system_is_said(command, capsys):
    assert main(command) == 2
    assert "is too long for this system" in capsys.readouterr().err


def test_overrides_may_stand_behind_options(world, capsys):
    config = str(world / "c.yaml")
    assert main(["train", config, "--dry-run", "objective.beta=0", "training.max_steps=1"]) == 2
    assert "objective.beta is 0, but must be a number above 0" in one_line(capsys)
    with pytest.raises(SystemExit, match="2"):
        main(["train", config, "--dry-run", "objective.beta=0.1", "--nothing"])
    with pytest.raises(SystemExit, match="2"):
        main(["export", "a", "b", "c=d"])


def test_bfloat16_without_a_gpu_says_what_to_set(world, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = ["training.bf16=true", "training.use_cpu=false", "output=nowhere"]
    assert main(["train", str(world / "c.yaml"), *settings]) == 2
    assert "Set training.bf16=false, or training.use_cpu=true to run bfloat16 on the CPU" in one_line(capsys)
