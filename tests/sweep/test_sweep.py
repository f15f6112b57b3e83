"""A sweep from its file to its table: what is run, what is left alone, what is refused; and one that is real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_runs import RENAMED, write_rows
from helpers.tiny_sweeps import (
    CURSED,
    RUN,
    WRECKING,
    InThisProcess,
    Pretended,
    pretend,
    swept,
    table,
    write_sweep,
)
from minordpo import cli
from minordpo.errors import InputError
from minordpo.sweep import sweep as sweeping
from minordpo.train import run as training

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

RATES = {"training.learning_rate": [1e-3, CURSED, WRECKING], "seed": [0]}
OK, FAILING, WRECKED = "lr0.001-seed0", "lr666-seed0", "lr7-seed0"


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return pretend(monkeypatch)


def test_a_failed_run_is_written_down_a_collapsed_one_is_a_result_and_the_rest_goes_on(
    tmp_path: Path, pretended: Pretended
):
    write_sweep(tmp_path, grid=RATES)
    failed, said = swept(tmp_path)
    assert failed == 1
    assert pretended.done == [OK, FAILING, WRECKED]
    rows = table(tmp_path)
    assert [rows[name]["status"] for name in (OK, FAILING, WRECKED)] == ["finished", "failed", "finished"]
    assert rows[FAILING]["error"] == "this rate is cursed. Lower it"
    assert (tmp_path / "out" / FAILING / "failed.txt").read_text() == "this rate is cursed. Lower it\n"
    assert (rows[WRECKED]["health"], rows[WRECKED]["collapsed_step"]) == ("collapsed", "1")
    assert rows[OK]["training.learning_rate"] == "0.001"
    assert "[3/3] lr7-seed0: collapsed, collapsed from step 1, 3 s" in said
    assert "1 failed, run them again by --retry" in said
    assert [row["seed"] for row in rows.values()] == ["0", "0", "0"]


def test_the_same_command_does_only_what_is_left_and_retry_runs_failures_again(
    tmp_path: Path, pretended: Pretended
):
    write_sweep(tmp_path, grid=RATES)
    swept(tmp_path)
    pretended.done.clear()
    failed, said = swept(tmp_path)
    assert (failed, pretended.done) == (1, [])
    assert "2 done; 0 begun; 1 failed, run again only with --retry; 0 to do" in said
    swept(tmp_path, retry=True)
    assert pretended.done == [FAILING]


def test_a_run_cut_short_goes_on_with_its_neighbours_left_alone(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, grid=RATES)
    swept(tmp_path)
    cut = tmp_path / "out" / OK
    (cut / "figures" / "rewards.png").unlink()
    (cut / "model").rmdir()
    (cut / "figures").rmdir()
    pretended.done.clear()
    _, said = swept(tmp_path)
    assert "1 begun" in said
    assert pretended.done == [OK]
    assert table(tmp_path)[OK]["status"] == "finished"


def test_a_grid_may_gain_runs_and_lose_them(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, grid={"seed": [0, 1]})
    swept(tmp_path)
    write_sweep(tmp_path, grid={"seed": [1, 2]})
    swept(tmp_path)
    assert pretended.done == ["seed0", "seed1", "seed2"]
    assert sorted(table(tmp_path)) == ["seed0", "seed1", "seed2"]


def test_a_run_keeps_its_folder_though_the_grid_gains_a_key(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, grid={"seed": [0]})
    swept(tmp_path)
    write_sweep(tmp_path, grid={"seed": [0], "objective.beta": [0.1, 0.2]})  # 0.1 is what the run had
    swept(tmp_path)
    assert pretended.done == ["seed0", "beta0.2-seed0"]
    assert table(tmp_path)["seed0"]["objective.beta"] == "0.1"


def test_a_pattern_runs_a_part_and_the_rest_later(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, grid={"objective.name": ["dpo", "ipo"], "seed": [0, 1]})
    swept(tmp_path, only="ipo-*")
    assert pretended.done == ["ipo-seed0", "ipo-seed1"]
    swept(tmp_path)
    assert pretended.done[2:] == ["dpo-seed0", "dpo-seed1"]
    with pytest.raises(InputError, match=r"--only is 'kto\*', which matches none of the 4 runs"):
        swept(tmp_path, only="kto*")


def test_other_settings_for_a_run_that_has_begun_are_refused_by_the_difference(
    tmp_path: Path, pretended: Pretended
):
    write_sweep(tmp_path, grid={"seed": [0, 1]})
    swept(tmp_path)
    with pytest.raises(InputError, match=r"seed0 was begun with training\.max_steps 2, not 3 \(and 1 more\)"):
        swept(tmp_path, "run.training.max_steps=3", "grid.seed=[0, 1, 2]", "runs=[{seed: 7}]")
    assert pretended.done == ["seed0", "seed1"]


def test_another_sweep_in_the_folder_is_refused(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, grid={"seed": [0, 1]})
    swept(tmp_path)
    before = (tmp_path / "out" / "sweep.json").read_bytes()
    write_sweep(tmp_path, run=RUN | {"data": {"train": "others.jsonl"}}, grid={"objective.beta": [0.3]})
    with pytest.raises(InputError, match=r"holds another sweep \(2 runs, seed0 among them\)"):
        swept(tmp_path)
    assert (tmp_path / "out" / "sweep.json").read_bytes() == before


def test_changed_data_are_told_from_the_same(tmp_path: Path, pretended: Pretended):
    data = write_rows(tmp_path / "pairs.jsonl", [{"a": 1}])
    write_sweep(tmp_path, run=RUN | {"data": {"train": str(data)}}, grid={"seed": [0]})
    swept(tmp_path)
    data.touch()
    assert "0 to do" in swept(tmp_path)[1]
    write_rows(data, [{"a": 2}])
    with pytest.raises(InputError, match=r"seed0 was begun with other content of .*pairs\.jsonl"):
        swept(tmp_path)


def test_a_run_that_failed_before_it_began_takes_corrected_settings(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, run=RUN | {"training": {"learning_rate": CURSED}}, grid={"seed": [0]})
    assert swept(tmp_path)[0] == 1
    write_sweep(tmp_path, grid={"seed": [0]})
    assert swept(tmp_path)[0] == 0
    assert not (tmp_path / "out" / "seed0" / "failed.txt").exists()


@pytest.mark.parametrize(
    ("left", "taken"),
    [
        ({"config.yaml": "", "metrics.jsonl": '{"step": 0, "eval_loss": 1.0}\n'}, True),
        ({"config.yaml": "", "metrics.jsonl": '{"step": 1, "loss": 1.0}\n'}, False),
        ({"config.yaml": "", "checkpoints": None}, False),
    ],
)
def test_a_run_that_failed_before_its_first_step_takes_corrected_settings_and_no_other_does(
    tmp_path: Path, pretended: Pretended, left: dict[str, str | None], taken: bool
):
    write_sweep(tmp_path, run=RUN | {"training": {"learning_rate": CURSED}}, grid={"seed": [0]})
    swept(tmp_path)
    folder = tmp_path / "out" / "seed0"
    for name, text in left.items():
        (folder / name).mkdir() if text is None else (folder / name).write_text(text)
    write_sweep(tmp_path, grid={"seed": [0]})
    if taken:
        assert swept(tmp_path)[0] == 0
        assert table(tmp_path)["seed0"]["status"] == "finished"
    else:
        with pytest.raises(InputError, match=r"seed0 was begun with training\.learning_rate 666\.0"):
            swept(tmp_path)
        assert all((folder / name).exists() for name in ("failed.txt", *left))


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, grid={"seed": [0]})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and holds no sweep"):
        swept(tmp_path)
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["o\0ut", "o\udcffut"])
def test_a_folder_whose_name_is_no_text_is_refused(name: str):
    with (
        pytest.raises(InputError, match=r"cannot be written: such a name is no text\. Name another output"),
        training.only_here(Path(name)),
    ):
        pass


def test_a_torn_plan_is_refused(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, grid={"seed": [0]})
    swept(tmp_path)
    (tmp_path / "out" / "sweep.json").write_text('{"runs": {"seed0"')
    with pytest.raises(
        InputError, match=r"sweep\.json cannot be read .* the run folders beside it are whole"
    ):
        swept(tmp_path)


def test_two_sweeps_at_a_time_in_one_folder_are_refused(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, grid={"seed": [0]})
    with (
        training.only_here(tmp_path / "out"),
        pytest.raises(InputError, match=r"another process is sweeping in .*out"),
    ):
        swept(tmp_path)


def test_an_untuned_model_that_cannot_be_asked_is_told_and_the_runs_go_on(
    tmp_path: Path, pretended: Pretended
):
    evaluate = {"task": "problems", "n": 4, "seed": int(CURSED)}
    write_sweep(tmp_path, grid={"seed": [0]}, evaluate=evaluate)
    failed, said = swept(tmp_path)
    assert failed == 1
    assert (
        "untuned-base: not asked, so nothing can be told against it: such questions cannot be asked" in said
    )
    assert pretended.done == ["untuned-base", "seed0"]


def test_no_jobs_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="--jobs is 0, but at least 1 is needed"):
        sweeping.sweep(tmp_path / "s.yaml", jobs=0)


def test_a_dry_run_takes_runs_that_are_done_as_its_measure_and_writes_nothing(
    tmp_path: Path, pretended: Pretended
):
    write_sweep(tmp_path, grid={"seed": [0, 1, 2]})
    swept(tmp_path, only="seed0")
    before = sorted(tmp_path.rglob("*"))
    _, said = swept(tmp_path, dry_run=True, jobs=2)
    assert (
        "Runs that are done took about 3 s each (median of 1), so 2 more take about 3 s with 2 runs at a time"
        in said
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_line_says_what_is_wrong_in_one_line_and_counts_failures(
    tmp_path: Path, pretended: Pretended, capsys: pytest.CaptureFixture[str]
):
    path = write_sweep(tmp_path, grid=RATES)
    assert cli.main(["sweep", str(path), "--jobs", "2"]) == 1
    assert cli.main(["sweep", str(path), "--only", f"*{OK}"]) == 1  # the other's failure stays one
    assert cli.main(["sweep", str(path), "grid={}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("minordpo: command line: the grid is empty")


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(
    tmp_path: Path,
    pretended: Pretended,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    path = write_sweep(tmp_path, grid={"seed": [0, 1]})

    def interrupted(self: InThisProcess, timeout: float) -> list[Any]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(InThisProcess, "events", interrupted)
        assert cli.main(["sweep", str(path)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "minordpo: stopped; the same command goes on"
    assert cli.main(["sweep", str(path)]) == 0
    assert pretended.done == ["seed0", "seed1"]
