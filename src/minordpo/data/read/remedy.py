"""What to say of a row that is in no known layout, or unlike the first one."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any

from minordpo.data.read.accounting import Tally
from minordpo.data.read.fields import Row, listed
from minordpo.data.read.layout import OTHER_NAMES, Layout, names_of
from minordpo.data.read.pairs import RESPONSES
from minordpo.data.read.recognise import BY_COLUMNS, LAYOUTS, recognise
from minordpo.errors import InputError

_ALL = "docs/data.md lists the layouts that are read, and so does `minordpo train --help`"


def unknown_layout(row: Row, where: str) -> InputError:
    """The error for a row that no layout fits: its columns, and the nearest layout if what it lacks leads there."""
    columns = [str(column) for column in row]
    found = f"{where} has the columns {listed(columns)}, which are no known layout."
    explicit = [
        layout
        for layout in LAYOUTS
        # A layout of one data set is meant only where a single column of it is missing.
        if (len(layout.missing(columns)) == 1 if layout in BY_COLUMNS else layout.required != RESPONSES)
    ]
    for nearest in sorted(explicit, key=lambda layout: -_overlap(layout, columns))[:3]:
        renames, missing = _steps(nearest, columns)
        if len(missing) == len(nearest.required) or not _accepted(row, nearest, renames, missing):
            continue
        steps = [f"rename {old!r} to {new!r}" for new, old in renames.items()]
        mapped = [f"data.columns.{new}={old}" for new, old in renames.items() if old.isidentifier()]
        steps += [f"add {' and '.join(missing)}"] if missing else []
        instead = f" (or say {' '.join(mapped)})" if mapped and not missing else ""
        return InputError(
            f"{found} The nearest is {nearest.name}, {nearest.shape}: {', '.join(steps)}{instead}."
        )
    return InputError(f"{found} {_ALL}; data.columns says which column is the prompt, chosen and rejected.")


def _steps(layout: Layout, columns: list[str]) -> tuple[dict[str, str], list[str]]:
    """What leads to a layout: columns to rename, by their new names, and columns to add."""
    renames: dict[str, str] = {}
    missing = []
    for column in layout.missing(columns):
        old = _nearest_column(column, columns, layout.columns | set(renames.values()))
        if old:
            renames[names_of(column)[0]] = old
        else:
            missing.append(column)
    return renames, missing


def _accepted(row: Row, layout: Layout, renames: dict[str, str], missing: list[str]) -> bool:
    """Whether the row is read once its columns are renamed, and those that it lacks are there as in an example."""
    theirs = {old: new for new, old in renames.items()}
    tried = {theirs.get(str(name), str(name)): value for name, value in row.items()}
    example: dict[str, Any] = layout.example or {}
    for column in missing:
        given = next((name for name in names_of(column) if name in example), None)
        if given is None:
            return False
        tried[given] = example[given]
    try:
        found = recognise(tried, "it")
        if found is None:
            return False
        found.parse(tried, "it", Tally())
    except InputError:
        return False
    return found == layout


def different_layout(
    row: Row, where: str, found: Layout | None, first: Layout, first_where: str
) -> InputError:
    """The error for a row that is laid out unlike the first one."""
    missing = first.missing(row)
    lacks = f"lacks {' and '.join(missing)}" if missing else "has the columns " + listed(list(row))
    this = f"{where} is laid out as {found.name}" if found else f"{where} {lacks}"
    return InputError(
        f"{this}, but {first_where} is {first.name} ({first.shape}). "
        "One source has one layout: fix the row, drop it, or split the source."
    )


def _overlap(layout: Layout, columns: list[str]) -> float:
    missing = layout.missing(columns)
    near = sum(bool(_nearest_column(column, columns, layout.columns)) for column in missing)
    hits = len(layout.required) - len(missing) + 0.9 * near
    return hits / len(layout.required) + 0.01 * hits


def _nearest_column(
    wanted: str, columns: Collection[str], taken: set[str], cutoff: float = 0.6
) -> str | None:
    """The column that is probably meant by the required one `wanted`; not one that is `taken` by a required name."""
    free = {str(column).lower(): str(column) for column in columns if column not in taken}
    # A column that some layout requires is not misspelt, but it may still be another name of the wanted one.
    odd = [name for name, column in free.items() if not any(column in layout.columns for layout in LAYOUTS)]
    for wanted_name in names_of(wanted):
        names = OTHER_NAMES.get(wanted_name, ())
        other = next((column for name, column in free.items() if name in names), None)
        near = difflib.get_close_matches(wanted_name, odd, 1, cutoff)
        if other or near:
            return other or free[near[0]]
    return None
