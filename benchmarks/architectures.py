"""Tiny random models of many architectures: which engine each gets, and how far that is from stock transformers.

    python benchmarks/architectures.py [NAME …]        # → benchmarks/architectures.csv; with names their rows alone

Values (nats a token) and gradients (of a parameter, relative to its largest entry or 1e-3) are compared with the stock
forward in float64 with transformers' default attention, one sequence at a time. Of what does not run packed both ways
to run plain are compared. An architecture that is refused has the words.
"""

from __future__ import annotations

import csv
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import oracle
from helpers.plain_models import PLAIN
from helpers.tiny_models import ARCHITECTURES, odd_shapes, tiny
from minordpo.data.packing import pack
from minordpo.engine.attention import attention_switched, stock_implementation
from minordpo.engine.check import check_engine
from minordpo.engine.logprobs import Engine, engine_attention, install, packed_logps
from minordpo.engine.models import switch_off_dropout
from minordpo.errors import InputError

OUT = Path(__file__).with_suffix(".csv")
SECONDS = 60  # an architecture may take, to build included
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "head_dim": 8,
}
_LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_ROTARY = {"rotary_dim": 8, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
_COMMON_ALONE = """
Apertus Arcee BitNet Cohere2 DiffLlama Doge Ernie4_5 Exaone4 FalconMamba Gemma Glm Glm4 GPTNeoX Jais2 Ministral3
ModernBertDecoder Nemotron Olmo Olmo3 OlmoHybrid OPT Persimmon Phi RecurrentGemma Rwkv SeedOss StableLm Starcoder2
VaultGemma xLSTM
""".split()  # noqa: SIM905
_OF_EXPERTS = """
Afmoe DeepseekV2 DeepseekV3 Dots1 Ernie4_5_Moe FlexOlmo Glm4Moe GraniteMoe MiniMax MiniMaxM2 Mixtral Olmoe Phimoe
Qwen2Moe
""".split()  # noqa: SIM905
# What each config needs beyond the common part of tests/helpers/tiny_models.py.
SETTINGS: dict[str, dict[str, Any]] = {
    **ARCHITECTURES,
    **PLAIN,
    **{name: {} for name in _COMMON_ALONE},
    **dict.fromkeys(_OF_EXPERTS, _EXPERTS),
    "DeepseekV2": _EXPERTS | _LATENT,
    "DeepseekV3": _EXPERTS | _LATENT,
    "Qwen3_5Moe": _EXPERTS | PLAIN["Qwen3_5"],
    "Lfm2Moe": _EXPERTS | {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "JetMoe": _EXPERTS | {"kv_channels": 8},
    "Helium": {"head_dim": 8},
    "HunYuanDenseV1": {"head_dim": 8},
    "Ministral": {"head_dim": 8, "layer_types": ["full_attention"] * 3},
    "GPTJ": _ROTARY,
    "CodeGen": _ROTARY,
    "GPTNeo": {
        "attention_types": [[["global", "local"], 2]],
        "num_layers": 4,
        "num_hidden_layers": 4,
        "window_size": 8,
    },
    "Falcon": {"alibi": True, "new_decoder_architecture": False},
    "Gemma3n": {
        "head_dim": 8,
        "num_kv_shared_layers": 1,
        "vocab_size_per_layer_input": 101,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "altup_num_inputs": 2,
        "layer_types": ["full_attention"] * 3,
        "activation_sparsity_pattern": None,
    },
    "Gemma4": {
        "head_dim": 8,
        "global_head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 101,
        "num_kv_shared_layers": 0,
    },
    "Bart": {},
}


def compared(architecture: str) -> list[dict[str, Any]]:
    """A row for each engine that the architecture may run on, or one that says why it is refused."""
    model = tiny(architecture, **SETTINGS[architecture])
    switch_off_dropout(model)
    items = odd_shapes(vocab=model.config.get_text_config().vocab_size)
    exact = oracle.stock_copy(model, torch.float64)
    with attention_switched(exact, stock_implementation(exact)):
        expected = torch.cat(oracle.scored_logps(exact, items))
        weights = torch.randn(len(expected), generator=torch.Generator().manual_seed(5))
        (weights * expected).sum().backward()
    try:
        checked = check_engine(model, longest=64)
    except InputError as error:
        return [{"architecture": architecture, "engine": "refused", "why": str(error)}]
    engines = [Engine.PACKED] if checked.engine is Engine.PACKED else [Engine.ALONE, Engine.PADDED]
    rows = []
    for engine in engines:
        install(model, engine)
        model.train()
        model.zero_grad()
        batch = pack(items)
        with engine_attention(model):
            found = packed_logps(model, batch)[batch.member_tokens]
            (weights * found).sum().backward()
        rows.append(
            {
                "architecture": architecture,
                "engine": engine.value,
                "value_difference": f"{(found - expected).abs().max().item():.1e}",
                "gradient_difference": f"{_gradients(model, exact):.1e}",
                "why": checked.why_plain or "",
            }
        )
    return rows


def _gradients(model: torch.nn.Module, exact: torch.nn.Module) -> float:
    largest = 0.0
    for mine, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        if theirs.grad is not None:
            gradient = torch.zeros_like(mine) if mine.grad is None else mine.grad
            scale = max(theirs.grad.abs().max().item(), 1e-3)
            largest = max(largest, (gradient - theirs.grad).abs().max().item() / scale)
    return largest


def _late(*_: Any) -> None:
    raise TimeoutError(f"it took more than {SECONDS} seconds")


def main(names: list[str]) -> None:
    """Compare and write the table; an error of a library stands in its row."""
    warnings.filterwarnings("ignore")
    transformers_logging.set_verbosity_error()
    signal.signal(signal.SIGALRM, _late)
    rows: list[dict[str, Any]] = []
    if names and OUT.exists():
        with OUT.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["architecture"] not in names]
    for name in names or sorted(SETTINGS, key=str.lower):
        signal.alarm(SECONDS)
        try:
            found = compared(name)
        except Exception as error:  # a tiny config that a library cannot build is no finding about the engine
            said = " ".join(str(error).split())[:200]
            found = [{"architecture": name, "engine": "not built", "why": f"{type(error).__name__}: {said}"}]
        signal.alarm(0)
        for row in found:
            print(*row.values(), flush=True)
        rows += found
    columns = ("architecture", "engine", "value_difference", "gradient_difference", "why")
    with OUT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["architecture"].lower()))


if __name__ == "__main__":
    main(sys.argv[1:])
