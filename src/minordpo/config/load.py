"""A run config read from YAML and overrides, and written back; the library objects made of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minordpo.config.build import as_mapping, build, lay_over, library_class, section_keys
from minordpo.config.foreign import refuse_foreign_config
from minordpo.config.schema import RunConfig
from minordpo.config.types import shown
from minordpo.config.yaml import parse_yaml, write_yaml
from minordpo.errors import InputError

if TYPE_CHECKING:
    import peft
    import transformers


def load_config(path: Path | None, overrides: Sequence[str]) -> RunConfig:
    """The config in a YAML file (or the defaults) with `section.key=value` overrides laid over it.

    Raises: InputError for a file that cannot be read or is not YAML, an unknown, missing or repeated key, and
    a value of the wrong type.
    """
    values = read_mapping(path) if path is not None else {}
    overridden = [lay_over(values, text) for text in overrides]

    def origin(key: str) -> str:
        set_here = path is None or any(key == each or key.startswith(each + ".") for each in overridden)
        return "command line" if set_here else str(path)

    return build(RunConfig, values, "", origin)


def dump_config(config: RunConfig) -> str:
    """The config as YAML with every key, defaults too; `load_config` reads back an equal one."""
    return write_yaml(as_mapping(config))


def build_training_arguments(config: RunConfig, **settings: Any) -> transformers.TrainingArguments:
    """`training.*` as TrainingArguments; `settings` are what the run decides itself, such as `output_dir`.

    Raises: InputError for values that TrainingArguments refuses, alone or together.
    """
    # A copy, because TrainingArguments rewrites the mappings it is given (fsdp_config).
    arguments = copy.deepcopy(config.training.arguments) | settings
    return _construct("transformers.TrainingArguments", "training", arguments)


def build_lora_config(config: RunConfig) -> peft.LoraConfig | None:
    """`lora.*` as a LoraConfig for a causal language model; None where every weight is tuned.

    Raises: InputError for values that LoraConfig refuses, alone or together.
    """
    if config.lora is None:
        return None
    return _construct("peft.LoraConfig", "lora", {"task_type": "CAUSAL_LM"} | copy.deepcopy(config.lora))


def _construct(verbatim: str, section: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return library_class(verbatim)(**arguments)
    except (ValueError, TypeError, NotImplementedError, ImportError, OSError) as error:
        said = str(error).rstrip(".")
        if arguments.get("bf16") and "use_cpu" in said:
            raise InputError(
                "training.bf16 is true, but there is no GPU with bfloat16. Set training.bf16=false, or "
                "training.use_cpu=true to run bfloat16 on the CPU"
            ) from error
        raise InputError(f"{section} is refused by {verbatim}: {said}. Change the key it names.") from error


def read_mapping(path: Path, *, what: str = "A run config", keys: Sequence[str] = ()) -> dict[Any, Any]:
    """The sections in a YAML file, unchecked; `keys` are what may stand in it, a run config's unless told.

    Raises: InputError for a file that cannot be read, is not YAML, holds no sections or is another tool's config.
    """
    known = list(keys) or section_keys(RunConfig)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. {what} in YAML is needed; check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Give a YAML file that can be.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line} is not UTF-8. Save the file as UTF-8 text.") from error
    values = parse_yaml(text, str(path))
    if values is None:
        raise InputError(f"{path} is empty. Sections are needed: {', '.join(known)}. Write them.")
    if not isinstance(values, dict):
        raise InputError(
            f"{path} holds {shown(values)}, but sections of keys are needed: {', '.join(known)}. "
            "Write each as a name, a colon and its keys."
        )
    refuse_foreign_config(values, path, known)
    return values
