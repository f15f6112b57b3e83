"""Sweeps whose runs stand on micro worlds: what is planned, made first, asked and refused; and one that is real."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.places import ROOT, TESTS
from helpers.tiny_runs import RENAMED
from helpers.tiny_sweeps import (
    CURSED,
    RUN,
    Begun,
    InThisProcess,
    Pretended,
    copy_begun,
    plan_of,
    pretend,
    swept,
    table,
    write_sweep,
)
from minordpo.config import load_config
from minordpo.data import cache as data_cache
from minordpo.data import checks
from minordpo.engine import reference
from minordpo.errors import InputError
from minordpo.paper.claims.runs import gather_runs
from minordpo.paper.worlds import base
from minordpo.paper.worlds import world as micro
from minordpo.paper.worlds.foundation import MicroWorld
from minordpo.paper.worlds.world import World
from minordpo.report.find import find
from minordpo.report.gather import gather
from minordpo.sweep import sweep as sweeping
from minordpo.sweep.folder import SweepFolder
from minordpo.sweep.plan import load_plan
from minordpo.train import run as training

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]
plan_on_worlds = functools.partial(plan_of, extension=MicroWorld)
swept_on_worlds = functools.partial(swept, extension=MicroWorld)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return pretend(monkeypatch)


def test_a_world_is_named_by_the_accuracy_of_its_base_where_that_is_not_the_default(tmp_path: Path):
    grid = {"world.base_accuracy": [[0.45, 0.65], [0.6, 0.8], None]}
    plan = plan_on_worlds(tmp_path, world={"pairs": 16}, grid=grid)
    assert [each.folder.name for each in plan.foundations] == [
        "chain-full-result-16x2600-seed0",
        "chain-full-result-16x2600-right0.6to0.8-seed0",
        "chain-full-result-16x2600-anyright-seed0",
    ]


def test_a_world_stands_in_place_of_model_and_data_and_its_seed_is_the_runs(tmp_path: Path):
    grid = {"world.distance": ["none", "full"], "seed": [0, 1]}
    plan = plan_on_worlds(tmp_path, world={"pairs": 16}, grid=grid, evaluate={"samples": 2, "n": 4})
    assert [run.foundation.values for run in plan.runs][:2] == [
        World(distance="none", pairs=16, seed=0),
        World(distance="full", pairs=16, seed=0),
    ]
    assert len(plan.foundations) == 4
    run = plan.runs[1]
    folder = tmp_path / "out" / "worlds" / "chain-full-result-16x2600-seed0"
    assert (run.config.model.path, run.config.data.train) == (
        str(folder / "base"),
        str(folder / "pairs.jsonl"),
    )
    assert run.config.data.eval == str(folder / "held_out.jsonl")
    assert run.config.model.reference == str(folder / "base")
    assert plan.notes == ("the micro world stands in place of run's model.path, data.train",)
    asked = plan.evaluation(run)
    assert asked is not None
    assert (asked.task, asked.prompt, asked.plain_text) == (
        str(folder / "validation.jsonl"),
        "{question}\n",
        True,
    )
    assert (asked.n, asked.reference) == (4, str(folder / "base"))


@pytest.mark.parametrize(
    ("samples", "longest"), [({}, 96), ({"max_new_tokens": 20}, 20), ({"prompts": 0}, 256)]
)
def test_samples_of_a_run_on_a_world_are_no_longer_than_its_base_can_answer(
    tmp_path: Path, samples: dict[str, int], longest: int
):
    plan = plan_on_worlds(tmp_path, run=RUN | {"samples": samples}, world={"pairs": 16}, grid={"seed": [0]})
    assert plan.runs[0].config.samples.max_new_tokens == longest


def test_the_example_of_the_docs_is_a_sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(ROOT)
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "sweep.md").read_text(), re.DOTALL)
    (tmp_path / "s.yaml").write_text(example)
    plan = load_plan(tmp_path / "s.yaml", extension=MicroWorld)
    assert len(plan.runs) == 2 * (8 + 8 + 4) + 2
    assert len(plan.foundations) == 4


def test_other_questions_than_those_that_were_asked_are_refused(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, world={"pairs": 16}, grid={"seed": [0]}, evaluate={"n": 4})
    plan = plan_on_worlds(tmp_path, world={"pairs": 16}, grid={"seed": [0]}, evaluate={"n": 4})
    swept_on_worlds(tmp_path)
    (plan.runs[0].folder / "evaluation").mkdir()
    with pytest.raises(InputError, match=r"seed0 was evaluated with evaluate\.n 4, not 8"):
        swept_on_worlds(tmp_path, "evaluate.n=8")


def test_other_questions_than_the_untuned_model_was_asked_are_refused_before_any_run_is(
    tmp_path: Path, pretended: Pretended
):
    write_sweep(tmp_path, world={"pairs": 16}, grid={"seed": [0]}, evaluate={"n": 4})
    swept_on_worlds(tmp_path)
    shutil.rmtree(
        tmp_path / "out" / "seed0"
    )  # as of a sweep that was stopped when it had asked the untuned model
    with pytest.raises(InputError, match=r"untuned model was .*evaluate\.n 4, not 8.* remove .*out/untuned"):
        swept_on_worlds(tmp_path, "evaluate.n=8")
    shutil.rmtree(tmp_path / "out" / "untuned")
    swept_on_worlds(tmp_path, "evaluate.n=8")
    assert pretended.done.count("untuned-chain-full-result-16x2600-seed0") == 2


def test_a_world_is_made_once_before_its_runs_and_its_failure_is_theirs(tmp_path: Path, pretended: Pretended):
    grid = {"world.pairs": [16, int(CURSED)], "objective.beta": [0.1, 0.2]}
    write_sweep(tmp_path, world={}, grid=grid)
    failed, said = swept_on_worlds(tmp_path, jobs=3)
    assert failed == 2
    assert "its base took 2 steps and is right in 50% of 8 questions" in said
    worlds = [name for name in pretended.done if name.startswith("chain-")]
    assert len(worlds) == len(set(worlds)) == 2
    assert pretended.done.index(worlds[0]) < pretended.done.index("beta0.1-world.pairs16")
    error = table(tmp_path)["beta0.1-world.pairs666"]["error"]
    assert error == "its world could not be made: such a world cannot be made"


def test_the_time_left_is_reckoned_from_runs_and_worlds_apart(
    tmp_path: Path, pretended: Pretended, monkeypatch: pytest.MonkeyPatch
):
    clock = itertools.count(0, 10)  # seconds; each job takes ten
    monkeypatch.setattr(sweeping.time, "perf_counter", lambda: float(next(clock)))
    write_sweep(tmp_path, world={"pairs": 16}, grid={"seed": [0, 1], "objective.beta": [0.1, 0.2]})
    _, said = swept_on_worlds(tmp_path)
    ends = [line for line in said.splitlines() if line.startswith("[")]
    assert [line.partition("; ")[2] for line in ends] == [
        "about 40 s left",  # three runs and the other world
        "about 20 s left" if "seed1" in ends[1] else "about 30 s left",
        "about 10 s left",
        "",
    ]


def test_a_sweep_that_goes_on_reckons_by_what_is_done(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, world={"pairs": 16}, grid={"seed": [0, 1], "objective.beta": [0.1, 0.2]})
    assert "by those that are done" not in swept_on_worlds(tmp_path, only="beta0.1-seed0")[1]
    # Of three seconds each the three runs, and of thirty the other world.
    assert "  about 39 s left, by those that are done\n" in swept_on_worlds(tmp_path)[1]


def test_the_untuned_model_of_each_world_is_asked_once_and_after_its_world_is_made(
    tmp_path: Path, pretended: Pretended
):
    world = {"pairs": 16}
    write_sweep(tmp_path, world=world, grid={"seed": [0, 1], "objective.beta": [0.1, 0.2]}, evaluate={"n": 4})
    assert "untuned models: 2 to be asked the same, 0 of them done" in swept_on_worlds(tmp_path)[1]
    asked = [name for name in pretended.done if name.startswith("untuned-")]
    assert sorted(asked) == [f"untuned-chain-full-result-16x2600-seed{seed}" for seed in (0, 1)]
    for name in asked:
        assert pretended.done.index(name) > pretended.done.index(name.removeprefix("untuned-"))
    plan, folder = load_plan(tmp_path / "s.yaml", extension=MicroWorld), SweepFolder(tmp_path / "out")
    todo = list(plan.runs)
    assert "2 to be asked the same, 2 of them done" in sweeping.describe(plan, folder, todo, retry=False)
    assert sweeping.untuned_jobs(plan, folder, todo) == []


def test_a_world_that_cannot_be_made_has_no_model_to_ask(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, world={"pairs": int(CURSED)}, grid={"seed": [0]}, evaluate={"n": 4})
    assert swept_on_worlds(tmp_path)[0] == 1
    assert swept_on_worlds(tmp_path)[0] == 1  # it has failed, so neither is tried again
    assert pretended.done == ["chain-full-result-666x2600-seed0"]


def test_the_untuned_model_is_asked_the_same_but_for_samples_of_which_it_is_the_measure(
    tmp_path: Path,
):
    evaluate = {"n": 4, "samples": 2, "temperature": 0.5}
    plan = plan_on_worlds(tmp_path, world={"pairs": 16}, grid={"seed": [0]}, evaluate=evaluate)
    folder, asked = plan.untuned(plan.runs[0]) or (None, None)
    tuned = plan.evaluation(plan.runs[0])
    assert folder == tmp_path / "out" / "untuned" / "chain-full-result-16x2600-seed0"
    assert asked == dataclasses.replace(tuned, samples=0, temperature=None, reference=None)
    # Where the answers themselves are drawn, its are drawn too.
    drawn = plan_on_worlds(tmp_path, world={}, grid={"seed": [0]}, evaluate={"temperature": 0.5})
    assert (drawn.untuned(drawn.runs[0]) or (None, tuned))[1] == drawn.evaluation(drawn.runs[0])
    other = plan_on_worlds(
        tmp_path, "run.model.revision=main", grid={"seed": [0]}, evaluate={"task": "problems", "n": 4}
    )
    assert other.untuned(other.runs[0]) is None


def test_a_dry_run_adds_the_worlds_that_are_not_made_by_those_that_are(tmp_path: Path, pretended: Pretended):
    write_sweep(tmp_path, world={"pairs": 16}, grid={"seed": [0, 1, 2]})
    swept_on_worlds(tmp_path, only="seed0")
    assert (
        "before them 2 micro worlds are to be made, about 30 s more"
        in swept_on_worlds(tmp_path, dry_run=True, jobs=2)[1]
    )
    (base,) = (tmp_path / "out" / "worlds").glob("*/base/trained.json")
    base.write_text('{"steps": 2, "right": 0.5, "asked": 8}')  # as it was written before seconds were
    assert (
        "2 micro worlds are to be made, whose time is not known" in swept_on_worlds(tmp_path, dry_run=True)[1]
    )


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two objectives on one tiny world, in this process, with what was computed more than once."""
    folder = tmp_path_factory.mktemp("sweep")
    counted: dict[str, list[int]] = {"referred": [], "tokenised": []}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HELD_OUT", "VALIDATION", "TEST", "RETENTION"):
            patch.setattr(micro, name, 4)
        patch.setattr(base, "BATCH", 8)
        patch.setattr(sweeping, "Workers", InThisProcess)
        compute, prepare = reference._compute, data_cache.prepare_rows

        def computing(model: Any, examples: dict[bytes, Any], cache: Any, *rest: Any) -> Any:
            if cache._folder is not None:
                counted["referred"].append(sum(key not in cache for key in examples))
            return compute(model, examples, cache, *rest)

        def preparing(*args: Any, **options: Any) -> checks.PreparedExamples:
            counted["tokenised"].append(1)
            return prepare(*args, **options)

        patch.setattr(reference, "_compute", computing)
        patch.setattr(data_cache, "prepare_rows", preparing)
        sections = {
            "world": {"pairs": 16, "base_steps": 2, "base_accuracy": None},
            "grid": {"objective.name": ["dpo", "sft"], "seed": [0]},
            "evaluate": {"max_new_tokens": 6, "samples": 2},
        }
        run = {name: each for name, each in RUN.items() if name not in ("model", "data")}
        write_sweep(folder, run=run, **sections)
        dry = swept_on_worlds(folder, dry_run=True)[1]
        assert not (folder / "out").exists()
        _, said = swept_on_worlds(folder)
    return {"folder": folder, "said": said, "dry": dry, **counted}


def test_real_runs_are_ordinary_run_folders_with_a_row_each(real: dict[str, Any]):
    rows = table(real["folder"])
    assert list(rows) == ["dpo-seed0", "sft-seed0"]
    for name, row in rows.items():
        folder = real["folder"] / "out" / name
        config = load_config(folder / "config.yaml", [])
        assert training.finished(folder)
        assert (config.training.arguments["seed"], row["seed"]) == (0, "0")
        assert (row["status"], row["questions"], row["retention_questions"], row["steps"]) == (
            "finished",
            *"442",
        )
        asked = json.loads((folder / "evaluation" / "results.json").read_text())
        model = asked["models"][name]
        assert float(row["strict_accuracy"]) == model["strict_accuracy"]["share"]
        assert float(row["kl_per_sequence"]) == model["samples"]["kl"]["per_sequence"]
        assert float(row["total_seconds"]) > float(row["training_seconds"]) > 0
        assert row["machine"]
    assert rows["dpo-seed0"]["eval_logratios/chosen"] != rows["sft-seed0"]["eval_logratios/chosen"]


def test_the_untuned_model_has_answered_the_questions_of_its_runs(real: dict[str, Any]):
    out = real["folder"] / "out"
    (untuned,) = (out / "untuned").iterdir()
    results = json.loads((untuned / "results.json").read_text())
    tuned = json.loads((out / "dpo-seed0" / "evaluation" / "results.json").read_text())
    assert results["settings"]["questions_digest"] == tuned["settings"]["questions_digest"]
    (model,) = results["models"].values()
    assert Path(model["path"]) == out / "worlds" / untuned.name / "base"
    assert model["strict_accuracy"]["of"] == 4
    # The report and the claims find it as what the runs were tuned from.
    found = find([out])
    assert [run.label for run in found.runs] == ["dpo-seed0", "sft-seed0"]
    (scores,) = gather(found)["evaluations"]
    assert scores["base"]["label"] == "base"
    gathered = gather_runs(find([real["folder"]]))
    assert all(run.measures["base_accuracy"] == model["flexible_accuracy"]["share"] for run in gathered.runs)
    assert {"broken", "kl", "retention", "chosen", "accuracy"} <= gathered.runs[0].measures.keys()
    assert gathered.runs[0].others["world.rejected"] == "result"
    assert not {"world.seed", "model.path", "training.seed"} & gathered.runs[0].others.keys()


def test_runs_of_one_world_are_tokenised_once_and_share_their_reference(real: dict[str, Any]):
    # Pairs and held-out ones, once: the dry run's world has the same rows, and so the same tokens.
    assert len(real["tokenised"]) == 2
    # Two steps of four pairs, and the held-out ones; the dry run keeps nothing.
    assert [count for count in real["referred"] if count] == [8 + 4]


def test_a_dry_run_estimates_a_world_that_is_not_there(real: dict[str, Any]):
    assert "out: 2 runs" in real["dry"]
    assert "micro worlds: 1, 0 of them made" in real["dry"]
    assert "measured on one packed row of each kind of run (1)" in real["dry"]
    assert "The making of 1 micro world is in it." in real["dry"]


def test_a_finished_sweep_reads_its_rows_from_its_folders(real: dict[str, Any]):
    folder = SweepFolder(real["folder"] / "out")
    assert [row["objective"] for row in folder.results()] == ["dpo, beta 0.1", "sft, per_token true"]
    assert "dpo-seed0" in real["said"]


def test_a_sweep_tells_of_the_world_that_its_runs_wait_for(real: dict[str, Any]):
    (world,) = (each.name for each in (real["folder"] / "out" / "worlds").iterdir())
    making, made = (line for line in real["said"].splitlines() if line.startswith(f"{world}:"))
    assert making == f"{world}: making this micro world, for which its runs wait"
    assert made == f"{world}: its base took 2 steps"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"grid": {"world": [{}]}, "world": {}},
            r"grid has world, .* section.* Write a key of it, as world\.",
        ),
        ({"grid": {"world.seed": [0]}}, r"world\.seed varies, but there is no world"),
        (
            {"grid": {"world.pears": [0]}, "world": {}},
            r"world\.pears is not a key .* Did you mean world\.pairs\?",
        ),
        (
            {"grid": {"world.family": ["ring"]}, "world": {}},
            r'world\.family is "ring", but chain or scale is needed',
        ),
        ({"grid": {"world.pairs": [0]}, "world": {}}, "a world of 0 pairs was asked for"),
        (
            {"grid": {"seed": [0]}, "world": {"base_accuracy": ["most"]}},
            r"world\.base_accuracy is a list of 1, but a list of a number or null is needed",
        ),
        ({"grid": {"seed": [0]}, "world": {"base_accuracy": [0.6, 0.5]}}, r"base_accuracy is \[0\.6, 0\.5\]"),
        ({"grid": {"seed": [0]}, "evaluate": {"task": "test"}}, "is test, which is a micro world's"),
    ],
)
def test_what_no_world_can_be_is_refused_in_words(tmp_path: Path, sections: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        plan_on_worlds(tmp_path, **sections)


# ---- begun by another version ----
@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begun:
    """Written by `minordpo sweep` of 0.1.0 with four questions of each kind; weights and figures are taken out."""
    source = TESTS / "paper" / "folder_of_version_0_1"
    return copy_begun(source, tmp_path / "copy", monkeypatch, MicroWorld)


def test_a_sweep_on_a_world_begun_by_the_version_before_has_nothing_left_to_do(begun: Begun):
    failed, said = begun.swept()
    assert (failed, begun.pretended.done) == (0, [])
    assert "micro worlds: 1, 1 of them made; runs on one share it" in said
    assert "1 done; 0 begun; 0 to do" in said
    assert begun.rows_are_as_before()


def test_a_world_s_key_that_came_since_has_its_default_and_one_that_is_gone_is_named(begun: Begun):
    file = Path("out/sweep.json")
    known = json.loads(file.read_text())
    world = known["runs"]["seed0"]["identity"]["world"]
    del world["rejected"]
    file.write_text(json.dumps(known))
    assert begun.swept()[0] == 0
    assert begun.pretended.done == []
    with pytest.raises(InputError, match=r'seed0 was begun with world\.rejected "result", not "quarter"'):
        begun.swept("world.rejected=quarter")
    world["colour"] = "red"
    file.write_text(json.dumps(known))
    with pytest.raises(InputError, match=r"out/sweep\.json, seed0: world\.colour is not a key of minordpo"):
        begun.swept()


def test_without_the_extension_the_section_is_none_of_a_sweep(begun: Begun):
    with pytest.raises(InputError, match=r"sweep\.yaml: world is not a key of minordpo"):
        dataclasses.replace(begun, extension=None).swept()
