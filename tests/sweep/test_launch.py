"""Runs of a sweep that several processes train together: what may be asked for, who ends whom, why one failed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.processes import eventually, gone
from helpers.tiny_sweeps import plan_of, pretend, write_sweep
from minordpo.config import load_config
from minordpo.errors import InputError, TrainingStopped
from minordpo.sweep import cost, launch
from minordpo.sweep import sweep as sweeping
from minordpo.sweep import workers as sweep_workers
from minordpo.sweep.jobs import RunJob, do_job
from minordpo.sweep.launch import describe_launch, refuse_too_few_gpus, runs_at_a_time, why
from minordpo.sweep.plan import RunPlan, SweepPlan
from minordpo.sweep.sweep import sweep
from minordpo.sweep.workers import Workers, environments
from minordpo.train.dry_run.measure import RowTooLarge

TWO = {"processes": 2}
# In place of torchrun; it is given what torchrun is.
WAITING = "import os, sys, time; open(sys.argv[-2] + '.pid', 'w').write(str(os.getpid())); time.sleep(60)"
FAILING = (
    "print('ValueError: of this start\\nminordpo: the data are gone. Bring them back'); raise SystemExit(1)"
)


def in_place_of_torchrun(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(launch, "_TORCHRUN", ("-c", script))


def job_of(folder: Path) -> RunJob:
    """A run of the tiny sweep, to be trained by two processes."""
    (run,) = plan_of(folder, grid={"seed": [0]}, launch=TWO).runs
    return RunJob(run.name, None, run.config, processes=run.processes, logs=folder / "logs")


# ---- what may be asked for ----
def test_each_run_has_as_many_processes_as_the_section_says_and_one_without_it(tmp_path: Path):
    grid = {"seed": [0, 1]}
    for section, expected in ((None, 1), (TWO, 2)):
        plan = plan_of(tmp_path, grid=grid, launch=section)
        assert (plan.processes, [run.processes for run in plan.runs]) == (expected, [expected] * 2)
    assert plan_of(tmp_path, "launch=null", grid=grid, launch=TWO).processes == 1


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"processes": 1}, r"launch\.processes is 1, but 2 or more is needed"),
        ({"processes": "two"}, r"launch\.processes is .*two.*, but a whole number is needed"),
        ({}, r"launch\.processes is missing\. Give it"),
        ({"jobs": 2}, r"launch\.jobs is not a key of minordpo.*Known here: processes"),
        ([2], r"launch is .*, but a section is needed"),
    ],
)
def test_another_section_is_refused(tmp_path: Path, section: Any, said: str):
    with pytest.raises(InputError, match=said):
        plan_of(tmp_path, grid={"seed": [0]}, launch=section)


def test_as_many_runs_go_at_a_time_as_there_are_gpus_for():
    assert [runs_at_a_time(None, processes, 8) for processes in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    assert [runs_at_a_time(None, processes, 0) for processes in (1, 2)] == [1, 1]
    assert (runs_at_a_time(3, 1, 0), runs_at_a_time(2, 4, 8), runs_at_a_time(1, 8, 0)) == (3, 2, 1)
    with pytest.raises(
        InputError,
        match=r"--jobs is 3, .* launch\.processes 4, .* 12 GPUs, but 8 are visible\. Lower --jobs to 2",
    ):
        runs_at_a_time(3, 4, 8)
    with pytest.raises(InputError, match=r"takes 4 GPUs, but none is visible\. Lower --jobs to 1"):
        runs_at_a_time(2, 2, 0)


def test_fewer_gpus_than_processes_are_refused_but_none_at_all_is_a_cpu():
    refuse_too_few_gpus(8, 8)
    refuse_too_few_gpus(8, 0)
    with pytest.raises(
        InputError, match=r"launch\.processes is 8, and each needs a GPU, but only one is visible"
    ):
        refuse_too_few_gpus(8, 1)
    assert "on the CPU" in describe_launch(2, 0)
    assert "only one is visible: this machine cannot run it" in describe_launch(2, 1)
    assert describe_launch(8, 8) == "each run is trained by 8 processes, one a GPU"


def test_nothing_is_started_or_written_where_gpus_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pretended = pretend(monkeypatch)
    monkeypatch.setattr(sweeping, "visible_gpus", lambda: ["0"])
    path = write_sweep(tmp_path, grid={"seed": [0]}, launch=TWO)
    with pytest.raises(InputError, match=r"launch\.processes is 2, and each needs a GPU"):
        sweep(path)
    assert pretended.done == []
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_gone_on_with_by_another_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pretended = pretend(monkeypatch)
    path = write_sweep(tmp_path, grid={"seed": [0]})
    sweep(path)
    with pytest.raises(InputError, match=r"seed0 was begun with launch\.processes null, not 2"):
        sweep(path, ["launch.processes=2"])
    assert pretended.done == ["seed0"]


def test_a_worker_has_the_gpus_of_its_processes_and_the_cores_of_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(16), raising=False)
    monkeypatch.setattr(sweep_workers, "visible_gpus", lambda: list("01234567"))
    assert environments(2, 4) == [
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0,1,2,3"},
        {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "4,5,6,7"},
    ]
    assert environments(1, 3)[0]["CUDA_VISIBLE_DEVICES"] == "0,1,2"


def test_a_dry_run_tells_no_time_where_the_model_does_not_fit_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def too_large(run: RunPlan, plan: SweepPlan) -> None:
        raise RowTooLarge("memory runs out on a row of 9 tokens. Lower training.token_budget")

    monkeypatch.setattr(cost, "_measured", too_large)
    said: list[str] = []
    path = write_sweep(tmp_path, grid={"seed": [0]}, launch=TWO)
    sweep(path, dry_run=True, say=said.append)
    assert "do not fit in one process, so no time can be told" in said[-1]
    with pytest.raises(InputError, match="memory runs out on a row of 9 tokens"):
        sweep(path, ["launch=null"], dry_run=True)


# ---- why it failed ----
ELASTIC = "E1121 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: {}) local_rank: {} (pid: 7)"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            f"minordpo: row 3 is bad. Drop it\n{ELASTIC.format(2, 1)}\nTraceback\ntorch.x.ChildFailedError: all\n",
            "row 3 is bad. Drop it (process 2 of 8: its process ended with status 2 in the middle of it)",
        ),
        (
            f"step 1\rValueError is a word\ntorch.OutOfMemoryError: CUDA out of memory\n\n{ELASTIC.format(1, 0)}\n",
            "torch.OutOfMemoryError: CUDA out of memory (process 1 of 8: its process ended with status 1 in the middle "
            "of it)",
        ),
        (
            f"step 1\n{ELASTIC.format(-9, 3)}\nRootError: x",
            "process 4 of 8: its process was ended by SIGKILL, as the system does where memory runs out",
        ),
        ("", "torchrun: its process ended with status 1 in the middle of it"),
    ],
)
def test_a_failure_is_told_by_the_runs_own_error_and_the_first_process_that_ended(said: str, expected: str):
    assert why(1, said, 8) == expected


def test_a_launch_that_fails_says_why_from_this_starts_part_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job = job_of(tmp_path)
    in_place_of_torchrun(monkeypatch, "raise SystemExit(3)")
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "seed0.txt"
    log.write_text("KeyError: of an earlier start\n")
    with pytest.raises(TrainingStopped, match=r"^torchrun: its process ended with status 3"):
        do_job(job, print)
    in_place_of_torchrun(monkeypatch, FAILING)
    with pytest.raises(TrainingStopped, match=r"^the data are gone\. Bring them back \(torchrun: "):
        do_job(job, print)
    assert log.read_text().startswith("KeyError: of an earlier start\nValueError: of this start\n")
    assert load_config(tmp_path / "logs" / "seed0.yaml", []) == job.config


# ---- who ends whom ----
def _starts(script: str, job: RunJob) -> None:
    """A sweep of that one job, until it is killed."""
    launch._TORCHRUN = ("-c", script)
    with Workers(do_job, 1, job.logs, method="fork") as workers:
        workers.give(job)
        while True:
            workers.events(60.0)


def started(job: RunJob) -> Callable[[], int]:
    def read() -> int:
        file = job.logs / "seed0.yaml.pid"
        return int(file.read_text() or 0) if file.exists() else 0

    return read


@pytest.fixture
def forked() -> Iterator[Callable[..., Any]]:
    """Starts processes that have what is imported here, and leaves none of them."""
    processes = []

    def start(target: Callable[..., None], *arguments: Any) -> Any:
        process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
        process.start()
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.join()


def test_leaving_a_sweep_ends_what_its_worker_has_launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = job_of(tmp_path)
    in_place_of_torchrun(monkeypatch, WAITING)
    read = started(job)
    with Workers(do_job, 1, tmp_path / "logs", method="fork") as workers:
        workers.give(job)
        assert eventually(lambda: read() > 0)
        assert not gone(read())
    assert gone(read())


def test_a_killed_sweep_leaves_nothing_launched_behind(tmp_path: Path, forked: Callable[..., Any]):
    job = job_of(tmp_path)
    parent = forked(_starts, WAITING, job)
    read = started(job)
    assert eventually(lambda: read() > 0)
    assert not gone(read())
    os.kill(parent.pid, signal.SIGKILL)
    assert eventually(lambda: gone(read()))


def test_a_launch_waits_for_one_that_outlived_its_worker_and_never_trains_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked: Callable[..., Any]
):
    job = job_of(tmp_path)
    in_place_of_torchrun(monkeypatch, WAITING)
    worker = forked(do_job, job, print)
    read = started(job)
    assert eventually(lambda: read() > 0)
    worker.kill()
    worker.join()
    orphan = read()
    assert not gone(orphan)
    said: list[str] = []
    in_place_of_torchrun(monkeypatch, FAILING)

    def start_again() -> None:
        with pytest.raises(TrainingStopped):
            do_job(job, said.append)

    again = threading.Thread(target=start_again)
    again.start()
    assert eventually(lambda: len(said) == 1)
    time.sleep(0.2)
    assert said == ["waiting for the processes of an earlier start, which still train it"]
    os.kill(orphan, signal.SIGKILL)
    again.join(30)
    assert said[1:] == ["training"]
    assert "the data are gone" in (tmp_path / "logs" / "seed0.txt").read_text()


def test_what_an_earlier_start_has_finished_meanwhile_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    job = job_of(tmp_path)
    in_place_of_torchrun(monkeypatch, FAILING)
    monkeypatch.setattr(launch, "finished", lambda folder: True)
    launch.train_by_processes(job.config, job.processes, job.logs, print)
    assert not (tmp_path / "logs" / "seed0.txt").exists()
