"""Make a model of SmolLM2-135M-Instruct for `works.py`: python benchmarks/smollm2_models.py KIND FOLDER

whole   as it is
wide    with a vocabulary of 262,144
short   the first 6 layers, with 32,768 positions
"""

from __future__ import annotations

import sys

import torch

from minordpo.engine.models import load_model, load_tokenizer
from minordpo.engine.smollm2 import smollm2_folder
from minordpo.run_folder.names import cache_folder

KINDS = ("whole", "wide", "short")
WIDE, LAYERS, POSITIONS = 262144, 6, 32768


def main(kind: str, path: str) -> None:
    source = str(smollm2_folder(cache_folder() / "models"))
    model, tokenizer = load_model(source), load_tokenizer(source)
    torch.manual_seed(0)
    if kind == "wide":
        model.resize_token_embeddings(WIDE, mean_resizing=False)
    if kind == "short":
        model.model.layers = model.model.layers[:LAYERS]
        model.config.num_hidden_layers, model.config.max_position_embeddings = LAYERS, POSITIONS
        if getattr(model.config, "layer_types", None):
            model.config.layer_types = model.config.layer_types[:LAYERS]
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in KINDS:
        sys.exit(f"smollm2_models.py KIND FOLDER, where KIND is one of {', '.join(KINDS)}")
    main(*sys.argv[1:])
