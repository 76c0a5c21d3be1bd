"""Every type of parameter against one contract, and each against closed forms."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given

from paretax.errors import UsageError
from paretax.spaces import Categorical, Float, Integer, Ordinal, Parameter
from paretax.spaces.parameters import AbstractParameter, Value

# The contract of AbstractParameter ----------------------------------------------------------------


def same(one: object, other: object) -> bool:
    """Equal, and of one type: True is not 1, and 1 is not 1.0."""
    return type(one) is type(other) and one == other


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_samples_are_canonical(
    parameters: st.SearchStrategy[Parameter], data: st.DataObject, seed: int
) -> None:
    parameter = data.draw(parameters)
    rng = np.random.default_rng(seed)
    for _ in range(5):
        value = parameter.sample(rng)
        assert same(parameter.canonical(value), value)


@given(data=st.data(), points=st.integers(1, 8))
def test_grids_are_distinct_ordered_values_of_the_domain(
    parameters: st.SearchStrategy[Parameter], data: st.DataObject, points: int
) -> None:
    parameter = data.draw(parameters)
    grid = parameter.grid(points)
    assert all(same(parameter.canonical(v), v) for v in grid)
    assert len({repr(v) for v in grid}) == len(grid) >= 1
    if not isinstance(parameter, Categorical):
        assert len(grid) <= points
        encoded = [parameter.encode(v) for v in grid]
        assert encoded == sorted(encoded)


@given(data=st.data())
def test_a_grid_with_room_holds_the_whole_domain(
    parameters: st.SearchStrategy[Parameter], data: st.DataObject
) -> None:
    parameter = data.draw(parameters)
    if parameter.cardinality is None:
        assert len(parameter.grid(7)) == 7 or parameter.grid(2)[0] == parameter.grid(2)[1]
    else:
        assert len(parameter.grid(parameter.cardinality)) == parameter.cardinality
        assert len(parameter.grid(parameter.cardinality + 3)) == parameter.cardinality


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_moves_are_other_values_of_the_domain(
    parameters: st.SearchStrategy[Parameter], data: st.DataObject, seed: int
) -> None:
    parameter = data.draw(parameters)
    rng = np.random.default_rng(seed)
    value = parameter.sample(rng)
    moves = parameter.moves(value, rng)
    assert all(same(parameter.canonical(v), v) for v in moves)
    assert not any(same(v, value) for v in moves)
    if parameter.cardinality is not None and parameter.cardinality > 1:
        assert moves


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_decode_inverts_encode(
    parameters: st.SearchStrategy[Parameter], data: st.DataObject, seed: int
) -> None:
    parameter = data.draw(parameters)
    value = parameter.sample(np.random.default_rng(seed))
    numbers = parameter.encode(value)
    assert len(numbers) == parameter.columns
    assert all(0 <= n <= 1 for n in numbers)
    back = parameter.decode(numbers)
    if parameter.cardinality is None:
        assert isinstance(back, float)
        assert isinstance(value, float)
        assert math.isclose(back, value, rel_tol=1e-9, abs_tol=1e-12)
    else:
        assert same(back, value)


@given(data=st.data())
def test_decode_takes_any_numbers_into_the_domain(
    parameters: st.SearchStrategy[Parameter], data: st.DataObject
) -> None:
    parameter = data.draw(parameters)
    number = st.floats(allow_nan=False)
    numbers = data.draw(st.lists(number, min_size=parameter.columns, max_size=parameter.columns))
    value = parameter.decode(numbers)
    assert same(parameter.canonical(value), value)


@given(data=st.data())
def test_values_of_other_kinds_are_refused(
    parameters: st.SearchStrategy[Parameter], data: st.DataObject
) -> None:
    parameter = data.draw(parameters)
    values: list[object] = [None, math.nan, math.inf, -math.inf, 10**400, "no such value", [], (1,)]
    for value in values:
        with pytest.raises(UsageError, match="parameter 'p' takes"):
            parameter.canonical(value)


def test_the_interface_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        AbstractParameter("p")  # type: ignore[abstract]


# Numbers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "given_value", "canonical"),
    [
        (Float("p", 0, 1), 1, 1.0),
        (Float("p", 0, 1), np.float64(0.25), 0.25),
        (Float("p", 0, 1), np.int64(1), 1.0),
        (Float("p", -1, 1), -0.0, 0.0),
        (Float("p", 0, 1, step=0.1), 0.1 + 0.2, 0.3),
        (Float("p", -0.3, 0.6, step=0.3), 0, 0.0),
        (Integer("p", 0, 9), 3.0, 3),
        (Integer("p", 0, 9), np.int32(3), 3),
        (Integer("p", 1, 9, step=4), 5, 5),
        (Integer("p", 0, 2**60), 2**60 - 1, 2**60 - 1),
        (Categorical("p", [1, True, "1", 2.5]), True, True),
        (Categorical("p", [1, True, "1", 2.5]), 1.0, 1),
        (Categorical("p", [True, 1]), np.int64(1), 1),
        (Ordinal("p", [*np.array([4, 2]), np.float64(0.5)]), 4, 4),
    ],
)
def test_canonical_form(parameter: Parameter, given_value: object, canonical: Value) -> None:
    found = parameter.canonical(given_value)
    assert repr(found) == repr(canonical)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        (Float("p", 0, 1), True),
        (Float("p", 0, 1), "0.5"),
        (Float("p", 0, 1), 1.0000001),
        (Float("p", 0, 0.1), np.float32(0.1)),  # 0.10000000149
        (Float("p", 0, 1, step=0.25), 0.3),
        (Float("p", 0, 1, step=0.3), 1.0),
        (Integer("p", 0, 9), True),
        (Integer("p", 0, 9), 3.5),
        (Integer("p", 0, 9), 10),
        (Integer("p", 1, 9, step=4), 4),
        (Integer("p", 0, 10, step=4), 10),
        (Categorical("p", [1, 0]), True),
        (Categorical("p", [True, False]), 1),
        (Categorical("p", [1]), "1"),
        (Ordinal("p", ["1"]), 1),
    ],
)
def test_a_value_outside_the_domain(parameter: Parameter, value: object) -> None:
    with pytest.raises(UsageError, match=r"parameter 'p' takes .*, got "):
        parameter.canonical(value)


@pytest.mark.parametrize(
    ("parameter", "domain"),
    [
        (Integer("p", 1, 10, log=True), tuple(range(1, 11))),
        (Integer("p", 0, 19, step=4), (0, 4, 8, 12, 16)),
        (Integer("p", 5, 5), (5,)),
        (Float("p", 0, 1.9, step=0.4), (0.0, 0.4, 0.8, 1.2, 1.6)),
        (Float("p", 0.1, 0.4, step=0.1), (0.1, 0.2, 0.3, 0.4)),
        (Float("p", 2, 2), (2.0,)),
        (Ordinal("p", [8, 2, 4]), (8, 2, 4)),
        (Categorical("p", ["a", True, 1]), ("a", True, 1)),
    ],
)
def test_the_whole_domain(parameter: Parameter, domain: tuple[Value, ...]) -> None:
    assert parameter.cardinality == len(domain)
    assert repr(parameter.grid(len(domain))) == repr(domain)


@pytest.mark.parametrize(
    ("parameter", "grid"),
    [
        (Float("p", 0, 1), (0.0, 0.5, 1.0)),
        (Float("p", 1e-4, 1e-2, log=True), (1e-4, 1e-3, 1e-2)),
        (Float("p", 0, 1, step=0.3), (0.0, 0.6, 0.9)),
        (Integer("p", 0, 100), (0, 50, 100)),
        (Integer("p", 1, 100, log=True), (1, 10, 100)),
        (Ordinal("p", [1, 2, 4, 8, 16]), (1, 4, 16)),
        (Categorical("p", ["a", "b", "c", "d"]), ("a", "b", "c", "d")),
    ],
)
def test_three_points_are_spread_over_the_scale(parameter: Parameter, grid: Any) -> None:
    found = parameter.grid(3)
    assert [type(v) for v in found] == [type(v) for v in grid]
    if isinstance(parameter, Categorical):
        assert found == grid
    else:
        assert found == pytest.approx(grid, rel=1e-12)


def test_one_point_is_the_middle() -> None:
    assert Float("p", 0, 1).grid(1) == (0.5,)
    assert Integer("p", 1, 100, log=True).grid(1) == (10,)


@given(
    ends=st.tuples(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300)).map(sorted),
    unit=st.one_of(st.just(math.nextafter(1.0, 0.0)), st.floats(0, 1)),
)
@example(ends=[-0.62, 0.04], unit=1.0)  # low + (high - low) is above high
@example(ends=[-2.33, -0.22], unit=1.0)  # and here below
def test_rounding_never_leaves_the_range(ends: list[float], unit: float) -> None:
    parameter = Float("p", *ends)
    assert parameter.low <= float(parameter.decode([unit])) <= parameter.high
    assert parameter.decode([1.0]) == parameter.high
    assert parameter.decode([0.0]) == parameter.low


@given(low=st.floats(1e-9, 1e3), ratio=st.floats(1, 1e9))
def test_the_ends_of_a_log_scale_are_met(low: float, ratio: float) -> None:
    parameter = Float("p", low, low * ratio, log=True)
    assert parameter.decode([0.0]) == parameter.low
    assert parameter.decode([1.0]) == parameter.high
    assert parameter.encode(parameter.high) in [(1.0,), (0.0,)]  # 0 for a single point


@given(
    low=st.integers(-300, 300), step=st.integers(1, 50), count=st.integers(0, 60), data=st.data()
)
def test_decimal_steps_leave_no_binary_dust(
    low: int, step: int, count: int, data: st.DataObject
) -> None:
    """Values are the nearest floats to low + k step in exact arithmetic."""
    rest = data.draw(st.integers(0, step - 1))
    parameter = Float("p", low / 100, (low + count * step + rest) / 100, step=step / 100)
    exact = [float(Fraction(low + k * step, 100)) for k in range(count + 1)]
    assert parameter.cardinality == count + 1
    assert list(parameter.grid(count + 1)) == exact
    assert parameter.sample(np.random.default_rng(0)) in exact


def test_encode_is_linear_or_logarithmic() -> None:
    assert Float("p", 2, 6).encode(3.0) == (0.25,)
    assert Float("p", 1e-4, 1.0, log=True).encode(1e-3) == pytest.approx((0.25,))
    assert Integer("p", 1, 16, log=True).encode(4) == pytest.approx((0.5,))
    assert Ordinal("p", ["s", "m", "l"]).encode("m") == (0.5,)
    assert Categorical("p", ["s", "m", "l"]).encode("m") == (0.0, 1.0, 0.0)
    assert Integer("p", 7, 7).encode(7) == (0.0,)
    assert Ordinal("p", ["only"]).encode("only") == (0.0,)


# Distributions ------------------------------------------------------------------------------------

DRAWS = 4000


def largest_gap(parameter: Parameter, shares: dict[Value, float]) -> float:
    """The largest difference of a value's frequency from its share, in standard deviations."""
    rng = np.random.default_rng(0)
    drawn = [parameter.sample(rng) for _ in range(DRAWS)]
    assert set(drawn) <= set(shares)
    return max(
        abs(drawn.count(v) / DRAWS - share) / math.sqrt(share * (1 - share) / DRAWS)
        for v, share in shares.items()
    )


@pytest.mark.parametrize(
    "parameter",
    [
        Integer("p", -2, 9, step=3),
        Float("p", 0, 1, step=0.25),
        Categorical("p", ["a", "b", "c"]),
        Ordinal("p", [1, 2, 4, 8]),
    ],
)
def test_finite_samples_are_uniform(parameter: Parameter) -> None:
    domain = parameter.grid(parameter.cardinality or 0)
    assert largest_gap(parameter, dict.fromkeys(domain, 1 / len(domain))) < 4


def test_log_integers_have_the_share_that_rounds_to_them() -> None:
    whole = math.log(8.5 / 0.5)
    shares: dict[Value, float] = {k: math.log((k + 0.5) / (k - 0.5)) / whole for k in range(1, 9)}
    assert largest_gap(Integer("p", 1, 8, log=True), shares) < 4


@pytest.mark.parametrize("log", [False, True])
def test_continuous_samples_are_uniform_on_their_scale(log: bool) -> None:
    parameter = Float("p", 0.01, 100.0, log=log)
    rng = np.random.default_rng(0)
    values = np.array([parameter.sample(rng) for _ in range(DRAWS)])
    units = np.log(values / 0.01) / np.log(1e4) if log else (values - 0.01) / 99.99
    gap = np.abs(np.sort(units) - (np.arange(DRAWS) + 0.5) / DRAWS).max()
    assert gap < 1.95 / math.sqrt(DRAWS)  # Kolmogorov-Smirnov, 0.1 %


# Moves --------------------------------------------------------------------------------------------


def test_moves_of_listed_values() -> None:
    rng = np.random.default_rng(0)
    sizes = Ordinal("p", [1, 2, 4, 8])
    assert sizes.moves(1, rng) == (2,)
    assert sizes.moves(4, rng) == (2, 8)
    assert Categorical("p", ["a", "b", "c"]).moves("b", rng) == ("a", "c")
    assert Categorical("p", ["only"]).moves("only", rng) == ()


def test_moves_of_stepped_numbers_hold_the_next_ones() -> None:
    rng = np.random.default_rng(0)
    assert {4, 6} <= set(Integer("p", 0, 10).moves(5, rng))
    assert {2, 8} <= set(Integer("p", 2, 11, step=3).moves(5, rng))
    assert {0.2, 0.4} <= set(Float("p", 0, 1, step=0.1).moves(0.3, rng))


def test_moves_of_numbers_go_both_ways_and_stay_local() -> None:
    parameter = Float("p", 0, 1)
    rng = np.random.default_rng(0)
    moves = [parameter.moves(0.5, rng) for _ in range(200)]
    assert all(isinstance(a, float) and isinstance(b, float) and a < 0.5 < b for a, b in moves)
    spread = np.std([float(v) - 0.5 for pair in moves for v in pair])
    assert spread == pytest.approx(0.15, rel=0.15)
    assert len(parameter.moves(1.0, rng)) == 1  # nothing lies above


# Words --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (Float("p", 1e-4, 0.1, log=True), "real 0.0001 .. 0.1, log"),
        (Float("p", 0, 1, step=0.1), "real 0 .. 1, step 0.1"),
        (Integer("p", 2, 8), "integer 2 .. 8"),
        (Integer("p", 2, 8, step=1), "integer 2 .. 8"),
        (Integer("p", 2, 8, step=2), "integer 2 .. 8, step 2"),
        (Categorical("p", [False, True]), "one of false, true"),
        (Categorical("p", [128]), "always 128"),
        (Ordinal("p", [16, 32]), "in order 16, 32"),
    ],
)
def test_describe(parameter: Parameter, words: str) -> None:
    assert parameter.describe() == words


# Misuse -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Float, Integer])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 2, "high": 1}, r"low must not exceed high, got low=2 and high=1: swap"),
        ({"low": 0, "high": 1, "log": True}, r"a log scale needs low > 0, got 0"),
        ({"low": -1, "high": 1, "log": True}, r"a log scale needs low > 0, got -1"),
        ({"low": 1, "high": 9, "log": True, "step": 1}, r"log and step exclude each other"),
        ({"low": 1, "high": 9, "log": "false"}, r"log must be true or false, got 'false'"),
        ({"low": 1, "high": 9, "step": 0}, r"step must be a positive number, got 0"),
        ({"low": 1, "high": 9, "step": -1}, r"step must be a positive number, got -1"),
        ({"low": 1, "high": 9, "step": True}, r"step must be a positive number, got True"),
        ({"low": 1, "high": 9, "step": math.nan}, r"step must be a positive number, got nan"),
        ({"low": 1, "high": 9, "step": math.inf}, r"step must be a positive number, got inf"),
        ({"low": math.nan, "high": 1}, r"low must be finite, got nan"),
        ({"low": 0, "high": math.inf}, r"high must be finite, got inf"),
        ({"low": 0, "high": 10**400}, r"high must be finite"),
        ({"low": "0", "high": 1}, r"low must be a number, got '0'"),
        ({"low": False, "high": 1}, r"low must be a number, got False"),
        ({"low": 0, "high": None}, r"high must be a number, got None"),
        ({"low": -1.5e308, "high": 1.5e308}, r"range .* is too wide"),
        ({"low": 1e-300, "high": 1e300, "log": True}, r"range .* is too wide"),
        ({"low": 0, "high": 10**5000}, r"high must be finite, got a value of type int"),
        ({"low": 0, "high": 9, "step": 10**5000}, r"step must be a positive number, got a value"),
    ],
)
def test_impossible_ranges(
    kind: type[Float] | type[Integer], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=f"parameter 'p': .*{message}"):
        kind("p", **arguments)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 2**64 - 1), (0, 2**63), (-(2**63) - 1, 0), (-(2**62), 2**62)]
)
def test_an_integer_that_no_generator_draws(low: int, high: int) -> None:
    with pytest.raises(UsageError, match=rf"within -2\^63 .*, got {low} .. {high}: narrow it"):
        Integer("p", low, high)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 2**63 - 1), (-(2**62), 2**62 - 1), (2**63 - 9, 2**63 - 1)]
)
def test_the_longest_integers(low: int, high: int) -> None:
    parameter = Integer("p", low, high)
    rng = np.random.default_rng(0)
    values: list[Any] = [parameter.sample(rng) for _ in range(50)]
    values += [low, high, *parameter.grid(5), *parameter.moves(high, rng)]
    assert all(low <= parameter.canonical(v) <= high for v in values)
    assert parameter.decode(parameter.encode(high)) == high


@pytest.mark.parametrize(
    ("low", "high", "step", "message"),
    [
        (0.0, 1.0, 1e-20, r"cannot tell steps of 1e-20 apart in the range 0\.0 \.\. 1\.0"),
        (1e6, 1e6 + 1, 1e-12, r"cannot tell steps of 1e-12 apart"),
        (0, 1, 1.2e-16, r"cannot tell steps of 1\.2e-16 apart"),
    ],
)
def test_steps_too_fine_for_floating_point(
    low: float, high: float, step: float, message: str
) -> None:
    with pytest.raises(UsageError, match=f"parameter 'p': .*{message}.*: take a larger step"):
        Float("p", low, high, step=step)


def test_small_steps_are_kept_apart() -> None:
    parameter = Float("p", 0.0, 1e-13, step=1e-14)
    assert parameter.canonical(3e-14) == 3e-14
    with pytest.raises(UsageError, match="takes real"):
        parameter.canonical(3.5e-14)


@pytest.mark.parametrize("key", ["low", "high", "step"])
def test_an_integer_has_whole_numbers(key: str) -> None:
    arguments: dict[str, Any] = {"low": 0, "high": 5, "step": 1, key: 0.5 if key == "low" else 1.5}
    with pytest.raises(UsageError, match=rf"an integer's {key} must be whole, got \d\.5"):
        Integer("p", **arguments)


@pytest.mark.parametrize("kind", [Categorical, Ordinal])
@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([], "choices is empty: list at least one value"),
        ("abc", "choices must be a list, got 'abc'"),
        ({1, 2}, "choices must be a list"),
        ([1, 1.0, 1], r"choices must differ, got \[1, 1.0, 1\]: list each once"),
        (["a", "a"], "choices must differ"),
        ([0.0, -0.0], "choices must differ"),
        ([math.nan], "a choice must be .* finite number, got nan"),
        ([math.inf], "a choice must be .* finite number, got inf"),
        ([None], "a choice must be a string, a bool or a finite number, got None"),
        ([[1]], r"a choice must be .*, got \[1\]"),
        ([10**40], r"a whole number must lie within -2\^64 .. 2\^64, got 1000"),
        ([10**5000], r"a whole number must lie within .*, got a value of type int"),
    ],
)
def test_impossible_choices(
    kind: type[Categorical] | type[Ordinal], choices: Any, message: str
) -> None:
    with pytest.raises(UsageError, match=f"parameter 'p': {message}"):
        kind("p", choices)


@pytest.mark.parametrize(
    "name", ["", "two words", "1st", "a-b", 3, "@", "@first", "bits@", "a-b@first"]
)
def test_a_name_is_an_identifier(name: Any) -> None:
    with pytest.raises(UsageError, match="must be an identifier such as 'width'"):
        Categorical(name, [1])
    with pytest.raises(UsageError, match="must be an identifier such as 'width'"):
        Float(name, 0, 1)
