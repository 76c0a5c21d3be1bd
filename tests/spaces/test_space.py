"""Spaces and candidates: random ones against naive enumeration, and every misuse."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from paretax.errors import UsageError
from paretax.spaces import (
    Between,
    Candidate,
    Categorical,
    Clause,
    Float,
    Integer,
    Ordinal,
    Parameter,
    Space,
    dump_space,
    parse_space,
)

seeds = st.integers(0, 2**32 - 1)


def compression() -> Space:
    """A chain of conditions, its parameters not in order, and a forbidden combination."""
    return Space(
        [
            Integer("activation_bits", 2, 8, when={"weight_bits": {"max": 4}}),
            Integer("weight_bits", 2, 8, when={"quantize": True}),
            Categorical("quantize", [False, True]),
            Float("learning_rate", 1e-4, 1e-1, log=True),
            Ordinal("width", [16, 32, 64]),
        ],
        forbidden=[{"weight_bits": 2, "width": [16, 32]}],
    )


# A naive reading of a space -----------------------------------------------------------------------


def passes(test: Any, value: Any) -> bool:
    if isinstance(test, Between):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        low, high = (
            e if e is not None else s * math.inf for e, s in ((test.low, -1), (test.high, 1))
        )
        return number and low <= value <= high
    return any((isinstance(v, bool), v) == (isinstance(value, bool), value) for v in test.values)


def meets(clause: Any, values: dict[str, Any]) -> bool:
    return all(name in values and passes(test, values[name]) for name, test in clause.tests)


def active_part(space: Space, values: dict[str, Any]) -> dict[str, Any]:
    """What is left of a full assignment when inactive parameters go, one after the other."""
    while True:
        gone = [n for n in values if (w := space[n].when) is not None and not meets(w, values)]
        if not gone:
            return values
        values = {n: v for n, v in values.items() if n not in gone}


def domain(parameter: Parameter) -> list[Any]:
    if isinstance(parameter, Integer):
        return list(range(int(parameter.low), int(parameter.high) + 1, int(parameter.step or 1)))
    if isinstance(parameter, Float):
        assert parameter.step is not None
        steps = int((parameter.high - parameter.low) / parameter.step + 1e-6)
        return [parameter.canonical(parameter.low + k * parameter.step) for k in range(steps + 1)]
    return list(parameter.choices)


def enumerate_naively(space: Space) -> set[str]:
    """The canonical JSON of each candidate."""
    found = set()
    names = [p.name for p in space]
    for values in itertools.product(*map(domain, space)):
        left = active_part(space, dict(zip(names, values, strict=True)))
        if not any(meets(clause, left) for clause in space.forbidden):
            found.add(json.dumps(left, sort_keys=True, separators=(",", ":")))
    return found


# Random spaces ------------------------------------------------------------------------------------


@given(data=st.data(), seed=seeds)
def test_samples_are_in_the_space(
    spaces: st.SearchStrategy[Space], data: st.DataObject, seed: int
) -> None:
    space = data.draw(spaces)
    candidate = space.sample(np.random.default_rng(seed))
    assert space.candidate(candidate) == candidate
    assert dict(candidate) == active_part(space, dict(candidate))
    missing = [p for p in space if p.name not in candidate]
    assert not any(p.when is None or meets(p.when, dict(candidate)) for p in missing)
    assert not any(meets(clause, dict(candidate)) for clause in space.forbidden)
    assert space.sample(np.random.default_rng(seed)) == candidate


@given(data=st.data())
def test_sizes_and_grids_are_those_of_naive_enumeration(
    small_spaces: st.SearchStrategy[Space], data: st.DataObject
) -> None:
    space = data.draw(small_spaces)
    expected = enumerate_naively(space)
    size = space.size()
    assert (size.combinations, size.exact, size.continuous) == (len(expected), True, 0)
    grid = [c.json for c in space.grid(100)]
    assert len(grid) == len(set(grid))
    assert set(grid) == expected


@given(data=st.data(), points=st.integers(1, 3))
def test_grids_are_unique_valid_candidates(
    spaces: st.SearchStrategy[Space], data: st.DataObject, points: int
) -> None:
    space = data.draw(spaces)
    grid = list(itertools.islice(space.grid(points), 300))
    assert len(set(grid)) == len(grid)
    assert all(space.candidate(c) == c for c in grid)


@given(data=st.data(), seed=seeds)
def test_decode_inverts_encode(
    spaces: st.SearchStrategy[Space], data: st.DataObject, seed: int
) -> None:
    space = data.draw(spaces)
    rng = np.random.default_rng(seed)
    candidates = [space.sample(rng) for _ in range(3)]
    numbers = space.encode(candidates)
    assert numbers.shape == (3, len(space.columns))
    assert numbers.dtype == np.float64
    for row, candidate in zip(numbers, candidates, strict=True):
        for column, number in zip(space.columns, row, strict=True):
            name = column.partition("[")[0]
            assert math.isnan(number) == (name not in candidate)
            assert math.isnan(number) or 0 <= number <= 1
    clauses = [*space.forbidden, *(p.when for p in space if isinstance(p.when, Clause))]
    if any(space[n].cardinality is None for clause in clauses for n in clause.names):
        return  # rounding may carry a value over the edge of a test
    for decoded, candidate in zip(space.decode(numbers), candidates, strict=True):
        assert decoded.keys() == candidate.keys()
        for name, value in candidate.items():
            if isinstance(space[name], Float):
                assert decoded[name] == pytest.approx(value, rel=1e-9, abs=1e-12)
            else:
                assert decoded[name] == value


@given(data=st.data(), seed=seeds)
def test_identity_does_not_depend_on_the_order_of_keys(
    spaces: st.SearchStrategy[Space], data: st.DataObject, seed: int
) -> None:
    space = data.draw(spaces)
    candidate = space.sample(np.random.default_rng(seed))
    shuffled = dict(data.draw(st.permutations(list(candidate.items()))))
    again = space.candidate(shuffled)
    assert again == candidate
    assert hash(again) == hash(candidate)
    assert (again.json, again.id) == (candidate.json, candidate.id)
    assert space.candidate(json.loads(candidate.json)) == candidate


# Candidates ---------------------------------------------------------------------------------------


def test_the_identity_is_pinned() -> None:
    """These stand in result files: a change would orphan them."""
    candidate = compression().candidate(
        {"width": 32, "quantize": True, "learning_rate": 1e-3, "weight_bits": 8}
    )
    assert candidate.json == ('{"learning_rate":0.001,"quantize":true,"weight_bits":8,"width":32}')
    assert candidate.id == "d948b62629b1"


def test_equal_values_in_another_form_are_one_candidate() -> None:
    space = Space([Float("rate", -1, 1), Integer("width", 1, 9), Categorical("on", [True, 1])])
    one = space.candidate({"rate": 0, "width": 3.0, "on": True})
    assert one == space.candidate({"rate": -0.0, "width": np.int64(3), "on": True})
    assert one != space.candidate({"rate": 0, "width": 3, "on": 1})
    assert one.json == '{"on":true,"rate":0.0,"width":3}'


def test_a_candidate_is_an_immutable_mapping() -> None:
    candidate = Candidate({"b": 1, "a": "x"})
    assert list(candidate) == ["a", "b"]
    assert len(candidate) == 2
    assert dict(candidate) == {"a": "x", "b": 1}
    assert candidate != {"a": "x", "b": 1}
    assert repr(candidate) == "Candidate({'a': 'x', 'b': 1})"
    assert {candidate: 1}[Candidate({"a": "x", "b": 1})] == 1
    with pytest.raises(TypeError, match="item assignment"):
        candidate["a"] = "y"  # type: ignore[index]


def test_a_candidate_survives_pickling() -> None:
    candidate = Candidate({"rate": 0.1, "on": True, "name": "é"})
    copy = pickle.loads(pickle.dumps(candidate))
    assert copy == candidate
    assert copy.id == candidate.id


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_candidate_holds_json_numbers_only(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        Candidate({"x": value})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quantise": True}, "unknown parameter 'quantise' in the candidate. Did you mean 'quant"),
        ({"quantize": False, "learning_rate": 0.01}, r"lacks 'width': give it \(in order 16, 32, "),
        (
            {"quantize": False, "learning_rate": 0.01, "width": 16, "weight_bits": 4},
            "'weight_bits' exists only when quantize = true: leave it out",
        ),
        (
            {"quantize": True, "learning_rate": 0.01, "width": 16},
            r"lacks 'weight_bits': give it \(integer 2 .. 8\)",
        ),
        (
            {"quantize": True, "learning_rate": 0.01, "width": 16, "weight_bits": 8}
            | {"activation_bits": 8},
            "'activation_bits' exists only when weight_bits <= 4",
        ),
        (
            {"quantize": True, "learning_rate": 0.01, "width": 16, "weight_bits": 2}
            | {"activation_bits": 8},
            "the combination is forbidden: weight_bits = 2 and width in 16, 32",
        ),
        (
            {"quantize": 1, "learning_rate": 0.01, "width": 16},
            "'quantize' takes one of false, true",
        ),
        ({"quantize": False, "learning_rate": math.nan, "width": 16}, "takes real .*, got nan"),
        ({"quantize": False, "learning_rate": math.inf, "width": 16}, "takes real .*, got inf"),
        ({"quantize": False, "learning_rate": True, "width": 16}, "takes real .*, got True"),
        ({"quantize": False, "learning_rate": 0.01, "width": 17}, "takes in order .*, got 17"),
    ],
)
def test_values_that_are_no_candidate(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compression().candidate(values)


def test_a_child_of_an_inactive_parent_is_inactive() -> None:
    candidate = compression().candidate({"quantize": False, "learning_rate": 0.01, "width": 16})
    assert set(candidate) == {"quantize", "learning_rate", "width"}


# Spaces -------------------------------------------------------------------------------------------


def test_a_space_is_a_collection_of_its_parameters() -> None:
    space = compression()
    assert len(space) == 5
    assert "width" in space
    assert "height" not in space
    assert space["width"] == Ordinal("width", [16, 32, 64])
    assert [p.name for p in space][:2] == ["activation_bits", "weight_bits"]
    order = [p.name for p in space.order]
    assert order.index("quantize") < order.index("weight_bits") < order.index("activation_bits")
    with pytest.raises(UsageError, match=r"unknown parameter 'widht'\. Did you mean 'width'"):
        space["widht"]


def switch(**when: Any) -> Iterator[Parameter]:
    """Parameters a, b, c, each a switch with the condition that is given."""
    for name in "abc":
        yield Categorical(name, [False, True], when=when.get(name))


@pytest.mark.parametrize(
    ("parameters", "forbidden", "message"),
    [
        ([], [], "a space needs at least one parameter"),
        (
            [Integer("n", 1, 2), Float("n", 1, 2)],
            [],
            "a parameter's name must be unique, got 'n' twice",
        ),
        (
            [Ordinal("width", [1, 2]), Integer("n", 1, 2, when={"widht": 1})],
            [],
            "unknown parameter 'widht' in the condition of 'n'. Did you mean 'width'?",
        ),
        (
            [Ordinal("width", [1, 2])],
            [{"width": 1}, {"depht": 1}],
            "unknown parameter 'depht' in forbidden clause 2",
        ),
        (list(switch(a={"b": True}, b={"a": True})), [], "cycle, got (a -> b -> a|b -> a -> b)"),
        (
            list(switch(a={"c": True}, b={"a": True}, c={"b": True})),
            [],
            "must not form a cycle, got (a -> c -> b -> a|b -> a -> c -> b|c -> b -> a -> c)",
        ),
        (list(switch(a={"a": True})), [], "must not form a cycle, got a -> a: remove one of these"),
        (
            [Categorical("o", ["sgd", "lion"]), Integer("n", 1, 2, when={"o": "adam"})],
            [],
            "the condition of 'n' can never hold: o = adam, but o takes one of sgd, lion",
        ),
        (
            [Categorical("o", [True, False]), Integer("n", 1, 2, when={"o": 1})],
            [],
            "the condition of 'n' can never hold: o = 1, but o takes one of true, false",
        ),
        (
            [Integer("o", 1, 9, step=2), Integer("n", 1, 2, when={"o": 4})],
            [],
            "can never hold: o = 4, but o takes integer 1 .. 9, step 2",
        ),
        (
            [Float("o", 0, 1), Integer("n", 1, 2, when={"o": {"min": 1.5}})],
            [],
            "can never hold: o >= 1.5, but o takes real 0 .. 1",
        ),
        (
            [Float("o", 0, 1), Integer("n", 1, 2, when={"o": [True, "a"]})],
            [],
            "can never hold: o in true, a, but o takes real 0 .. 1",
        ),
        (
            [Float("o", 0, 1), Integer("n", 1, 2, when={"o": {"min": math.nan}})],
            [],
            "can never hold: o >= nan",
        ),
        (
            [Integer("o", 0, 10**9), Integer("n", 1, 2, when={"o": {"max": -1}})],
            [],
            "can never hold: o <= -1",
        ),
        ([Ordinal("w", [1, 2])], [{"w": 3}], "forbidden clause 1 can never hold: w = 3"),
    ],
)
def test_impossible_spaces(
    parameters: list[Parameter], forbidden: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Space(parameters, forbidden)


@pytest.mark.parametrize("value", range(1, 11))
def test_a_condition_may_name_any_value_of_a_log_scale(value: int) -> None:
    space = Space([Integer("n", 1, 10, log=True), Categorical("c", [1, 2, 3], when={"n": value})])
    assert space.size().combinations == 9 + 3


def test_a_space_that_forbids_everything() -> None:
    space = Space([Categorical("on", [True, False])], forbidden=[{"on": True}, {"on": False}])
    assert space.size().combinations == 0
    assert list(space.grid()) == []
    with pytest.raises(UsageError, match="exclude all of 1000 random candidates: loosen them"):
        space.sample(np.random.default_rng(0))


@pytest.mark.parametrize(
    ("parameters", "forbidden", "words"),
    [
        ([Integer("a", 1, 8), Ordinal("b", [1, 2])], [], "16 combinations"),
        (
            [Integer("a", 1, 8), Float("b", 0, 1)],
            [],
            "8 combinations x 1 continuous parameter",
        ),
        ([Float("a", 0, 1), Float("b", 0, 1)], [], "1 combinations x 2 continuous parameters"),
        (
            [Float("a", 0, 1), Integer("b", 1, 3, when={"a": {"min": 0.5}})],
            [],
            "at most 4 combinations x 1 continuous parameter",
        ),
        (
            [Integer("a", 1, 1000), Integer("b", 1, 1000)],
            [{"a": 1, "b": 1}],
            "at most 1,000,000 combinations",
        ),
        ([Integer("a", 1, 1000), Integer("b", 1, 1000)], [], "1,000,000 combinations"),
    ],
)
def test_sizes_in_words(
    parameters: list[Parameter], forbidden: list[dict[str, object]], words: str
) -> None:
    assert Space(parameters, forbidden).size().describe() == words


# Numbers for a surrogate --------------------------------------------------------------------------


def test_encoded_columns() -> None:
    space = compression()
    assert space.columns == (
        "activation_bits",
        "weight_bits",
        "quantize[0]",
        "quantize[1]",
        "learning_rate",
        "width",
    )
    candidates = [
        space.candidate({"quantize": False, "learning_rate": 1e-4, "width": 16}),
        space.candidate({"quantize": True, "learning_rate": 0.1, "width": 32, "weight_bits": 5}),
    ]
    expected = [[math.nan, math.nan, 1, 0, 0, 0], [math.nan, 0.5, 0, 1, 1, 0.5]]
    np.testing.assert_allclose(space.encode(candidates), expected, atol=1e-12)
    assert space.encode([]).shape == (0, 6)
    assert space.decode(np.empty((0, 6))) == []


def test_decode_takes_the_nearest_and_skips_what_is_inactive() -> None:
    space = compression()
    row = np.array([0.3, 0.9, 0.8, 0.2, 2.0, -1.0])
    assert dict(space.decode(row)[0]) == {"quantize": False, "learning_rate": 0.1, "width": 16}


def test_decode_refuses() -> None:
    space = compression()
    with pytest.raises(UsageError, match="'weight_bits' is active but encoded NaN"):
        space.decode(np.array([math.nan, math.nan, 0, 1, 0.5, 0.5]))
    with pytest.raises(UsageError, match="the combination is forbidden"):
        space.decode(np.array([0.5, 0.0, 0, 1, 0.5, 0.0]))


@settings(max_examples=20)
@given(data=st.data())
def test_decode_takes_any_numbers_into_the_space(
    spaces: st.SearchStrategy[Space], data: st.DataObject
) -> None:
    space = data.draw(spaces)
    rows = np.random.default_rng(data.draw(seeds)).normal(0.5, 1.0, (5, len(space.columns)))
    for row in rows:
        try:
            (candidate,) = space.decode(row)
        except UsageError as error:
            assert "the combination is forbidden" in str(error)  # noqa: PT017
        else:
            assert space.candidate(candidate) == candidate


def test_a_forbidden_clause_must_say_something() -> None:
    with pytest.raises(UsageError, match="forbidden clause 1"):
        Space([Integer("width", 1, 4)], forbidden=[None])  # type: ignore[list-item]


def test_conditions_and_clauses_mean_one_of_the_choices_that_python_takes_for_one() -> None:
    choices: list[Any] = [1, 1.0, True, "1"]
    space = Space(
        [
            Categorical("a", choices),
            *(Integer(f"child_{i}", 0, 3, when={"a": v}) for i, v in enumerate(choices)),
        ],
        [{"a": 1.0, "child_1": 3}],
    )
    assert space.size().combinations == 4 * 4 - 1
    candidates = list(space.grid(4))
    assert len({c.id for c in candidates}) == len(set(candidates)) == 15
    for candidate in candidates:
        (child,) = [name for name in candidate if name != "a"]
        meant = choices[int(child[-1])]
        assert (type(candidate["a"]), candidate["a"]) == (type(meant), meant)
        assert Candidate(json.loads(candidate.json)) == candidate
        assert space.decode(space.encode([candidate])) == [candidate]
    again = parse_space(*dump_space(space))
    assert list(again.grid(4)) == candidates


def test_a_condition_may_write_a_number_in_its_other_form() -> None:
    space = Space(
        [
            Categorical("a", [1.0, 2.0]),
            Float("b", 0.0, 1.0, step=0.5),
            Integer("c", 0, 1, when={"a": 1, "b": 1}),
        ]
    )
    assert "c" in space.candidate({"a": 1, "b": 1, "c": 0})
    assert "c" not in space.candidate({"a": 2, "b": 1})
