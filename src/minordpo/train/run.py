"""config → finished run folder. Read this first.

data  ─► pairs ─► tokens          what will be trained on, told before anything slow happens
model ─► adapter ─► check        packed log-probs equal plain ones, or the run is refused
answers before ─► train ─► held-out pairs ─► answers after
→ model/  metrics.jsonl  samples.jsonl  probes.jsonl  figures/rewards.png
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.utils import logging as transformers_logging

from minordpo import objectives
from minordpo.config import RunConfig, build_lora_config, build_training_arguments
from minordpo.data.tokens import TokenExample
from minordpo.engine.models import causal_model, load_model, load_tokenizer, model_folder, save_model
from minordpo.engine.quantized import quantization_config
from minordpo.engine.reference_pass import ranks
from minordpo.engine.vocabulary import refuse_other_encoding
from minordpo.generate.generation import Answer, generate_answers
from minordpo.monitor.callback import MonitorCallback
from minordpo.monitor.summary import last_lines
from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl, write_jsonl, write_text
from minordpo.run_folder.lock import only_here
from minordpo.run_folder.ownership import claim, finished, refuse_changed, refuse_foreign
from minordpo.train.adapters import add_adapter, refuse_settings
from minordpo.train.arguments import refuse_out_of_range
from minordpo.train.card import model_card
from minordpo.train.checks import with_reference
from minordpo.train.environment import environment
from minordpo.train.progress import show_progress
from minordpo.train.refusals import refuse_first
from minordpo.train.run_data import RunData, load_data
from minordpo.train.savable import made_savable
from minordpo.train.sharding import whole_weights
from minordpo.train.trainer import PreferenceTrainer

# Where a run's config leaves TrainingArguments alone and their own default would not serve: a line of metrics each
# step, checkpoints at quarters of the run.
DEFAULTS = {"logging_steps": 1, "save_steps": 0.25, "save_total_limit": 2, "report_to": "none"}


def run(
    config: RunConfig,
    *,
    resume: bool = False,
    quiet: bool = False,
    allow_code: bool = False,
) -> Path:
    """Train as the config says and return the run folder, complete; `quiet` leaves only the progress bars.

    An objective that the config names as package.module:function is imported only with `allow_code`.

    Raises:
        InputError: anything the user can correct; what was there before is untouched.
    """
    folder = Path(config.output)
    validate(config, allow_code=allow_code)
    going_on = refuse_foreign(folder, config, resume)
    if resume and finished(folder):
        print(f"{folder} is a finished run; there is nothing to resume")
        return folder
    transformers_logging.disable_progress_bar()  # a bar for every file written would break ours
    tokenizer = load_run_tokenizer(config)
    data = load_data(config, tokenizer)
    with only_here(folder):
        if not going_on:  # another run may have come and gone while the data were read
            refuse_foreign(folder, config, resume)
        return _run(config, tokenizer, data, folder, going_on=going_on, quiet=quiet, allow_code=allow_code)


def _run(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    data: RunData,
    folder: Path,
    *,
    going_on: bool,
    quiet: bool,
    allow_code: bool,
) -> Path:
    trainer = build_trainer(config, tokenizer, data, folder, allow_code=allow_code)
    main = trainer.is_world_process_zero()
    samples = _Samples(config, tokenizer, data, folder / names.SAMPLES)
    with ranks(trainer.args).first_works() as go_on:  # answers may take longer than a collective waits
        if main:  # only now, so that a run that was refused leaves nothing in the way of the corrected one
            facts = environment(trainer)
            if going_on:
                refuse_changed(folder, facts)
            claim(folder, config, facts)
            write_text(folder / names.DATA_REPORT, data.as_json())
        if main and not quiet:
            print(data.report, flush=True)
        if main and not (going_on and any(row["when"] == "before" for row in samples.rows())):
            policy: Any = trainer.policy
            # One that is to be sharded is still whole, and not on the device yet.
            policy = policy.to(trainer.args.device)
            samples.answer(policy, "before", trainer.initial_answers, on_answer=go_on)
    show_progress(trainer)
    checkpoints = sorted((folder / names.CHECKPOINTS).glob("checkpoint-*"))
    if going_on and not checkpoints:  # it was killed before the first one: begun anew, in its own files
        for file in (trainer.metrics_file, trainer.responses_file):
            file.cut_back(0)
    trainer.train(resume_from_checkpoint=bool(going_on and checkpoints))
    if data.held_out and not trainer.evaluated_now():
        trainer.evaluate()
    trainer.accelerator.wait_for_everyone()
    weights = whole_weights(trainer.model, trainer.accelerator)
    if main:  # alone: nothing below waits for the other processes, which may end before
        tuned = trainer.policy if weights is None else reassemble(config, trainer, weights)
        samples.answer(tuned, "after")
        save_model(
            tuned,
            tokenizer,
            folder / names.MODEL,
            card=model_card(config, trainer, samples.rows(), data.unread),
        )
        draw(folder, config)
    if main and not quiet:
        monitor = trainer.monitor()
        health = "" if monitor is None else f"\n{last_lines(monitor)}"
        figure = f"{folder}/{names.FIGURES}/{names.REWARDS_FIGURE}"
        print(f"{health}\n{folder}/{names.MODEL} is the tuned model, {figure} shows its curves", flush=True)
    return folder


def validate(config: RunConfig, *, allow_code: bool = False) -> None:
    """Refuse what can be seen in the config alone."""
    objective = objectives.resolve(config.objective.name, config.objective.hyper, allow_code=allow_code)
    with_reference(objective, measure=config.metrics.reference)
    model = config.model
    refuse_first(
        {
            "bfloat16_weights": model.dtype == "bfloat16" and config.lora is None,
            "quantized_whole": model.quantization is not None and config.lora is None,
        }
    )
    if model.quantization is not None:
        quantization_config(model.quantization)
    refuse_out_of_range(config.training.arguments)
    adapter = build_lora_config(config)
    if adapter is not None:
        refuse_settings(adapter)


def load_run_tokenizer(config: RunConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of the model that is tuned."""
    return load_tokenizer(**config.model.source)


def reassemble(
    config: RunConfig, trainer: PreferenceTrainer, weights: dict[str, Tensor]
) -> PreTrainedModel | PeftModel:
    """The tuned model of a sharded run, whole, on the device: as it was built, with the weights gathered since."""
    model: Any = load_model(
        **config.model.source, dtype=config.model.dtype, quantization=config.model.quantization
    )
    lora = build_lora_config(config)
    if lora is not None:
        model = add_adapter(model, lora)
    model.load_state_dict(weights)
    new, trained = causal_model(model), causal_model(trainer.policy)
    for each, by in ((new.config, trained.config), (new.generation_config, trained.generation_config)):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # the Trainer made them the tokenizer's
            setattr(each, name, getattr(by, name, None))
    made_savable(model, None)
    return model.to(trainer.args.device)


def build_trainer(
    config: RunConfig,
    tokenizer: PreTrainedTokenizerBase,
    data: RunData,
    folder: Path,
    *,
    allow_code: bool = False,
) -> PreferenceTrainer:
    """The trainer that `PreferenceTrainer` users would build by hand."""
    model = config.model
    given = config.training.arguments
    settings = {name: value for name, value in DEFAULTS.items() if name not in given}
    if given.get("save_strategy", "steps") != "steps":
        settings.pop("save_steps", None)
    policy = load_model(**model.source, dtype=model.dtype, quantization=model.quantization)
    _refuse_samples(config, policy, data)
    other = None
    if model.reference is not None:
        theirs = load_tokenizer(model_folder(model.reference))
        refuse_other_encoding(tokenizer, theirs, data.train, model=model.path, name=model.reference)
        other = load_model(model.reference, dtype=model.dtype)
    return PreferenceTrainer(
        policy,
        objective=config.objective.name,
        args=build_training_arguments(config, output_dir=str(folder / names.CHECKPOINTS), **settings),
        train_dataset=data.train,
        eval_dataset=data.held_out,
        processing_class=tokenizer,
        ref_model=other,
        peft_config=build_lora_config(config),
        callbacks=build_monitor(config, tokenizer),
        token_budget=config.training.token_budget,
        mixture=data.mixture,
        held_out_sources=data.held_out_sources,
        dropout=model.dropout,
        router_aux_loss=model.router_aux_loss,
        measure_reference=config.metrics.reference,
        cache=names.cache_folder() / names.CACHED_REFERENCE,
        metrics_file=folder / names.METRICS,
        allow_code=allow_code,
        **config.objective.hyper,
    )


def _refuse_samples(config: RunConfig, policy: PreTrainedModel | PeftModel, data: RunData) -> None:
    """Nothing, where the model has room for the run's sample answers."""
    prompts = [len(pair.prompt_ids) for pair in (data.held_out or [])[: config.samples.prompts]]
    room = getattr(causal_model(policy).config.get_text_config(), "max_position_embeddings", None)
    longest, wanted = max(prompts, default=0), config.samples.max_new_tokens
    refuse_first(
        {"samples_too_long": prompts and room is not None and longest + wanted > room},
        wanted=wanted,
        longest=longest,
        model=config.model.path,
        room=room,
    )


def build_monitor(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> list[TrainerCallback]:
    """The run's monitor, if it is to have one."""
    if not config.monitor.enabled:
        return []
    settings = asdict(config.monitor)
    del settings["enabled"]
    return [MonitorCallback(tokenizer, **settings)]


def draw(folder: Path, config: RunConfig) -> None:
    """The run's figure, from its files."""
    # Only here: matplotlib takes a second to import, and a run need not wait for it before its first step.
    from minordpo.figures.training_curves import reward_figure

    objective = objectives.recorded(config.objective.name, config.objective.hyper)
    rate = config.training.arguments.get("learning_rate", 5e-5)
    (folder / names.FIGURES).mkdir(exist_ok=True)
    reward_figure(
        folder / names.METRICS,
        folder / names.FIGURES / names.REWARDS_FIGURE,
        title=f"{objective}, learning rate {rate:g}",
    )


class _Samples:
    """`samples.jsonl`: greedy answers on held-out prompts, before and after."""

    def __init__(
        self, config: RunConfig, tokenizer: PreTrainedTokenizerBase, data: RunData, file: Path
    ) -> None:
        self.tokenizer, self.file = tokenizer, file
        self.pairs: Sequence[TokenExample] = (data.held_out or [])[: config.samples.prompts]
        self.max_new_tokens = config.samples.max_new_tokens
        if config.samples.prompts and not data.held_out:
            print("no pairs are held out (data.eval), so there will be no sample answers")

    def answer(
        self,
        model: PreTrainedModel | PeftModel,
        when: str,
        make: Callable[..., list[Answer]] = generate_answers,
        **settings: Any,
    ) -> None:
        """Let the model answer the prompts, and add the answers to the file."""
        if not self.pairs:
            return
        prompts = [pair.prompt_ids for pair in self.pairs]
        before = [row["token_ids"] for row in self.rows() if row["when"] != when]
        if len(before) == len(prompts):
            settings["likely"] = before
        answers = make(
            model,
            self.tokenizer,
            prompts,
            max_new_tokens=self.max_new_tokens,
            progress=f"answers {when}",
            **settings,
        )
        texts = map(self.tokenizer.decode, prompts)
        fresh = [
            {"when": when, "row": pair.row, "prompt": text, **answer.row()}
            for pair, text, answer in zip(self.pairs, texts, answers, strict=True)
        ]
        write_jsonl(self.file, [row for row in self.rows() if row["when"] != when] + fresh)

    def rows(self) -> list[dict[str, Any]]:
        """What the file holds so far."""
        if not self.file.exists():
            return []
        rows = [row for _, row in read_jsonl(self.file)]
        refuse_first({"other_samples": not all("when" in row for row in rows)}, file=self.file)
        return rows
