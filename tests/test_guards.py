"""What the trainer refuses before it starts."""

from __future__ import annotations

import pytest

from minordpo.errors import InputError
from tiny_runs import chat_rows, tiny_model, token_pairs, trainer


def test_a_model_without_a_trainable_weight_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="every weight of the model is frozen; unfreeze some, or pass peft_config"
    ):
        trainer(tmp_path, model=tiny_model().requires_grad_(False))


def test_token_examples_with_other_rows_among_them_are_refused(tmp_path):
    with pytest.raises(InputError, match="row 3 of train_dataset is no TokenExample as the first is"):
        trainer(tmp_path, pairs=[*token_pairs(2), *chat_rows(2)])
