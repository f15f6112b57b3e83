"""An objective and a metric that are added in one module are seen everywhere, as CONTRIBUTING.md says.

A claim is added in tests/paper/test_claims_registry.py, an evaluation task in tests/evaluate/test_tasks.py.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest

from helpers.tiny_runs import RENAMED, arguments, metric_rows, tiny_model, token_pairs, tokenizer
from minordpo.cli import main
from minordpo.errors import InputError
from minordpo.lens import drawing
from minordpo.lens.lens import lens
from minordpo.objectives import OBJECTIVES, resolve
from minordpo.objectives.describe import describe_objectives, objectives_table
from minordpo.train.metrics import METRICS
from minordpo.train.trainer import PreferenceTrainer

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

ADDED = '''
from torch.nn.functional import relu

from minordpo.objectives.logps import PairLogps
from minordpo.objectives.spec import NotNegative, Positive, Spec, by_name
from minordpo.train.metrics import Metric


def gap(logps: PairLogps, *, target_gap: Positive = 4.0, softness: NotNegative = 1.0):
    """max(0, g − chosen_logp + rejected_logp) softness, sums in nats; without a reference.

    Assumes: a gap is enough.
    Usual: target_gap 1 to 9.
    Source: Nobody 2026, Eq. 1.
    """
    return softness * relu(target_gap - logps.chosen_logps + logps.rejected_logps)


OBJECTIVE = by_name(Spec(gap, reference=False, axes="sums"))
METRIC = {"logps/gap": Metric(lambda m: m.record.logps.logps[m.chosen] - m.record.logps.logps[m.rejected], both=True)}
'''


@pytest.fixture
def added(tmp_path, monkeypatch):
    """A module with one of each kind, in their tables for the time of the test."""
    (tmp_path / "added.py").write_text(ADDED, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("added")
    for table, more in ((OBJECTIVES, module.OBJECTIVE), (METRICS, module.METRIC)):
        for name, each in more.items():
            monkeypatch.setitem(table, name, each)
    yield module
    del sys.modules["added"]


def test_an_objective_is_in_help_and_in_the_table_of_the_docs(added, capsys, monkeypatch):
    assert (
        "gap  max(0, g − chosen_logp + rejected_logp) softness, sums in nats; without a reference.\n"
        "    assumes: a gap is enough\n"
        "    data: pairs; no reference needed\n"
        "    hyper-parameters: target_gap = 4.0 (a number above 0), softness = 1.0 (a number at least 0)\n"
        "    usual: target_gap 1 to 9"
    ) in describe_objectives()
    row = "| pairs | no | a gap is enough | target_gap 1 to 9 | Nobody 2026, Eq. 1 |"
    assert row in objectives_table()
    monkeypatch.setattr("sys.argv", ["minordpo", "train", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    assert "gap  max(0, g − chosen_logp" in capsys.readouterr().out


def test_its_hyperparameters_are_checked_and_it_is_a_term_of_sums(added):
    with pytest.raises(InputError, match=r"objective\.target_gap is 0, but must be a number above 0"):
        resolve("gap", {"target_gap": 0})
    with pytest.raises(InputError, match=r"'gpa', which is no objective \(did you mean gap\?\)"):
        resolve("gpa", {})
    assert str(resolve("gap + 0.1*sft", {})) == "gap + 0.1*sft, target_gap 4, softness 1, per_token true"


@pytest.mark.parametrize("name", ["gap", "gap + 0.1*sft"])
def test_the_lens_draws_it_on_the_plane_of_its_spec(added, name, tmp_path, monkeypatch):
    figures: list[Any] = []
    monkeypatch.setattr(drawing, "write_figure", lambda figure, out: figures.append(figure.axes))
    lens(tmp_path / "a.png", objectives=[name])
    (axes,) = figures
    assert axes[0].get_xlabel() == "chosen: log π (nats)"
    labels = {line.get_label() for axis in axes for line in axis.get_lines()}
    assert {"4 (plane)", "0.8", "20"} <= labels  # of target_gap, its first number


def test_a_metric_is_measured_logged_and_known_as_what_the_best_model_is_kept_by(added, tmp_path):
    def made(**more: Any) -> PreferenceTrainer:
        args = arguments(tmp_path / str(len(more)), **more)
        return PreferenceTrainer(
            tiny_model(),
            objective="gap",
            args=args,
            train_dataset=token_pairs(8),
            eval_dataset=token_pairs(8)[:2],
            processing_class=tokenizer(),
        )

    made().train()
    rows = metric_rows(tmp_path / "0")
    assert all(
        row["logps/gap"] == pytest.approx(row["logps/chosen"] - row["logps/rejected"], abs=1e-3)
        for row in rows
    )
    kept = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "best"}
    made(metric_for_best_model="logps/gap", **kept)
    with pytest.raises(InputError, match=r"logps/gpa, which is not measured \(did you mean logps/gap\?\)"):
        made(metric_for_best_model="logps/gpa", **kept)
