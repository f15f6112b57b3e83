"""YAML as configs need it: no scalar is read as something its writer did not mean, no key is lost."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from minordpo.config.yaml import parse_yaml, write_yaml
from minordpo.errors import InputError


@pytest.mark.parametrize(
    ("written_value", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-3.", -3.0),
        ("1_000", 1000),
        ("-7", -7),
        (".inf", float("inf")),
        ("true", True),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("off", "off"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("2024-01-01", "2024-01-01"),
        ("'1e-5'", "1e-5"),
        ("1e-5 nats", "1e-5 nats"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(written_value, value):
    read = parse_yaml(f"x: {written_value}", "run.yaml")["x"]
    assert read == value
    assert type(read) is type(value)


text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    text,
    st.sampled_from(
        ["no", "1e5", "1e-5", "null", "2024-01-01", "0x10", "1_0", "010", "1:30", "=", "<<", "a\n"]
    ),
)
values = st.recursive(
    scalars, lambda each: st.lists(each, max_size=3) | st.dictionaries(text, each, max_size=3), max_leaves=8
)


@given(value=values)
def test_what_is_written_reads_back_equal(value):
    assert parse_yaml(write_yaml(value), "run.yaml") == value


@given(
    value=text
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["no", "1e5", "2024-01-01", "010"])
)
def test_what_is_written_means_the_same_to_a_reader_of_yaml_1_1(value):
    assert yaml.safe_load(write_yaml([value])) == [value]


def test_keys_are_written_in_their_order():
    assert write_yaml({"b": 1, "a": 2}) == "b: 1\na: 2\n"


def test_an_alias_is_no_repeated_key_and_a_merge_may_be_overridden():
    source = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\n"
    assert parse_yaml(source, "run.yaml") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 1, "y": 2},
    }


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a:\n  b: [c\n", r"^run\.yaml is not valid YAML: line 3: .* Correct that line\."),
        ("a:\n\tb: c\n", r"line 2: .*cannot start any token"),
        ("a: 1\n---\nb: 2\n", r"line 2: but found another document"),
        ("a: *b\n", r"line 1: found undefined alias 'b'"),
        ("[a]: {[1]: 2}\n", r"^run\.yaml: line 1 has a key that is not text"),
        ("a:\n  8: x\n", r"^run\.yaml: line 2 has a key 8 that is not text\. Put it in quotes"),
        ("a: 1\nb: &b {x: [*b]}\n", r"^run\.yaml: what begins on line 2 contains itself by an alias"),
        ("a: !!python/object:os.system {}\n", r"line 1: could not determine a constructor"),
        ("a: !!timestamp x\n", r"line 1: could not determine a constructor"),
        ("a: !!int abc\n", r"^run\.yaml is not valid YAML: invalid literal for int.* Correct it\."),
        ("a: !!bool maybe\n", r"is not valid YAML: 'maybe'"),
        ("a: \x07\n", r"is not valid YAML: .*special characters are not allowed"),
        ("[" * 5000, r"is not valid YAML: maximum recursion depth"),
        (
            "a: 1\nb: {c: 1,\n c: 2}\n",
            r"^run\.yaml: line 3 gives c again, after line 2\. .*delete one of the two",
        ),
        ("- {a: 1, 'a': 2}\n", r"^run\.yaml: line 1 gives a again, after line 1"),
    ],
)
def test_what_is_not_safe_yaml_is_refused_with_its_line(source, message):
    with pytest.raises(InputError, match=message):
        parse_yaml(source, "run.yaml")


@given(source=st.text(st.sampled_from("ab:\n -{}[],&*!#'\"|>%@`?<~t1e.\t\x00é")) | st.text())
def test_any_text_is_a_value_or_an_input_error(source):
    said = "run.yaml"
    try:
        parse_yaml(source, "run.yaml")
    except InputError as error:
        said = str(error)
    assert said.startswith("run.yaml")
