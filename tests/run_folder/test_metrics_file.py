"""Files of a line a step: written whole, cut back, and read as records."""

from __future__ import annotations

import math

import pytest

from minordpo.errors import InputError
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.records import (
    EvaluationRow,
    HealthRow,
    ProbeRow,
    RollbackRow,
    Row,
    StepRow,
    parse_row,
)


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (
            {"step": 3, "loss": 0.5, "logratios/chosen": 1.0},
            StepRow(3, {"loss": 0.5, "logratios/chosen": 1.0}),
        ),
        ({"step": 3, "eval_loss": 0.5, "eval_x": 1}, EvaluationRow(3, {"loss": 0.5, "x": 1})),
        ({"step": 0, "probe/looping": 0.5}, ProbeRow(0, {"looping": 0.5})),
        (
            {"step": 3, "event": "health", "health": "collapsed", "was": "healthy", "why": "it loops"},
            HealthRow(3, {}, "collapsed", "healthy", "it loops"),
        ),
        ({"step": 9, "event": "rollback", "to": 3}, RollbackRow(9, {}, 3)),
        ({"step": 9, "test_loss": 0.5}, Row(9, {"test_loss": 0.5})),
    ],
)
def test_each_kind_of_row_is_read_as_its_record_and_written_as_it_was(line: dict, row: Row):
    assert parse_row(line) == row
    assert type(parse_row(line)) is type(row)
    assert list(row.as_json().items()) == list(line.items())


def test_a_number_is_one_only_if_it_is_finite():
    row = StepRow(1, {"loss": "nan", "a": True, "b": math.inf, "c": 2})
    assert [row.number(name) for name in ("loss", "a", "b", "c", "d")] == [None, None, None, 2.0, None]


def test_a_metric_that_is_not_finite_is_written_in_words(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1, "loss": math.nan, "grad_norm": math.inf, "tokens": 3})
    assert (
        tmp_path / "metrics.jsonl"
    ).read_text() == '{"step": 1, "loss": "nan", "grad_norm": "inf", "tokens": 3}\n'


def test_cutting_back_drops_later_rows_and_a_torn_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [f'{{"step": {step}, "loss": 0.5}}\n' for step in (1, 2, 2, 3)]
    path.write_text("".join(rows) + '{"step": 4, "lo')
    MetricsFile(path).cut_back(2)
    assert path.read_text() == "".join(rows[:3])
    path.write_text("".join(rows) + '{"step": 4, "lo')
    MetricsFile(path).cut_back(9)
    assert path.read_text() == "".join(rows)
    MetricsFile(path).cut_back(0)
    assert path.read_text() == ""
    MetricsFile(tmp_path / "none.jsonl").cut_back(0)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_process_without_a_path_writes_nothing():
    MetricsFile(None).append({"step": 1})
    MetricsFile(None).cut_back(0)


def test_a_broken_row_of_metrics_is_named_and_lost_steps_are_said(tmp_path, capsys):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1, "loss": 0.5})
    file.append({"step": 3, "loss": 0.5})
    assert file.missing(3) == [2]
    text = file.path.read_text()
    file.path.write_text("[1]\n" + text)
    with pytest.raises(InputError, match=r"line 1 of .*metrics.jsonl is no row of a step. Take the line out"):
        file.cut_back(3)
    assert file.path.read_text() == "[1]\n" + text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            '{"step": 2, "event": "rollback"}',
            r"is an event in another form than minordpo writes \('to'\). Take",
        ),
        ('{"step": 2, "event": "rollback", "to": 1e999}', "is an event in another form .*infinity"),
        ('{"step": 2, "a": ' + 100_000 * "[" + "}", "is no row of a step. Take the line out"),
    ],
    ids=["no key", "no whole number", "nested"],
)
def test_a_damaged_line_is_named(tmp_path, line: str, said: str):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "loss": 0.5}}\n{line}\n{{"step": 2, "loss": 0.5}}\n')
    with pytest.raises(InputError, match=rf"line 2 of .*metrics.jsonl {said}"):
        MetricsFile(path).rows()
