"""The run config: what a YAML file and overrides become, and what is said where they are wrong."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from minordpo.config import (
    DataConfig,
    MetricsConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    SamplesConfig,
    TrainingConfig,
    build_lora_config,
    build_training_arguments,
    describe_keys,
    dump_config,
    load_config,
)
from minordpo.config.schema import SourceConfig
from minordpo.errors import InputError

LEAST = ["model.path=m", "data.train=pairs.jsonl", "objective.name=dpo", "output=runs/a"]

EVERY_KEY = """
model: {path: org/model, gguf_file: w.gguf, dtype: bfloat16, reference: org/ref, revision: v1,
        trust_remote_code: true, dropout: true}
data: {train: pairs.jsonl, eval: 200, split: train_prefs, eval_split: test_prefs, max_length: null,
       overlong: truncate, invalid: drop, score_end: end_of_turn, strip_few_shot: true, limit: 10,
       columns: {prompt: ask, chosen: null}, text_as: chat, text_system: before, weight_by: steps}
objective: {name: dpop, beta: 0.05, dpop_lambda: 50}
training: {token_budget: 4096, learning_rate: 1e-5, bf16: true, lr_scheduler_kwargs: {num_cycles: 2}}
lora: {r: 16, target_modules: all-linear}
samples: {prompts: 0, max_new_tokens: 64}
metrics: {reference: false}
output: runs/every
"""


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes text to run.yaml in the working folder, so that messages name it as a user would."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        Path("run.yaml").write_text(text, encoding="utf-8")
        return Path("run.yaml")

    return write


def test_every_key_of_a_file_reaches_its_field(written):
    assert load_config(written(EVERY_KEY), []) == RunConfig(
        model=ModelConfig(
            path="org/model",
            gguf_file="w.gguf",
            dtype="bfloat16",
            reference="org/ref",
            revision="v1",
            trust_remote_code=True,
            dropout=True,
        ),
        data=DataConfig(
            train="pairs.jsonl",
            eval=200,
            split="train_prefs",
            eval_split="test_prefs",
            max_length=None,
            overlong="truncate",
            invalid="drop",
            score_end="end_of_turn",
            strip_few_shot=True,
            limit=10,
            columns={"prompt": "ask", "chosen": None},
            text_as="chat",
            text_system="before",
            weight_by="steps",
        ),
        objective=ObjectiveConfig(name="dpop", hyper={"beta": 0.05, "dpop_lambda": 50}),
        training=TrainingConfig(
            token_budget=4096,
            arguments={"learning_rate": 1e-5, "bf16": True, "lr_scheduler_kwargs": {"num_cycles": 2}},
        ),
        lora={"r": 16, "target_modules": "all-linear"},
        samples=SamplesConfig(prompts=0, max_new_tokens=64),
        metrics=MetricsConfig(reference=False),
        output="runs/every",
    )


def test_overrides_alone_make_a_config_of_defaults():
    config = load_config(None, LEAST)
    assert config.model == ModelConfig(path="m")
    assert (config.data.eval, config.data.max_length, config.data.overlong) == (None, 1024, "refuse")
    assert (config.training.arguments, config.lora) == ({}, None)
    assert (config.samples.prompts, config.samples.max_new_tokens, config.metrics.reference) == (8, 256, True)


def test_an_override_is_laid_over_the_file_and_the_last_one_counts(written):
    config = load_config(
        written(EVERY_KEY), ["objective.beta=0.1", "objective.beta=0.2", "data.eval=held.jsonl"]
    )
    assert config.objective.hyper == {"beta": 0.2, "dpop_lambda": 50}
    assert config.data.eval == "held.jsonl"
    assert config.data.limit == 10


def test_overrides_reach_into_free_mappings_and_start_them(written):
    overrides = ["training.lr_scheduler_kwargs.num_cycles=3", "training.lr_scheduler_kwargs.x=[1, a]"]
    config = load_config(written(EVERY_KEY), overrides)
    assert config.training.arguments["lr_scheduler_kwargs"] == {"num_cycles": 3, "x": [1, "a"]}
    assert load_config(None, [*LEAST, "lora.r=8"]).lora == {"r": 8}


def test_a_whole_section_can_be_overridden(written):
    config = load_config(written(EVERY_KEY), ["objective={name: dpo, beta: 0.3}", "lora=null"])
    assert config.objective == ObjectiveConfig(name="dpo", hyper={"beta": 0.3})
    assert config.lora is None


def test_an_override_may_hold_equals_signs_and_hashes():
    assert load_config(None, [*LEAST, "data.train=a=b#1.jsonl"]).data.train == "a=b#1.jsonl"


def test_overriding_one_of_two_aliased_mappings_leaves_the_other(written):
    text = EVERY_KEY + "\n".join(["", "#"])
    text = text.replace("{num_cycles: 2}}", "&k {num_cycles: 2}, liger_kernel_config: null, fsdp_config: *k}")
    arguments = load_config(written(text), ["training.fsdp_config.num_cycles=5"]).training.arguments
    assert arguments["lr_scheduler_kwargs"] == {"num_cycles": 2}
    assert arguments["fsdp_config"] == {"num_cycles": 5}


text = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    hyper=st.dictionaries(
        text.filter(lambda key: key != "name"), text | st.floats(allow_nan=False), max_size=4
    ),
    path=text.filter(str.strip),
    train_eval=st.none() | st.integers(0) | text.filter(str.strip),
)
def test_a_dumped_config_reads_back_equal_whatever_its_values(tmp_path_factory, hyper, path, train_eval):
    config = RunConfig(
        model=ModelConfig(path=path),
        data=DataConfig(train=path, eval=train_eval),
        objective=ObjectiveConfig(name="dpo", hyper=hyper),
        training=TrainingConfig(arguments={"run_name": path, "lr_scheduler_kwargs": hyper}),
        output="runs/a",
    )
    file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file, []) == config


def test_a_dumped_config_means_the_same_to_a_reader_of_yaml_1_1():
    dumped = dump_config(
        load_config(None, [*LEAST, "training.eval_strategy=no", "training.learning_rate=1e-5"])
    )
    read = yaml.safe_load(dumped)
    assert read["training"] == {"token_budget": None, "eval_strategy": "no", "learning_rate": 1e-5}
    assert list(read) == [
        "model",
        "data",
        "objective",
        "training",
        "lora",
        "samples",
        "metrics",
        "monitor",
        "output",
    ]


@given(text=st.text(st.sampled_from("model: path\n-{}[],&*!#'\"|>%@`?<~t1e.\t\x00é")) | st.text())
def test_any_file_is_a_config_or_an_input_error(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    with pytest.raises(InputError):
        load_config(file, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"^run\.yaml is empty\. Sections are needed: model, data, objective"),
        ("# only a comment\n", r"^run\.yaml is empty"),
        ("- model\n", r"^run\.yaml holds a list of 1, but sections of keys are needed"),
        ("model:\n  path: [a\n", r"^run\.yaml is not valid YAML: line 3: .* Correct that line"),
        (
            "data:\n  limit: 1\n  limit: 2\n",
            r"^run\.yaml: line 3 gives limit again, after line 2\. Every key stands once",
        ),
        (
            "data: 3\nmodel: {path: m}\n",
            r"^run\.yaml: data is 3, but a section is needed\. Give keys in it: train, eval",
        ),
        ("modle: {path: m}\n", r"^run\.yaml: modle is not a key of minordpo\. Did you mean model\?"),
        (
            "qqq: 1\n",
            r"^run\.yaml: qqq is not a key of minordpo\. Known here: model, data, objective, training, lora",
        ),
        (
            "objective: {name: dpo, 3: 1}\nmodel: {path: m}\n",
            r"^run\.yaml: line 1 has a key 3 that is not text",
        ),
        (
            "data: {trian: a}\nmodel: {path: m}\n",
            r"data\.trian is not a key of minordpo\. Did you mean data\.train\?",
        ),
        ("model:\n", r"^run\.yaml: model\.path is missing, but it is needed .*as model\.path=…"),
    ],
)
def test_a_file_that_is_no_config_is_refused_with_its_place(written, text, message):
    with pytest.raises(InputError, match=message):
        load_config(written(text), [])


@pytest.mark.parametrize("missing", LEAST)
def test_a_missing_required_key_is_named(missing):
    key = missing.partition("=")[0]
    with pytest.raises(InputError, match=rf"^command line: {key} is missing, but it is needed"):
        load_config(None, [each for each in LEAST if each != missing])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml does not exist\. .*check the path"):
        load_config(tmp_path / "none.yaml", [])


def test_a_folder_is_not_a_config(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read: Is a directory\. Give a YAML file"):
        load_config(tmp_path, [])


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path):
    file = tmp_path / "latin.yaml"
    file.write_bytes("model:\n  path: café\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"line 2 is not UTF-8\. Save the file as UTF-8"):
        load_config(file, [])


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    file = tmp_path / "bom.yaml"
    file.write_text(EVERY_KEY.lstrip(), encoding="utf-8-sig")
    assert load_config(file, []).model.path == "org/model"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("beta", r"^override 'beta' is not of the form section\.key=value\. Write it so"),
        ("=1", r"not of the form"),
        ("data..train=1", r"not of the form"),
        ("data.train=[1", r"^override 'data\.train=\[1' is not valid YAML"),
        ("objective={name: a, name: b}", r"gives name again"),
        ("output.x=1", r"sets a key inside output, but output is \"runs/a\"\. Override it as a whole"),
        ("objektive.beta=1", r"^command line: objektive is not a key of minordpo\. Did you mean objective\?"),
        (
            "data.max_lenght=1",
            r"^command line: data\.max_lenght is not a key .*Did you mean data\.max_length\?",
        ),
        (
            "data.max_length=long",
            r"data\.max_length is \"long\", but a whole number or null is needed\. Correct it",
        ),
        ("data.max_length=1e3", r"data\.max_length is 1000\.0, but a whole number or null"),
        ("data.max_length=true", r"data\.max_length is true, but a whole number"),
        ("data.max_length=1", r"data\.max_length is 1, but 2 or more is needed"),
        ("data.eval=-1", r"data\.eval is -1, but 0 or more"),
        ("data.eval=false", r"data\.eval is false, but a whole number or text or a list of .* or null"),
        ("data.limit=0", r"data\.limit is 0, but 1 or more"),
        ("data.overlong=cut", r"data\.overlong is \"cut\", but refuse or drop or truncate"),
        ("data.train=[7]", r"data\.train is a list of 1, but text or a list of a mapping or text is needed"),
        ("data.train=[]", r"data\.train is an empty list, but one source at least is needed"),
        ('data.train=["a.jsonl", " "]', r"item 2 of data\.train is blank, but a name is needed"),
        (
            "data.train=[{path: a.jsonl, weigth: 2}]",
            r"data\.train\[1\]\.weigth is .* mean data\.train\[1\]\.weight",
        ),
        (
            "data.columns={prompt: 3}",
            r"data\.columns is a mapping \(prompt\), but a mapping or null is needed",
        ),
        ("data.train=" + "x" * 99 + ": 1", r"data\.train is a mapping \(x+\), but text"),
        ("data.limit=" + "x" * 99, r"data\.limit is \"x{56}…, but"),
        ("model.path=7", r"model\.path is 7, but text"),
        ("model.dtype=bf16", r"model\.dtype is \"bf16\", but float32 or bfloat16"),
        ("model.dropout=yes", r"model\.dropout is \"yes\", but true or false"),
        ("output=", r"output is null, but text"),
        ("samples=4", r"samples is 4, but a section is needed"),
        ("samples.max_new_tokens=0", r"samples\.max_new_tokens is 0, but 1 or more"),
        ("training.token_budget=0", r"training\.token_budget is 0, but 1 or more"),
        ("training.token_budgte=9", r"Did you mean training\.token_budget\?"),
        (
            "training.output_dir=x",
            r"training\.output_dir is given, but the run folder is output\. Use output\.",
        ),
        (
            "training.lerning_rate=1",
            r"nor a field of transformers\.TrainingArguments\. Did you mean training\.learning_rate",
        ),
        (
            "training.warmup_ratio=0.1",
            r"Did you mean training\.warmup_steps \(below 1 it is the share of all steps\)\?",
        ),
        (
            "training.overwrite_output_dir=true",
            r"^command line: training\.overwrite_output_dir is given, but a run is never overwritten .*Leave it out; "
            r"where the folder is taken, name another output",
        ),
        (
            'data.train=""',
            r"^command line: data\.train is blank, but a name is needed\. Give one \(pairs to train",
        ),
        ("data.eval=' '", r"data\.eval is blank, but a name or null is needed"),
        ('model.path=""', r"model\.path is blank, but a name is needed"),
        ('output=""', r"output is blank, but a name is needed\. Give one \(run folder to write\)"),
        (
            "training.qqq=1",
            r"training\.qqq is not a key .* See the fields of transformers\.TrainingArguments",
        ),
        ("training.learning_rate=fast", r"training\.learning_rate is \"fast\", but a number is needed"),
        ("training.learning_rate=.nan", r"training\.learning_rate is NaN, but a number"),
        ("training.learning_rate=true", r"training\.learning_rate is true, but a number"),
        ("training.bf16=1", r"training\.bf16 is 1, but true or false"),
        ("training.eval_strategy=sometimes", r"is \"sometimes\", but no or steps or epoch is needed"),
        ("training.optim=adam", r"is \"adam\", but adamw_torch or .* or … is needed"),
        ("training.include_for_metrics=[1]", r"a list of 1, but a list of text is needed"),
        ("training.liger_kernel_config={rope: 3}", r"a mapping \(rope\), but a mapping or null is needed"),
        ("lora=16", r"lora is 16, but a mapping or null"),
        (
            "lora.rank=8",
            r"lora\.rank is not a key of minordpo nor a field of peft\.LoraConfig\. Did you mean lora\.r\?",
        ),
        ("lora.r=8.0", r"lora\.r is 8\.0, but a whole number is needed"),
        (
            "lora.layer_replication=[0, 4]",
            r"lora\.layer_replication is a list of 2, but a list of a list or null",
        ),
    ],
)
def test_a_wrong_override_is_refused_with_what_is_needed(override, message):
    with pytest.raises(InputError, match=message):
        load_config(None, [*LEAST, override])


def test_a_wrong_value_is_put_down_to_the_file_or_to_the_command_line(written):
    file = written(EVERY_KEY.replace("limit: 10", "limit: ten"))
    with pytest.raises(InputError, match=r"^run\.yaml: data\.limit"):
        load_config(file, ["data.eval=5"])
    with pytest.raises(InputError, match=r"^command line: data\.limit"):
        load_config(file, ["data.limit=eleven"])
    with pytest.raises(InputError, match=r"^command line: lora\.r"):
        load_config(written(EVERY_KEY), ["lora={r: ten}"])


@pytest.mark.parametrize(
    "override",
    [
        "training.save_strategy=best",
        "training.warmup_steps=100",
        "training.max_grad_norm=.inf",
        'training.run_name=""',
        "training.fsdp=true",
        "training.report_to=[tensorboard]",
        "training.include_num_input_tokens_seen=true",
        "lora.target_modules=[q_proj, v_proj]",
        "lora.init_lora_weights=gaussian",
        "lora.layer_replication=[[0, 4], [2, 5]]",
        "lora.rank_pattern={q_proj: 4}",
        "lora.eva_config={rho: 2.0}",
    ],
)
def test_values_that_the_libraries_take_are_taken_as_they_are(override):
    section, _, rest = override.partition(".")
    key, _, text = rest.partition("=")
    config = load_config(None, [*LEAST, override])
    given_to = config.training.arguments if section == "training" else config.lora
    assert given_to == {key: yaml.safe_load(text)}


def test_training_arguments_hold_what_was_set_and_leave_the_config_alone(tmp_path):
    overrides = [
        "training.learning_rate=3e-7",
        "training.lr_scheduler_type=cosine",
        "training.warmup_steps=0.1",
    ]
    config = load_config(None, [*LEAST, *overrides, "training.token_budget=64"])
    before = dump_config(config)
    arguments = build_training_arguments(config, output_dir=str(tmp_path), use_cpu=True)
    assert arguments.learning_rate == 3e-7
    assert arguments.lr_scheduler_type == "cosine"
    assert arguments.get_warmup_steps(300) == 30
    assert arguments.output_dir == str(tmp_path)
    assert dump_config(config) == before


def test_training_arguments_that_do_not_go_together_are_an_input_error(tmp_path):
    config = load_config(None, [*LEAST, "training.fp16=true", "training.bf16=true"])
    with pytest.raises(
        InputError, match=r"^training is refused by transformers\.TrainingArguments: .*fp16 and bf16"
    ):
        build_training_arguments(config, output_dir=str(tmp_path), use_cpu=True)


def test_a_lora_section_becomes_a_lora_config_for_a_causal_model():
    lora = build_lora_config(load_config(None, [*LEAST, "lora.r=4", "lora.target_modules=all-linear"]))
    assert (lora.r, lora.target_modules, lora.task_type) == (4, "all-linear", "CAUSAL_LM")
    assert build_lora_config(load_config(None, LEAST)) is None


def test_lora_values_that_do_not_go_together_are_an_input_error():
    config = load_config(None, [*LEAST, "lora.lora_bias=true", "lora.use_dora=true"])
    with pytest.raises(InputError, match=r"^lora is refused by peft\.LoraConfig: .*lora_bias"):
        build_lora_config(config)


def test_the_reference_describes_every_key_once(written):
    described = [
        line.partition("  (")[0] for line in describe_keys().splitlines() if not line.startswith(" ")
    ]
    expected = []
    for section, keys in yaml.safe_load(dump_config(load_config(None, LEAST))).items():
        expected += [f"{section}.{key}" for key in keys] if isinstance(keys, dict) else [section]
    expected += [f"data.train[].{item.name}" for item in dataclasses.fields(SourceConfig)]
    assert sorted(described) == sorted([*expected, "objective.*", "training.*"])
    assert "data.max_length  (a whole number or null; default 1024)" in describe_keys()
    assert "output  (text; required)" in describe_keys()


def test_the_reference_is_printed_without_importing_the_model_libraries():
    program = (
        "import sys, minordpo.config.schema; minordpo.config.schema.describe_keys(); print(*sys.modules)"
    )
    imported = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert "minordpo.config.schema" in imported
    assert {"torch", "transformers", "peft"}.isdisjoint(imported)


def test_null_takes_a_hyper_parameter_away():
    config = load_config(None, [*LEAST, "objective.beta=0.3", "objective.beta=null"])
    assert "beta" not in config.objective.hyper
