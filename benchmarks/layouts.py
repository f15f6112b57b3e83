"""The same pairs as labelled single responses (for kto) and as ranked ones (for rrhf).

    minordpo data corrupt gsm8k/train.jsonl pairs.jsonl --seed 0
    minordpo data corrupt gsm8k/train.jsonl carried.jsonl --seed 0 --propagate
    python benchmarks/layouts.py pairs.jsonl carried.jsonl --rows 3000 --out runs/layouts

labelled.jsonl has one response of each pair, the chosen and the rejected by turns. ranked.jsonl has three: the chosen,
the one with a wrong result that is not gone on with, and the one that goes on with it to a wrong answer, in this order.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minordpo.run_folder.files import read_jsonl, write_jsonl

Row = dict[str, Any]


def main() -> int:
    """Read both files of pairs, write both layouts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    parser.add_argument("carried", type=Path, help="pairs of the same prompts, made with --propagate")
    parser.add_argument("--rows", type=int, help="take so many pairs from the top")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    pairs = [row for _, row in itertools.islice(read_jsonl(arguments.pairs), arguments.rows)]
    carried = {_asked(row): row for _, row in read_jsonl(arguments.carried)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_jsonl(arguments.out / "labelled.jsonl", labelled(pairs))
    write_jsonl(arguments.out / "ranked.jsonl", ranked(pairs, carried))
    return 0


def labelled(pairs: list[Row]) -> Iterator[Row]:
    """One response a prompt."""
    for place, row in enumerate(pairs):
        good = place % 2 == 1
        yield {
            "prompt": row["prompt"],
            "completion": row["chosen" if good else "rejected"],
            "label": good,
        }


def ranked(pairs: list[Row], carried: dict[str, Row]) -> Iterator[Row]:
    """Three responses a prompt, of those prompts that have three different ones."""
    for row in pairs:
        other = carried.get(_asked(row))
        if other and other["chosen"] == row["chosen"] and other["rejected"] != row["rejected"]:
            responses = [other["rejected"], row["chosen"], row["rejected"]]
            yield {"prompt": row["prompt"], "responses": responses, "ranks": [3, 1, 2]}


def _asked(row: Row) -> str:
    return json.dumps(row["prompt"], ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
