"""EleutherAI's lm-eval with our task file scores the same answers the same as `minordpo evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import minordpo.evaluate.lm_eval as task_folder
from helpers.small_evaluations import config_of
from helpers.tiny_runs import save_tiny, write_rows
from minordpo.evaluate.evaluation import evaluate
from minordpo.evaluate.folder import EvaluationFolder
from minordpo.evaluate.tasks import Question
from minordpo.generate.generation import Answer
from minordpo.run_folder import names

FOLDER = Path(task_folder.__file__).parent
WORKED = [
    {"question": "How many clips?", "answer": "48/2 = <<48/2=24>>24\n24+48 = <<24+48=72>>72\n#### 72"},
    {"question": "Why?", "answer": "3 * 400 = <<3*400=1200>>1,200\n#### 1,200"},
]
TEXTS = [
    "So the answer is: 72",
    "So the answer is: 1,200 dollars.",
    "**So the answer is:** $1200.00",
    "It is 72.",
    "So the answer is: 72 = x",
    "So the answer is: 144/2",
    "So the answer is: 1\n72",
    "So the answer is: seven",
    "1.2 thousand",
    "",
]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Our task as lm-eval loads it from the shipped folder, on a local file in place of the hub set."""
    pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    assert "minordpo_gsm8k" in TaskManager(include_path=str(FOLDER), include_defaults=False).all_tasks
    folder = tmp_path_factory.mktemp("rows")
    file = write_rows(folder / "q.jsonl", WORKED)
    local = {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")}
    config = load_yaml(FOLDER / "minordpo_gsm8k.yaml")
    config |= {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": local}
    config["generation_kwargs"]["max_gen_toks"] = 6
    return config, file


LIBRARIES = pytest.mark.filterwarnings("ignore")  # lm-eval's and its dependencies'


@LIBRARIES
@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_is_scored_as_in_our_answers_file(loaded, text, tmp_path):
    from lm_eval.api.task import ConfigurableTask

    config, _ = loaded
    task = ConfigurableTask(config=dict(config))
    (tmp_path / names.EVALUATION_SETTINGS).write_text("{}")
    for number, (doc, reference) in enumerate(zip(WORKED, ("72", "1200"), strict=True), 1):
        scored = task.process_results(doc, [text])
        question = Question(number, doc["question"], reference, None)
        EvaluationFolder(tmp_path).add("m", names.ANSWERS, question, 0, Answer(text, (), True, 1))
        row = json.loads((tmp_path / "m" / names.ANSWERS).read_text(encoding="utf-8").splitlines()[-1])
        assert scored["strict_accuracy"] == row["strict_right"]
        assert scored["flexible_accuracy"] == row["flexible_right"]
        assert scored["asked_format"] == (row["strict"] is not None)


@LIBRARIES
def test_a_model_gives_the_same_answers_and_shares_in_both(loaded, tmp_path):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    config, file = loaded
    model = save_tiny(tmp_path / "tiny", max_position_embeddings=1024)
    theirs = simple_evaluate(
        model=HFLM(pretrained=str(model), device="cpu", batch_size=1),
        tasks=[dict(config)],
        apply_chat_template=True,
        log_samples=True,
        bootstrap_iters=0,
    )
    ours = evaluate([str(model)], config_of(tmp_path, task=str(file)), out=tmp_path / "out")
    rows = {
        row["question"]: row["answer"]
        for row in map(json.loads, (tmp_path / "out" / "tiny" / names.ANSWERS).read_text().splitlines())
    }
    samples = theirs["samples"]["minordpo_gsm8k"]
    assert {s["doc"]["question"]: s["resps"][0][0] for s in samples} == rows
    for name in ("strict_accuracy", "flexible_accuracy", "asked_format"):
        assert theirs["results"]["minordpo_gsm8k"][f"{name},none"] == ours["models"]["tiny"][name]["share"]
