"""The rounds of a loop, one after the other. Read this first.

first model ─► round: prompts ─► answers ─► scores ─► pairs ─► run ─► questions ─► next round
            └► each piece is an ordinary file or run folder; a piece that is there is not made again
→ loop.json  loop.csv  loop.png  loop.svg
"""

from __future__ import annotations

import functools
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from minordpo.data.read.accounting import told
from minordpo.data.read.examples import load_examples
from minordpo.engine.models import model_config, model_folder
from minordpo.errors import InputError
from minordpo.evaluate.evaluation import evaluate
from minordpo.evaluate.tasks import load_task
from minordpo.generate.vllm_server import servable, vllm_program
from minordpo.onpolicy.loop.config import LoopConfig, dump_loop, load_loop
from minordpo.onpolicy.loop.rounds import Round, given_pairs
from minordpo.onpolicy.loop.table import as_text, table_rows, time_shares, write_table
from minordpo.onpolicy.sample_files import SampleFiles
from minordpo.onpolicy.sampling import sample
from minordpo.run_folder import names
from minordpo.run_folder.files import readable, write_text
from minordpo.run_folder.lock import only_here
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.ownership import finished, refuse_unwritable
from minordpo.run_folder.records import HealthRow, of_kind
from minordpo.train.run import load_run_tokenizer, run, validate
from minordpo.train.run_data import load_data
from minordpo.verify.prompts import Prompts, prompt_texts, read_prompts
from minordpo.verify.verifier import Verifier, load_verifier

# What may change between two starts of one loop: how long it goes on, and where it stands.
_MAY_CHANGE = ("rounds", "stop", "output")


@runtime_checkable
class RoundMaker(Protocol):
    """Makes a round's model: `make_round`, or another way to train on a round's prompts."""

    def __call__(
        self,
        this: Round,
        entry: dict[str, Any],
        prompts: Prompts,
        verifier: Verifier,
        *,
        allow_code: bool,
        say: Callable[[str], None],
        keep: Callable[[], None],
    ) -> str | None:
        """Fill the round's `entry` of loop.json and leave its model; why the loop ends here instead, or None.

        `keep` writes the entry down.
        """


def loop(
    config: LoopConfig,
    *,
    allow_code: bool = False,
    say: Callable[[str], None] = print,
    make: RoundMaker | None = None,
) -> Path:
    """Run the rounds and return the folder; the same call goes on where one was stopped.

    Raises:
        InputError: anything the user can correct; what is there stays.
    """
    folder = Path(config.output)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "a loop is run by one process, but WORLD_SIZE says several. Start minordpo loop without torchrun"
        )
    refuse_unwritable(folder)
    prompts, verifier = check(config, allow_code=allow_code)
    with only_here(folder, doing="running a loop"):
        record = _begin(folder, config)
        _refuse_other_prompts(record, config, prompts)
        _refuse_fewer_rounds(record, config)
        record["ended"] = None
        results = _evaluated(config, record, folder)
        for number in range(1, config.rounds + 1):
            this = Round(config, number)
            this.write_prompts(prompts)
            entry = _entry(record, this)
            keep = functools.partial(_keep, folder, record, results)
            ended = (make or make_round)(
                this, entry, prompts, verifier, allow_code=allow_code, say=say, keep=keep
            )
            if ended is None:
                results = _evaluated(config, record, folder)
                ended = _stopped(config, record, entry, results)
            record["ended"] = ended
            _keep(folder, record, results)
            say(f"\nround {number} of {config.rounds}:\n{as_text(table_rows(record, results))}\n")
            if ended is not None:
                break
        record["ended"] = record["ended"] or f"all {config.rounds} rounds are done"
        _keep(folder, record, results)
        draw(folder)
    say(f"the loop ended: {record['ended']}")
    if shares := time_shares(table_rows(record, results)):
        say(shares)
    return folder


def check(config: LoopConfig, *, allow_code: bool) -> tuple[Prompts, Verifier]:
    """The prompts and the verifier, after all that shows before a model is loaded was looked at.

    Raises:
        InputError: a piece that cannot be used, or prompts among the questions that are held out.
    """
    section = config.sampling
    prompts = read_prompts(
        config.prompts, split=section.split, template=section.prompt, plain_text=section.plain_text
    )
    verifier = load_verifier(config.verify, allow_code=allow_code, **(config.verify_options or {}))
    verifier.check([each.asked for each in prompts.prompts])
    first = Round(config, 1)
    config.drawn(1, first.prompts)
    if config.mix.path is not None:
        chat = isinstance(prompts.prompts[0].asked.prompt, list)
        loaded = load_examples(config.mix.path)
        given_pairs(loaded, chat=chat)
        for line in told(loaded.unread, len(loaded.examples)):
            print(f"{config.mix.path}: {line}", flush=True)
    validate(first.training(), allow_code=allow_code)
    if config.mix.path is not None:  # every row of it, as the round that draws it would read it
        given = config.training(config.model, Path(config.mix.path), first.run)
        load_data(given, load_run_tokenizer(given))
    model_config(model_folder(config.model))
    if section.backend == "vllm":
        vllm_program(), servable(config.model)
    refuse_held_out(config, prompts)
    return prompts, verifier


def refuse_held_out(config: LoopConfig, prompts: Prompts) -> None:
    """Refuse prompts that are also held-out questions, white space aside.

    Raises:
        InputError: a question of the evaluation stands among the prompts.
    """
    asked = config.evaluation()
    if asked is None:
        return
    questions = load_task(asked.task, n=asked.n, seed=asked.seed).questions
    texts = prompt_texts(prompts.prompts)
    both = [
        each.row
        for each in questions
        if {" ".join(text.split()) for text in (each.text, asked.prompt.replace("{question}", each.text))}
        & texts
    ]
    if both:
        raise InputError(
            f"{len(both)} of {len(questions)} questions of evaluate.task {asked.task} are also prompts of "
            f"{config.prompts} (the first: question {both[0]}), so accuracy would be measured on what is trained on. "
            "Take them out of one"
        )


def _begin(folder: Path, config: LoopConfig) -> dict[str, Any]:
    """The record so far; the config is kept, and is the one that the folder was begun with.

    Raises:
        InputError: the folder holds something else, or a loop of another config.
    """
    file, kept = folder / names.LOOP_CONFIG, folder / names.LOOP_RECORD
    if file.exists():
        before = load_loop(file, [f"output={json.dumps(str(folder))}"])
        for name in vars(config):
            was, now = getattr(before, name), getattr(config, name)
            if was != now and name not in _MAY_CHANGE:
                raise InputError(
                    f"{folder} holds a loop with another {name} (in {file}). Give it as it was, or name another output"
                )
    elif any(each.name not in (names.LOOP_CONFIG,) for each in folder.iterdir()):
        raise InputError(f"{folder} exists and holds no loop. Name another output")
    write_text(file, dump_loop(config))
    if not kept.exists():
        return {"model": config.model, "rounds": []}
    with readable(
        kept, "Delete it: the same command makes it anew from the rounds' own files, but for their times"
    ):
        record = dict(json.loads(kept.read_text(encoding="utf-8")))
        record["rounds"] = [dict(each) for each in record["rounds"]]
    return record


def _refuse_fewer_rounds(record: dict[str, Any], config: LoopConfig) -> None:
    """Refuse to end before rounds that the folder holds.

    Raises:
        InputError: the loop has begun more rounds than it may have.
    """
    if len(record["rounds"]) > config.rounds:
        raise InputError(
            f"rounds is {config.rounds}, but the loop in {config.output} has begun round {len(record['rounds'])}. Give "
            f"rounds={len(record['rounds'])} or more, or name another output"
        )


def _refuse_other_prompts(record: dict[str, Any], config: LoopConfig, prompts: Prompts) -> None:
    """Keep a digest of the prompts; refuse prompts that are not those of the first start.

    Raises:
        InputError: the file of prompts has been changed.
    """
    now = f"{prompts.digest} {prompts.facts_digest}"
    if record.setdefault("prompts_digest", now) != now:
        raise InputError(
            f"the prompts, right answers or other columns of {config.prompts} are not those that the loop in "
            f"{config.output} was begun with. Give the file as it was, or name another output"
        )


def _entry(record: dict[str, Any], this: Round) -> dict[str, Any]:
    """The round's part of the record."""
    entry = next((each for each in record["rounds"] if each["round"] == this.number), None)
    if entry is None:
        entry = {"round": this.number}
        record["rounds"].append(entry)
    entry["run"] = str(this.run)  # the folder may have been moved
    return entry


def make_round(
    this: Round,
    entry: dict[str, Any],
    prompts: Prompts,
    verifier: Verifier,
    *,
    allow_code: bool,
    say: Callable[[str], None],
    keep: Callable[[], None],
) -> str | None:
    """Sample, pair and train, as far as that is not done."""
    config = this.config
    if not (finished(this.run) and "sampling" in entry):
        this.pairs.parent.mkdir(exist_ok=True)
        summary = sample(
            [this.start],
            config.drawn(this.number, this.prompts),
            verifier,
            config.pairing(this.number),
            this.pairs,
            batch_size=config.sampling.batch_size,
            say=say,
            may_be_empty=True,
        )
        say(f"{SampleFiles(this.pairs).answers}: {summary}")
        entry["sampling"] = _of_sampling(summary.facts)
        keep()
    if entry["sampling"]["pairs"] < config.stop.least_pairs:
        return (
            f"round {this.number} gave {entry['sampling']['pairs']} pairs, fewer than stop.least_pairs "
            f"({config.stop.least_pairs}): the answers have no more contrast"
        )
    if not finished(this.run):
        entry["given_pairs"] = this.write_data()
        started = time.perf_counter()
        run(this.training(), resume=(this.run / names.CONFIG).exists(), allow_code=allow_code)
        gc.collect()  # the trainer hangs in cycles, and the next round needs the room
        entry["training_s"] = entry.get("training_s", 0.0) + time.perf_counter() - started
        keep()
    entry.setdefault("training_s", 0.0)
    entry["health"] = health_at_end(this.run)
    return None


def _of_sampling(facts: dict[str, Any]) -> dict[str, Any]:
    """The part of a round's record that describes its sampling."""
    (model,) = facts["models"].values()
    return {
        "prompts": facts["prompts"]["asked"],
        "pass_rate": model["pass_rate"],
        "with_contrast": facts["prompts"]["asked"] - facts["prompts"]["without_contrast"],
        "pairs": facts["rows"],
        "tokens": model["tokens"],
        **{f"{name}_s": value for name, value in facts["seconds"].items()},
    }


def health_at_end(run_folder: Path) -> str:
    """The health that the monitor last saw of a finished run; "healthy" where it never spoke."""
    rows = [*of_kind(MetricsFile(run_folder / names.METRICS).rows(), HealthRow)]
    return rows[-1].health if rows else "healthy"


def _evaluated(config: LoopConfig, record: dict[str, Any], folder: Path) -> dict[str, Any] | None:
    """The answers of the first model and of every round's model so far; None where nothing is asked."""
    asked = config.evaluation()
    if asked is None:
        return None
    runs = [each["run"] for each in record["rounds"] if "training_s" in each]
    started = time.perf_counter()
    results = evaluate(
        [config.model, *runs], asked, out=folder / names.EVALUATION, batch_size=config.sampling.batch_size
    )
    gc.collect()
    seconds = time.perf_counter() - started
    if runs:
        entry = record["rounds"][len(runs) - 1]
        entry.setdefault("evaluating_s", seconds)
    else:
        record.setdefault("evaluating_s", seconds)
    return results


def _stopped(
    config: LoopConfig, record: dict[str, Any], entry: dict[str, Any], results: dict[str, Any] | None
) -> str | None:
    """Why the loop ends after the round of `entry`; None where it goes on."""
    if config.stop.on_collapse and entry["health"] == "collapsed":
        return f"the monitor saw the text of round {entry['round']} collapse (stop.on_collapse)"
    patience = config.stop.patience
    if patience is None or results is None:
        return None
    rows = [row for row in table_rows(record, results) if row["round"] <= entry["round"]]
    accuracy = [row["flexible"] for row in rows if row.get("flexible") is not None]
    best = max(range(len(accuracy)), key=accuracy.__getitem__)
    if len(accuracy) - 1 - best >= patience:
        return (
            f"held-out accuracy has not risen for {len(accuracy) - 1 - best} rounds (stop.patience): best "
            f"{accuracy[best]:.1%} after round {best}, now {accuracy[-1]:.1%}"
        )
    return None


def _keep(folder: Path, record: dict[str, Any], results: dict[str, Any] | None) -> None:
    """Write the record and the table; `results` has the answers of the models that have answered so far."""
    write_text(folder / names.LOOP_RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    write_table(folder / names.LOOP_TABLE, table_rows(record, results))


def evaluated(folder: Path) -> dict[str, Any] | None:
    """The results of the evaluation in a loop's folder; None where nothing was asked."""
    results = folder / names.EVALUATION / names.RESULTS
    return dict(json.loads(results.read_text(encoding="utf-8"))) if results.exists() else None


def draw(folder: Path) -> bool:
    """The loop's figure, from its files; False where no model was asked anything."""
    from minordpo.onpolicy.loop.figure import loop_figure  # matplotlib takes a second to import

    record = json.loads((folder / names.LOOP_RECORD).read_text(encoding="utf-8"))
    title = f"{len(record['rounds'])} rounds from {Path(record['model']).name}"
    return loop_figure(table_rows(record, evaluated(folder)), folder / names.LOOP_FIGURE, title=title)
