"""A loop's part of `minordpo report`: its table and figure."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import jinja2

from minordpo.onpolicy.loop.loop import draw, evaluated
from minordpo.onpolicy.loop.table import HEADINGS, shown_rows, table_rows, time_shares
from minordpo.report.find import Found
from minordpo.run_folder import names
from minordpo.run_folder.files import readable


def loop_section(found: Found) -> str:
    """HTML of the loops whose rounds are among the runs; empty where there are none.

    Raises:
        InputError: a loop's record is damaged.
    """
    folders = dict.fromkeys(run.folder.parent for run in found.runs)
    loops = [
        _loop(folder, number)
        for number, folder in enumerate(folders, 1)
        if (folder / names.LOOP_RECORD).exists()
    ]
    page = Path(__file__).with_name("loop.html").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True).from_string(page).render(loops=loops) if loops else ""


def _loop(folder: Path, number: int) -> dict[str, object]:
    record = folder / names.LOOP_RECORD
    with readable(record, "Start the loop again: the same command writes it anew"):
        facts = json.loads(record.read_text(encoding="utf-8"))
        table = table_rows(facts, evaluated(folder))
        rows = shown_rows(table)
    figure = (folder / names.LOOP_FIGURE).with_suffix(".svg")
    drawn = figure.exists() or draw(folder)
    return {
        "number": number,
        "name": folder.name,
        "ended": f"Ended: {facts['ended']}." if facts.get("ended") else "Not ended yet.",
        "figure": base64.b64encode(figure.read_bytes()).decode() if drawn else "",
        "time": time_shares(table),
        "heads": HEADINGS,
        "rows": rows,
    }
