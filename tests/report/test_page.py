"""The page in headless Chromium: it draws, filters, sorts, says what a pointer is at, and asks nobody for anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.headless import Headless, browser
from helpers.report_runs import EVIL, write_evaluation, write_pair_tokens, write_run
from minordpo.report.find import find
from minordpo.report.gather import gather
from minordpo.report.page import render

COUNT = "document.getElementById('count').textContent"
CHARTS = "document.querySelectorAll('figure.chart svg').length"
NAMES = "[...document.querySelectorAll('#runs tbody td:first-child')].map((cell) => cell.textContent.trim())"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of six runs, with everything that a report can show."""
    browser()
    folder = tmp_path_factory.mktemp("page")
    scored: dict[str, Any] = {"untuned": ("base", 0.3, None)}
    for objective in ("dpo", "minordpo"):
        for beta, seed in ((0.02, 0), (0.02, 1), (0.1, 0)):
            name = f"{objective}-{beta}-{seed}"
            health = ((4, "displaced"), (8, "collapsed")) if (objective, beta) == ("dpo", 0.02) else ()
            run = write_run(
                folder / name,
                objective=objective,
                beta=beta,
                seed=seed,
                health=health,
                finished=name != "dpo-0.1-0",
            )
            write_pair_tokens(run, shift=beta * 20)
            scored[name] = (str((run / "model").resolve()), 0.4 + beta, 5 + 10 * beta)
    write_evaluation(folder / "evaluation", scored)
    file = folder / "index.html"
    file.write_text(render(gather(find([folder]))), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browsing(page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Headless]:
    with Headless(tmp_path_factory.mktemp("profile")) as headless:
        yield headless


@pytest.fixture
def shown(browsing: Headless, page_file: Path) -> Iterator[Headless]:
    """The page, freshly opened; at the end nothing was wrong and nobody was asked for anything but the file."""
    browsing.errors.clear()
    browsing.requests.clear()
    browsing.show(1400)
    browsing.open(page_file)
    yield browsing
    assert browsing.errors == []
    assert set(browsing.requests) == {page_file.resolve().as_uri()}


def test_every_section_draws_and_what_a_model_wrote_is_text(shown: Headless):
    ids = shown.value("[...document.querySelectorAll('main > section')].map((each) => each.id)")
    assert ids == ["rewards", "push", "scores", "against", "health", "runs", "answers", "pairs"]
    assert shown.value("document.querySelectorAll('.how').length") == 0
    for section, charts in {"rewards": 6, "push": 3, "scores": 1, "against": 1, "health": 1}.items():
        assert shown.value(f"document.querySelectorAll('#{section} figure.chart svg').length") == charts, (
            section
        )
    assert shown.value("document.title").startswith("6 runs in ")
    assert shown.value("document.querySelectorAll('img, script').length") == 2  # the data and the page's own
    cards = shown.value("[...document.querySelectorAll('#answers .text')].map((each) => each.textContent)")
    assert len(cards) == 6  # one before training, five after; dpo-0.1-0 has not finished
    assert all(EVIL in text for text in cards)
    # NaN and undefined in an attribute draw nothing, silently.
    assert shown.value("/NaN|undefined|null/.test(document.querySelector('main').innerHTML)") is False


def test_a_filter_acts_on_charts_table_and_answers(shown: Headless):
    lines = "document.querySelectorAll('#rewards figure.chart path').length"
    cards = "document.querySelectorAll('#answers article').length"
    before = shown.value(lines)
    assert shown.value(COUNT) == "6 of 6"
    shown.click("[data-facet=objective] [data-value=dpo]")
    assert shown.value(COUNT) == "3 of 6"
    assert shown.value(lines) * 2 == before
    assert shown.value(NAMES) == ["minordpo-0.02-0", "minordpo-0.02-1", "minordpo-0.1-0"]
    assert shown.value(cards) == 4
    assert shown.value("document.querySelectorAll('#pairs article').length") == 3
    assert shown.value("document.querySelectorAll('#health .strip').length") == 3
    shown.click("[data-facet=seed] [data-value='0']")
    assert shown.value(NAMES) == ["minordpo-0.02-1"]
    shown.click("#groups [data-value='2']")
    assert shown.value(COUNT) == "0 of 6"
    shown.click("#all")
    assert shown.value(COUNT) == "6 of 6"
    assert shown.value(lines) == before


def test_runs_that_differ_by_their_seed_are_one_line_with_a_range(shown: Headless):
    assert shown.value("document.querySelectorAll('#rewards .row').length") == 2
    row = "document.querySelector('#rewards .row')"
    assert shown.value(f"{row}.querySelectorAll('svg path').length") == 6  # two settings in three panels
    assert shown.value(f"{row}.querySelectorAll('svg polygon').length") == 3  # one of them has two seeds
    shown.choose("#rewards select", "none")
    assert shown.value("document.querySelectorAll('#rewards .row').length") == 1


def test_a_heading_sorts_and_sorts_back(shown: Headless):
    shown.click("#runs [data-column='eval_logratios/chosen']")
    up = shown.value(NAMES)
    assert up[0].startswith("dpo-0.02-1")
    assert (
        shown.value("document.querySelector('[aria-sort=ascending] button').dataset.column")
        == "eval_logratios/chosen"
    )
    shown.press("Enter")  # the heading keeps the focus
    assert shown.value("document.querySelectorAll('[aria-sort=descending]').length") == 1
    assert shown.value(NAMES) == up[::-1]


def test_a_pointer_reads_run_step_and_value(shown: Headless):
    shown.click("[data-facet=seed] [data-value='1']")
    shown.point("#rewards .row:nth-of-type(1) figure circle:not(.cursor)")
    told = shown.value("document.querySelector('#rewards .tip:not(:empty)').textContent")
    name, value = told.split("\n")
    assert name == "dpo-0.02-0"
    # 4000 · rate / (1 + 5 β) nats a step, of held-out pairs 0.9 of that: −13.1 at step 4
    assert value == "held out, step 4: −13.1"


def test_arrow_keys_read_a_chart(shown: Headless):
    shown.value("document.querySelector('#push figure:nth-of-type(1) svg').focus()")
    shown.press("ArrowRight")
    first = shown.value("document.querySelector('#push .tip').textContent")
    shown.press("ArrowRight")
    second = shown.value("document.querySelector('#push .tip').textContent")
    shown.press("ArrowDown")
    third = shown.value("document.querySelector('#push .tip').textContent")
    assert [text.split("\n")[0] for text in (first, second, third)] == ["β 0.02", "β 0.02", "β 0.1"]
    assert first != second
    shown.press("Escape")
    assert shown.value("document.querySelector('#push .tip').textContent") == ""


def test_answers_are_chosen_by_source_and_step(shown: Headless):
    shown.choose("#answers select[aria-label='Answers to']", "2")
    text = "[...document.querySelectorAll('#answers .text')].map((each) => each.textContent)"
    assert "minordpo-0.1-0 at 12" in shown.value(text)
    shown.choose("#answers select[aria-label='At step']", "8")
    assert "minordpo-0.1-0 at 8" in shown.value(text)
    assert "minordpo-0.1-0 at 12" not in shown.value(text)
    shown.choose("#answers select[aria-label='Answers to']", "1")
    assert "right" in shown.value("document.querySelector('#answers article').textContent")


def test_tokens_are_coloured_by_sign_and_read_by_keys(shown: Headless):
    spans = (
        "[...document.querySelectorAll('#pairs .tokens')[0].children].map((each) => each.style.background)"
    )
    colours = shown.value(spans)
    assert ["--less" in each for each in colours] == [True, False, False]
    shown.value("document.querySelector('#pairs .tokens').focus()")
    shown.press("ArrowRight")
    said = shown.value("document.querySelector('#pairs .status').textContent")
    assert said == 'token 1 "12": log-ratio −1.1, log-prob −2 nats'


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_does_not_scroll_sideways(shown: Headless, page_file: Path, width: int):
    shown.show(width)
    shown.open(page_file)
    assert shown.value("document.documentElement.scrollWidth") <= width
    assert shown.value(CHARTS) == 12


def test_a_dark_scheme_darkens_paper_and_lightens_curves(shown: Headless, page_file: Path):
    def looks() -> list[int]:
        paint = "(text) => text.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b)"
        paper = "getComputedStyle(document.body).backgroundColor"
        curve = "getComputedStyle(document.querySelector('#rewards figure path')).stroke"
        return shown.value(f"[{paper}, {curve}].map({paint})")

    light = looks()
    shown.show(1400, dark=True)
    dark = looks()
    assert light[0] == 3 * 255
    assert dark[0] < 100
    assert dark[1] > light[1]


def test_a_section_without_data_says_which_command_adds_it(browsing: Headless, tmp_path: Path):
    run = write_run(tmp_path / "run", beta=None, objective="sft", finished=False)
    for name in ("samples.jsonl", "probes.jsonl"):
        (run / name).unlink()
    (tmp_path / "page.html").write_text(render(gather(find([run]))), encoding="utf-8")
    browsing.errors.clear()
    browsing.open(tmp_path / "page.html")
    said = browsing.value(
        "[...document.querySelectorAll('.how code')].map((each) => each.textContent.split(' --')[0])"
    )
    assert said == [
        "minordpo evaluate BASE RUN…",
        "minordpo evaluate BASE RUN…",
        "data.eval=32 samples.prompts=8",
        "minordpo report DIR",
    ]
    assert browsing.errors == []
    assert (
        json.loads(browsing.value("document.getElementById('data').textContent"))["runs"][0]["beta"] is None
    )
