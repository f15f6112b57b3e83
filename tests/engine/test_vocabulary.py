"""A reference that reads or writes tokens otherwise than the model that is tuned."""

from __future__ import annotations

import pytest
from tokenizers import pre_tokenizers

from helpers.small_tokenizers import byte_level
from helpers.tiny_runs import (
    RENAMED,
    chat_rows,
    save_tiny,
    tiny_model,
    token_pairs,
    trainer,
    write_config,
    write_rows,
)
from minordpo.cli import main
from minordpo.engine.models import save_model
from minordpo.engine.vocabulary import refuse_other_encoding
from minordpo.errors import InputError

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def other_rules():
    """The same vocabulary, but each digit and each space a word of its own, so that merges differ."""
    made = byte_level()
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("", behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def test_one_tokenizer_agrees_with_itself():
    refuse_other_encoding(byte_level(), byte_level(), token_pairs(8), model="a", name="b")


def test_other_rules_over_one_vocabulary_are_refused_with_the_row():
    with pytest.raises(
        InputError, match=r"the reference b encodes row \d+ of the data into \d+ tokens and a into"
    ):
        refuse_other_encoding(byte_level(), other_rules(), token_pairs(8), model="a", name="b")


def test_a_run_refuses_such_a_reference_before_anything_is_written(tmp_path, capsys):
    save_tiny(tmp_path / "base")
    save_model(tiny_model(seed=1), other_rules(), tmp_path / "other")
    write_rows(tmp_path / "rows.jsonl", chat_rows(10))
    config = write_config(
        tmp_path / "c.yaml", base=tmp_path / "base", pairs=tmp_path / "rows.jsonl", output=tmp_path / "run"
    )
    assert main(["train", str(config), f"model.reference={tmp_path / 'other'}"]) == 2
    assert "it would be asked about tokens that it does not write itself" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_reference_by_its_name_is_compared_in_python_too(tmp_path):
    save_model(tiny_model(seed=1), other_rules(), tmp_path / "other")
    with pytest.raises(InputError, match=r"the reference .*other encodes row"):
        trainer(tmp_path / "run", ref_model=str(tmp_path / "other"))
