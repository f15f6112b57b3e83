"""`minordpo sweep`: many runs from one file, side by side, into one table. Read this first.

SWEEP.yaml ─► plan: run plans                 plan      names: names, what runs may stand on: foundation
plan × what is on disk ─► what is to be done  folder    sweep.json, failed.txt; other sweeps are refused: identity
jobs ─► workers                               workers   what a job does: jobs, of several processes: launch
each run's end ─► its row                     results   results.csv

Everything is kept in run folders as it comes, so a sweep that is stopped, killed or unplugged goes on by the same
command.
"""

from __future__ import annotations

import fnmatch
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minordpo.errors import InputError
from minordpo.run_folder import names, records
from minordpo.run_folder.lock import only_here
from minordpo.sweep.cost import estimate, seconds_before, unmade
from minordpo.sweep.folder import SweepFolder
from minordpo.sweep.foundation import Extension
from minordpo.sweep.jobs import AnyJob, FoundationJob, RunJob, UntunedJob, do_job
from minordpo.sweep.launch import describe_launch, refuse_too_few_gpus, runs_at_a_time
from minordpo.sweep.names import in_order
from minordpo.sweep.plan import RunPlan, SweepPlan, load_plan
from minordpo.sweep.results import results_table
from minordpo.sweep.workers import Event, Workers, one_gpu, visible_gpus
from minordpo.train.dry_run.measure import duration

_WAIT = 1.0  # seconds after which the clock is read again
Say = Callable[[str], None]


def sweep(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    extension: Extension = None,
    jobs: int | None = None,
    only: str | None = None,
    retry: bool = False,
    dry_run: bool = False,
    allow_code: bool = False,
    say: Say = print,
) -> int:
    """Do what the sweep's file says and is not done yet; the number of its runs that have failed.

    `extension` is what the runs may stand on, which adds a section to the file. `jobs` runs go at a time (unless told
    as many as there are GPUs for, or one). `only` is a pattern such as "minordpo-*" for names; `retry` runs failed ones
    again. `allow_code` lets runs import the function that they name as their objective.

    Raises:
        InputError: the file or the output folder cannot be used; nothing was run then.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs is {jobs}, but at least 1 is needed. Raise it")
    plan = load_plan(path, overrides, extension=extension, allow_code=allow_code)
    gpus = len(visible_gpus())
    at_a_time = runs_at_a_time(jobs, plan.processes, gpus)
    folder = SweepFolder(plan.output)
    if dry_run:
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
    logs = plan.output / names.SWEEP_LOGS
    with only_here(plan.output, doing="sweeping"):
        plan = folder.reconciled(plan)
        chosen = _chosen(plan, only)
        folder.begin(plan)
        todo = _todo(chosen, folder, retry)
        say(describe(chosen, folder, todo, retry=retry))
        rows = folder.results()
        untuned = untuned_jobs(chosen, folder, todo)
        unasked: list[str] = []
        if todo or untuned:
            count = min(at_a_time, len(todo) + len(untuned))
            with Workers(do_job, count, logs, processes=plan.processes) as workers:
                unasked = _Loop(chosen, folder, workers, todo, untuned, say).run()
            rows = folder.results([run.name for run in todo])
    say("\n" + results_table(rows) if rows else "")
    failed = [run for run in plan.runs if folder.state(run, plan) == "failed"]
    say(
        f"\n{plan.output}: results.csv holds {len(rows)} rows, each run its own folder"
        + (f"; {len(failed)} failed, run them again by --retry ({logs.name}/ has more)" if failed else "")
        + "".join(f"; {name} was not asked, the same command asks it again" for name in unasked)
    )
    return len(failed) + len(unasked) + sum(row["status"] == "unreadable" for row in rows)


def _chosen(plan: SweepPlan, only: str | None) -> SweepPlan:
    """The plan of those runs alone whose name is matched."""
    if only is None:
        return plan
    runs = tuple(run for run in plan.runs if fnmatch.fnmatchcase(run.name, only))
    if not runs:
        raise InputError(
            f"--only is {only!r}, which matches none of the {len(plan.runs)} runs ({plan.runs[0].name}, …). Correct "
            "it; * stands for anything"
        )
    return replace(plan, runs=runs)


def _todo(plan: SweepPlan, folder: SweepFolder, retry: bool) -> list[RunPlan]:
    wanted = {"new", "begun", "failed"} if retry else {"new", "begun"}
    return [run for run in plan.runs if folder.state(run, plan) in wanted]


def untuned_jobs(plan: SweepPlan, folder: SweepFolder, todo: Sequence[RunPlan]) -> list[UntunedJob]:
    """The models that runs start from and that are not asked yet, each once; not those of runs that stay failed."""
    jobs: dict[Path, UntunedJob] = {}
    to_run = {run.name for run in todo}
    for run in plan.runs:
        out, asked = plan.untuned(run) or (None, None)
        if out is None or asked is None or (out / names.RESULTS).exists():
            continue
        if run.name in to_run or folder.state(run, plan) == "done":
            name, model = f"untuned-{out.name}", run.config.model.path
            jobs.setdefault(out, UntunedJob(name, run.foundation, out, model, asked))
    return list(jobs.values())


def describe(plan: SweepPlan, folder: SweepFolder, todo: Sequence[RunPlan], *, retry: bool) -> str:
    """The plan in words: what varies, what is shared, how much is there already."""
    lines = [f"{plan.output}: {len(plan.runs)} {'run' if len(plan.runs) == 1 else 'runs'}"]
    for key in in_order({key for run in plan.runs for key in run.settings}):
        values = dict.fromkeys(json.dumps(run.settings[key]) for run in plan.runs if key in run.settings)
        lines.append(f"  {key}: {', '.join(value.strip(chr(34)) for value in values)}")
    lines += [f"  {note}" for note in plan.notes]
    if plan.processes > 1:
        lines.append(f"  {describe_launch(plan.processes, len(visible_gpus()))}")
    if foundations := plan.foundations:
        made = sum(each.made for each in foundations)
        kind = foundations[0].kind
        lines.append(f"  {kind}s: {len(foundations)}, {made} of them made; runs on one share it")
    # As far as configs tell what a reference pass depends on.
    configs = [run.config for run in plan.runs if run.config.metrics.reference]
    references = {
        repr((each.model, each.data, each.training.arguments.get("bf16", False))) for each in configs
    }
    lines.append(f"  reference passes: {len(references)}, each shared by its runs")
    if untuned := plan.untuned_models():
        done = sum((path / names.RESULTS).exists() for path in untuned)
        lines.append(f"  untuned models: {len(untuned)} to be asked the same, {done} of them done")
    if plan.evaluate is not None and None in map(plan.untuned, plan.runs):
        lines.append(
            "  untuned models with gguf_file, revision or trust_remote_code are not asked: nothing is told against them"
        )
    states = [folder.state(run, plan) for run in plan.runs]
    counted = [f"{states.count('done')} done", f"{states.count('begun')} begun"]
    if failed := states.count("failed"):
        counted.append(f"{failed} failed" + ("" if retry else ", run again only with --retry"))
    lines.append(f"  {'; '.join(counted)}; {len(todo)} to do")
    return "\n".join(lines)


@dataclass
class _Loop:
    """Gives jobs to workers as they become free, and keeps what they tell."""

    plan: SweepPlan
    folder: SweepFolder
    workers: Workers
    todo: list[RunPlan]
    untuned: list[UntunedJob]
    say: Say

    def __post_init__(self) -> None:
        self.runs = {run.name: run for run in self.todo}
        self.unmade = unmade(self.todo)
        self.queue = self._jobs()
        self.doing: dict[str, str] = {}
        self.given: dict[str, float] = {}  # when each job was
        # Seconds of each kind of job, this start's and before.
        self.took: dict[type, list[float]] = defaultdict(list)
        self.took[RunJob], self.took[FoundationJob] = seconds_before(self.plan, self.folder)
        self.ended = 0
        self.unasked: list[str] = []

    def run(self) -> list[str]:
        """Until every run has ended; the untuned models that could not be asked."""
        if left := _left(self._seconds_left()):
            self.say(f"  {left.removeprefix('; ')}, by those that are done")
        terminal, total = sys.stderr.isatty(), len(self.runs)
        # Its own estimate is left out: it would take foundations that were made first for a part of each run.
        bar = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        with tqdm(total=total, desc="runs", bar_format=bar, dynamic_ncols=True) as self.bar:
            while self.queue or self.workers.busy:
                while self.workers.free and (job := self._next()) is not None:
                    self.doing[job.name], self.given[job.name] = "starting", time.perf_counter()
                    if isinstance(job, FoundationJob):
                        self._tell(f"{job.name}: making this {job.foundation.kind}, for which its runs wait")
                    self.workers.give(job)
                for event in self.workers.events(_WAIT):
                    self._take(event)
                if terminal:
                    self.bar.set_postfix_str(
                        "; ".join(f"{name}: {what}" for name, what in self.doing.items())
                    )
        return self.unasked

    def _jobs(self) -> list[AnyJob]:
        """The untuned models, then the runs in their order, a foundation not made yet before the first of its runs."""
        jobs: list[AnyJob] = [*self.untuned]
        waiting = [*self.unmade]
        for run in self.todo:
            if run.foundation in waiting:
                waiting.remove(run.foundation)
                jobs.append(FoundationJob(run.foundation.folder.name, run.foundation))
            asked, logs = self.plan.evaluation(run), self.plan.output / names.SWEEP_LOGS
            code = self.plan.allow_code
            jobs.append(RunJob(run.name, run.foundation, run.config, asked, run.processes, logs, code))
        return jobs

    def _next(self) -> AnyJob | None:
        """The first job that waits for no foundation."""
        for job in self.queue:
            if isinstance(job, FoundationJob) or job.foundation not in self.unmade:
                self.queue.remove(job)
                return job
        return None

    def _take(self, event: Event) -> None:
        job = event.job
        if event.kind == "doing":
            self.doing[job.name] = event.text
            return
        self.doing.pop(job.name, None)
        error = event.text if event.kind == "failed" else None
        if error is None:
            self.took[type(job)].append(time.perf_counter() - self.given[job.name])
        if isinstance(job, RunJob):
            self._end(job.name, error)
        elif isinstance(job, UntunedJob):
            if error is not None:
                self.unasked.append(job.name)
                self._tell(f"{job.name}: not asked, so nothing can be told against it: {error}")
        else:
            self.unmade.remove(job.foundation)
            if error is None:
                self._tell(f"{job.name}: {job.foundation.outcome()}")
                return
            waiting = [each for each in self.queue if each.foundation == job.foundation]
            self.queue = [each for each in self.queue if each not in waiting]
            for each in waiting:
                if isinstance(each, RunJob):
                    self._end(each.name, f"its {job.foundation.section} could not be made: {error}")

    def _end(self, name: str, error: str | None) -> None:
        """A run has ended: write its row, and say in a line what came of it."""
        if error is not None:
            self.folder.fail(self.runs[name], error)
        row = next(each for each in self.folder.results([name]) if each["run"] == name)
        self.ended += 1
        self._tell(f"[{self.ended}/{len(self.runs)}] {name}: {_outcome(row)}{_left(self._seconds_left())}")
        self.bar.update()

    def _seconds_left(self) -> float:
        """By what jobs took so far; 0 where that is not known, or none is left."""
        left = {RunJob: len(self.runs) - self.ended, FoundationJob: len(self.unmade)}
        if not self.took[RunJob] or not left[RunJob]:
            return 0.0
        seconds = sum(statistics.median(took) * n for kind, n in left.items() if (took := self.took[kind]))
        return seconds / self.workers.count

    def _tell(self, line: str) -> None:
        with tqdm.external_write_mode():
            self.say(line)


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
    return f"; {duration(seconds)} left" if seconds > 0 else ""
