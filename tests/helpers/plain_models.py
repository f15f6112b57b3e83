"""Tiny models that cannot run packed: the settings that each architecture needs."""

from __future__ import annotations

from typing import Any

_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_DELTA = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}
# Architectures that keep state along a row, or attend by functions of their own, with what their configs need.
PLAIN: dict[str, dict[str, Any]] = {
    "Qwen3_5": _DELTA,
    "Qwen3Next": _DELTA | _EXPERTS,
    "Lfm2": {"layer_types": ["conv", "full_attention", "conv"]},
    "Mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 16, "n_groups": 2, "chunk_size": 16},
    "Mamba": {"state_size": 8},
    "Jamba": {
        **_EXPERTS,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
    "NemotronH": {
        "hybrid_override_pattern": "M*-",
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "ssm_state_size": 16,
        "chunk_size": 16,
        "head_dim": 8,
    },
    "GraniteMoeHybrid": {
        **_MAMBA,
        **_EXPERTS,
        "layer_types": ["mamba", "attention", "mamba"],
        "shared_intermediate_size": 24,
        "logits_scaling": 0.4,
    },
    "FalconH1": {**_MAMBA, "mamba_d_ssm": 64, "lm_head_multiplier": 0.7},
    "Bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "Bloom": {"n_head": 4, "n_layer": 3},
    "Mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3},
    "RecurrentGemma": {},
}
