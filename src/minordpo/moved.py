"""Modules that have another name now: importing the old name says the new one."""

from __future__ import annotations

import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

# Old name → new name, both below `minordpo`. A package stands for its modules; of those only the ones are listed that
# have another name in the new package too.
MOVED: dict[str, str] = json.loads(Path(__file__).with_name("moved.json").read_text(encoding="utf-8"))
DIVIDED = "study"  # a package whose modules went to several others, so that it has no new name itself


def install() -> None:
    """Have Python ask this table for every module."""
    # First: where git left a folder with nothing but its __pycache__, Python would find it as an empty package.
    sys.meta_path.insert(0, _Finder)


class _Finder:
    """A finder as Python's import system asks it."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """None for a name that is not in the table.

        Raises:
            ImportError: the module has another name.
        """
        _, _, name = fullname.partition("minordpo.")
        if name in MOVED:
            new, below = MOVED[name], f"{name}."
            others = [
                f"{old.removeprefix(below)} is minordpo.{other}"
                for old, other in MOVED.items()
                if old.startswith(below)
            ]
            told = f" ({', '.join(others)})" if others else ""
            raise ImportError(f"{fullname} is now minordpo.{new}{told}", name=fullname)
        return ModuleSpec(fullname, None, is_package=True) if name == DIVIDED else None
