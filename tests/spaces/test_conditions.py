"""Tests on a candidate's values, in every form in which users write them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from paretax.errors import UsageError
from paretax.spaces import Between, Clause, OneOf
from paretax.spaces.conditions import Scalar


def clause(tests: Any) -> Clause:
    made = Clause.make(tests, "parameter 'bits'")
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("written", "passes", "fails"),
    [
        (True, [True], [1, 1.0, False, "True"]),
        (1, [1, 1.0], [True, 2, "1"]),
        (1.0, [1, 1.0], [True]),
        ("a", ["a"], ["A", 1]),
        ([1, "b", False], [1, "b", False], [True, 0, "1", 2]),
        ((2, 3), [2, 3], [1]),
        ({"min": 2}, [2, 2.5, 100, math.inf], [1.999, -3, True, "3"]),
        ({"max": 2}, [2, -100, 0], [2.001, False, "1"]),
        ({"min": 0, "max": 1}, [0, 0.5, 1], [-0.001, 1.001, True, False]),
        ({"min": 2, "max": None}, [3], [1]),
    ],
)
def test_what_passes(written: Any, passes: list[Scalar], fails: list[Scalar]) -> None:
    made = clause({"x": written})
    assert all(made.holds({"x": v}) for v in passes)
    assert not any(made.holds({"x": v}) for v in fails)


def test_a_clause_is_a_conjunction() -> None:
    made = clause({"a": 1, "b": {"min": 2}})
    assert made.holds({"a": 1, "b": 2, "c": 3})
    assert not made.holds({"a": 1, "b": 1})
    assert not made.holds({"a": 2, "b": 2})
    assert made.names == ("a", "b")


def test_a_parameter_that_is_not_there_fails_its_test() -> None:
    assert not clause({"a": 1, "b": 2}).holds({"a": 1})
    assert not clause({"a": {"max": 3}}).holds({})


def test_the_forms_are_the_same_values() -> None:
    assert clause({"x": 3}) == Clause((("x", OneOf(values=(3,))),))
    assert clause({"x": [3]}) == clause({"x": 3})
    assert clause({"x": {"min": 1}}) == Clause((("x", Between(low=1)),))
    assert clause(clause({"x": 3})) == clause({"x": 3})
    assert Clause.make(None, "anything") is None


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"quantize": True}, "quantize = true"),
        ({"optimizer": ["sgd", "lion"]}, "optimizer in sgd, lion"),
        ({"depth": {"min": 2, "max": 4}}, "depth from 2 to 4"),
        ({"depth": {"min": 2}}, "depth >= 2"),
        ({"rate": {"max": 0.5}, "quantize": False}, "rate <= 0.5 and quantize = false"),
    ],
)
def test_describe(written: Any, words: str) -> None:
    assert clause(written).describe() == words


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, r"a condition maps parameters to values, such as \{quantize: true\}, got \{\}"),
        ("quantize", "a condition maps parameters to values"),
        ([("quantize", True)], "a condition maps parameters to values"),
        ({"x": None}, r"a test is a value, a list of values or \{min: a, max: b\}, got None"),
        ({"x": []}, r"a test is .*, got \[\]"),
        ({"x": [[1]]}, r"a test is .*, got \[\[1\]\]"),
        ({"x": {}}, r"a test is .*, got \{\}"),
        ({"x": {"min": None}}, r"a test is .*, got \{'min': None\}"),
        ({"x": {"minimum": 1}}, r"a test is .*, got \{'minimum': 1\}"),
        ({"x": {"min": 1, "step": 1}}, r"a test is .*, got"),
        ({"x": {"min": "1"}}, "min and max must be numbers, got '1'"),
        ({"x": {"max": True}}, "min and max must be numbers, got True"),
        ({"x": {"min": 2, "max": 1}}, "min must not exceed max, got min=2 and max=1"),
    ],
)
def test_misuse(written: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"parameter 'bits': {message}"):
        clause(written)
