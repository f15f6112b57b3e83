"""Code of the user's own that a config or a command names as "package.module:function": imported only with leave."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minordpo.errors import InputError, did_you_mean


def import_named(name: str, *, given: str) -> Any:
    """What "package.module:function" names, imported from sys.path or the current folder.

    `given` is what gave the name, as messages say it: "objective.name".

    Raises:
        InputError: there is no such module or function, or the module raises an error.
    """
    module, _, function = name.partition(":")
    try:
        with _current_folder():
            found = importlib.import_module(module)
            there = hasattr(found, function)  # which a module's own __getattr__ may answer
    except (Exception, SystemExit) as error:
        missing = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{module}.".startswith(f"{missing}."):
            raise InputError(
                f"{given} is {name!r}, but there is no module {missing} on sys.path or in {os.getcwd()}. "
                "Correct the name, or change to the folder that holds the module"
            ) from None
        raise InputError(
            f"{given} is {name!r}, but importing {module} raised {type(error).__name__}: "
            f"{' '.join(str(error).split())}. Correct the module"
        ) from error
    if not there:
        raise InputError(
            f"{given} is {name!r}, but {module} has no {function}{did_you_mean(function, vars(found))}. Correct "
            "the name"
        )
    return getattr(found, function)


def refuse_import(name: str, *, given: str) -> Any:
    """Refuse to import what "package.module:function" names; nothing of it is executed.

    `given` is what gave the name, as messages say it: "objective.name".

    Raises:
        InputError: always, with what would be imported and how to allow it.
    """
    module, _, function = name.partition(":")
    file = file_of(module)
    where = file or "which is not on sys.path or in the current folder"
    raise InputError(
        f"{given} is {name!r}, so the module {module} ({where}) would be imported and its {function} called. "
        "Such code runs only with --allow-code on the command line (in Python allow_code=True). Give it "
        "if you trust that module"
    )


def raised(error: BaseException) -> str:
    """An error of a user's function in words: which, on what line of the function, and what it says.

    It is called in the function that called the user's: the frame below that one is the user's.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:2]
    where = "".join(f" on line {each.lineno} of {Path(each.filename).name}" for each in frames)
    return f"raised {type(error).__name__}{where}: {' '.join(str(error).split())}"


def file_of(module: str) -> str | None:
    """Where a module would be imported from, found without executing it or its packages; None where it is not."""
    with _current_folder():
        return _origin(module)


def _origin(module: str) -> str | None:
    path, origin = None, None
    for name in itertools.accumulate(module.split("."), "{}.{}".format):
        finders = (each for each in sys.meta_path if hasattr(each, "find_spec"))
        spec = next(filter(None, (each.find_spec(name, path) for each in finders)), None)
        if spec is None:
            return None
        path, origin = spec.submodule_search_locations or [], spec.origin or "a folder"
    return origin


@contextlib.contextmanager
def _current_folder() -> Iterator[None]:
    """The current folder is looked in last."""
    added = {os.getcwd()} - set(sys.path)
    importlib.invalidate_caches()
    sys.path.extend(added)
    try:
        yield
    finally:
        sys.path[:] = [each for each in sys.path if each not in added]  # the module may have changed it too
