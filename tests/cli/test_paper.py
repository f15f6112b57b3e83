"""`minordpo paper`: a toy world from the command line, and where `minordpo claims` went."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from minordpo.cli import main
from minordpo.paper.worlds.world import World

SMALL = ["--base-steps", "2", "--base-accuracy", "null", "--pairs", "3"]


def test_a_world_is_made_as_its_options_say_and_is_found_again(tmp_path: Path, capsys: Any):
    command = ["paper", "world", "--out", str(tmp_path / "w"), *SMALL, "--family", "scale", "--seed", "4"]
    assert main(command) == 0
    first = capsys.readouterr()
    assert first.out.endswith("\nits base took 2 steps\n")
    assert "training a base model" in first.err
    made = json.loads((tmp_path / "w" / "world.json").read_text())
    wanted = World(seed=4, family="scale", pairs=3, base_steps=2, base_accuracy=None)
    assert made == dataclasses.asdict(wanted)
    assert len((tmp_path / "w" / "pairs.jsonl").read_text().splitlines()) == 3
    assert main(command) == 0
    assert capsys.readouterr() == (first.out, "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pairs", "0"], "a world of 0 pairs was asked for, but at least 1 is needed. Raise it"),
        (
            ["--base-accuracy", "0.7,0.2"],
            "base_accuracy is [0.7, 0.2], but two shares from 0 to 1 are needed",
        ),
        ([], "w exists and holds no world. Name another folder"),
    ],
)
def test_a_world_that_cannot_be_made_is_refused_in_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: Any
):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine.txt").touch()
    assert main(["paper", "world", "--out", str(tmp_path / "w"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize("text", ["most", "0.4;0.6"])
def test_shares_of_another_form_are_refused(text: str, tmp_path: Path, capsys: Any):
    with pytest.raises(SystemExit, match="2"):
        main(["paper", "world", "--out", str(tmp_path / "w"), "--base-accuracy", text])
    assert f"'{text}' is neither of the form 0.45,0.65 nor null" in capsys.readouterr().err


def test_every_field_of_a_world_is_an_option_with_its_default(capsys: Any):
    with pytest.raises(SystemExit, match="0"):
        main(["paper", "world", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(World):
        shown = "0.45,0.65" if field.name == "base_accuracy" else field.default
        assert re.search(rf"--{field.name.replace('_', '-')} [^()]*\(default {shown}\)", said)


def test_minordpo_claims_says_where_it_went(capsys: Any):
    for arguments in (["claims"], ["claims", "runs", "--out", "x.json"], ["claims", "--help"]):
        assert main(arguments) == 2
        said = "minordpo: minordpo claims is now minordpo paper claims, with the same arguments\n"
        assert capsys.readouterr() == ("", said)
