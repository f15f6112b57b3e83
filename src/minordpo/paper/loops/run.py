"""The loops of a study's phase, several at a time, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from minordpo.paper.loops.study import Phase, Study, StudyLoop, loops_of
from minordpo.run_folder import names


def run_study(
    file: Path, overrides: Sequence[str], study: Study, phase: Phase, *, jobs: int, only: Sequence[str] = ()
) -> list[StudyLoop]:
    """Run the loops that have not ended, `jobs` at a time; the loops that failed.

    Each loop's words go to a log beside its folder. The loops of one seed run one after the other in this order, so
    that the first of them makes what all share while other seeds' loops go on.
    """
    wanted = loops_of(study, phase, arms={name: study.arms[name] for name in only} if only else None)
    todo = [each for each in wanted if not has_ended(each)]
    failed: list[StudyLoop] = []
    by_seed: dict[int, list[StudyLoop]] = {}
    for each in todo:
        by_seed.setdefault(each.seed, []).append(each)
    with tqdm(total=len(todo), desc=f"{phase}", unit="loop") as bar, ThreadPoolExecutor(jobs) as pool:

        def of_seed(loops: Sequence[StudyLoop]) -> None:
            for each in loops:
                if _run_one(file, overrides, each, jobs):
                    failed.append(each)
                    tqdm.write(f"{each.name} failed; {log_of(each)} says why", file=sys.stderr)
                bar.update()

        for done in as_completed([pool.submit(of_seed, loops) for loops in by_seed.values()]):
            done.result()
    return failed


def has_ended(this: StudyLoop) -> bool:
    """Whether the loop came to its end."""
    record = this.folder / names.LOOP_RECORD
    return record.exists() and json.loads(record.read_text(encoding="utf-8")).get("ended") is not None


def log_of(this: StudyLoop) -> Path:
    """What the loop's process said."""
    return this.folder.with_name(f"{this.name}.log")


def _run_one(file: Path, overrides: Sequence[str], this: StudyLoop, jobs: int) -> int:
    log = log_of(this)
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    command = [sys.executable, "-m", "minordpo.paper.loops.one", str(file), this.phase, this.arm_name]
    command += [str(this.seed), repr(this.rate), *overrides]
    with log.open("a", encoding="utf-8") as said:
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "TQDM_DISABLE": "1"}
        return subprocess.run(command, stdout=said, stderr=said, env=environment, check=False).returncode
