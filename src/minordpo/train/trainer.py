"""A thin `transformers.Trainer`: its loop, optimizer, schedule and checkpoints; our steps, data and metrics."""

from __future__ import annotations

import contextlib
import itertools
import time
import warnings
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import TrainOutput

from minordpo import objectives
from minordpo.data.mixture import Mixture, SourceOf
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenOptions
from minordpo.engine.check import check_engine, refuse_unknown_tokens
from minordpo.engine.device import autocast, casts_kept
from minordpo.engine.logprobs import engine_attention, engine_of
from minordpo.engine.models import causal_model, load_model, load_tokenizer, switch_off_dropout
from minordpo.engine.quantized import score_mode
from minordpo.engine.reference_pass import ReferencePass, other_reference
from minordpo.engine.routers import RouterLoss
from minordpo.engine.vocabulary import refuse_other_encoding
from minordpo.engine.weights import InitialWeights
from minordpo.errors import InputError
from minordpo.generate.answer_cache import InitialAnswers
from minordpo.run_folder import names
from minordpo.run_folder import records as keys
from minordpo.run_folder.metrics_file import MetricsFile, StepLines
from minordpo.run_folder.records import EvaluationRow
from minordpo.train.adapters import add_adapter
from minordpo.train.alike import Start
from minordpo.train.arguments import own_copy
from minordpo.train.checks import (
    prepare_rows,
    refuse_lone_prompts,
    refuse_unmeasured,
    refuse_wrong_types,
    tell_slow_bfloat16,
    widen_weights,
    with_reference,
)
from minordpo.train.gates import GateWarning
from minordpo.train.loader import EpochOrder, Item, Packer, StepSampler, mismatched, step_loader
from minordpo.train.met import Met
from minordpo.train.mixed_steps import MixedSteps
from minordpo.train.row_memory import default_token_budget
from minordpo.train.row_splitting import stop_unless_finite, within_memory
from minordpo.train.savable import KnownTokens, made_savable
from minordpo.train.sharding import autocast_forward, refuse_environment, refuse_sharding, set_up_sharding
from minordpo.train.step import Context, StepBatch, StepRecord, preference_evaluation, preference_step
from minordpo.train.written import Written


class PreferenceTrainer(Written):
    """Tune a causal language model on preferences: pairs, labelled or ranked responses.

    `train_dataset` is a `datasets.Dataset` or list of rows in any layout `minordpo.data.read` knows (TRL's among
    them), or a list of `TokenExample`. A step's prompts are `per_device_train_batch_size ×
    gradient_accumulation_steps` a device. `objective` is a name, a sum such as "minordpo + 0.1*sft", or a function of
    `PairLogps`, as it is or in its `Spec`; `hyperparameters` are its own. "package.module:function" is imported only
    with `allow_code`. With `peft_config` a new adapter is trained and the reference is the model without it; without
    `ref_model` the reference is the model as it is given. Where the objective needs no reference,
    `measure_reference=False` leaves it out, with its metrics. `router_aux_loss` says whether a mixture of experts is
    also trained on its routers' loss; None: as the model's config has it.
    `mixture` says of which source each training example is and how often it is met, `held_out_sources` of which each
    held-out one is: metrics are then told by source too.

    Raises:
        InputError: arguments, data, model or objective that cannot be used; the message says what to do.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel | str,
        *,
        objective: objectives.Given = "minordpo",
        args: TrainingArguments | None = None,
        train_dataset: Any,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        ref_model: PreTrainedModel | PeftModel | str | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        token_options: TokenOptions | None = None,
        invalid: Literal["refuse", "drop"] = "refuse",
        token_budget: int | None = None,
        mixture: Mixture | None = None,
        held_out_sources: SourceOf | None = None,
        dropout: bool = False,
        measure_reference: bool = True,
        router_aux_loss: bool | None = None,
        cache: Path | None = None,
        metrics_file: Path | None = None,
        allow_code: bool = False,
        **hyperparameters: int | float | bool,
    ) -> None:
        self.objective = objectives.resolve(objective, hyperparameters, allow_code=allow_code)
        refuse_wrong_types(model, peft_config, invalid, token_budget)
        if isinstance(model, str):
            model = load_model(model)
        args = args or TrainingArguments(output_dir="preference-tuned")
        refuse_environment(args)
        args, pairs_per_device = own_copy(args)
        refuse_sharding(args, own_optimizer=any(each is not None for each in optimizers))
        self.examples, self.held_out = [
            prepare_rows(rows, name, processing_class, token_options, invalid, self.objective, cache)
            for name, rows in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset or []))
        ]
        refuse_lone_prompts(self.objective, pairs_per_device * args.world_size)
        refuse_unmeasured(args, self.objective, held_out=bool(self.held_out))
        everything = StoredExamples.joined([self.examples, self.held_out])
        longest, largest_id = everything.longest, everything.largest_id
        refuse_unknown_tokens(model, largest_id, remedy="Name a model with its own tokenizer")

        if peft_config is not None:
            set_seed(args.seed)  # the Trainer does so only after the adapter has been drawn
            model = add_adapter(model, peft_config)
        widened = widen_weights(model)
        dropouts = switch_off_dropout(model)
        checked = check_engine(model, longest=longest)
        say: Callable[[str], None] = print if args.process_index == 0 else lambda _: None
        for line in filter(None, (widened, checked.line(everything), *made_savable(model, processing_class))):
            say(line)
        self.routers = RouterLoss.of(causal_model(model), wanted=router_aux_loss)
        self.dropout = dropout and bool(dropouts)
        for module, name, value in dropouts if dropout else ():
            setattr(module, name, value)
        measured = with_reference(self.objective, measure=measure_reference)
        if isinstance(ref_model, str) and processing_class is not None:
            theirs = load_tokenizer(ref_model)
            refuse_other_encoding(processing_class, theirs, self.examples, model="the model", name=ref_model)
        other = other_reference(ref_model, everything, say=say) if measured else None
        self._precomputed: dict[str, Mapping[Hashable, np.ndarray]] = {}
        self.last_evaluation: EvaluationRow | None = None
        self._evaluated_at = -1
        self._has_trained = False  # then a second train() starts away from the reference

        super().__init__(
            model=model,
            args=args,
            train_dataset=self.examples,
            eval_dataset=self.held_out or None,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        set_up_sharding(self.args, self.accelerator)
        tell_slow_bfloat16(self.args)
        self.initial_weights = InitialWeights(self.policy, other, new_adapter=peft_config is not None)
        self.token_budget = token_budget or default_token_budget(
            self.policy, self.args, self.examples, beside=other
        )
        self.reference = None
        if measured:
            self.reference = ReferencePass(
                self.policy,
                other,
                weights=self.initial_weights,
                args=self.args,
                cache=cache,
                token_budget=self.token_budget,
            )
        answers = None if cache is None else cache / names.CACHED_ANSWERS
        self.initial_answers = InitialAnswers(self.initial_weights, folder=answers)
        self.packer = Packer(
            self.token_budget,
            rank=args.process_index,
            world=args.world_size,
            mismatch=self.objective.mismatched,
            longest=longest,
        )
        drawing: dict[str, Any] = {
            "seed": args.seed if args.data_seed is None else args.data_seed,
            "shuffle": getattr(args, "train_sampling_strategy", "random") == "random",
            "drop_last": args.dataloader_drop_last,
        }
        per_step = pairs_per_device * args.world_size
        if mixture is None:
            self.sampler = StepSampler(len(self.examples), per_step, **drawing)
        else:
            self.sampler = MixedSteps(mixture, per_step, **drawing)
        self.sources = {"train": None if mixture is None else mixture.sources, "eval": held_out_sources}
        path = metrics_file or Path(str(args.output_dir)) / names.METRICS
        main = self.is_world_process_zero()
        self.gates = GateWarning(said=not main)
        self.metrics_file = MetricsFile(path if main else None)
        self.responses_file = StepLines(path.with_name(names.RESPONSES) if main else None)
        self.add_callback(EpochOrder(self.sampler))
        self.add_callback(KnownTokens(self.policy))
        self.monitor()

    @property
    def policy(self) -> PreTrainedModel | PeftModel:
        """The model being tuned, without distribution wrappers."""
        return self.accelerator.unwrap_model(self.model)

    # ---- data ----
    def get_train_dataloader(self) -> DataLoader:
        """Our own steps, already sharded; accelerate must not shard them again."""
        return step_loader(self.examples, self.sampler, self.packer, workers=self.args.dataloader_num_workers)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list, None]:
        """The next steps; what they count is pairs, so there are no label tokens to count."""
        return list(itertools.islice(epoch_iterator, num_batches)), None

    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        return int(-(-self.args.num_train_epochs * len(self.sampler) // 1))

    def precompute_reference(self) -> None:
        """Reference log-probs of all that the run will meet, from the cache where it has them."""
        if self._precomputed or self.reference is None:
            return
        met = self.met()
        floor = self.reference.measure_rows(met.examples)
        self.packer.least_tokens, self.gates.rounding = floor.tokens or 0, floor.rounding
        progress = not self.args.disable_tqdm and self.is_world_process_zero()
        found = self.reference.logps(met.examples, progress=progress)
        self._precomputed = met.by_name(found)

    def met(self) -> Met:
        """All that the run's steps, and its measurements on held-out examples, need log-probs of."""
        steps = self.total_steps()
        numbers = self.sampler.visited(steps)
        pairings: dict[str, list[Item]] = {"train": [], "eval": []}
        if self.objective.mismatched:
            for drawn in self.sampler.run(steps):
                members = [(i, self.examples[i]) for i in sorted(drawn)]
                pairings["train"] += mismatched(members, self.packer.longest)
            pairings["eval"] = mismatched(list(enumerate(self.held_out)), self.packer.longest)
        return Met.of(
            {"train": (self.examples, numbers), "eval": (self.held_out, np.arange(len(self.held_out)))},
            pairings,
        )

    # ---- training ----
    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train; a second call begins anew at step 0, from the weights as they are, in the first one's files."""
        checkpoint = self.find_checkpoint(resume_from_checkpoint)
        step = 0 if checkpoint is None else int(checkpoint.name.split("-")[-1])
        for file in (self.metrics_file, self.responses_file):
            file.begin(step)
        self.precompute_reference()
        self.metrics_file.tell_missing(step)
        self.last_step = self.metrics_file.last_step()
        if checkpoint is not None and (self.stopped_by_monitor() or step >= self.total_steps()):
            return self.load_finished(checkpoint)
        with (
            engine_attention(self.model),
            autocast_forward(self.model, self.args, self.accelerator),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message=".*tokenizer has new PAD/BOS/EOS tokens.*")
            output = super().train(checkpoint and str(checkpoint), trial, ignore_keys_for_eval)
        self._has_trained = True
        return output

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One whole optimizer step of this rank; returns its share of the mean loss."""
        model.train()
        optimizer: Any = self.optimizer
        if callable(getattr(optimizer, "train", None)):  # schedule-free ones have two modes
            optimizer.train()
        started = time.perf_counter()
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        with (
            contextlib.nullcontext() if sharded else casts_kept(self.args)
        ):  # whole weights would outlive their layer
            records, step = within_memory(
                lambda step: self._accumulate(model, step),
                inputs,
                self.packer,
                self.examples,
                model.zero_grad,
            )
        metrics = self._reduced(records, "train")
        if self.routers is not None:
            metrics[keys.ROUTER_AUX_LOSS] = self._mean_router_loss(records, inputs)
        reference, first = self.reference, self.state.global_step == 0 and not self._has_trained
        if reference is not None and reference.is_policy and first and not self.dropout:
            known = self._precomputed["train"]
            start = Start(None if sharded else self.policy, reference, self.examples, known)
            metrics[keys.LARGEST_LOGRATIO] = start.refuse_unlike(records)
        self.gates.look(metrics, self.state.global_step + 1)
        stop_unless_finite("loss", metrics[keys.LOSS], self.state.global_step + 1)
        tokens, padded = self._sum_over_ranks(step.counts(self.args.device, engine_of(self.policy))).tolist()
        row = {
            **metrics,
            keys.LEARNING_RATE: self.learning_rate_now,
            keys.TOKENS: int(tokens),
            keys.PADDED_TOKENS: int(padded),
            keys.SECONDS: round(time.perf_counter() - started, 4),
        }
        self._pending = row, self._responses(records, self.examples, "train")
        self._since_log = (*self._since_log, metrics)
        return torch.tensor(metrics[keys.LOSS], device=self.args.device)

    def _accumulate(self, model: nn.Module, step: StepBatch) -> list[StepRecord]:
        return preference_step(
            model,
            step.to(self.args.device),
            self._context("train", self.state.global_step),
            scale=float(self.args.world_size),  # DDP and its kin average gradients over ranks
            backward=self._backward,
            around_row=lambda last: self._around_row(model, last),
        )

    def _mean_router_loss(self, records: list[StepRecord], step: StepBatch) -> float:
        """The routers' loss of the step without its coefficient: the mean over rows, each counted by its prompts."""
        rows = [len(each.indices) * each.router_loss for each in records if each.router_loss is not None]
        own = torch.stack(rows).sum() if rows else torch.zeros((), device=self.args.device)
        return self._sum_over_ranks(own.double()).item() / step.global_prompts

    def _backward(self, loss: Tensor) -> None:
        options = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        self.accelerator.backward(loss, **options)

    @contextlib.contextmanager
    def _around_row(self, model: nn.Module, last: bool) -> Any:
        """Gradients meet other ranks' after the last row only; DeepSpeed steps its engine where they do."""
        self.sync_gradients(last)
        with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
            yield

    def _context(self, split: str, *moment: int) -> Context:
        return Context(
            objective=self.objective,
            reference=self._precomputed[split] if self.reference is not None else None,
            seed=(self.args.seed, *moment),
            reduce=self._sum_over_ranks,
            routers=self.routers if split == "train" else None,
        )

    # ---- held-out pairs ----
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The training metrics over held-out examples, each counted once."""
        if eval_dataset is not None and eval_dataset is not self.eval_dataset:
            raise InputError(
                "evaluate() measures the eval_dataset given at the start; another needs another trainer"
            )
        if not self.held_out:
            raise InputError("there are no held-out pairs; set data.eval (or pass eval_dataset)")
        self.precompute_reference()
        started = time.perf_counter()
        model = self.model_wrapped
        training = model.training
        score_mode(model)
        with engine_attention(self.policy), autocast(self.args):
            step = self.packer(list(enumerate(self.held_out))).to(self.args.device)
            records = preference_evaluation(model, step, self._context("eval"))
        model.train(training)
        reduced = self._reduced(records, "eval")
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in reduced.items()}
        self._evaluated_at = now = self.state.global_step
        self.last_evaluation = EvaluationRow(now, reduced)
        self.metrics_file.append_instead({keys.STEP: now, **metrics})
        responses = self._responses(records, self.held_out, "eval")
        self.responses_file.append_instead({keys.STEP: now, **responses})
        self.log({**metrics, f"{metric_key_prefix}_seconds": round(time.perf_counter() - started, 4)})
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluated_now(self) -> bool:
        """Whether the held-out pairs were measured after the last step."""
        return self._evaluated_at == self.state.global_step

    def floating_point_ops(self, inputs: Any) -> int:
        """6 × weights × tokens, attention not counted."""
        weights = sum(p.numel() for p in self.policy.parameters())
        return 6 * weights * sum(len(batch.input_ids) for batch in inputs.batches)
