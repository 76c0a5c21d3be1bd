"""A space from plain data and back."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given

from paretax.errors import UsageError
from paretax.spaces import (
    Categorical,
    Float,
    Integer,
    Ordinal,
    Parameter,
    Space,
    dump_space,
    parse_space,
)

YAML = """
space:
  learning_rate: {type: float, low: 0.0001, high: 0.1, log: true}
  dropout: {type: float, low: 0, high: 0.5, step: 0.1}
  depth: {type: int, low: 1, high: 4}
  channels: {type: int, low: 8, high: 64, log: true}
  batch_size: {type: ordinal, choices: [32, 64, 128]}
  optimizer: {type: categorical, choices: [sgd, adamw]}
  quantize: {type: categorical, choices: [false, true]}
  weight_bits: {type: int, low: 2, high: 8, step: 2, when: {quantize: true}}
  activation_bits:
    type: int
    low: 2
    high: 8
    when:
      weight_bits: {min: 4, max: 6}
      optimizer: [sgd, adamw]
  epochs: 5
forbidden:
  - {optimizer: sgd, depth: {min: 3}}
  - {batch_size: 32}
"""

PARAMETERS: list[Parameter] = [
    Float("learning_rate", 1e-4, 1e-1, log=True),
    Float("dropout", 0, 0.5, step=0.1),
    Integer("depth", 1, 4),
    Integer("channels", 8, 64, log=True),
    Ordinal("batch_size", [32, 64, 128]),
    Categorical("optimizer", ["sgd", "adamw"]),
    Categorical("quantize", [False, True]),
    Integer("weight_bits", 2, 8, step=2, when={"quantize": True}),
    Integer(
        "activation_bits",
        2,
        8,
        when={"weight_bits": {"min": 4, "max": 6}, "optimizer": ("sgd", "adamw")},
    ),
    Categorical("epochs", [5]),
]


def fingerprint(space: Space) -> tuple[str, str]:
    """All of a space; repr tells True from 1, and 1 from 1.0."""
    return repr(space.parameters), repr(space.forbidden)


def test_yaml_and_python_define_the_same_space() -> None:
    config = yaml.safe_load(YAML)
    written = Space(
        PARAMETERS, forbidden=[{"optimizer": "sgd", "depth": {"min": 3}}, {"batch_size": 32}]
    )
    assert fingerprint(parse_space(config["space"], config["forbidden"])) == fingerprint(written)


@given(data=st.data())
def test_parse_inverts_dump(spaces: st.SearchStrategy[Space], data: st.DataObject) -> None:
    space = data.draw(spaces)
    plain, forbidden = dump_space(space)
    assert fingerprint(parse_space(plain, forbidden)) == fingerprint(space)
    text = yaml.safe_dump({"space": plain, "forbidden": forbidden}, sort_keys=False)
    config = yaml.safe_load(text)
    assert fingerprint(parse_space(config["space"], config["forbidden"])) == fingerprint(space)


def test_a_dump_says_only_what_is_set() -> None:
    plain, forbidden = dump_space(Space(PARAMETERS, forbidden=[{"depth": {"max": 2}}]))
    assert plain["depth"] == {"type": "int", "low": 1, "high": 4}
    assert plain["learning_rate"] == {"type": "float", "low": 1e-4, "high": 0.1, "log": True}
    assert plain["weight_bits"] == {
        "type": "int",
        "low": 2,
        "high": 8,
        "step": 2,
        "when": {"quantize": True},
    }
    assert plain["epochs"] == {"type": "categorical", "choices": [5]}
    assert forbidden == [{"depth": {"max": 2}}]


@pytest.mark.parametrize("value", [3, 0.5, True, "sgd"])
def test_a_plain_value_is_held(value: Any) -> None:
    space = parse_space({"x": value, "y": {"type": "int", "low": 0, "high": 1}})
    assert space["x"] == Categorical("x", [value])
    assert [c["x"] for c in space.grid()] == [value, value]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "flaot", "low": 0, "high": 1}, r"type 'flaot' in .*'x'. Did you mean 'float'?"),
        ({"type": ["int"], "low": 0, "high": 1}, r"unknown type \"\['int'\]\" in parameter 'x'"),
        ({"type": 1, "low": 0, "high": 1}, "unknown type '1' in parameter 'x'. Valid: float, int"),
        (
            {"type": "int", "low": 0, "hihg": 1},
            "unknown key 'hihg' in parameter 'x'. Did you mean 'high'.* Valid: low, high, log, st",
        ),
        ({"type": "int", "choices": [1]}, "unknown key 'choices' in parameter 'x'"),
        (
            {"type": "ordinal", "choices": [1], "log": True},
            "unknown key 'log' in parameter 'x'. Valid: choices, when",
        ),
        ({"type": "int", "low": 0}, "parameter 'x' of type int needs 'high': add it"),
        ({"type": "float", "high": 0}, "parameter 'x' of type float needs 'low': add it"),
        ({"type": "categorical"}, "parameter 'x' of type categorical needs 'choices': add it"),
        ({"low": 0, "high": 1}, r"'x' must be a value or a mapping with a `type` \(float, int, ca"),
        ([1, 2], r"'x' must be a value or a mapping with a `type` .*, got \[1, 2\]"),
        (None, "'x' must be a value or a mapping with a `type` .*, got None"),
        (math.nan, "finite number, got nan"),
        (math.inf, "finite number, got inf"),
        ({"type": "float", "low": "1e-4", "high": 1}, "low must be a number, got '1e-4'"),
        ({"type": "int", "low": 3, "high": 1}, "low must not exceed high"),
        ({"type": "categorical", "choices": []}, "choices is empty"),
        ({"type": "int", "low": 0, "high": 1, "when": {"y": 1}}, "unknown parameter 'y' in the c"),
        ({"type": "int", "low": 0, "high": 1, "when": "y"}, "a condition maps parameters to val"),
    ],
)
def test_misuse(spec: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_space({"x": spec})


@pytest.mark.parametrize("parameters", [[{"name": "x"}], "x", None, 3])
def test_a_space_is_a_mapping(parameters: Any) -> None:
    with pytest.raises(UsageError, match="`space` must map names to parameters, got"):
        parse_space(parameters)


def test_an_empty_space() -> None:
    with pytest.raises(UsageError, match="a space needs at least one parameter"):
        parse_space({})


def test_a_forbidden_clause_is_a_mapping() -> None:
    with pytest.raises(UsageError, match="forbidden clause 1: a condition maps parameters"):
        parse_space({"x": 1}, ["x"])  # type: ignore[list-item]
