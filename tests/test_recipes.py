"""Every recipe is a whole run config that the libraries take as it stands."""

import pytest

from helpers.places import ROOT
from minordpo.config import build_lora_config, build_training_arguments, dump_config, load_config
from minordpo.objectives import resolve
from minordpo.onpolicy.loop.config import dump_loop, load_loop
from minordpo.onpolicy.loop.rounds import Round
from minordpo.paper.worlds.foundation import MicroWorld
from minordpo.sweep.plan import load_plan

PAPER = ROOT / "recipes" / "paper"
RECIPES = [*sorted((ROOT / "recipes").glob("*.yaml")), PAPER / "gsm8k.yaml"]
SWEEPS = sorted({*PAPER.glob("*.yaml")} - {*RECIPES})


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_to_the_libraries_and_reads_back_equal(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv(
        "FSDP_CPU_RAM_EFFICIENT_LOADING", ""
    )  # TrainingArguments sets it: undone after the test
    config = load_config(recipe, [])
    resolve(config.objective.name, config.objective.hyper)  # raises for an unknown name or hyper-parameter
    arguments = build_training_arguments(config, output_dir=str(tmp_path), use_cpu=True)
    assert arguments.learning_rate == config.training.arguments["learning_rate"]
    assert (build_lora_config(config) is None) == (config.lora is None)
    assert config.model.dtype == "float32" or config.lora is not None
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(copy, []) == config


@pytest.mark.parametrize(
    "recipe", sorted((ROOT / "recipes" / "loops").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_loops_recipe_is_valid_and_so_is_the_run_config_of_its_rounds(recipe, tmp_path):
    config = load_loop(recipe, [])
    trained = Round(config, 2).training()
    resolve(trained.objective.name, trained.objective.hyper)
    # A processor without bfloat16 refuses it.
    trained.training.arguments.pop("bf16", None)
    build_training_arguments(trained, output_dir=str(tmp_path), use_cpu=True)
    assert trained.model.path == str(Round(config, 1).run)
    assert config.evaluation().prompt == config.sampling.prompt
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_loop(config), encoding="utf-8")
    assert load_loop(copy, []) == config


def test_the_four_recipes_are_there():
    stems = {recipe.stem for recipe in RECIPES}
    assert {"minordpo-smollm2", "dpo-lora", "gsm8k", "llamafactory-chat"} <= stems


def test_the_paper_recipe_states_what_the_paper_states(tmp_path, monkeypatch):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "")
    config = load_config(PAPER / "gsm8k.yaml", [])
    assert config.model.path == "Qwen/Qwen1.5-7B-Chat"
    assert (config.data.train, config.data.strip_few_shot) == ("abacusai/MetaMath_DPO_FewShot", True)
    arguments = build_training_arguments(config, output_dir=str(tmp_path), use_cpu=True)
    assert 8 * arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == 128
    assert (arguments.num_train_epochs, arguments.lr_scheduler_type) == (1, "linear")
    assert arguments.get_warmup_steps(3000) == 300
    assert arguments.learning_rate in (1e-6, 1e-5)
    assert 0.02 <= config.objective.hyper["beta"] <= 0.2


@pytest.mark.parametrize("recipe", SWEEPS, ids=lambda path: path.stem)
def test_a_sweeps_recipe_plans_runs_that_are_all_valid(recipe, monkeypatch):
    monkeypatch.chdir(ROOT)  # one names another recipe
    asks = "evaluate:" in recipe.read_text(encoding="utf-8")
    few = ["evaluate.task=problems", "evaluate.n=2"]  # not those of the hub, and not hundreds
    plan = load_plan(recipe, few if asks else [], extension=MicroWorld)
    assert len({run.name for run in plan.runs}) == len(plan.runs) > 1
