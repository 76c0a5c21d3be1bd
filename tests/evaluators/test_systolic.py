"""Systolic arrays: cycles as a simulation of each register counts them, traffic, energy, area."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretax.errors import UsageError
from paretax.evaluators.codesign import design_of, designed
from paretax.evaluators.kernels import Product
from paretax.evaluators.systolic import Array, Dataflow, cycles
from paretax.evaluators.systolic_cost import area, energy
from paretax.hardware_profiles import load_profile

ARRAY = Array(
    rows=4,
    columns=3,
    dataflow="output_stationary",
    sram=2**20,
    dram_bandwidth=1e15,
    clock=1e9,
    dtype="int8",
)
DATAFLOWS: tuple[Dataflow, ...] = ("output_stationary", "weight_stationary", "input_stationary")

# A simulation -------------------------------------------------------------------------------------


def outputs_stay(left: np.ndarray, right: np.ndarray, rows: int, columns: int) -> tuple[Any, int]:
    """One fold, register by register: left flows to the right, right flows down, sums stay."""
    m, k = left.shape
    n = right.shape[1]
    a, b = np.zeros((rows, columns)), np.zeros((rows, columns))
    sums, seen = np.zeros((rows, columns)), np.zeros((rows, columns), int)
    clock = 0
    valid_a, valid_b = np.zeros((rows, columns), bool), np.zeros((rows, columns), bool)
    while (seen < k).any():
        a[:, 1:], b[1:] = a[:, :-1].copy(), b[:-1].copy()
        valid_a[:, 1:], valid_b[1:] = valid_a[:, :-1].copy(), valid_b[:-1].copy()
        for i in range(rows):
            t = clock - i  # each row starts a cycle after the one above
            valid_a[i, 0] = 0 <= t < k
            a[i, 0] = left[i, t] if valid_a[i, 0] and i < m else 0
        for j in range(columns):
            t = clock - j
            valid_b[0, j] = 0 <= t < k
            b[0, j] = right[t, j] if valid_b[0, j] and j < n else 0
        both = valid_a & valid_b
        sums += np.where(both, a * b, 0)
        seen += both
        clock += 1
    return sums[:m, :n], clock


def weights_stay(left: np.ndarray, right: np.ndarray, rows: int, columns: int) -> tuple[Any, int]:
    """One fold: weights (k, n) are loaded a row a cycle, inputs flow right, sums flow down."""
    m, k = left.shape
    n = right.shape[1]
    weights = np.zeros((rows, columns))
    weights[:k, :n] = right
    clock = rows  # of loading
    x, sums = np.zeros((rows, columns)), np.zeros((rows, columns))
    found = np.full((m, columns), np.nan)
    step = 0
    while np.isnan(found).any():
        x[:, 1:] = x[:, :-1].copy()
        above = np.vstack([np.zeros(columns), sums[:-1]])
        for i in range(rows):
            t = step - i
            x[i, 0] = left[t, i] if 0 <= t < m and i < k else 0
        sums = above + x * weights
        for j in range(columns):
            t = step - (rows - 1) - j
            if 0 <= t < m:
                found[t, j] = sums[-1, j]
        step += 1
        clock += 1
    return found[:, :n], clock


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 7, 1), (1, 1, 1), (4, 1, 2)])
def test_a_fold_takes_what_its_registers_take(shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    rng = np.random.default_rng(0)
    left, right = rng.integers(1, 9, (m, k)), rng.integers(1, 9, (k, n))
    product = Product(m=m, n=n, k=k)
    found, clock = outputs_stay(left, right, 4, 3)
    np.testing.assert_array_equal(found, left @ right)
    assert cycles(product, ARRAY).compute == clock
    if k <= 4:
        found, clock = weights_stay(left, right, 4, 3)
        np.testing.assert_array_equal(found, left @ right)
        assert cycles(product, replace(ARRAY, dataflow="weight_stationary")).compute == clock
        # Where inputs stay, the roles of the operands are exchanged.
        turned, clock = weights_stay(right.T, left.T[:, :3], 4, 3)
        np.testing.assert_array_equal(turned, (left @ right).T[:, :3])
        if m <= 3:
            assert cycles(product, replace(ARRAY, dataflow="input_stationary")).compute == clock


def test_a_hand_count() -> None:
    """(10, 6) x (6, 7) on 4 x 3: 3 by 3 folds."""
    product = Product(m=10, n=7, k=6)
    found = cycles(product, ARRAY)
    assert (found.folds, found.compute, found.stalls) == (9, 9 * (6 + 4 + 3 - 2), 0)
    assert found.utilisation == pytest.approx(10 * 7 * 6 / (12 * 99))
    assert found.seconds == pytest.approx(99e-9)
    # each input once for 3 column folds, each weight once for 3 row folds, each result once
    assert found.sram_bytes == 60 * 3 + 42 * 3 + 70
    assert found.dram_bytes == 60 + 42 + 70  # all fits in half of 1 MiB
    stays = cycles(product, replace(ARRAY, dataflow="weight_stationary"))
    assert (stays.folds, stays.compute) == (2 * 3, 6 * (2 * 4 + 3 + 10 - 2))
    inputs = cycles(product, replace(ARRAY, dataflow="input_stationary"))
    assert (inputs.folds, inputs.compute) == (2 * 4, 8 * (2 * 4 + 3 + 7 - 2))


def test_groups_run_one_after_another() -> None:
    one, many = (cycles(Product(groups=g, m=9, n=1, k=9, window=9), ARRAY) for g in (1, 16))
    assert many.total == 16 * one.total
    assert many.dram_bytes == 16 * one.dram_bytes


def test_a_slow_dram_stalls_the_array() -> None:
    product = Product(m=10, n=7, k=6)
    slow = cycles(product, replace(ARRAY, dram_bandwidth=1e9))  # a byte a cycle
    assert slow.total == 60 + 42 + 70
    assert slow.stalls == 172 - slow.compute


def test_windows_share_their_inputs() -> None:
    """A 3 x 3 convolution reads an input from DRAM once, and 9 times from the chip."""
    dense, windowed = (cycles(Product(m=100, n=3, k=36, window=w), ARRAY) for w in (1, 9))
    assert dense.dram_bytes - windowed.dram_bytes == 100 * 36 - 100 * 4
    assert dense.sram_bytes == windowed.sram_bytes


PRODUCTS = st.builds(
    Product,
    groups=st.integers(1, 3),
    m=st.integers(1, 300),
    n=st.integers(1, 300),
    k=st.integers(1, 300),
)
ARRAYS = st.builds(
    replace,
    st.just(ARRAY),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    dataflow=st.sampled_from(DATAFLOWS),
    sram=st.integers(1, 2**17),
    dram_bandwidth=st.floats(1e8, 1e12),
)


@settings(deadline=None, max_examples=200)
@given(PRODUCTS, ARRAYS)
def test_what_holds_of_every_product(product: Product, array: Array) -> None:
    found = cycles(product, array)
    assert 0 < found.utilisation <= 1
    assert found.compute >= product.flops / 2 / (array.rows * array.columns)
    once = product.groups * (product.m * product.k + product.k * product.n + product.m * product.n)
    assert found.dram_bytes >= once
    assert found.sram_bytes >= once
    faster = cycles(product, replace(array, dram_bandwidth=2 * array.dram_bandwidth))
    assert faster.total <= found.total
    assert faster.compute == found.compute
    roomier = cycles(product, replace(array, sram=4 * array.sram))
    assert roomier.dram_bytes <= found.dram_bytes
    assert cycles(product, replace(array, dtype="f32")).dram_bytes >= found.dram_bytes


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 0}, "`rows` must be a whole number above 0, got 0"),
        ({"columns": True}, "`columns` must be a whole number above 0, got True"),
        ({"sram": 1.5}, "`sram` must be a whole number above 0, got 1.5"),
        ({"clock": math.inf}, "`clock` must be finite and above 0, got inf"),
        ({"dram_bandwidth": -1.0}, "`dram_bandwidth` must be finite and above 0, got -1.0"),
        ({"dataflow": "row_stationary"}, "unknown dataflow 'row_stationary'"),
        ({"dtype": "int9"}, "unknown dtype 'int9'.* Did you mean 'int8'"),
    ],
)
def test_an_array_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(ARRAY, **change)


def test_a_product_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="`n` of a product must be at least 1, got 0"):
        cycles(Product(m=1, n=0, k=1), ARRAY)


def test_only_a_systolic_profile_has_an_array() -> None:
    with pytest.raises(UsageError, match="'h100' must be of the platform systolic, got cuda"):
        Array.of(load_profile("h100"))


# The profile, and designs -------------------------------------------------------------------------


def test_the_shipped_profile() -> None:
    profile = load_profile("systolic")
    array = Array.of(profile)
    assert (array.rows, array.columns, array.sram, array.dtype) == (32, 32, 2**18, "int8")
    product = Product(m=64, n=64, k=64)
    found = cycles(product, array)
    by_hand = (
        product.flops * profile.energy["int8"]
        + found.sram_bytes * 2.5e-12
        + found.dram_bytes * (2.5e-12 + 163e-12)
        + 0.05 * found.seconds
    )
    assert energy(product, array, profile) == pytest.approx(by_hand)
    assert area(profile) == pytest.approx(1024 * 700e-6 + 0.25 * 4.8)


def test_a_design_changes_what_follows_from_it() -> None:
    profile = load_profile("systolic")
    choices = {"array_rows": 64, "array_columns": 16, "array_sram_kib": 1024, "width": 3}
    design = design_of(profile, choices)
    assert "width" not in dict(design)
    made = designed(profile, design)
    array = Array.of(made)
    assert (array.rows, array.columns, array.sram) == (64, 16, 2**20)
    assert made.peak["int8"] == pytest.approx(profile.peak["int8"])  # 64 x 16 is 32 x 32
    assert made.vector == pytest.approx(16 * 700e6)
    found, before = area(made), area(profile)
    assert found is not None
    assert before is not None
    assert found - before == pytest.approx(0.75 * 4.8)
    whole = {
        "array_clock_mhz": 1400.0,
        "array_dram_gbs": 25.6,
        "array_dataflow": "weight_stationary",
    }
    made = designed(profile, design_of(profile, whole))
    assert made.peak["int8"] == pytest.approx(2 * profile.peak["int8"])
    assert made.main_memory.bandwidth == pytest.approx(25.6e9)
    assert Array.of(made).dataflow == "weight_stationary"


def test_other_devices_have_nothing_to_design() -> None:
    cpu = load_profile("cpu")
    assert design_of(cpu, {"array_rows": 4}) == ()
    assert designed(cpu, ()) is cpu
