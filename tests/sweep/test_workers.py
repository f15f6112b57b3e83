"""Workers: they live for many jobs, die alone, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.places import TESTS
from helpers.processes import eventually, gone
from helpers.worker_jobs import Job, do
from minordpo.sweep import workers as sweep_workers
from minordpo.sweep.launch import runs_at_a_time
from minordpo.sweep.workers import Event, Workers, environments, one_gpu


def told(workers: Workers, *, until: int) -> list[Event]:
    """Events up to that many ends of jobs."""
    found: list[Event] = []
    while sum(event.kind != "doing" for event in found) < until:
        found += workers.events(60.0)
    return found


def pid(folder: Path, name: str) -> int:
    return int((folder / name).read_text().split()[0])


def test_a_worker_outlives_its_jobs_and_what_they_refuse_but_not_what_breaks(tmp_path: Path):
    whats = ["tell", "refuse", "break", "tell", "die", "tell", "leave", "tell"]
    with Workers(do, 1, tmp_path / "logs") as workers:
        assert workers.free == 1
        events = []
        for place, what in enumerate(whats):
            workers.give(Job(f"{place}-{what}", what, tmp_path))
            assert (workers.busy, workers.free) == (1, 0)
            events += told(workers, until=1)
    ends = [(event.kind, event.text) for event in events if event.kind != "doing"]
    assert ends == [
        ("done", ""),
        ("failed", "the data are gone. Bring them back"),
        ("failed", "ZeroDivisionError: 1 / 0"),
        ("done", ""),
        ("failed", "its process was ended by SIGKILL, as the system does where memory runs out"),
        ("done", ""),
        ("failed", "its process ended with status 3 in the middle of it"),
        ("done", ""),
    ]
    assert [event.text for event in events if event.kind == "doing"] == ["halfway"] * 4
    ids = [pid(tmp_path, f"{place}-{what}") for place, what in enumerate(whats)]
    assert ids[0] == ids[1] == ids[2]
    assert ids[3] == ids[4]
    assert len(set(ids)) == 4
    log = (tmp_path / "logs" / "2-break.txt").read_text()
    assert "2-break was here" in log
    assert "Traceback" in log


def test_workers_share_cores_and_take_gpus_in_turn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(7), raising=False)
    assert environments(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert environments(9) == [{"OMP_NUM_THREADS": "1"}] * 9
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-6")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(3)] == ["4", "GPU-6", "4"]
    assert "OMP_NUM_THREADS" not in environments(1)[0]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert sweep_workers.visible_gpus() == ["0", "1"]


def test_more_jobs_than_gpus_share_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert runs_at_a_time(6, 1, len(sweep_workers.visible_gpus())) == 6
    assert [each["CUDA_VISIBLE_DEVICES"] for each in environments(6)] == ["0"] * 6


@pytest.mark.parametrize("before", [None, "4,5"])
def test_a_dry_run_sees_one_of_several_gpus(monkeypatch: pytest.MonkeyPatch, before: str | None):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with one_gpu():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ("0" if before is None else "4")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_what_a_worker_may_use_is_in_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        sweep_workers,
        "environments",
        lambda count, processes: [{"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "7"}] * count,
    )
    with Workers(do, 1, tmp_path / "logs") as workers:
        workers.give(Job("a", "tell", tmp_path))
        told(workers, until=1)
        process = workers._workers[0].process
    assert (tmp_path / "a").read_text().split()[1:] == ["3", "7"]
    assert process.exitcode == 0  # it was not killed, so it gave everything back


def test_leaving_ends_workers_in_the_middle_of_their_jobs(tmp_path: Path):
    with Workers(do, 2, tmp_path / "logs") as workers:
        for name in ("a", "b"):
            workers.give(Job(name, "wait", tmp_path))
        assert eventually(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
        processes = [worker.process for worker in workers._workers.values()]
    assert [process.exitcode for process in processes] == [143, 143]  # 128 + SIGTERM
    assert all(gone(pid(tmp_path, name)) for name in ("a", "b"))


_PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from minordpo.sweep import workers as sweep_workers
from helpers.worker_jobs import Job, do
if __name__ == "__main__":
    sweep_workers.environments = lambda count, processes: [{{}}] * count
    with sweep_workers.Workers(do, 1, Path({folder!r}) / "logs") as workers:
        workers.give(Job("a", "wait", Path({folder!r})))
        workers.events(60.0)
"""


def test_a_killed_sweep_leaves_no_worker_behind(tmp_path: Path):
    script = tmp_path / "parent.py"
    script.write_text(_PARENT.format(tests=str(TESTS), folder=str(tmp_path)))
    parent = subprocess.Popen([sys.executable, str(script)])
    try:
        assert eventually((tmp_path / "a").exists)
        assert not gone(pid(tmp_path, "a"))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert eventually(lambda: gone(pid(tmp_path, "a")))
