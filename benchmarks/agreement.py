"""Do minordpo and TRL's DPOTrainer compute the same away from the start? Log-probs, loss and gradient, in float32.

    python benchmarks/agreement.py --model FOLDER --pairs FILE --n 16

At the start of training every log-ratio is 0, where much that is wrong looks right. So the policy is the model with
seeded noise on its weights, as strong as it takes for the mean |log-ratio| of a response to be about --nats, and the
reference is the model itself. Both compute the DPO loss of the same pairs and its gradient on every weight.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common import append_rows, machine, read_pairs, trl_trainer
from minordpo import objectives
from minordpo.data.packing import pack
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.check import check_engine
from minordpo.engine.models import load_model, load_tokenizer
from minordpo.engine.reference import reference_logps
from minordpo.engine.reference_cache import ReferenceCache
from minordpo.errors import InputError
from minordpo.train.step import Context, StepBatch, preference_step

BETA = 0.1
TOKEN_BUDGET = 16384


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--pairs", required=True, help="pairs in any layout that minordpo reads")
    parser.add_argument("--n", type=int, default=16, help="pairs compared")
    parser.add_argument(
        "--nats", type=float, default=5.0, help="mean |log-ratio| of a response to perturb to"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument(
        "--batch", type=int, default=4, help="pairs that TRL takes at a time, and a packed row of ours"
    )
    parser.add_argument("--max-length", type=int, default=1024, help="pairs with more tokens are passed over")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "agreement.csv")
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.model)
    rows, tokens = read_pairs(arguments.pairs, tokenizer, arguments.n, max_length=arguments.max_length)

    noise, ours = by_minordpo(arguments.model, tokens, arguments)
    theirs = by_trl(arguments.model, tokenizer, rows, tokens, noise, arguments)
    row = {
        **machine(),
        "model": Path(arguments.model).name,
        "pairs": Path(arguments.pairs).name,
        "n": arguments.n,
        "seed": arguments.seed,
        "noise": f"{noise:.6g}",
        **compare(ours, theirs),
    }
    append_rows(arguments.out, [row])
    width = max(map(len, row))
    print("\n".join(f"{name.ljust(width)}  {value}" for name, value in row.items()))
    return 0


def by_minordpo(
    model_path: str, tokens: list[Any], arguments: argparse.Namespace
) -> tuple[float, dict[str, Any]]:
    """The noise it took, and what the engine computes: (pairs, 2) log-probs, loss, gradients by name."""
    model = _on_device(load_model(model_path))
    longest = max(len(p.prompt_ids) + max(len(r.ids) for r in p.responses) for p in tokens)
    check_engine(model, longest=longest)
    with attention_switched(model, NAME):
        reference = _token_logps(model, tokens)
        noise = _noise_for(model, tokens, reference, nats=arguments.nats, seed=arguments.seed)
        perturb(model, noise, arguments.seed)
        model.train()
        rows = [
            tuple(range(i, min(i + arguments.batch, len(tokens))))
            for i in range(0, len(tokens), arguments.batch)
        ]
        batches = tuple(pack([tokens[i] for i in row], row).to(model.device) for row in rows)
        records = preference_step(
            model,
            StepBatch(batches, (1.0,) * len(batches), len(tokens)),
            Context(objective=objectives.resolve("dpo", {"beta": BETA}), reference=reference),
            scale=1.0,
            backward=Tensor.backward,
            around_row=lambda last: contextlib.nullcontext(),
        )
    pairs = [record.logps.pairs() for record in records]
    logps = [torch.stack([each.chosen_logps, each.rejected_logps], 1) for each in pairs]
    ratios = [torch.stack([each.chosen_logratios, each.rejected_logratios], 1) for each in pairs]
    return noise, {
        "logps": torch.cat(logps).double().cpu(),
        "logratios": torch.cat(ratios).double().cpu(),
        "loss": torch.cat([record.gradient.losses for record in records]).double().mean().item(),
        "gradients": _gradients(model),
    }


def by_trl(
    model_path: str,
    tokenizer: Any,
    rows: list[Any],
    tokens: list[Any],
    noise: float,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """The same from TRL: its reference is precomputed from the model before the noise is added."""
    model = load_model(model_path)
    logps, ratios, losses = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        trainer = trl_trainer(
            model,
            tokenizer,
            rows,
            tokens,
            output_dir=folder,
            beta=BETA,
            precompute_ref_log_probs=True,
            per_device_train_batch_size=arguments.batch,
        )
        perturb(model, noise, arguments.seed)
        model.train()
        # A loader of the trainer's own data and collator; its own would shuffle by a sampler tied to training.
        items = list(trainer.train_dataset)
        for start in range(0, len(items), arguments.batch):
            part = items[start : start + arguments.batch]
            inputs = trainer._prepare_inputs(trainer.data_collator(part))
            found = torch.stack(trainer.compute_ref_log_probs(model, inputs), 1)
            logps.append(found)
            ratios.append(found - torch.stack([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]], 1))
            loss = trainer.compute_loss(model, inputs)
            losses.append(loss.item() * len(part))
            (loss * len(part) / len(items)).backward()
    return {
        "logps": torch.cat(logps).double().cpu(),
        "logratios": torch.cat(ratios).double().cpu(),
        "loss": sum(losses) / len(items),
        "gradients": _gradients(model),
    }


@torch.no_grad()
def perturb(model: Any, noise: float, seed: int) -> None:
    """Add to each weight tensor `noise` × its own spread × a standard normal drawn on the CPU from the seed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.add_(drawn.to(parameter.device), alpha=noise * parameter.float().std().item())


def _noise_for(
    model: Any, tokens: list[Any], reference: list[np.ndarray], *, nats: float, seed: int
) -> float:
    """The noise whose mean |log-ratio| of a response is within a tenth of `nats`; the model is left as it was."""
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    few = slice(0, 4)  # pairs that the strength is found on; it is the same for all
    noise = 0.01
    try:
        for _ in range(20):
            perturb(model, noise, seed)
            found = _mean_logratio(tokens[few], _token_logps(model, tokens[few]), reference[few])
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.copy_(kept[name])
            if abs(found - nats) <= 0.1 * nats:
                return noise
            # Far out, log-probs fall with the square of the noise; steps are bounded where they do not.
            noise *= min(4.0, max(0.25, (nats / found) ** 0.5))
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(kept[name])
    raise InputError(
        f"no noise moves the log-ratios to {nats} nats (last {found:.3g}). Choose another --nats"
    )


def _mean_logratio(tokens: list[Any], policy: list[np.ndarray], reference: list[np.ndarray]) -> float:
    ratios = []
    for pair, p, r in zip(tokens, policy, reference, strict=True):
        parts = np.split(p.astype(np.float64) - r, [int(pair.responses[0].scored.sum())])
        ratios += [abs(part.sum()) for part in parts]
    return float(np.mean(ratios))


def _token_logps(model: Any, tokens: list[Any]) -> list[np.ndarray]:
    return reference_logps(model, tokens, ReferenceCache(None, ""), token_budget=TOKEN_BUDGET)


def _gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.double().cpu() for name, p in model.named_parameters() if p.grad is not None}


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, str]:
    """The differences: log-probs in nats a sequence, the loss, and the gradient tensor by tensor."""
    if ours["gradients"].keys() != theirs["gradients"].keys():
        raise SystemExit("the two have gradients on different weights")
    cosines, norms = {}, []
    for name, mine in ours["gradients"].items():
        other = theirs["gradients"][name]
        cosines[name] = (mine.flatten() @ other.flatten() / (mine.norm() * other.norm())).item()
        norms.append((mine.norm() / other.norm()).item())
    lowest = min(cosines, key=cosines.__getitem__)
    return {
        "mean_abs_logratio": f"{ours['logratios'].abs().mean().item():.3f}",
        "max_logp_difference": f"{(ours['logps'] - theirs['logps']).abs().max().item():.3g}",
        "max_logratio_difference": f"{(ours['logratios'] - theirs['logratios']).abs().max().item():.3g}",
        "loss_minordpo": f"{ours['loss']:.7f}",
        "loss_trl": f"{theirs['loss']:.7f}",
        "tensors": str(len(cosines)),
        "min_gradient_cosine": f"{cosines[lowest]:.9f}",
        "min_gradient_cosine_at": lowest,
        "gradient_norm_ratio_min": f"{min(norms):.7f}",
        "gradient_norm_ratio_max": f"{max(norms):.7f}",
    }


def _on_device(model: Any) -> Any:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"agreement.py: {error}")
