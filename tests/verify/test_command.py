"""A program of the user's own as a verifier."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from pathlib import Path

import pytest

from helpers.places import ROOT
from minordpo.errors import InputError
from minordpo.verify.verdict import Asked, Verdict
from minordpo.verify.verifier import Verifier, load_verifier

ASKED = Asked(row=12, prompt=[{"role": "user", "content": "Warum ß?"}], answer="42", facts={"level": 3})
LOOP = """
import json, os, pathlib, sys, time
with open(__file__ + ".started", "a") as file:
    file.write("started ")
for number, line in enumerate(sys.stdin):
    row = json.loads(line)
    {body}
"""


@pytest.fixture
def program(tmp_path):
    def written(body: str, **options) -> Verifier:
        file = tmp_path / "program.py"
        file.write_text(LOOP.format(body=body), encoding="utf-8")
        command = f"command:{shlex.quote(sys.executable)} {shlex.quote(str(file))}"
        return load_verifier(command, allow_code=True, **options)

    return written


def first(verifier: Verifier, *answers: str) -> list[Verdict]:
    ((_, verdicts),) = verifier.verdicts([(0, ASKED, answers or ("x",))])
    return verdicts


def test_a_program_is_started_once_and_reads_each_answer(program, tmp_path):
    verifier = program(
        'print(json.dumps({"score": len(row["answer"]) + row["facts"]["level"], "passed": row["right"] in row["answer"'
        '], "note": row["prompt"][0]["content"]}), flush=True)'
    )
    verifier.check([ASKED])
    assert verifier.cost(3, 2) == f"{sys.executable}: 6 lines"
    found = list(verifier.verdicts((key, ASKED, ["42\n", "é"]) for key in range(3)))
    both = [
        Verdict(score=6.0, passed=True, note="Warum ß?"),
        Verdict(score=4.0, passed=False, note="Warum ß?"),
    ]
    assert found == [(key, both) for key in range(3)]
    assert (tmp_path / "program.py.started").read_text() == "started "


def test_the_program_of_the_page_runs(tmp_path):
    page = (ROOT / "docs" / "verify.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(import json, sys\n.*?)```", page, re.DOTALL)
    (tmp_path / "program.py").write_text(code, encoding="utf-8")
    found = load_verifier(f"command:{sys.executable} {tmp_path / 'program.py'}", allow_code=True)
    assert [each.score for each in first(found, "It is 42.", "It is 41.")] == [1.0, 0.0]


def test_groups_are_taken_as_they_are_needed(program):
    taken = []

    def groups():
        for key in range(3):
            taken.append(key)
            yield key, ASKED, ["x"]

    verdicts = program("print('{\"score\": 1}', flush=True)").verdicts(groups())
    assert next(verdicts) == (0, [Verdict(score=1.0, passed=None)])
    assert taken == [0]
    verdicts.close()


def test_a_long_line_passes(program):
    verifier = program('print(json.dumps({"score": len(row["answer"])}), flush=True)')
    assert first(verifier, "x" * 1_000_000)[0].score == 1_000_000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            'print("fine", flush=True)',
            r"wrote 'fine' for an answer to row 12 of the prompts, but a JSON object",
        ),
        (
            "print('{\"score\": NaN}', flush=True)",
            r"wrote the score 'NaN' for .* but a finite number is needed",
        ),
        ("print('{\"score\": 1' + '0' * 400 + '}', flush=True)", r"but a finite number is needed"),
        ("print('{\"score\": true}', flush=True)", r"wrote the score 'true'"),
        ("print('{\"scores\": 1}', flush=True)", "but a JSON object with a score, such as"),
        ('print(\'{"score": 1, "pased": true}\', flush=True)', r"the key 'pased' \(did you mean passed\?\)"),
        ('print(\'{"score": 1, "passed": 1}\', flush=True)', "passed as true, false or null"),
        ("print('x' * 2_000_000, flush=True)", r"wrote a line of more than 1,048,576 bytes"),
        (
            'print("first", file=sys.stderr); sys.exit("no such model")',
            r"ended \(with status 1\) before it wrote a line for an answer to row 12 of the prompts \(its last line on "
            r"stderr: no such model\)\. Correct the program$",
        ),
        ("os.kill(os.getpid(), 15)", r"ended \(by signal 15\)"),
        (
            'print(\'{"score": 1}\\n{"score": 2}\', flush=True)',
            r"wrote more lines than it was given answers, first",
        ),
    ],
)
def test_nonsense_is_told_in_one_line(program, body: str, message: str):
    with pytest.raises(InputError, match=message) as raised:
        first(program(body))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("body", ["time.sleep(60)", "print('{', end='', flush=True); time.sleep(60)"])
def test_a_program_that_hangs_is_ended(program, body: str):
    began = time.monotonic()
    message = r"wrote no line for an answer to row 12 of the prompts within 1\.5 seconds.*--verify-timeout"
    with pytest.raises(InputError, match=message):
        first(program(body, verify_timeout=1.5))
    assert time.monotonic() - began < 10


def alive(file: Path) -> bool:
    process = int(file.read_text())
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
        if Path(f"/proc/{process}/stat").exists() and " Z " in Path(f"/proc/{process}/stat").read_text():
            return False  # ended, and its parent, which is not ours, has not asked
        time.sleep(0.05)
    return True


def test_nothing_that_it_started_is_left(program, tmp_path):
    note = tmp_path / "child"
    verifier = program(
        "import subprocess; child = subprocess.Popen(['sleep', '100']); "
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid)); print('{{\"score\": 1}}', flush=True)"
    )
    verdicts = verifier.verdicts([(0, ASKED, ["x"]), (1, ASKED, ["x"])])
    next(verdicts)
    verdicts.close()
    assert not alive(note)


def test_what_cannot_be_started_or_said_is_refused_before(program):
    with pytest.raises(InputError, match=r"there is no program no-such-program that may be executed"):
        load_verifier("command:no-such-program -x", allow_code=True).check([ASKED])
    with pytest.raises(InputError, match="names no program"):
        load_verifier("command: ", allow_code=True)
    with pytest.raises(InputError, match="cannot be split into words: No closing quotation"):
        load_verifier("command:cat 'x", allow_code=True)
    odd = Asked(row=2, prompt="Why?", facts={"set": {1, 2}})
    with pytest.raises(
        InputError, match=r"^row 2 of the prompts cannot be given to --verify .*not JSON serializable"
    ):
        program("pass").check([odd])


def test_another_program_is_another_setting(program):
    before = program("pass").settings()
    assert program("pass").settings() == before
    assert program("pass # changed").settings() != before
