"""What a run's numbers come from: its config, what it stands on, the content of its files.

A stored identity is read back through the schema before it is compared, so that a key that came since, which has its
default there, leaves a begun sweep valid.
"""

from __future__ import annotations

import copy
import glob
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

from minordpo.config import RunConfig
from minordpo.config.build import Origin, as_mapping, build, dotted, set_key
from minordpo.engine.models import MODEL_FILES, model_folder
from minordpo.sweep.foundation import Extension
from minordpo.sweep.plan import RunPlan

_NEEDED = (("model", "path"), ("data", "train"), ("objective", "name"))  # keys without a default
_SMALL = 1 << 20  # bytes; of larger files of a model, its weights, the size stands for the content


def identity_of(run: RunPlan, content_of: Callable[[str], str | None]) -> dict[str, Any]:
    """The identity of a run as it is stored; paths within a foundation, which the foundation stands for, are null.

    Of files over a MiB, weights, the size stands for the content; each run's environment.json has their digest.
    """
    config, foundation = as_mapping(run.config), run.foundation
    del config["output"]
    identity: dict[str, Any] = {"config": config, "files": {}}
    if foundation is None:
        data, model = run.config.data, run.config.model
        paths = [*data.paths, *(path for path in (model.path, model.reference) if path is not None)]
        identity["files"] = {path: found for path in paths if (found := content_of(path)) is not None}
    else:
        for key, value in [*dotted({name: config[name] for name in ("model", "data")})]:
            if isinstance(value, str) and Path(value).is_relative_to(foundation.folder):
                set_key(config, key, None, said="the foundation")
        identity[foundation.section] = asdict(foundation.values)
    if run.processes > 1:  # a step has the pairs of all
        identity["launch"] = {"processes": run.processes}
    return json.loads(digest_of(identity))  # as it is read back


def normalised(stored: Mapping[str, Any], extension: Extension, origin: Origin) -> dict[str, Any]:
    """A stored identity or base with all keys of this version; raise InputError if it has one that is gone."""
    # Versions before 0.2 kept nulls.
    found = {name: each for name, each in stored.items() if each is not None}
    name = "config" if "config" in stored else "run"
    found[name] = _normalised_config(stored[name], origin)
    if extension is not None and extension.section in found:
        found[extension.section] = asdict(
            build(extension.keys, found[extension.section], f"{extension.section}.", origin)
        )
    return json.loads(digest_of(found))


def _normalised_config(sections: Mapping[str, Any], origin: Origin) -> dict[str, Any]:
    values = copy.deepcopy(dict(sections)) | {"output": "-"}
    missing = [(name, key) for name, key in _NEEDED if (values.get(name) or {}).get(key) is None]
    for name, key in missing:
        values[name] = {**(values.get(name) or {}), key: "-"}
    config = as_mapping(build(RunConfig, values, "", origin))
    for name, key in missing:
        config[name][key] = None
    del config["output"]
    return config


def digest_of(identity: Mapping[str, Any]) -> str:
    """The identity as text; equal identities have the same."""
    return json.dumps(identity, sort_keys=True, default=str)


def content_of(path: str) -> str | None:
    """Stands for the content of a file, of all files of a pattern or of a model folder; None for a hub id."""
    file = Path(path).expanduser()
    if file.is_file():
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, xxhash.xxh3_128).hexdigest()
    if any(sign in path for sign in "*?["):
        matched = [each for each in sorted(glob.glob(str(file), recursive=True)) if Path(each).is_file()]
        return xxhash.xxh3_128_hexdigest("".join(f"{each} {content_of(each)}\n" for each in matched).encode())
    if not file.is_dir():
        return None
    digest = xxhash.xxh3_128()
    for each in sorted(Path(model_folder(str(file))).iterdir()):
        if each.suffix in MODEL_FILES and each.is_file():
            size = each.stat().st_size
            digest.update(f"{each.name} {size}".encode())
            digest.update(each.read_bytes() if size <= _SMALL else b"")
    return digest.hexdigest()


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first key in which two identities differ, in words."""
    old, new = dict(dotted(before)), dict(dotted(now))
    values = {key: (old.get(key), new.get(key)) for key in sorted({*old, *new})}
    differing = [
        key for key, (was, wanted) in values.items() if was != wanted or (key in old) != (key in new)
    ]
    # A key that is null in one and not there in the other, or an empty section, is told where nothing else differs.
    key = min(differing, key=lambda key: values[key] == (None, None) or {} in values[key])
    part, _, name = key.partition(".")
    if part == "files":
        return f"other content of {name}"
    nothing = "left out" if values[key] == (None, None) else "null"
    was, wanted = (json.dumps(flat[key]) if key in flat else nothing for flat in (old, new))
    return f"{name if part == 'config' else key} {was}, not {wanted}"
