"""A claim is added in one place, a module with a rule under `@claim`, and a name that is taken is refused."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.claim_runs import runs
from minordpo.paper.claims.claim import CLAIMS
from minordpo.paper.claims.judge import judge_all
from minordpo.paper.claims.rules import all_claims
from minordpo.paper.claims.runs import Gathered
from minordpo.paper.claims.tables import as_html, as_text, as_values, claims_table

MODULE = '''
from minordpo.paper.claims.claim import ClaimFinding, claim
from minordpo.paper.claims.seed_table import contrast, table


@claim("{name}", "§9", ("dpo",))
def margins_are_wide(runs):
    """{doc}"""
    return ClaimFinding(contrast("margin", table(runs, "dpo", "margin")))
'''
DOC = "Margins | are\n    wide.\n\n    The end margin is above 0.\n    Needs: DPO runs.\n    "


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a module of claims can be written and imported; its claims go afterwards."""
    before = dict(CLAIMS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    CLAIMS.clear()
    CLAIMS.update(before)


def test_a_claim_of_one_module_is_in_the_verdicts_the_docs_table_and_the_report(added: Path):
    (added / "wide_margins.py").write_text(MODULE.format(name="C10b", doc=DOC), encoding="utf-8")
    importlib.import_module("wide_margins")
    names = [claim.name for claim in all_claims()]
    assert names[names.index("C10") :][:3] == ["C10", "C10b", "C11"]
    assert "| C10b | Margins \\| are wide | §9 | The end margin is above 0. | DPO runs |" in claims_table()
    judged = judge_all(Gathered(tuple(runs("dpo", margin=2.0))))
    assert re.search(r"C10b held +Margins \| are wide\n +margin \+2\.00 nats", as_text(judged, []))
    assert '<th scope="row">C10b<td>held<td>Margins | are wide' in as_html(judged, [])
    (situation,) = as_values(judged, [])["situations"][:1]
    assert [each["verdict"] for each in situation["claims"] if each["claim"] == "C10b"] == ["held"]


def test_a_name_that_another_claim_has_is_refused_with_both_places(added: Path):
    (added / "taken_name.py").write_text(MODULE.format(name="C2", doc=DOC), encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"claim C2 is that of minordpo\.paper\.claims\.rules\.log_ratios\.dpo_falls already"
    ):
        importlib.import_module("taken_name")


@pytest.mark.parametrize(("name", "doc"), [("wide", DOC), ("C19", "Margins are wide."), ("C19", "")])
def test_a_claim_without_a_number_a_rule_or_a_need_is_refused(added: Path, name: str, doc: str):
    (added / "no_claim.py").write_text(MODULE.format(name=name, doc=doc), encoding="utf-8")
    with pytest.raises(ValueError, match=f"claim '{name}' needs a name such as C5a and a docstring of a"):
        importlib.import_module("no_claim")
