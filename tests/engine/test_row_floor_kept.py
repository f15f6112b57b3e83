"""How long rows must be is measured once for runs that share a cache."""

import json

import pytest
import torch

from helpers.tiny_runs import tiny_model, token_pairs
from minordpo.engine import row_floor as module
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.logprobs import install
from minordpo.engine.row_floor import RowFloor, kept_row_floor
from minordpo.errors import InputError


@pytest.fixture
def passes(monkeypatch):
    """Every pass that a measurement runs."""
    seen, plain = [], module.packed_logps
    monkeypatch.setattr(module, "packed_logps", lambda *given: seen.append(1) or plain(*given))
    return seen


def measured(folder, fingerprint="a", budget=512, pairs=None):
    model = tiny_model()
    install(model)
    with attention_switched(model, NAME):
        return kept_row_floor(
            folder, fingerprint, model, pairs or token_pairs(4), token_budget=budget, bf16=False
        )


def test_a_second_run_measures_nothing_and_knows_the_same(tmp_path, passes):
    first = measured(tmp_path)
    assert passes
    passes.clear()
    assert measured(tmp_path) == first
    assert passes == []


def test_another_reference_budget_or_number_of_threads_and_a_torn_file_are_measured_again(tmp_path, passes):
    measured(tmp_path)
    (file,) = tmp_path.iterdir()
    for other in ({"fingerprint": "b"}, {"budget": 256}):
        passes.clear()
        measured(tmp_path, **other)
        assert passes
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        passes.clear()
        measured(tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert passes
    file.write_text(file.read_text()[:9])
    passes.clear()
    found = measured(tmp_path)
    assert passes
    assert RowFloor(**json.loads(file.read_text())) == found


def test_without_a_folder_it_is_measured_each_time(passes):
    measured(None)
    passes.clear()
    measured(None)
    assert passes


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written.*MINORDPO_CACHE"):
        measured(tmp_path / "file" / "floors")
