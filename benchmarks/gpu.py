"""One GPU in a few minutes: first whether bfloat16 and the packed rows are right there, then speed beside TRL's.

    python benchmarks/gpu.py --out FOLDER              # at most 8 minutes, made for an H200
    python benchmarks/gpu.py --out FOLDER --toy        # the same on a CPU, of tiny models

Weights are random, of the shapes of Qwen2.5-1.5B and Qwen1.5-7B, so nothing is downloaded; texts are random letters,
one token each, at the lengths of GSM8K without and with a few-shot prompt. Both train the same LoRA with DPO on a
frozen bfloat16 base under bfloat16 autocast, with the reference computed beforehand and not timed, without gradient
checkpointing. TRL has the fastest attention that is installed; its padding_free is switched off in 1.16. The two
alternate. FOLDER/gpu.csv grows row by row, and the script ends when its time is up, whatever is left to do.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import TrainingArguments

from common import append_rows, machine, trl_trainer
from minordpo.data.packing import pack
from minordpo.data.tokens import TokenExample
from minordpo.engine import flash
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.device import out_of_memory
from minordpo.engine.logprobs import install, packed_logps, sequence_logps
from minordpo.train.trainer import PreferenceTrainer
from random_models import (
    DEVICE,
    EXACT,
    GPU,
    SHAPES,
    TOY,
    TOY_WORKS,
    WORKS,
    Work,
    lora,
    model_of,
    pairs_of,
    tokenizer,
)

WHO = ("minordpo", "trl")


class Clock:
    """The time that is left. When it is up the process ends, with what the CSV has by then."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes
        watch = threading.Timer(60 * minutes, self._stop)
        watch.daemon = True
        watch.start()

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def _stop(self) -> None:
        print("the time is up: what is missing from the CSV was not measured", flush=True)
        os._exit(1)


class Log:
    """Measurements, in a CSV as they come."""

    def __init__(self, file: Path) -> None:
        self.file, self.facts = file, machine()
        self.rows: list[dict[str, Any]] = []

    def add(
        self, section: str, who: str, measure: str, value: float, unit: str, *, limit: float | None = None
    ) -> None:
        """One measurement; above its limit it is a fault."""
        row = {"section": section, "who": who, "measure": measure, "value": f"{value:.6g}", "unit": unit}
        row |= {
            "limit": "" if limit is None else f"{limit:g}",
            "right": "" if limit is None else value <= limit,
        }
        self.rows.append(row)
        append_rows(self.file, [{**self.facts, **row}])
        told = "" if limit is None else f" (limit {limit:g}: {'right' if row['right'] else 'WRONG'})"
        print(f"{section}, {who}: {measure} {value:.4g} {unit}{told}", flush=True)

    def median(self, section: str, who: str, measure: str) -> float | None:
        """Over the rounds; None where nothing was measured."""
        wanted = {"section": section, "who": who, "measure": measure}
        found = [float(row["value"]) for row in self.rows if wanted.items() <= row.items()]
        return statistics.median(found) if found else None


def settings_of(work: Work, folder: str, steps: int) -> dict[str, Any]:
    """TrainingArguments that both take."""
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": work.pairs,
        "learning_rate": 1e-5,
        "bf16": True,
        "logging_steps": 10**6,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not GPU,
        "train_sampling_strategy": "sequential",
    }


# ---- exactness ----
def exactness(log: Log, toy: bool) -> None:
    """Whether packed rows, bfloat16 and flash attention compute the model there."""
    shape, work = (TOY, TOY_WORKS[0]) if toy else (EXACT, WORKS[0])
    _, tokens = pairs_of(work, 8)
    model = model_of(shape, torch.float32).eval()
    install(model)
    batch = pack(tokens).to(DEVICE)

    def packed(bf16: bool) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16), attention_switched(model, NAME):
            return packed_logps(model, batch)

    with torch.no_grad():
        exact, narrow = packed(False), packed(True)
        plain, plain_narrow = (_stock_logps(model, tokens, bf16) for bf16 in (False, True))
        difference = (exact[batch.member_tokens] - torch.cat(plain)).abs().max().item()
        log.add("exactness", "minordpo", "packed - plain, float32", difference, "nats a token", limit=1e-3)
        exact_sums, sums = sequence_logps(exact, batch), sequence_logps(narrow, batch)
        gap = (sums - exact_sums).abs().max().item()
        log.add("exactness", "minordpo", "bfloat16 - float32", gap, "nats a response")
        gaps = [(a.sum() - b.sum()).abs().item() for a, b in zip(plain_narrow, plain, strict=True)]
        log.add("exactness", "transformers", "bfloat16 - float32", max(gaps), "nats a response")
        if GPU:
            with mock.patch.object(flash, "is_flash", return_value=False):
                loop = (sequence_logps(packed(True), batch) - exact_sums).abs().max().item()
            log.add(
                *("exactness", "minordpo", "flash attention's bfloat16 - float32", gap, "nats a response"),
                limit=2 * loop + 1e-3,
            )
    for head_dim in (64, 128) if GPU else ():
        gap = flash.difference_from_plain(DEVICE, torch.bfloat16, head_dim)
        name = f"{flash.replaced_by() or 'torch'} flash - plain, value and gradient, {head_dim} a head"
        log.add("exactness", "minordpo", name, gap, "", limit=2**-3)
    _first_step(log, shape, work, tokens)


def _first_step(log: Log, shape: dict[str, Any], work: Work, tokens: list[TokenExample]) -> None:
    """Log-ratios before any update: all 0 in exact numbers."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = PreferenceTrainer(
            model_of(shape, torch.bfloat16),
            objective="dpo",
            args=TrainingArguments(**settings_of(work, folder, 1)),
            train_dataset=tokens,
            processing_class=tokenizer(),
            peft_config=lora(),
        )
        trainer.train()
        lines = (Path(folder) / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    ratios = [abs(x) for line in lines for pair in json.loads(line)["logratios"] for x in pair]
    share = sum(ratio > 0.01 for ratio in ratios) / len(ratios)
    log.add("exactness", "minordpo", "largest |log-ratio| at step 0, bfloat16", max(ratios), "nats")
    log.add("exactness", "minordpo", "|log-ratios| above 0.01 at step 0", share, "of all", limit=0.01)


def _stock_logps(model: Any, tokens: list[TokenExample], bf16: bool) -> list[torch.Tensor]:
    """Scored log-probs by the stock model, a sequence at a time."""
    found = []
    for example in tokens:
        for response in example.responses:
            ids = torch.from_numpy(np.concatenate([example.prompt_ids, response.ids]).astype(np.int64)).to(
                DEVICE
            )
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
                logits = model(ids[None]).logits[0].float()
            scored = torch.from_numpy(np.flatnonzero(response.scored) + len(example.prompt_ids)).to(DEVICE)
            found.append(logits.log_softmax(-1)[scored - 1, ids[scored]])
    return found


# ---- speed ----
def peak_flops(toy: bool) -> float:
    """Operations a second of a large bfloat16 product: what the device reaches at best."""
    size = 256 if toy else 8192
    left, right = (torch.ones(size, size, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    taken = []
    for _ in range(12):
        started = _now()
        left @ right
        taken.append(_now() - started)
    return 2 * size**3 / statistics.median(taken[2:])


def measure(who: str, shape: dict[str, Any], work: Work, box: float) -> dict[str, float]:
    """Train for at most `box` seconds; medians over the steps after the first, and the peak of memory."""
    rows, tokens = pairs_of(work, work.pairs * (work.steps + 1))
    micro = work.pairs
    while True:
        try:
            return _trained(who, shape, work, rows, tokens, micro, box)
        except RuntimeError as error:
            if who == "minordpo" or micro == 1 or not out_of_memory(error):
                raise
        micro //= 2
        print(f"memory ran out: TRL takes {micro} pairs at a time", flush=True)


def _trained(
    who: str, shape: dict[str, Any], work: Work, rows: Any, tokens: Any, micro: int, box: float
) -> dict[str, float]:
    gc.collect()
    if GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        if (held := torch.cuda.memory_allocated() / 1e9) > 0.5:
            print(f"{held:.1f} GB of the measurement before are still held and count as memory", flush=True)
    watch = _watch(box)
    with tempfile.TemporaryDirectory() as folder:
        make = _minordpo if who == "minordpo" else _trl
        trainer = make(shape, rows, tokens, settings_of(work, folder, work.steps + 1), micro, watch)
        trainer.train()
    ends, counts = watch.ends, watch.counts
    seconds = [after - before for before, after in itertools.pairwise(ends)]
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = model.config
    head = config.vocab_size * config.hidden_size
    embedded = 1 if config.tie_word_embeddings else 2
    body = sum(p.numel() for p in model.parameters()) - embedded * head
    scored = sum(len(r.ids) for each in tokens for r in each.responses) / (work.steps + 1)
    computed = statistics.mean(counts)
    step = statistics.median(seconds)
    return {
        "pairs": work.pairs / step,
        "memory": torch.cuda.max_memory_allocated() / 1e9 if GPU else 0.0,
        "set-up": watch.set_up,
        "tokens": computed,
        # A frozen weight has a product forward and one for the gradient of its input, none for its own.
        "flops": 4 * (body * computed + head * scored) / step,
    }


def _minordpo(shape: Any, rows: Any, tokens: Any, settings: dict[str, Any], micro: int, watch: Any) -> Any:
    kind = _counted(PreferenceTrainer, watch, lambda step: sum(len(b.input_ids) for b in step.batches))
    trainer = kind(
        model_of(shape, torch.bfloat16),
        objective="dpo",
        beta=0.1,
        args=TrainingArguments(**settings),
        train_dataset=tokens,
        processing_class=tokenizer(),
        peft_config=lora(),
        callbacks=[watch],
    )
    trainer.precompute_reference()
    return trainer


def _trl(shape: Any, rows: Any, tokens: Any, settings: dict[str, Any], micro: int, watch: Any) -> Any:
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available
    from trl import DPOTrainer

    flash_3, flash_2 = GPU and is_flash_attn_3_available(), GPU and is_flash_attn_2_available()
    attention = "flash_attention_3" if flash_3 else "flash_attention_2" if flash_2 else "sdpa"
    kind = _counted(DPOTrainer, watch, lambda inputs: inputs["input_ids"].numel())
    split = {"gradient_accumulation_steps": settings["per_device_train_batch_size"] // micro}
    trainer = trl_trainer(
        model_of(shape, torch.bfloat16, attention),
        tokenizer(),
        rows,
        tokens,
        kind=functools.partial(kind, peft_config=lora(), callbacks=[watch]),
        precompute_ref_log_probs=True,
        beta=0.1,
        max_length=None,
        **settings | split | {"per_device_train_batch_size": micro},
    )
    watch.split = split["gradient_accumulation_steps"]
    print(f"TRL trains with {attention}", flush=True)
    return trainer


def _counted(kind: Any, watch: Any, count: Any) -> Any:
    class Counted(kind):
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            watch.add(count(inputs))
            return super().training_step(model, inputs, *rest, **named)

    return Counted


def _watch(box: float) -> Any:
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """When each step was done, and its tokens; stops when the time is up and two steps are timed."""

        def __init__(self) -> None:
            self.ends: list[float] = []
            self.tokens: list[int] = []
            self.split = 1
            self.until = time.monotonic() + box
            self.set_up = 0.0  # the most memory before training, in GB: of checks and of the reference

        @property
        def counts(self) -> list[int]:
            """Tokens of each step."""
            return [sum(self.tokens[i : i + self.split]) for i in range(0, len(self.tokens), self.split)]

        def add(self, tokens: int) -> None:
            self.tokens.append(tokens)

        def on_train_begin(self, *given: Any, **named: Any) -> None:
            if GPU:
                self.set_up = torch.cuda.max_memory_allocated() / 1e9
                torch.cuda.reset_peak_memory_stats()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ends.append(_now())
            control.should_training_stop |= len(self.ends) > 2 and time.monotonic() > self.until

    return Watch()


def _now() -> float:
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def speed(log: Log, clock: Clock, rounds: int, toy: bool) -> None:
    """Both tools on all work, alternated; what there is no time for is left out, and said."""
    peak = peak_flops(toy)
    log.add("peak", "device", "bfloat16 product", peak / 1e12, "TFLOP/s")
    shapes = {"toy": TOY} if toy else SHAPES
    todo = [
        (f"{name}, {work.name}", shape, work) for work in TOY_WORKS if toy for name, shape in shapes.items()
    ]
    todo = todo or [(f"{name}, {work.name}", shape, work) for work in WORKS for name, shape in shapes.items()]
    slowest: dict[str, float] = {}
    for number, (section, shape, work) in enumerate(todo * rounds):
        box = clock.left / (2 * (rounds * len(todo) - number))
        if clock.left < 2.2 * slowest.get(section, 0.0):
            print(f"{section}: a round is left out, {clock.left:.0f} s are left", flush=True)
            continue
        for who in WHO:
            started = time.monotonic()
            found = measure(who, shape, work, 0.5 * box)
            slowest[section] = max(slowest.get(section, 0.0), time.monotonic() - started)
            log.add(section, who, "speed", found["pairs"], "pairs/s")
            log.add(section, who, "computed", found["tokens"], "tokens a step")
            log.add(section, who, "share of the peak", found["flops"] / peak, "")
            if GPU:
                log.add(section, who, "peak memory", found["memory"], "GB")
                log.add(section, who, "peak memory of set-up", found["set-up"], "GB")
    for section, name in itertools.product(
        [section for section, *_ in todo], ("speed", "peak memory", "computed")
    ):
        ours, theirs = (log.median(section, who, name) for who in WHO)
        if ours is not None and theirs:
            log.add(section, "minordpo over trl", name, ours / theirs, "times")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of gpu.csv")
    parser.add_argument("--minutes", type=float, default=8.0, help="the script ends by then")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each of the two")
    parser.add_argument("--toy", action="store_true", help="tiny models, to try the script")
    arguments = parser.parse_args()
    if not GPU and not arguments.toy:
        parser.error("there is no GPU here; --toy tries the script on a CPU")
    clock, log = Clock(arguments.minutes), Log(arguments.out / "gpu.csv")
    exactness(log, arguments.toy)
    speed(log, clock, arguments.rounds, arguments.toy)
    wrong = [row["measure"] for row in log.rows if row["right"] is False]
    print(f"{log.file}: {len(log.rows)} rows, {clock.left:.0f} s left")
    if wrong:
        print(f"NOT RIGHT: {'; '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
