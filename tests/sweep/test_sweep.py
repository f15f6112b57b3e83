"""A sweep from its file to its table: what is run, what is left alone, what is refused; and one that is real."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from helpers.tiny_runs import RENAMED, write_rows
from helpers.tiny_sweeps import (
    CURSED,
    RUN,
    WRECKING,
    InThisProcess,
    Pretended,
    plan_of,
    pretend,
    swept,
    write_sweep,
)
from minordpo import cli
from minordpo.config import load_config
from minordpo.data import checks
from minordpo.engine import reference
from minordpo.errors import InputError
from minordpo.paper.claims.runs import gather_runs
from minordpo.paper.worlds import base
from minordpo.paper.worlds import world as micro
from minordpo.report.find import find
from minordpo.report.gather import gather
from minordpo.sweep import sweep as sweeping
from minordpo.sweep.folder import SweepFolder
from minordpo.sweep.plan import load_plan
from minordpo.train import run as training

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

RATES = {"training.learning_rate": [1e-3, CURSED, WRECKING], "seed": [0]}
OK, FAILING, WRECKED = "lr0.001-seed0", "lr666-seed0", "lr7-seed0"


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return pretend(monkeypatch)


def table(folder: Path) -> dict[str, dict[str, str]]:
    """results.csv by the runs' names."""
    with (folder / "out" / "results.csv").open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


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
    read = pyarrow.parquet.read_table(tmp_path / "out" / "results.parquet")
    assert read["seed"].to_pylist() == [0, 0, 0]


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


def test_other_questions_than_those_that_were_asked_are_refused(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, world={"pairs": 16}, grid={"seed": [0]}, evaluate={"n": 4})
    plan = plan_of(tmp_path, world={"pairs": 16}, grid={"seed": [0]}, evaluate={"n": 4})
    swept(tmp_path)
    (plan.cells[0].folder / "evaluation").mkdir()
    with pytest.raises(InputError, match=r"seed0 was evaluated with evaluate\.n 4, not 8"):
        swept(tmp_path, "evaluate.n=8")


def test_other_questions_than_the_untuned_model_was_asked_are_refused_before_any_run_is(
    tmp_path: Path, pretended: Pretended
):
    write_sweep(tmp_path, world={"pairs": 16}, grid={"seed": [0]}, evaluate={"n": 4})
    swept(tmp_path)
    shutil.rmtree(
        tmp_path / "out" / "seed0"
    )  # as of a sweep that was stopped when it had asked the untuned model
    with pytest.raises(InputError, match=r"untuned model was .*evaluate\.n 4, not 8.* remove .*out/untuned"):
        swept(tmp_path, "evaluate.n=8")
    shutil.rmtree(tmp_path / "out" / "untuned")
    swept(tmp_path, "evaluate.n=8")
    assert pretended.done.count("untuned-chain-full-result-16x2600-seed0") == 2


def test_a_world_is_made_once_before_its_runs_and_its_failure_is_theirs(tmp_path: Path, pretended: Pretended):
    grid = {"world.pairs": [16, int(CURSED)], "objective.beta": [0.1, 0.2]}
    write_sweep(tmp_path, world={}, grid=grid)
    failed, said = swept(tmp_path, jobs=3)
    assert failed == 2
    assert "its base took 2 steps and is right in 50% of 8 questions" in said
    worlds = [name for name in pretended.done if name.startswith("chain-")]
    assert len(worlds) == len(set(worlds)) == 2
    assert pretended.done.index(worlds[0]) < pretended.done.index("beta0.1-world.pairs16")
    error = table(tmp_path)["beta0.1-world.pairs666"]["error"]
    assert error == "its world could not be made: such a world cannot be made"


def test_the_time_left_is_reckoned_from_runs_and_worlds_apart(
    tmp_path: Path, pretended: Pretended, monkeypatch: pytest.MonkeyPatch
):
    clock = itertools.count(0, 10)  # seconds; each job takes ten
    monkeypatch.setattr(sweeping.time, "perf_counter", lambda: float(next(clock)))
    write_sweep(tmp_path, world={"pairs": 16}, grid={"seed": [0, 1], "objective.beta": [0.1, 0.2]})
    _, said = swept(tmp_path)
    ends = [line for line in said.splitlines() if line.startswith("[")]
    assert [line.partition("; ")[2] for line in ends] == [
        "about 40 s left",  # three runs and the other world
        "about 20 s left" if "seed1" in ends[1] else "about 30 s left",
        "about 10 s left",
        "",
    ]


def test_a_sweep_that_goes_on_reckons_by_what_is_done(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, world={"pairs": 16}, grid={"seed": [0, 1], "objective.beta": [0.1, 0.2]})
    assert "by those that are done" not in swept(tmp_path, only="beta0.1-seed0")[1]
    # Of three seconds each the three runs, and of thirty the other world.
    assert "  about 39 s left, by those that are done\n" in swept(tmp_path)[1]


def test_the_untuned_model_of_each_world_is_asked_once_and_after_its_world_is_made(
    tmp_path: Path, pretended: Pretended
):
    world = {"pairs": 16}
    write_sweep(tmp_path, world=world, grid={"seed": [0, 1], "objective.beta": [0.1, 0.2]}, evaluate={"n": 4})
    assert "untuned models: 2 to be asked the same, 0 of them done" in swept(tmp_path)[1]
    asked = [name for name in pretended.done if name.startswith("untuned-")]
    assert sorted(asked) == [f"untuned-chain-full-result-16x2600-seed{seed}" for seed in (0, 1)]
    for name in asked:
        assert pretended.done.index(name) > pretended.done.index(name.removeprefix("untuned-"))
    plan, folder = load_plan(tmp_path / "s.yaml"), SweepFolder(tmp_path / "out")
    todo = list(plan.cells)
    assert "2 to be asked the same, 2 of them done" in sweeping.describe(plan, folder, todo, retry=False)
    assert sweeping.untuned_jobs(plan, folder, todo) == []


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


def test_a_world_that_cannot_be_made_has_no_model_to_ask(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, world={"pairs": int(CURSED)}, grid={"seed": [0]}, evaluate={"n": 4})
    assert swept(tmp_path)[0] == 1
    assert swept(tmp_path)[0] == 1  # it has failed, so neither is tried again
    assert pretended.done == ["chain-full-result-666x2600-seed0"]


def test_the_untuned_model_is_asked_the_same_but_for_samples_of_which_it_is_the_measure(
    tmp_path: Path,
):
    evaluate = {"n": 4, "samples": 2, "temperature": 0.5}
    plan = plan_of(tmp_path, world={"pairs": 16}, grid={"seed": [0]}, evaluate=evaluate)
    folder, asked = plan.untuned(plan.cells[0]) or (None, None)
    tuned = plan.evaluation(plan.cells[0])
    assert folder == tmp_path / "out" / "untuned" / "chain-full-result-16x2600-seed0"
    assert asked == dataclasses.replace(tuned, samples=0, temperature=None, reference=None)
    # Where the answers themselves are drawn, its are drawn too.
    drawn = plan_of(tmp_path, world={}, grid={"seed": [0]}, evaluate={"temperature": 0.5})
    assert (drawn.untuned(drawn.cells[0]) or (None, tuned))[1] == drawn.evaluation(drawn.cells[0])
    other = plan_of(
        tmp_path, "run.model.revision=main", grid={"seed": [0]}, evaluate={"task": "problems", "n": 4}
    )
    assert other.untuned(other.cells[0]) is None


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


def test_a_dry_run_adds_the_worlds_that_are_not_made_by_those_that_are(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, world={"pairs": 16}, grid={"seed": [0, 1, 2]})
    swept(tmp_path, only="seed0")
    assert (
        "before them 2 micro worlds are to be made, about 30 s more"
        in swept(tmp_path, dry_run=True, jobs=2)[1]
    )
    (base,) = (tmp_path / "out" / "worlds").glob("*/base/trained.json")
    base.write_text('{"steps": 2, "right": 0.5, "asked": 8}')  # as it was written before seconds were
    assert "2 micro worlds are to be made, whose time is not known" in swept(tmp_path, dry_run=True)[1]


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


# ---- real ----
@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two objectives on one tiny world, in this process, with what was computed more than once."""
    folder = tmp_path_factory.mktemp("sweep")
    counted: dict[str, list[int]] = {"referred": [], "tokenised": []}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HELD_OUT", "VALIDATION", "TEST", "RETENTION"):
            patch.setattr(micro, name, 4)
        patch.setattr(base, "BATCH", 8)
        patch.setattr(sweeping, "Workers", InThisProcess)
        compute, prepare = reference._compute, training.prepare_examples

        def computing(model: Any, examples: dict[bytes, Any], cache: Any, *rest: Any) -> Any:
            if cache._folder is not None:
                counted["referred"].append(sum(key not in cache for key in examples))
            return compute(model, examples, cache, *rest)

        def preparing(*args: Any, **options: Any) -> checks.PreparedExamples:
            counted["tokenised"].append(1)
            return prepare(*args, **options)

        patch.setattr(reference, "_compute", computing)
        patch.setattr(training, "prepare_examples", preparing)
        sections = {
            "world": {"pairs": 16, "base_steps": 2, "base_accuracy": None},
            "grid": {"objective.name": ["dpo", "sft"], "seed": [0]},
            "evaluate": {"max_new_tokens": 6, "samples": 2},
        }
        run = {name: each for name, each in RUN.items() if name not in ("model", "data")}
        write_sweep(folder, run=run, **sections)
        dry = swept(folder, dry_run=True)[1]
        assert not (folder / "out").exists()
        _, said = swept(folder)
    return {"folder": folder, "said": said, "dry": dry, **counted}


def test_real_runs_are_ordinary_run_folders_with_a_row_each(real: dict[str, Any]):
    rows = table(real["folder"])
    assert list(rows) == ["dpo-seed0", "sft-seed0"]
    for name, row in rows.items():
        folder = real["folder"] / "out" / name
        config = load_config(folder / "config.yaml", [])
        assert training.finished(folder)
        assert (config.training.arguments["seed"], row["seed"]) == (0, "0")
        assert (row["status"], row["questions"], row["retention_questions"], row["steps"]) == (
            "finished",
            *"442",
        )
        asked = json.loads((folder / "evaluation" / "results.json").read_text())
        model = asked["models"][name]
        assert float(row["strict_accuracy"]) == model["strict_accuracy"]["share"]
        assert float(row["kl_per_sequence"]) == model["samples"]["kl"]["per_sequence"]
        assert float(row["total_seconds"]) > float(row["training_seconds"]) > 0
        assert row["machine"]
    assert rows["dpo-seed0"]["eval_logratios/chosen"] != rows["sft-seed0"]["eval_logratios/chosen"]


def test_the_untuned_model_has_answered_the_questions_of_its_runs(real: dict[str, Any]):
    out = real["folder"] / "out"
    (untuned,) = (out / "untuned").iterdir()
    results = json.loads((untuned / "results.json").read_text())
    tuned = json.loads((out / "dpo-seed0" / "evaluation" / "results.json").read_text())
    assert results["settings"]["questions_digest"] == tuned["settings"]["questions_digest"]
    (model,) = results["models"].values()
    assert Path(model["path"]) == out / "worlds" / untuned.name / "base"
    assert model["strict_accuracy"]["of"] == 4
    # The report and the claims find it as what the runs were tuned from.
    found = find([out])
    assert [run.label for run in found.runs] == ["dpo-seed0", "sft-seed0"]
    (scores,) = gather(found)["evaluations"]
    assert scores["base"]["label"] == "base"
    gathered = gather_runs(find([real["folder"]]))
    assert all(run.measures["base_accuracy"] == model["flexible_accuracy"]["share"] for run in gathered.runs)
    assert {"broken", "kl", "retention", "chosen", "accuracy"} <= gathered.runs[0].measures.keys()
    assert gathered.runs[0].situation["world.rejected"] == "result"
    assert not {"world.seed", "model.path", "training.seed"} & gathered.runs[0].situation.keys()


def test_runs_of_one_world_are_tokenised_once_and_share_their_reference(real: dict[str, Any]):
    # The dry run tokenises a world of its own; of the sweep there are pairs and held-out ones, once.
    assert len(real["tokenised"]) == 2 + 2
    # Two steps of four pairs, and the held-out ones; the dry run keeps nothing.
    assert [count for count in real["referred"] if count] == [8 + 4]


def test_a_dry_run_estimates_a_world_that_is_not_there(real: dict[str, Any]):
    assert "out: 2 runs" in real["dry"]
    assert "micro worlds: 1, 0 of them made" in real["dry"]
    assert "measured on one packed row of each kind of run (1)" in real["dry"]
    assert "The making of 1 micro world is in it." in real["dry"]


def test_a_finished_sweep_reads_its_rows_from_its_folders(real: dict[str, Any]):
    folder = SweepFolder(real["folder"] / "out")
    assert [row["objective"] for row in folder.rows()] == ["dpo, beta 0.1", "sft, per_token true"]
    assert "dpo-seed0" in real["said"]


def test_a_sweep_tells_of_the_world_that_its_runs_wait_for(real: dict[str, Any]):
    (world,) = (each.name for each in (real["folder"] / "out" / "worlds").iterdir())
    making, made = (line for line in real["said"].splitlines() if line.startswith(f"{world}:"))
    assert making == f"{world}: making this micro world, for which its runs wait"
    assert made == f"{world}: its base took 2 steps"
