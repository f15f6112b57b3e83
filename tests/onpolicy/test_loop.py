"""Whole loops of tiny models: the pieces, going on after a stop, how they end, and what is refused."""

from __future__ import annotations

import csv
import itertools
import json
import re
from dataclasses import replace

import pytest

from helpers.short_answers import save_short_answers
from helpers.tiny_runs import RENAMED, write_rows
from minordpo.cli import main
from minordpo.config import load_config
from minordpo.data.read.examples import load_examples
from minordpo.engine.models import load_model
from minordpo.errors import InputError
from minordpo.onpolicy.loop import loop as loops
from minordpo.onpolicy.loop.config import build_loop, dump_loop, load_loop
from minordpo.onpolicy.loop.loop import loop
from minordpo.onpolicy.loop.rounds import Round, prompts_of_round
from minordpo.onpolicy.loop.section import loop_section
from minordpo.report.find import Found, find
from minordpo.run_folder import names
from minordpo.verify.prompts import read_prompts

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]
WORDS = ("one", "two and two", "three and more of it", "four", "five is odd", "and six")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, prompts and questions; no test writes into it."""
    folder = tmp_path_factory.mktemp("world")
    save_short_answers(folder / "base", WORDS)
    write_rows(folder / "prompts.jsonl", [{"prompt": text, "answer": "7"} for text in WORDS])
    write_rows(
        folder / "questions.jsonl", [{"question": f"{n} and 1?", "answer": str(n + 1)} for n in range(3)]
    )
    return folder


def values(world, output, **sections):
    given = {
        "model": str(world / "base"),
        "prompts": str(world / "prompts.jsonl"),
        "verify": "helpers.own_verifiers:even",
        "rounds": 2,
        "sampling": {"samples": 4, "max_new_tokens": 8, "plain_text": True},
        "evaluate": {"task": str(world / "questions.jsonl"), "samples": 2},
        "run": {
            "objective": {"name": "minordpo", "beta": 0.1},
            "training": {
                "learning_rate": 1e-3,
                "max_steps": 2,
                "per_device_train_batch_size": 2,
                "use_cpu": True,
            },
            "monitor": {"enabled": False},
            "samples": {"prompts": 0},
        },
        "output": str(output),
    }
    for name, section in sections.items():
        given[name] = {**given[name], **section} if isinstance(section, dict) and name in given else section
    return given


def made(world, output, **sections):
    return build_loop(values(world, output, **sections), lambda key: "the test")


def run_loop(config):
    said = []
    loop(config, allow_code=True, say=said.append)
    return "\n".join(said)


def table(output):
    return [*csv.DictReader((output / names.LOOP_TABLE).read_text(encoding="utf-8").splitlines())]


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    """A loop of two rounds that has ended; no test writes into it."""
    output = tmp_path_factory.mktemp("done") / "loop"
    said = run_loop(made(world, output))
    return output, said


def test_every_round_leaves_prompts_pairs_and_a_run_and_starts_from_the_one_before(world, done):
    output, said = done
    for number, start in ((1, str(world / "base")), (2, str(output / "round-1"))):
        config = load_config(output / f"round-{number}" / names.CONFIG, [])
        assert config.model.path == start
        assert config.model.reference is None
        assert config.data.train == str(output / "pairs" / f"round-{number}.jsonl")
        assert load_examples(config.data.train).kind == "pairs"
        assert len(read_prompts(str(output / "prompts" / f"round-{number}.jsonl")).prompts) == len(WORDS)
        load_model(str(output / f"round-{number}"))
    assert "all 2 rounds are done" in said


def test_the_table_has_a_row_a_model_and_counts_the_tokens_that_were_drawn(done):
    output, _ = done
    rows = table(output)
    assert [row["round"] for row in rows] == ["0", "1", "2"]
    drawn = []
    for number in (1, 2):
        file = output / "pairs" / f"round-{number}.answers.jsonl"
        drawn.append(
            sum(json.loads(line)["tokens"] for line in file.read_text(encoding="utf-8").splitlines())
        )
    assert [int(row["all_tokens"]) for row in rows] == [0, drawn[0], sum(drawn)]
    assert float(rows[0]["kl"]) == 0
    assert all(float(row["pass_at_all"]) >= 0 and row["samples"] == "2" for row in rows)
    assert all(float(rows[number][f"{part}_s"]) > 0 for number in (1, 2) for part in ("sampling", "training"))
    assert (output / names.LOOP_FIGURE).stat().st_size > 10_000


def test_the_rounds_draw_other_answers(done):
    output, _ = done
    first, second = (
        (output / "pairs" / f"round-{number}.answers.jsonl").read_text(encoding="utf-8") for number in (1, 2)
    )
    assert first != second


@pytest.mark.parametrize("place", ["sample", "run", "evaluate"])
def test_a_loop_that_was_stopped_goes_on_to_the_same_models(world, done, tmp_path, monkeypatch, place):
    stage, calls = getattr(loops, place), []

    def stopped(*arguments, **options):
        calls.append(place)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return stage(*arguments, **options)

    config = made(world, tmp_path / "loop")
    monkeypatch.setattr(loops, place, stopped)
    with pytest.raises(KeyboardInterrupt):
        run_loop(config)
    monkeypatch.setattr(loops, place, stage)
    run_loop(config)
    for number in (1, 2):
        whole, cut = (
            (folder / f"round-{number}" / "model" / "model.safetensors").read_bytes()
            for folder in (done[0], tmp_path / "loop")
        )
        assert whole == cut
    unlike = {"model", "sampling_s", "scoring_s", "training_s", "evaluating_s"}
    for one, other in zip(table(done[0]), table(tmp_path / "loop"), strict=True):
        assert {name: one[name] for name in one.keys() - unlike} == {
            name: other[name] for name in one.keys() - unlike
        }


def test_a_finished_loop_makes_nothing_again_and_goes_on_with_more_rounds(world, tmp_path, monkeypatch):
    config = made(world, tmp_path / "loop", rounds=1, evaluate={"task": None, "samples": 0})
    run_loop(config)
    weights = tmp_path / "loop" / "round-1" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    with monkeypatch.context() as patched:
        patched.setattr(loops, "run", None)
        patched.setattr(loops, "sample", None)
        run_loop(config)
    run_loop(replace(config, rounds=2))
    assert weights.stat().st_mtime_ns == before
    assert (tmp_path / "loop" / "round-2" / "model").is_dir()


def test_with_reference_base_every_round_is_measured_by_the_first_model(world, tmp_path):
    config = made(world, tmp_path / "loop", reference="base", evaluate={"task": None, "samples": 0})
    run_loop(config)
    for number in (1, 2):
        of_round = load_config(tmp_path / "loop" / f"round-{number}" / names.CONFIG, [])
        assert of_round.model.reference == str(world / "base")


def test_an_adapter_is_trained_further(world, tmp_path):
    lora = {"r": 2, "target_modules": ["q_proj"]}
    config = made(world, tmp_path / "loop", run={"lora": lora}, evaluate={"task": None, "samples": 0})
    run_loop(config)
    assert (tmp_path / "loop" / "round-2" / "model" / "adapter_config.json").exists()
    load_model(str(tmp_path / "loop" / "round-2"))


def test_rounds_share_no_prompt_as_long_as_there_are_others(world, tmp_path):
    prompts = read_prompts(str(world / "prompts.jsonl")).prompts
    config = made(world, tmp_path, sampling={"prompts_per_round": 2})
    rounds = [
        [each.asked.row for each in prompts_of_round(prompts, config, number)] for number in (1, 2, 3, 4)
    ]
    assert sorted(itertools.chain(*rounds[:3])) == [1, 2, 3, 4, 5, 6]
    assert rounds[3] == rounds[0]
    assert prompts_of_round(prompts, made(world, tmp_path, sampling={"prompts_per_round": 9}), 2) == prompts


def test_given_pairs_are_mixed_in(world, tmp_path):
    given = [{"prompt": f"p{n}", "chosen": "yes", "rejected": "no"} for n in range(5)]
    write_rows(tmp_path / "given.jsonl", given)
    mix = {"path": str(tmp_path / "given.jsonl"), "rows": 2}
    config = made(world, tmp_path / "loop", mix=mix, evaluate={"task": None, "samples": 0})
    run_loop(config)
    drawn = []
    for number in (1, 2):
        this = Round(config, number)
        own, mixed = (load_examples(str(path)).examples for path in (this.pairs, this.data))
        prompts = {each.prompt for each in mixed} - {each.prompt for each in own}
        assert len(mixed) == len(own) + 2
        assert len(prompts) == 2
        drawn.append(prompts)
    assert not drawn[0] & drawn[1]
    chat = [{"prompt": [{"role": "user", "content": "p"}]}]
    chat[0] |= {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    write_rows(tmp_path / "chat.jsonl", chat)
    mix = {"path": str(tmp_path / "chat.jsonl")}
    other = made(world, tmp_path / "other", mix=mix, evaluate={"task": None, "samples": 0})
    with pytest.raises(InputError, match=r"row 1 of .* is chats"):
        run_loop(other)


# ---- how a loop ends ----
def test_it_ends_where_the_answers_have_no_contrast(world, tmp_path):
    config = made(world, tmp_path / "loop", verify="helpers.own_verifiers:alike")
    said = run_loop(config)
    assert "round 1 gave 0 pairs" in said
    assert "no more contrast" in json.loads((tmp_path / "loop" / names.LOOP_RECORD).read_text())["ended"]
    assert [row["round"] for row in table(tmp_path / "loop")] == ["0"]


def test_it_ends_where_accuracy_no_longer_rises(world, tmp_path):
    config = made(world, tmp_path / "loop", rounds=4, stop={"patience": 1})
    said = run_loop(config)  # an untrained model is right in no question, before as after
    assert "held-out accuracy has not risen for 1 rounds" in said
    assert not (tmp_path / "loop" / "round-2").exists()


def test_it_ends_where_the_text_collapses_unless_told_otherwise(world, tmp_path, monkeypatch):
    monkeypatch.setattr(loops, "health_at_end", lambda folder: "collapsed")
    said = run_loop(made(world, tmp_path / "one", evaluate={"task": None, "samples": 0}))
    assert "round 1 collapse" in said
    assert not (tmp_path / "one" / "round-2").exists()
    run_loop(
        made(world, tmp_path / "two", evaluate={"task": None, "samples": 0}, stop={"on_collapse": False})
    )
    assert (tmp_path / "two" / "round-2").exists()


# ---- what is refused ----
def test_prompts_that_are_held_out_questions_are_refused(world, tmp_path):
    write_rows(
        tmp_path / "prompts.jsonl",
        [{"prompt": "other", "answer": "1"}, {"prompt": " 2  and 1?", "answer": "3"}],
    )
    config = made(world, tmp_path / "loop", prompts=str(tmp_path / "prompts.jsonl"))
    with pytest.raises(InputError, match=r"1 of 3 questions .*the first: question 3"):
        run_loop(config)
    chat = [{"question": "0 and 1?", "answer": "1"}]
    write_rows(tmp_path / "questions.jsonl", chat)
    config = made(
        world, tmp_path / "loop", prompts=str(tmp_path / "questions.jsonl"), sampling={"plain_text": False}
    )
    with pytest.raises(InputError, match="1 of 3 questions"):
        run_loop(config)
    assert not (tmp_path / "loop").exists()


def test_fewer_rounds_than_the_loop_has_are_refused_and_change_nothing(world, done):
    output, _ = done
    before = (output / names.LOOP_RECORD).read_bytes()
    with pytest.raises(InputError, match=r"rounds is 1, but the loop in .* has begun round 2"):
        run_loop(made(world, output, rounds=1))
    assert (output / names.LOOP_RECORD).read_bytes() == before


def test_the_end_says_what_the_time_was_spent_on(done):
    _, said = done
    assert re.search(r"\d+ s of rounds: sampling \d+%, scoring \d+%, training \d+%, evaluating \d+%", said)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"run": {"data": {"train": "x.jsonl"}}}, "run.data.train is given"),
        ({"run": {"output": "x"}}, "run.output is given"),
        ({"run": {"objective": {"name": "dpi"}}}, "dpi"),
        ({"run": {"trainning": {}}}, "trainning"),
        ({"verify": "numbr"}, "numbr"),
        ({"verify": "number", "verify_options": {"judge_model": "m"}}, "judge"),
        ({"model": "nowhere"}, "nowhere"),
        ({"sampling": {"temperature": 0.0}}, "temperature is 0"),
        ({"pairs": {"least_gap": -1.0}}, "least gap"),
        ({"evaluate": {"task": "nothing"}}, "nothing"),
        ({"rounds": 0}, "rounds is 0"),
        ({"referense": "base"}, "referense"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(world, tmp_path, sections, said):
    with pytest.raises(InputError, match=said):
        run_loop(made(world, tmp_path / "loop", **sections))
    assert not (tmp_path / "loop").exists()


def test_another_config_in_the_folder_is_refused(world, done):
    output, _ = done
    with pytest.raises(InputError, match="another seed"):
        run_loop(made(world, output, seed=1))


def test_several_processes_are_refused(world, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process"):
        run_loop(made(world, tmp_path / "loop"))


def test_a_folder_of_somebody_else_is_refused(world, tmp_path):
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no loop"):
        run_loop(made(world, tmp_path / "loop"))


def test_yaml_reads_back_and_overrides_lie_over_it(world, tmp_path):
    config = made(world, tmp_path / "loop")
    file = tmp_path / "loop.yaml"
    file.write_text(dump_loop(config), encoding="utf-8")
    assert load_loop(file, []) == config
    assert load_loop(file, ["rounds=5", "run.objective.beta=0.2"]).run["objective"] == {
        "name": "minordpo",
        "beta": 0.2,
    }
    with pytest.raises(InputError, match="rouns"):
        load_loop(file, ["rouns=5"])


# ---- the command ----
def test_the_command_runs_a_loop_and_tells_what_it_would_take(world, tmp_path, capsys):
    file = tmp_path / "loop.yaml"
    file.write_text(dump_loop(made(world, tmp_path / "loop", rounds=1)), encoding="utf-8")
    assert main(["loop", str(file), "--dry-run", "--allow-code"]) == 0
    said = capsys.readouterr().out
    assert "6 prompts × 4 answers" in said
    assert "3 questions × 3 answers" in said
    assert not (tmp_path / "loop").exists()
    assert main(["loop", str(file), "--allow-code"]) == 0
    assert "round 1 of 1" in capsys.readouterr().out
    assert main(["loop", str(file)]) == 2
    assert "--allow-code" in capsys.readouterr().err


def test_the_report_shows_the_loop(done):
    output, _ = done
    shown = loop_section(find([output]))
    assert "Ended: all 2 rounds are done." in shown
    assert "data:image/svg+xml;base64," in shown
    assert f"<td>{int(table(output)[2]['all_tokens']):,}</td>" in shown
    assert loop_section(Found(runs=(), evaluations=())) == ""


def test_a_loop_without_questions_has_a_row_of_each_round_in_its_table(world, tmp_path):
    config = made(world, tmp_path / "loop", evaluate={"task": None, "samples": 0})
    run_loop(config)
    assert [row["round"] for row in table(tmp_path / "loop")] == ["0", "1", "2"]


def test_given_pairs_that_cannot_be_mixed_are_refused_before_an_answer_is_drawn(world, tmp_path):
    chats = tmp_path / "chats.jsonl"
    both = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    write_rows(chats, [{"prompt": [{"role": "user", "content": "x"}], **both}])
    empty = tmp_path / "empty.jsonl"
    good = {"prompt": "one", "chosen": "two", "rejected": "three"}
    write_rows(empty, [good, {**good, "rejected": ""}])
    twice = tmp_path / "alike.jsonl"
    write_rows(twice, [good, {**good, "rejected": "two"}])
    for path, said in (
        (chats, "is chats, but"),
        (tmp_path / "none.jsonl", "does not exist"),
        (empty, r"empty\.jsonl.*row 2|row 2.*empty\.jsonl"),
        (twice, r"alike\.jsonl.*row 2|row 2.*alike\.jsonl"),
    ):
        with pytest.raises(InputError, match=said):
            run_loop(made(world, tmp_path / "loop", mix={"path": str(path)}))
    assert not (tmp_path / "loop").exists()


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"evaluate": {"task": None}}, "evaluate.samples is 2, but it does nothing without evaluate.task"),
        ({"evaluate": {"task": None, "samples": 0}, "stop": {"patience": 1}}, "stop.patience is 1"),
        ({"mix": {"rows": 5}}, "mix.rows is 5, but it does nothing without mix.path"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(world, tmp_path, sections, said):
    with pytest.raises(InputError, match=said):
        made(world, tmp_path / "loop", **sections)


def test_prompts_that_were_changed_between_two_starts_are_refused(world, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    write_rows(prompts, [{"prompt": text, "answer": "7"} for text in WORDS])
    given = {"prompts": str(prompts), "evaluate": {"task": None, "samples": 0}}
    run_loop(made(world, tmp_path / "loop", rounds=1, **given))
    write_rows(prompts, [{"prompt": text, "answer": "7"} for text in WORDS[:3]])
    with pytest.raises(InputError, match=r"are not those that the loop in .* was begun with"):
        run_loop(made(world, tmp_path / "loop", **given))


def test_a_dry_run_says_that_answers_of_vllm_were_not_measured_and_refuses_a_missing_one(
    world, tmp_path, capsys, monkeypatch
):
    file = tmp_path / "loop.yaml"
    config = made(world, tmp_path / "loop", rounds=1, sampling={"backend": "vllm"})
    assert config.drawn(1, tmp_path / "prompts.jsonl").backend == "vllm"
    file.write_text(dump_loop(config), encoding="utf-8")
    command = ["loop", str(file), "--dry-run", "--allow-code"]
    monkeypatch.setenv("MINORDPO_VLLM", "sh")  # a dry run starts no server
    assert main(command) == 0
    assert "the answers were measured with transformers" in capsys.readouterr().out
    monkeypatch.setenv("MINORDPO_VLLM", str(tmp_path / "vllm"))
    assert main(command) == 2
    assert "which is no program" in capsys.readouterr().err
