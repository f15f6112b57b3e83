"""Easy problems of gsm_symbolic in two styles: a small model is first taught to answer tersely, then shown close pairs.

A model of 135 million weights answers under 2 % of GSM8K, so accuracy cannot tell objectives apart there. A few
templates of short sums it can learn. `sft.jsonl` teaches them as bare equations, so that the worked sentences of the
pairs are in another style than the model's own, as the paper's are.
"""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minordpo.data.make.close_pairs import PAPER_PROMPT, ClosePair, corrupt_row
from minordpo.data.make.problems import deal
from minordpo.data.make.solutions import Solution, gsm8k_row, read_solution
from minordpo.errors import InputError
from minordpo.run_folder.files import refuse_existing, write_jsonl

# Those of gsm_symbolic's 85 templates (reasoning-gym 0.1.25) whose solution is two to four sums, each written as an
# equation that we recognise, in whole numbers, below 1,000 in most draws, and at most some 110 of SmolLM2's tokens (60
# draws of each, 2026-11-22); and that have many: 2,000 draws gave 600 different sums or more. By hand left out
# are 9 and 82, which write one of their sums in another way, and 53 and 84, whose whole numbers have a ".0".
EASY = (7, 8, 10, 12, 14, 15, 20, 34, 41, 45, 48, 51, 54, 57, 59, 78, 95)

# Parts in the order in which they are drawn: what is asked does not change with how much there is to train on.
PARTS = ("test", "validation", "held_out", "pairs", "sft")
_ASKS = " Give the result as your final answer. Do not include units."
_NOT_SUMS = re.compile(r"[\s$€£]")
_MAX_DRAWS = 500  # in a row that are of no use


@dataclass(frozen=True)
class SymbolicProblem:
    """A question, its worked solution and the number that answers it."""

    template: int
    solution: Solution

    @property
    def question(self) -> str:
        """The text of the problem."""
        return self.solution.question

    @property
    def sums(self) -> str:
        """The solution as bare equations, the answer last: 12*3=36; 36+5=41."""
        text = self.solution.text
        return "; ".join(
            f"{_NOT_SUMS.sub('', step.expression).replace('x', '*')}={text[step.start : step.end]}"
            for step in self.solution.steps
        )

    def row(self) -> dict[str, str]:
        """The problem as a GSM8K row."""
        return gsm8k_row(self.question, self.solution.text, self.solution.answer)


def reasoning_gym(needed_by: str) -> Any:
    """The package that has gsm_symbolic.

    Raises: InputError where it is not installed.
    """
    try:
        return importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise InputError(
            f"{needed_by} comes from the package reasoning-gym, which is not installed. Install the extra: "
            "pip install 'minordpo[symbolic]' (it builds one dependency from source and needs a C compiler)"
        ) from error


def symbolic_row(item: dict[str, Any]) -> dict[str, str]:
    """Question, worked solution and answer of gsm_symbolic's item, without its own wish for a format."""
    return {
        "question": item["question"].removesuffix(_ASKS),
        "solution": item["metadata"]["answer_cot"],
        "answer": item["answer"],
    }


def draw_parts(
    sizes: dict[str, int], *, seed: int, templates: Sequence[int] = EASY
) -> dict[str, list[SymbolicProblem]]:
    """Problems of each part of `PARTS`, every template equally often.

    No question stands twice in a part, and no sums of one part in another, so that what is asked was never trained on.

    Raises: InputError where a part is larger than the templates have problems for, a template is not of `EASY` or
    named twice, or reasoning-gym is missing.
    """
    _refuse_templates(templates)
    gym = reasoning_gym("minordpo data symbolic")
    generators = gym.create_dataset("gsm_symbolic", seed=0, size=1).generators
    taken: set[tuple[int, str]] = set()  # sums of earlier parts
    parts = {}
    for part in PARTS:
        problems: dict[str, SymbolicProblem] = {}  # by question
        dealt = deal(templates, f"templates of {part} of seed {seed}")
        for index, template in zip(range(sizes[part]), dealt, strict=False):
            rng = random.Random(f"{part} {index} of seed {seed}")
            drawn = (
                _problem(template, symbolic_row(generators[template](rng, 1.0))) for _ in range(_MAX_DRAWS)
            )
            new = (
                each
                for each in drawn
                if each and each.question not in problems and (template, each.sums) not in taken
            )
            problem = next(new, None)
            if problem is None:
                raise InputError(
                    f"{part}.jsonl should have {sizes[part]} problems, but after {index} template {template} had no "
                    f"new one in {_MAX_DRAWS} draws. Lower --{part.replace('_', '-')}, or that of a part drawn before "
                    f"it ({', '.join(PARTS)})"
                )
            problems[problem.question] = problem
        parts[part] = list(problems.values())
        taken |= {(problem.template, problem.sums) for problem in parts[part]}
    return parts


def _refuse_templates(templates: Sequence[int]) -> None:
    if not templates:
        raise InputError(f"--templates names none. Name some of {', '.join(map(str, EASY))}.")
    for template in templates:
        if template not in EASY:
            raise InputError(
                f"--templates names {template}, which is none of the easy ones. Name some of "
                f"{', '.join(map(str, EASY))}."
            )
        if templates.count(template) > 1:
            raise InputError(f"--templates names {template} twice. Leave one of them out.")


def _problem(template: int, row: dict[str, str]) -> SymbolicProblem | None:
    """The problem, if it is one that a close pair can be made of and whose last sum is the answer."""
    # In GSM8K's format: gsm_symbolic's own text ends with the answer already, in several ways.
    solution = read_solution(gsm8k_row(row["question"], row["solution"], row["answer"]))
    if not isinstance(solution, Solution) or not solution.steps:
        return None
    if solution.steps[-1].value != solution.answer_value:
        return None
    problem = SymbolicProblem(template, solution)
    return problem if isinstance(corrupt_row(problem.row()), ClosePair) else None


def write_symbolic(
    folder: Path,
    sizes: dict[str, int],
    *,
    seed: int = 0,
    templates: Sequence[int] = EASY,
    overwrite: bool = False,
) -> dict[str, Path]:
    """The files that were written to `folder`, by part.

    `sft` has the terse style, one response a row; `pairs` and `held_out` close pairs, the chosen one worked in
    sentences; `validation` and `test` GSM8K rows for `minordpo evaluate --task`.

    Raises: InputError where a file exists or cannot be written, a size is below 1, or `draw_parts` refuses.
    """
    files = {part: folder / f"{part}.jsonl" for part in PARTS}
    for part, file in files.items():
        if sizes[part] < 1:
            raise InputError(
                f"--{part.replace('_', '-')} is {sizes[part]}, but at least 1 problem is needed. Raise it."
            )
        refuse_existing(file, overwrite=overwrite)
    parts = draw_parts(sizes, seed=seed, templates=templates)
    folder.mkdir(parents=True, exist_ok=True)
    for part, problems in parts.items():
        write_jsonl(files[part], (_row(part, problem, seed) for problem in problems))
    return files


def _row(part: str, problem: SymbolicProblem, seed: int) -> dict[str, Any]:
    if part == "sft":  # the equations as a single response that is to be imitated
        asked = PAPER_PROMPT.replace("{question}", problem.question)
        return {
            "prompt": [{"role": "user", "content": asked}],
            "completion": [{"role": "assistant", "content": problem.sums}],
            "label": True,
        }
    if part in ("test", "validation"):
        return problem.row()
    pair = corrupt_row(problem.row(), seed=seed)
    assert isinstance(pair, ClosePair)  # problems of which there is none were not drawn
    return pair.row(prompt=PAPER_PROMPT, chat=True)
