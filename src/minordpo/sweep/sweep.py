"""`minordpo sweep`: many runs from one file, side by side, into one table. Read this first.

SWEEP.yaml ─► plan: cells, worlds             plan      names: names, what a world replaces: on_world
plan × what is on disk ─► what is to be done  folder    sweep.json, failed.txt; other sweeps are refused
jobs ─► workers                               workers   what a job does: cell, of several processes: launch
each run's end ─► its row                     ../results: results.csv, results.parquet

Everything is kept in run folders as it comes, so a sweep that is stopped, killed or unplugged goes on by the same
command.
"""

from __future__ import annotations

import fnmatch
import json
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minordpo.errors import InputError
from minordpo.paper.worlds.world import describe_base, is_made
from minordpo.run_folder import records
from minordpo.run_folder.lock import only_here
from minordpo.sweep.cost import estimate, seconds_before
from minordpo.sweep.folder import SweepFolder
from minordpo.sweep.jobs import CellJob, UntunedJob, WorldJob, do_job
from minordpo.sweep.launch import Launch, describe_launch, refuse_too_few_gpus, runs_at_a_time
from minordpo.sweep.plan import Cell, SweepPlan, load_plan
from minordpo.sweep.results import results_table
from minordpo.sweep.workers import Event, Workers, one_gpu, visible_gpus

LOGS, RESULTS = "logs", "results.json"
_WAIT = 1.0  # seconds between looks at the clock
Job = CellJob | UntunedJob | WorldJob


def sweep(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    jobs: int | None = None,
    only: str | None = None,
    retry: bool = False,
    dry_run: bool = False,
    allow_code: bool = False,
    start: str = "spawn",
    say: Callable[[str], None] = print,
) -> int:
    """Do what the sweep's file says and is not done yet; the number of its runs that have failed.

    `jobs` runs go at a time (unless told as many as there are GPUs for, or one). `only` is a pattern such as
    "minordpo-*" for names; `retry` runs failed ones again. `allow_code` lets runs import the function that they name
    as their objective. `start`: as `Workers`.

    Raises:
        InputError: the file or the output folder cannot be used; nothing was run then.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs is {jobs}, but at least 1 is needed. Raise it")
    plan = load_plan(path, overrides, allow_code=allow_code)
    gpus = len(visible_gpus())
    at_a_time = runs_at_a_time(jobs, plan.processes, gpus)
    if dry_run:
        folder = SweepFolder(plan.output)
        plan = _chosen(folder.reconciled(plan), only)
        todo = _todo(plan, folder, retry)
        say(describe(plan, folder, todo, retry=retry))
        if todo:
            say(
                "Estimating; a row of each kind of run is measured where none has ended: a minute or more without a GPU"
            )
        with one_gpu():
            say(estimate(plan, folder, todo, jobs=at_a_time))
        return 0
    refuse_too_few_gpus(plan.processes, gpus)
    with only_here(plan.output, doing="sweeping"):
        folder = SweepFolder(plan.output)
        plan = folder.reconciled(plan)
        chosen = _chosen(plan, only)
        folder.begin(plan)
        todo = _todo(chosen, folder, retry)
        say(describe(chosen, folder, todo, retry=retry))
        rows = folder.rows()
        untuned = untuned_jobs(chosen, folder, todo)
        unasked: list[str] = []
        if todo or untuned:
            count = min(at_a_time, len(todo) + len(untuned))
            with Workers(
                do_job, count, plan.output / LOGS, processes=plan.processes, method=start
            ) as workers:
                unasked = _Loop(chosen, folder, workers, todo, untuned, say).run()
            rows = folder.rows([cell.name for cell in todo])
        folder.write_results(rows)
    say("\n" + results_table(rows) if rows else "")
    failed = [cell for cell in plan.cells if folder.state(cell, plan) == "failed"]
    say(
        f"\n{plan.output}: results.csv and results.parquet hold {len(rows)} rows, each run its own folder"
        + (f"; {len(failed)} failed, run them again by --retry ({LOGS}/ has more)" if failed else "")
        + "".join(f"; {name} was not asked, the same command asks it again" for name in unasked)
    )
    return len(failed) + len(unasked) + sum(row["status"] == "unreadable" for row in rows)


def _chosen(plan: SweepPlan, only: str | None) -> SweepPlan:
    """The plan of those runs alone whose name is matched."""
    if only is None:
        return plan
    cells = tuple(cell for cell in plan.cells if fnmatch.fnmatchcase(cell.name, only))
    if not cells:
        names = [cell.name for cell in plan.cells]
        raise InputError(
            f"--only is {only!r}, which matches none of the {len(names)} runs ({names[0]}, …). Correct it; * stands "
            "for anything"
        )
    return replace(plan, cells=cells)


def _todo(plan: SweepPlan, folder: SweepFolder, retry: bool) -> list[Cell]:
    wanted = {"new", "begun", "failed"} if retry else {"new", "begun"}
    return [cell for cell in plan.cells if folder.state(cell, plan) in wanted]


def untuned_jobs(plan: SweepPlan, folder: SweepFolder, todo: Sequence[Cell]) -> list[UntunedJob]:
    """The models that runs start from and that are not asked yet, each once; not those of runs that stay failed."""
    jobs: dict[Path, UntunedJob] = {}
    names = {cell.name for cell in todo}
    for cell in plan.cells:
        asked = plan.untuned(cell)
        if asked is None or (asked[0] / RESULTS).exists():
            continue
        if cell.name in names or folder.state(cell, plan) == "done":
            world = None if cell.world is None else plan.world_folder(cell.world)
            jobs.setdefault(asked[0], UntunedJob(asked[0], cell.config.model.path, asked[1], world))
    return list(jobs.values())


def describe(plan: SweepPlan, folder: SweepFolder, todo: Sequence[Cell], *, retry: bool) -> str:
    """The plan in words: what varies, what is shared, how much is there already."""
    lines = [f"{plan.output}: {len(plan.cells)} {'run' if len(plan.cells) == 1 else 'runs'}"]
    for key in plan.keys:
        values = dict.fromkeys(json.dumps(c.settings[key]) for c in plan.cells if key in c.settings)
        if values:
            lines.append(f"  {key}: {', '.join(value.strip(chr(34)) for value in values)}")
    lines += [f"  {note}" for note in plan.notes]
    if plan.processes > 1:
        lines.append(f"  {describe_launch(plan.processes, len(visible_gpus()))}")
    if plan.worlds:
        made = sum(map(is_made, plan.worlds))
        lines.append(f"  micro worlds: {len(plan.worlds)}, {made} of them made; runs on one share it")
    references = {_reference(cell) for cell in plan.cells if cell.config.metrics.reference}
    lines.append(f"  reference passes: {len(references)}, each shared by its runs")
    untuned = {asked[0] for cell in plan.cells if (asked := plan.untuned(cell)) is not None}
    if untuned:
        asked_before = sum((path / RESULTS).exists() for path in untuned)
        lines.append(f"  untuned models: {len(untuned)} to be asked the same, {asked_before} of them done")
    if plan.evaluate is not None and any(plan.untuned(cell) is None for cell in plan.cells):
        lines.append(
            "  untuned models with gguf_file, revision or trust_remote_code are not asked: nothing is told against them"
        )
    states = [folder.state(cell, plan) for cell in plan.cells]
    counted = [f"{states.count('done')} done", f"{states.count('begun')} begun"]
    failed = states.count("failed")
    if failed:
        counted.append(f"{failed} failed" + ("" if retry else ", run again only with --retry"))
    lines.append(f"  {'; '.join(counted)}; {len(todo)} to do")
    return "\n".join(lines)


def _reference(cell: Cell) -> str:
    """What runs of one reference pass have in common, as far as the configs tell."""
    config = cell.config
    arguments = config.training.arguments
    return repr((config.model, config.data, arguments.get("bf16", False)))


class _Loop:
    """Gives jobs to workers as they become free, and keeps what they tell."""

    def __init__(
        self,
        plan: SweepPlan,
        folder: SweepFolder,
        workers: Workers,
        todo: list[Cell],
        untuned: list[UntunedJob],
        say: Callable[[str], None],
    ) -> None:
        self.plan, self.folder, self.workers, self.say = plan, folder, workers, say
        self.cells = {cell.name: cell for cell in todo}
        needed = {cell.world for cell in todo}
        self.worlds = {  # not made yet
            path: world for path, world in plan.worlds.items() if world in needed and not is_made(path)
        }
        self.untuned = untuned
        self.doing: dict[str, str] = {}
        self.given: dict[str, float] = {}  # when each job was
        self.took: dict[type[Job], list[float]] = {CellJob: [], WorldJob: []}  # seconds, since this start
        self.before = dict(zip(self.took, seconds_before(plan, folder), strict=True))
        self.ended = 0
        self.unasked: list[str] = []

    def run(self) -> list[str]:
        """Until every run has ended; the untuned models that could not be asked."""
        queue = self._queue()
        if left := _left(self._seconds_left()):
            self.say(f"  {left.removeprefix('; ')}, by those that are done")
        terminal, total = sys.stderr.isatty(), len(self.cells)
        # Its own estimate is left out: it would take worlds that were made first for a part of each run.
        bar = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        with tqdm(total=total, desc="runs", bar_format=bar, dynamic_ncols=True) as self.bar:
            while queue or self.workers.busy:
                while self.workers.free and (job := self._next(queue)) is not None:
                    self.doing[job.name], self.given[job.name] = "starting", time.perf_counter()
                    if isinstance(job, WorldJob):
                        self._tell(f"{job.name}: making this micro world, for which its runs wait")
                    self.workers.give(job)
                for event in self.workers.events(_WAIT):
                    self._take(event, queue)
                if terminal:
                    self.bar.set_postfix_str(self._doing())
        return self.unasked

    def _queue(self) -> deque[Job]:
        """The untuned models, then the runs in their order, each world not made yet before the first of its runs."""
        jobs: list[Job] = [*self.untuned]
        waiting = dict(self.worlds)
        for cell in self.cells.values():
            path = None if cell.world is None else self.plan.world_folder(cell.world)
            if path in waiting:
                jobs.append(WorldJob(path, waiting.pop(path)))
            jobs.append(self._job(cell))
        return deque(jobs)

    def _job(self, cell: Cell) -> CellJob:
        evaluation = self.plan.evaluation(cell)
        retention = None
        if cell.world is not None and evaluation is not None:
            retention = self.plan.world_folder(cell.world) / "retention.jsonl"
        launch = (
            Launch(cell.processes, self.plan.output / LOGS, self.plan.allow_code)
            if cell.processes > 1
            else None
        )
        return CellJob(cell.config, evaluation, retention, launch, self.plan.allow_code)

    def _next(self, queue: deque[Job]) -> Job | None:
        """The first job that waits for no world."""
        for job in queue:
            if isinstance(job, WorldJob) or self._world_of(job) not in self.worlds:
                queue.remove(job)
                return job
        return None

    def _world_of(self, job: CellJob | UntunedJob) -> Path | None:
        if isinstance(job, UntunedJob):
            return job.world
        world = self.cells[job.name].world
        return None if world is None else self.plan.world_folder(world)

    def _take(self, event: Event, queue: deque[Job]) -> None:
        job = event.job
        if event.kind == "doing":
            self.doing[job.name] = event.text
            return
        self.doing.pop(job.name, None)
        if event.kind == "done" and type(job) in self.took:
            self.took[type(job)].append(time.perf_counter() - self.given[job.name])
        if isinstance(job, CellJob):
            self._end(job, event.text if event.kind == "failed" else None)
            return
        if isinstance(job, UntunedJob):
            if event.kind == "failed":
                self.unasked.append(job.name)
                self._tell(f"{job.name}: not asked, so nothing can be told against it: {event.text}")
            return
        self.worlds.pop(job.folder)
        if event.kind == "done":
            self._tell(f"{job.name}: {describe_base(job.folder)}")
            return
        for waiting in [each for each in queue if not isinstance(each, WorldJob)]:
            if self._world_of(waiting) != job.folder:
                continue
            queue.remove(waiting)
            if isinstance(waiting, CellJob):
                self._end(waiting, f"its world could not be made: {event.text}")

    def _end(self, job: CellJob, error: str | None) -> None:
        """A run has ended: write its row, and say in a line what came of it."""
        cell = self.cells[job.name]
        if error is not None:
            self.folder.fail(cell, error)
        rows = self.folder.rows([cell.name])
        self.folder.write_results(rows)
        row = next(each for each in rows if each["run"] == cell.name)
        self.ended += 1
        self._tell(
            f"[{self.ended}/{len(self.cells)}] {cell.name}: {_outcome(row)}{_left(self._seconds_left())}"
        )
        self.bar.update()

    def _seconds_left(self) -> float:
        """By what runs and worlds took since this start, or before it; 0 where that is not known, or none is left."""
        left = {CellJob: len(self.cells) - self.ended, WorldJob: len(self.worlds)}
        took = {kind: self.took[kind] or self.before[kind] for kind in left}
        if not took[CellJob] or not left[CellJob]:
            return 0.0
        seconds = sum(statistics.median(took[kind]) * count for kind, count in left.items() if took[kind])
        return seconds / self.workers.count

    def _tell(self, line: str) -> None:
        with tqdm.external_write_mode():
            self.say(line)

    def _doing(self) -> str:
        """What the workers are at; steps are counted from the run's own file."""
        said = []
        for name, what in self.doing.items():
            step = _last_step(self.plan.output / name / "metrics.jsonl") if what == "training" else None
            said.append(f"{name}: {what}" + ("" if step is None else f", step {step}"))
        return "; ".join(said)


def _outcome(row: dict[str, Any]) -> str:
    if row["status"] in ("failed", "unreadable"):
        return f"{row['status']}: {row['error']}"
    parts = [] if row["health"] is None else [row["health"]]
    if row["collapsed_step"] is not None:
        parts.append(f"collapsed from step {row['collapsed_step']}")
    ratio = row.get(records.held_out(records.CHOSEN_LOGRATIO))
    if ratio is not None:
        parts.append(f"chosen {ratio:+.1f} nats")
    if row["strict_accuracy"] is not None:
        parts.append(f"{row['strict_accuracy']:.0%} right")
    return ", ".join([*parts, f"{row['total_seconds']:.0f} s"])


def _left(seconds: float) -> str:
    if seconds <= 0:
        return ""
    return f"; about {seconds / 60:.0f} minutes left" if seconds >= 90 else f"; about {seconds:.0f} s left"


def _last_step(file: Path) -> int | None:
    """The step of the last whole line; read from the end, since this is asked every second."""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - 4096))
            lines = opened.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)[records.STEP])
        except (ValueError, KeyError, TypeError):
            continue
    return None
