"""YAML as configs need it: the scalars of YAML 1.2, safe, keys of text, none twice, and errors that name the line."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from minordpo.errors import InputError


def parse_yaml(text: str, source: str) -> Any:
    """The value of one YAML document; `source` says in messages where the text stands.

    Raises: InputError for text that is not safe YAML, for a key that is no text or stands twice in its mapping, and
        for what contains itself.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _refuse_odd(node, source, set(), ())
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(
            f"{source} is not valid YAML: line {line}: {error.problem}. Correct that line."
        ) from error
    except InputError:
        raise
    # An explicit tag on a scalar that is not of its type (`!!int x`) makes PyYAML raise bare Python errors.
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise InputError(f"{source} is not valid YAML: {problem}. Correct it.") from error
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_odd(node: yaml.Node | None, source: str, seen: set[int], around: tuple[int, ...]) -> None:
    """Refuse what YAML allows and no config means: repeated keys, keys that are no text, aliases to oneself.

    PyYAML keeps the last of two equal keys in silence; a half-edited file would mean the wrong one.
    """
    if not isinstance(node, yaml.CollectionNode):
        return
    if id(node) in around:
        line = node.start_mark.line + 1
        raise InputError(f"{source}: what begins on line {line} contains itself by an alias. Write it out.")
    if id(node) in seen:  # an alias makes the same node appear again
        return
    seen.add(id(node))
    lines: dict[str, int] = {}
    for item in node.value:
        if isinstance(node, yaml.MappingNode):
            key, item = item
            if key.tag != "tag:yaml.org,2002:merge":
                _refuse_key(key, source, lines)
        _refuse_odd(item, source, seen, (*around, id(node)))


def _refuse_key(key: yaml.Node, source: str, lines: dict[str, int]) -> None:
    line = key.start_mark.line + 1
    if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
        said = f" {key.value}" if isinstance(key, yaml.ScalarNode) else ""
        raise InputError(f"{source}: line {line} has a key{said} that is not text. Put it in quotes.")
    if key.value in lines:
        raise InputError(
            f"{source}: line {line} gives {key.value} again, after line {lines[key.value]}. "
            "Every key stands once; delete one of the two."
        )
    lines[key.value] = line


def write_yaml(value: Any) -> str:
    """Mappings, lists and scalars as YAML, keys in their order; `parse_yaml` reads back an equal value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Loader(yaml.SafeLoader):
    """Safe YAML with the scalars of YAML 1.2.

    PyYAML reads YAML 1.1, where `1e-5` is text, `eval_strategy: no` is false and `run_name: 1:30` is 90.
    """

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in {"null", "bool", "int", "float", "str", "seq", "map"}
    }


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or `_Loader` would read as something else, so that either reads it back."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Unquoted, PyYAML itself reads U+0085 and U+2028 back as spaces.
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_NUMERIC = list("-+.0123456789")  # how such scalars begin
_INTEGER = r"[-+]?(0|[1-9][0-9_]*)"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
_SPECIAL_FLOAT = r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"

_Loader.yaml_implicit_resolvers = {}  # its own: the inherited table holds the scalars of YAML 1.1
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", _INTEGER, _NUMERIC),
    ("float", _FLOAT, _NUMERIC),
    ("float", _SPECIAL_FLOAT, _NUMERIC),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)
_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{_FLOAT})\Z"), _NUMERIC)
