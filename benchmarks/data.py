"""How long do data take before the first step, and how much memory, from 1,000 to 1,000,000 pairs?

    python benchmarks/data.py --model FOLDER --chat ../shared/data/chat/dpo_en_demo.json
    python benchmarks/data.py --figure docs/figures/data.png     # from benchmarks/data.csv

Each start is a process of its own. The first one finds no cache and makes it, the later one finds tokens and reference
log-probs there. Both do what a run does with its data before the first step; no model is run: the reference cache is
filled with zeros between the two. `--model` needs a tokenizer only.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import append_rows, machine

SIZES = (1_000, 10_000, 100_000, 1_000_000)
DISTINCT = 20_000  # word problems; more pairs are these again with another number in front of the question
HERE = Path(__file__).parent
_LOOKED_UP = 1_000  # reference log-probs that a start reads, as its first steps would

_PAUSE = 0.05  # seconds between two looks at memory, at least


def main() -> None:
    """Measure every size, or draw what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="FOLDER", help="its tokenizer is used")
    parser.add_argument("--sizes", type=lambda text: [int(each) for each in text.split(",")], default=SIZES)
    parser.add_argument("--chat", metavar="FILE", help="pairs of a second kind, all of them")
    parser.add_argument(
        "--folder", type=Path, help="keep the pairs there for the next time (3 GB at 1,000,000)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "data.csv")
    parser.add_argument("--figure", type=Path, metavar="PNG", help="draw the CSV and measure nothing")
    parser.add_argument("--start", nargs=2, help=argparse.SUPPRESS)  # FILE CACHE: this is a measured process
    arguments = parser.parse_args()
    if arguments.figure:
        draw(arguments.out, arguments.figure)
        return
    if arguments.model is None:
        parser.error("--model is missing")
    if arguments.start:
        start(arguments.model, *arguments.start)
        return
    with tempfile.TemporaryDirectory(prefix="minordpo-data-") as aside:
        folder = arguments.folder or Path(aside)
        folder.mkdir(parents=True, exist_ok=True)
        for size in arguments.sizes:
            file = folder / f"close-{size}.jsonl"
            if not file.exists():
                write_close_pairs(file, size)
            measure("close word problems", str(file), arguments)
        if arguments.chat:
            measure("chat", arguments.chat, arguments)


# ---- the pairs ----
def write_close_pairs(out: Path, count: int) -> None:
    """Write close pairs of generated word problems, as `minordpo data corrupt` makes them."""
    from minordpo.data.make.close_pairs import PAPER_PROMPT, ClosePair, corrupt_row
    from minordpo.data.make.problems import generate_problems
    from minordpo.run_folder.files import write_jsonl

    wanted = min(count, DISTINCT)
    made = (corrupt_row(problem.row()) for problem in generate_problems(wanted + wanted // 10, seed=0))
    usable = [each.row(prompt=PAPER_PROMPT, chat=True) for each in made if isinstance(each, ClosePair)][
        :wanted
    ]

    def numbered() -> Iterator[dict[str, Any]]:
        for number, row in zip(range(count), itertools.cycle(usable), strict=False):
            if number >= wanted:
                (asked,) = row["prompt"]
                question = f"\n{number}. {row['question']}"
                row = {
                    **row,
                    "prompt": [{**asked, "content": asked["content"].rpartition("\n")[0] + question}],
                }
            yield row

    write_jsonl(out, numbered())


# ---- a start ----
def measure(kind: str, file: str, arguments: argparse.Namespace) -> None:
    """A first and a later start on the file, each as a row of the CSV."""
    with tempfile.TemporaryDirectory(prefix="minordpo-data-cache-", dir=arguments.folder) as cache:
        for when in ("first", "later"):
            found = watch([sys.executable, __file__, "--model", arguments.model, "--start", file, cache])
            row = {**machine(), "kind": kind, "start": when, "cores": len(os.sched_getaffinity(0)), **found}
            append_rows(arguments.out, [row])
            each = 1e6 * found["seconds"] / found["pairs"]
            print(
                f"{kind}, {found['pairs']:,} pairs, {when} start: {found['seconds']} s ({each:.0f} µs a pair; "
                f"{found['cpu_seconds']} s of processors), {found['own_mb']} MB own and {found['all_mb']} MB with "
                "mapped files above a start without data",
                flush=True,
            )


def watch(command: list[str]) -> dict[str, Any]:
    """What a measured process prints, and the most memory that it and its processes held beyond what it began with."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    while process.stdout.readline() != "ready\n":
        if process.poll() is not None:
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    before = most = memory(process.pid)
    process.stdin.write("go\n")
    process.stdin.flush()
    pause = _PAUSE
    # What the process does after it has told is not measured.
    while not select.select([process.stdout], [], [], pause)[0]:
        began = time.perf_counter()
        now = memory(process.pid)
        most = max(most[0], now[0]), max(most[1], now[1])
        pause = max(_PAUSE, 30 * (time.perf_counter() - began))  # looking takes at most 3 % of a core
    found: dict[str, Any] = json.loads(process.stdout.readline())
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    own, every = (round((a - b) / 1e3) for a, b in zip(most, before, strict=True))
    return {**found, "own_mb": own, "all_mb": every}


def memory(pid: int) -> tuple[int, int]:
    """kB of a process and those below it: their own, and with mapped files; what several share is counted once."""
    own = every = 0
    for each in [pid, *_children(pid)]:
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
        own += sizes["Pss_Anon"] + sizes["Pss_Shmem"]
        every += sizes["Pss"]
    return own, every


def _children(pid: int) -> list[int]:
    try:
        below = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [each for child in below for each in (child, *_children(child))]


def start(model: str, file: str, cache: str) -> None:
    """What a run does with its data before the first step, timed; the reference cache is filled afterwards."""
    import numpy as np

    import minordpo.train.trainer  # noqa: F401  # what a run has imported
    from minordpo.data.cache import cached_examples
    from minordpo.data.read.rows import open_rows
    from minordpo.data.stored import StoredExamples
    from minordpo.data.tokens import TokenOptions
    from minordpo.engine.models import load_tokenizer
    from minordpo.engine.reference_cache import KnownLogps, ReferenceCache
    from minordpo.train.loader import StepSampler
    from minordpo.train.met import Met

    tokenizer = load_tokenizer(model)
    print("ready", flush=True)
    sys.stdin.readline()
    started, before = time.perf_counter(), _cpu_seconds()
    made = cached_examples(
        open_rows(file), tokenizer, TokenOptions(max_length=None), cache=Path(cache), invalid="drop"
    )
    tokenised = time.perf_counter() - started
    count = len(made.examples)
    order = np.random.default_rng(0).permutation(count)
    held, train = made.examples.take(order[:100]), made.examples.take(np.sort(order[100:]))
    everything = StoredExamples.joined([train, held])
    assert everything.longest
    assert everything.largest_id
    assert everything.are_pairs
    sampler = StepSampler(len(train), 8, seed=0, shuffle=True, drop_last=False)
    splits = {"train": (train, sampler.visited(len(sampler))), "eval": (held, np.arange(len(held)))}
    met = Met.of(splits, {"train": [], "eval": []})
    stored = ReferenceCache(Path(cache), "reference")
    known = stored.has(met.examples.keys)
    first = next(iter(sampler))
    if known.all():
        found = met.by_name(KnownLogps(stored, met.examples.keys))["train"]
        drawn = itertools.islice(itertools.chain.from_iterable(sampler), _LOOKED_UP)
        assert all(len(found[i]) for i in drawn)
    assert [train[i] for i in first]
    seconds = time.perf_counter() - started
    print(
        json.dumps(
            {
                "pairs": count,
                "seconds": round(seconds, 3),
                "cpu_seconds": round(_cpu_seconds() - before, 3),
                "tokens_seconds": round(tokenised, 3),
                "pairs_a_second": round(count / seconds),
                "reference_known": bool(known.all()),
            }
        ),
        flush=True,
    )
    if not known.all():
        sys.stdout.close()
        _fill(stored, made.examples)


def _cpu_seconds() -> float:
    """Of this process and of those that have ended below it; other work on the machine is not in it."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _fill(stored: Any, examples: Any) -> None:
    """Zeros for every scored token."""
    import numpy as np

    ends = np.cumsum(examples.counts)
    lengths = np.add.reduceat(examples.response_lengths, ends - examples.counts)
    for key, length in zip(examples.keys, lengths.tolist(), strict=True):
        stored.add(key.tobytes(), np.zeros(length, np.float32))
    stored.flush()


# ---- the figure ----
def draw(source: Path, out: Path) -> None:
    """Time a pair, seconds of a later start, and memory, over the number of pairs; the last measurement of each."""
    from minordpo.figures.canvas import COLORS, new_figure, write_figure

    last: dict[tuple[str, str, int], dict[str, str]] = {}
    with source.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            last[row["kind"], row["start"], int(row["pairs"])] = row
    with new_figure() as figure:
        figure.set_size_inches(11, 3.4)
        panels = figure.subplots(1, 3)
        headings = (
            "first start: µs of processors a pair",
            "later start: seconds",
            "memory above a start without data: MB",
        )
        for axis, heading in zip(panels, headings, strict=True):
            axis.set_title(heading, loc="left")
            axis.set_xscale("log")
            axis.set_xlabel("pairs")
        for kind, color in zip(dict.fromkeys(kind for kind, *_ in last), COLORS, strict=False):
            points = {
                when: sorted((n, row) for (k, w, n), row in last.items() if (k, w) == (kind, when))
                for when in ("first", "later")
            }
            style: dict[str, Any] = {"color": color, "marker": "o"}
            first, later = points["first"], points["later"]
            each = [(n, 1e6 * float(row["cpu_seconds"]) / n) for n, row in first if n >= SIZES[0]]
            panels[0].plot([n for n, _ in each], [cost for _, cost in each], **style)
            panels[1].plot(
                [n for n, _ in later], [float(r["seconds"]) for _, r in later], label=kind, **style
            )
            for dashes, (when, rows) in zip(("-", "--"), points.items(), strict=True):
                sizes = [float(row["own_mb"]) for _, row in rows]
                panels[2].plot([n for n, _ in rows], sizes, dashes, label=f"{kind}, {when}", **style)
        panels[0].set_ylim(0, 1000)
        panels[1].set_yscale("log")
        panels[2].set_ylim(bottom=0)
        panels[1].legend()
        panels[2].legend()
        write_figure(figure, out)


if __name__ == "__main__":
    main()
