"""A digest of a model's files. The model is not loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import xxhash
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from minordpo.engine.models import MODEL_FILES, model_config


def model_identity(path: str) -> str:
    """Stands for weights, config, tokenizer and template: a digest of a folder's files, a hub id's commit."""
    folder = Path(path)
    if not folder.is_dir():
        model_config(path)  # is had from the hub, or refused
        return f"commit {extract_commit_hash(cached_file(path, 'config.json'), None)}"
    digest = xxhash.xxh3_128()
    for file in sorted(each for each in folder.rglob("*") if each.suffix in MODEL_FILES):
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb") as opened:
            hashlib.file_digest(opened, lambda: digest)  # adds it to the one of all files
    base = _base_of(folder)
    if base is not None:
        digest.update(model_identity(base).encode())
    return digest.hexdigest()


def _base_of(folder: Path) -> str | None:
    """The base of an adapter folder; what is wrong with its config is said when it is loaded."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return str(config["base_model_name_or_path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
