"""Whose a run folder is: whether it can be written, and which config, data and weights it was started with."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from minordpo.config import RunConfig, dump_config, load_config
from minordpo.errors import InputError
from minordpo.run_folder import names
from minordpo.run_folder.files import is_left_over, readable, refuse_no_text, replacing, writing


def refuse_unwritable(folder: Path) -> None:
    """Refuse an output folder that could not be made or written, without making it.

    Raises:
        InputError: a file is in the way, nothing may be written there, or the system does not take such a name.
    """
    refuse_no_text(folder)
    with writing(str(folder)[:200], "Name another output"):
        above = existing_above(folder)
        is_folder = above.is_dir()
    if above == folder.absolute() and not is_folder:
        raise InputError(f"{folder} exists and is not a run folder. Name another output")
    if not is_folder:
        raise InputError(f"{folder} cannot be written: {above} is a file. Name another output")
    if not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written: {above} allows no writing. Name another output")


def finished(folder: Path) -> bool:
    """Whether a run ended there: its model is written last but for the figure."""
    return (folder / names.MODEL).is_dir() and (folder / names.FIGURES / names.REWARDS_FIGURE).exists()


def existing_above(folder: Path) -> Path:
    """The folder itself where it exists, else the nearest thing on its path that does."""
    path = folder.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def refuse_foreign(folder: Path, config: RunConfig, resume: bool) -> bool:
    """Whether an earlier start of this run is gone on with; nothing is written.

    Raises:
        InputError: the folder holds another run, this one started with another config, or other files.
    """
    if int(os.environ.get("RANK", "0")):
        return resume  # the first process looks; for the others it may have been there already
    file = folder / names.CONFIG
    refuse_unwritable(folder)
    if file.exists() and not resume:
        raise InputError(f"{folder} holds another run. Name another output, or go on with it by --resume")
    if file.exists():
        # Its folder may have been moved since, or be named by another path.
        before = replace(load_config(file, []), output=config.output)
        if dump_config(before) != dump_config(config):
            raise InputError(
                f"{folder} was started with another config ({_difference(before, config)}). "
                "Resume it with its own config.yaml, or name another output"
            )
        return True
    if folder.exists() and (not folder.is_dir() or any(not _left_over(each) for each in folder.iterdir())):
        raise InputError(f"{folder} exists and is not a run folder. Name another output")
    return False


def _left_over(path: Path) -> bool:
    """Whether a run that was stopped before it claimed its folder may have left this there."""
    return is_left_over(path) or (path.is_dir() and not any(path.iterdir()))


# What a run is made of beside its config, and what to do where it has changed.
_SAME = {
    "data_digest": "the tokens of its pairs (data files, tokenizer or chat template)",
    "weights_digest": "the weights of model.path or model.reference",
}


def refuse_changed(folder: Path, facts: dict[str, Any]) -> None:
    """A run is gone on with on the data and from the weights it started with, or the halves would not fit."""
    file = folder / names.ENVIRONMENT
    if not file.exists():
        return
    with readable(file, "Remove it to go on without what it says"):
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [said for name, said in _SAME.items() if before.get(name, facts[name]) != facts[name]]
    if changed:
        raise InputError(
            f"{folder} was started from other data or weights: {' and '.join(changed)} changed since. Put back what "
            "it started with, or name another output"
        )


def claim(folder: Path, config: RunConfig, facts: dict[str, Any]) -> None:
    """Make the run folder this run's, by its config.yaml; environment.json says where it started."""
    texts = {names.CONFIG: dump_config(config), names.ENVIRONMENT: json.dumps(facts, indent=2) + "\n"}
    with writing(folder, "Free some space or name another output"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if not (folder / name).exists():
                with replacing(folder / name) as aside:
                    aside.write_text(text, encoding="utf-8")


def _difference(before: RunConfig, now: RunConfig) -> str:
    lines = zip(dump_config(before).splitlines(), dump_config(now).splitlines(), strict=False)
    old, new = next(((a.strip(), b.strip()) for a, b in lines if a != b), ("", ""))
    return f"{old or 'fewer keys'}, not {new or 'more keys'}"
