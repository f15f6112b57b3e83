"""The monitor as a callback of any `transformers.Trainer`; its place in ours is in `train.monitored`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, broadcast_object_list
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from minordpo.data.stored import StoredExamples
from minordpo.engine.device import autocast
from minordpo.engine.models import causal_model
from minordpo.errors import InputError
from minordpo.generate.answer_cache import InitialAnswers
from minordpo.generate.generation import generate_answers
from minordpo.generate.prompts import monitor_prompts
from minordpo.generate.text_measures import means
from minordpo.monitor.advice import MEANS, advise, advise_peer
from minordpo.monitor.health import Health, Monitor, Thresholds
from minordpo.monitor.probe import Probe, Prompt, Reference, is_due, probe_tokens, prompts_of
from minordpo.monitor.rollback import bring_back, keep_trainable
from minordpo.objectives import Objective
from minordpo.run_folder import names, records
from minordpo.run_folder.metrics_file import MetricsFile, StepLines
from minordpo.run_folder.records import HealthRow, ProbeRow, RollbackRow, Row, StepRow, of_kind

KEPT = Path(names.HEALTHY) / names.HEALTHY_WEIGHTS
_SHARDING = {
    DistributedType.FSDP: "FSDP",
    DistributedType.DEEPSPEED: "DeepSpeed",
    DistributedType.MEGATRON_LM: "Megatron-LM",
}


class Watched:
    """The attributes of a `PreferenceTrainer` that the monitor reads."""

    examples: StoredExamples
    held_out: StoredExamples
    objective: Objective
    initial_answers: InitialAnswers
    metrics_file: MetricsFile

    def reference_beside_the_policy(self) -> Reference | None:
        """What judges the answers' tokens: a reference that is in memory beside the model, if there is one."""
        raise NotImplementedError


class MonitorCallback(TrainerCallback):
    """Says in a line when the model's health changes, writes it down, and stops a collapsed run if told to.

    In `PreferenceTrainer`, `prompts` is a number of its held-out prompts (of its training prompts where none are held
    out), and rows go to the run's metrics.jsonl. In TRL's trainers `prompts` are given, as texts or chats; log-ratios
    are its `rewards/chosen` ÷ `beta`, and rows go to monitor.jsonl. Answers go to probes.jsonl beside it.

    `max_new_tokens`: "auto" is 24 to 48 by the run's steps (`probe_tokens`).
    `probe_every`: "auto" is six times a run and each 100 steps of a long one. `on_collapse`: "warn", "stop", or
    "rollback", which also ends the run with the weights of the last probe that was sound (`Monitor.is_sound`).
    `folder`: where files are written; left out, the trainer's output folder. A finished run's rows are judged by
    `minordpo.monitor.health.changes`.

    Raises:
        InputError: an argument that is none of these, or "rollback" with sharded weights.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompts: int | Sequence[Any] = 4,
        *,
        max_new_tokens: int | str = "auto",
        probe_every: int | str = "auto",
        on_collapse: str = "warn",
        folder: Path | None = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        if on_collapse not in ("warn", "stop", "rollback"):
            raise InputError(f"on_collapse is {on_collapse!r}, but warn, stop or rollback is needed")
        for name, value, unit in (
            ("probe_every", probe_every, "step"),
            ("max_new_tokens", max_new_tokens, "token"),
        ):
            if value != "auto" and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} is {value!r}, but auto or 1 {unit} or more is needed")
        if isinstance(prompts, int) and prompts < 1:
            raise InputError(f"prompts is {prompts}, but at least 1 is needed. Raise it")
        self.tokenizer = tokenizer
        self.max_new_tokens, self.probe_every, self.on_collapse = max_new_tokens, probe_every, on_collapse
        self.folder, self.thresholds = folder, thresholds
        self.count = prompts if isinstance(prompts, int) else None
        given = [] if isinstance(prompts, int) else monitor_prompts(tokenizer, prompts)
        self.prompts = [Prompt(ids) for ids in given]
        self.monitor = Monitor(thresholds)
        self.probe: Probe | None = None
        self.came_back_to: int | None = None  # the step whose weights a rollback ended with
        self._trainer: Watched | None = None  # of ours
        self._initial_answers: InitialAnswers | None = None  # until a step is taken
        self._reference: Reference | None = None
        self._told_of_sharding = False
        self._answered: int | None = None  # the step of the last probe
        self._last: list[list[int]] = []  # its answers: what the next one's are like, mostly

    @property
    def health(self) -> Health:
        """As of the last step."""
        return self.monitor.verdict.health

    # ---- in PreferenceTrainer ----
    def join(self, trainer: Watched) -> None:
        """Be the monitor of a `PreferenceTrainer`: its files, its prompts, its answers before the first step.

        Raises:
            InputError: it cannot roll back.
        """
        if self._trainer is trainer:
            return
        self._refuse_sharded_rollback()
        self._trainer, self._initial_answers = trainer, trainer.initial_answers
        self._reference = trainer.reference_beside_the_policy()
        self.metrics = trainer.metrics_file
        self.folder = self.folder or (None if self.metrics.path is None else self.metrics.path.parent)
        if self.count is not None and not trainer.held_out and self.metrics.path is not None:
            print("no pairs are held out (data.eval), so the monitor answers prompts of the training pairs")

    def see(
        self, row: StepRow | None, state: TrainerState, control: TrainerControl, args: Any, model: Any
    ) -> TrainerControl:
        """Take in a step's metrics, answer the prompts where they are due, tell and act."""
        rows: list[Row] = [] if row is None else [row]
        step = state.global_step
        # A peer may log a step after its end, and then asks twice.
        answered = (
            self.probe is not None
            and step != self._answered
            and is_due(step, state.max_steps, self.probe_every)
        )
        if answered:
            self._answered = step
            rows.append(self._answer(step, model, args))
        change = self.monitor.see(rows)
        if answered and self.monitor.is_sound:
            self._keep(model, step)
        if change is not None:
            self.metrics.write(change)
            self._tell(change, args)
        if self.has_stopped:
            control.should_training_stop = True
        return control

    def replay(self, rows: Sequence[Row]) -> None:
        """Be where the monitor of these rows was."""
        self.monitor = Monitor(self.thresholds)
        self.monitor.see_all(rows)

    @property
    def has_stopped(self) -> bool:
        """Whether it stops the run, or has done so."""
        return self.health == "collapsed" and self.on_collapse != "warn"

    def end(self, step: int, model: Any) -> None:
        """After a collapse, with `rollback`, put the last sound weights back."""
        if not self.has_stopped or self.on_collapse != "rollback":
            return
        self.came_back_to = bring_back(model, self._file(KEPT), main=PartialState().is_main_process)
        self.metrics.write_instead(RollbackRow(step, {}, self.came_back_to))
        self._say(
            f"the model is that of step {self.came_back_to} again, the last whose answers were sound "
            "(monitor.on_collapse=rollback)"
        )

    # ---- in the training loop ----
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Read what was seen before, and answer the prompts as the model does at the start."""
        self.came_back_to = self._answered = None
        self._refuse_sharded_rollback()
        step, model = state.global_step, kwargs["model"]
        self.folder = self.folder or Path(str(args.output_dir))
        writes = PartialState().is_main_process
        if writes:
            self.folder.mkdir(parents=True, exist_ok=True)
        if self._trainer is None:
            if self.count is not None:
                raise InputError(
                    "the monitor has no prompts: outside PreferenceTrainer they cannot be taken from the data. Pass "
                    "MonitorCallback(tokenizer, prompts=[...]), a few texts or chats"
                )
            self.metrics = MetricsFile(self._file(names.PEER_METRICS) if writes else None)
            self.metrics.cut_back(step if step else -1)  # training anew, its probe at step 0 too
        self.probes = StepLines(self._file(names.PROBES) if writes else None)
        self.probes.cut_back(step if step else -1)
        (rows,) = broadcast_object_list([self.metrics.rows()])
        self.replay(rows)
        if step:
            self._initial_answers = None
        kept = list(self.probes.lines())
        self._first = [row["token_ids"] for row in kept if row["step"] == 0]
        self._last = [row["token_ids"] for row in kept if row["step"] == kept[-1]["step"]]
        self.probe = self.make_probe(model, state.max_steps, rows)
        if self.probe is not None and step == 0:
            self.monitor.see([self._answer(0, model, args)])
            self._keep(model, 0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """Of a step that is not logged there are the answers only."""
        if self._trainer is not None or control.should_log:
            return None
        return self.see(None, state, control, args, kwargs["model"])

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl | None:
        """A peer's metrics of a step."""
        logs = kwargs.get("logs") or {}
        if self._trainer is not None or records.LOSS not in logs:
            return None
        row = peer_row(logs, state.global_step, beta=getattr(args, "beta", None))
        self.metrics.write_instead(row)
        return self.see(row, state, control, args, kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Roll back, if that is to be done."""
        self.end(state.global_step, kwargs["model"])

    # ---- its own ----
    def make_probe(self, model: Any, steps: int, rows: Sequence[Row] = ()) -> Probe | None:
        """The prompts that this model will be asked; None, which is said, where it can be asked none.

        `steps` are those of the whole run, `rows` what it has written so far.
        """
        sharding = _SHARDING.get(AcceleratorState().distributed_type)
        if sharding is not None:
            if not self._told_of_sharding:
                self._say(
                    f"the weights are sharded by {sharding}, so the monitor answers no prompts; what the log-ratios "
                    "say remains"
                )
            self._told_of_sharding = True
            return None
        prompts: list[Prompt] = self.prompts
        tokens = self._tokens(model, steps, rows)
        if self.count is not None:
            room = getattr(causal_model(model).config.get_text_config(), "max_position_embeddings", None)
            most = None if room is None else max(1, room - tokens)
            assert self._trainer is not None
            examples = self._trainer.held_out or self._trainer.examples
            prompts = prompts_of(examples, self.tokenizer, self.count, most_tokens=most)
        if not prompts:
            self._say(
                f"no prompt leaves room for monitor.max_new_tokens={tokens}, so the monitor answers "
                "none; what the log-ratios say remains"
            )
            return None
        return Probe(self.tokenizer, prompts, max_new_tokens=tokens)

    def _tokens(self, model: Any, steps: int, rows: Sequence[Row]) -> int:
        """The longest answer: once a run has begun that of its first probe, which all others are compared with."""
        if not isinstance(self.max_new_tokens, str):
            return self.max_new_tokens
        begun = (row.values.get(records.MAX_NEW_TOKENS) for row in of_kind(rows, ProbeRow))
        return next(filter(None, begun), None) or probe_tokens(steps, launched=model.device.type != "cpu")

    def _refuse_sharded_rollback(self) -> None:
        sharding = _SHARDING.get(AcceleratorState().distributed_type)
        if self.on_collapse == "rollback" and sharding is not None:
            raise InputError(
                f"monitor.on_collapse is rollback, but the weights are sharded by {sharding} and no process has all "
                "to keep. Use monitor.on_collapse=stop and go back to a checkpoint"
            )

    def _answer(self, step: int, model: Any, args: TrainingArguments) -> ProbeRow:
        """The probe's row; answered by the main process alone, and known to all."""
        assert self.probe is not None
        row = ProbeRow(step)
        make, self._initial_answers = self._initial_answers or generate_answers, None
        expected = {"likely": self._last} if step and len(self._last) == len(self.probe.prompts) else {}
        if PartialState().is_main_process:
            started = time.perf_counter()
            # accelerate's autocast is that of the model it was given: below an adapter generation would miss it.
            with autocast(args):
                answers = self.probe.answer(model, make, **expected)
            self._last = [list(answer.response_ids) for answer in answers]
            if step == 0:
                self._first = [list(answer.token_ids) for answer in answers]
            first = self._first if len(self._first) == len(answers) else None
            measures = self.probe.measures(answers, first, self._reference, at_start=step == 0)
            texts = self.probe.texts(step, answers, measures)
            seconds = time.perf_counter() - started
            limit = {records.MAX_NEW_TOKENS: self.probe.max_new_tokens, records.SECONDS: round(seconds, 4)}
            row = ProbeRow(step, means(measures) | limit)
            for text in texts:
                self.probes.append(text)
            self.metrics.write_instead(row)
        (row,) = broadcast_object_list([row])
        return row

    def _keep(self, model: Any, step: int) -> None:
        if self.on_collapse == "rollback" and PartialState().is_main_process:
            keep_trainable(model, self._file(KEPT), step=step)

    def _tell(self, change: HealthRow, args: Any) -> None:
        said = [f"step {change.step}: {change.health} (was {change.was}): {change.why}"]
        said.append(MEANS[self.health])
        if change.health in ("inaccurate", "collapsing", "collapsed"):
            said.append(self._advice(args))
        if self.has_stopped:
            said.append(f"Training stops here (monitor.on_collapse={self.on_collapse})")
        self._say(". ".join(said))

    def _advice(self, args: Any) -> str:
        if self._trainer is None:
            return advise_peer(args)
        pairs = self._trainer.examples.are_pairs
        return advise(self._trainer.objective, rate=float(args.learning_rate), pairs=pairs)

    def _say(self, line: str) -> None:
        if PartialState().is_main_process:
            tqdm.write(line)  # above the progress bar

    def _file(self, name: str | Path) -> Path:
        return Path(str(self.folder)) / name


def peer_row(logs: dict[str, Any], step: int, *, beta: float | None) -> StepRow:
    """What another trainer logged, under our names: its rewards are β × log-ratio, and of some β × log-prob."""
    values = {records.LOSS: logs[records.LOSS]}
    logp, reward = logs.get(records.CHOSEN_LOGP), logs.get(records.CHOSEN_REWARD)
    if logp is not None:
        values[records.CHOSEN_LOGP] = logp
        if reward is not None and beta:
            logratio = reward / beta
            if abs(logratio - logp) > 1e-3 * abs(logp):  # else it has no reference
                values[records.CHOSEN_LOGRATIO] = logratio
    return StepRow(step, values)
