"""What convolutions multiply, against counting one by one and against numbers by hand."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from paretax.spaces.sites import find_sites
from paretax.spaces.taps import taps


@given(
    size=st.integers(1, 6),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 20),
    stride=st.integers(1, 4),
    pad=st.integers(-3, 7),
    dilation=st.integers(1, 3),
    spread=st.integers(1, 5),
)
def test_counted_one_by_one(
    size: int, inputs: int, outputs: int, stride: int, pad: int, dilation: int, spread: int
) -> None:
    """Inputs stand at multiples of `spread`; beyond their ends are as many as an edge pretends."""
    total = 0
    for output in range(outputs):
        places = [output * stride + tap * dilation - pad for tap in range(size)]
        total += min(inputs, sum(place % spread == 0 for place in places))
    assert total == taps(
        size=size, inputs=inputs, outputs=outputs, stride=stride, pad=pad, dilation=dilation,
        spread=spread,
    )  # fmt: skip


NUMBERS = ("NHWC", "HWIO", "NHWC")
CASES: dict[str, tuple[tuple[int, ...], dict[str, Any], int]] = {
    # kernel, how it is applied to 8 x 8 images of 8 channels, multiply-adds
    "same": ((3, 3, 8, 4), {"padding": "SAME"}, 64 * 9 * 8 * 4),
    "valid": ((3, 3, 8, 4), {"padding": "VALID"}, 36 * 9 * 8 * 4),
    "strided": ((3, 3, 8, 4), {"padding": "SAME", "window_strides": (2, 2)}, 16 * 9 * 8 * 4),
    "dilated window": ((3, 3, 8, 4), {"padding": "SAME", "rhs_dilation": (2, 2)}, 64 * 9 * 8 * 4),
    "depthwise": ((3, 3, 1, 8), {"padding": "SAME", "feature_group_count": 8}, 64 * 9 * 8),
    "groups of examples": ((3, 3, 8, 4), {"padding": "SAME", "batch_group_count": 2}, 32 * 9 * 32),
    "transposed by 4": (
        (4, 4, 8, 8),
        {"padding": [(3, 3), (3, 3)], "lhs_dilation": (4, 4)},
        64 * 16 * 8 * 8,
    ),
    "transposed by 2, three taps": (
        (3, 3, 8, 4),
        {"padding": [(1, 2), (1, 2)], "lhs_dilation": (2, 2)},
        64 * 9 * 8 * 4,
    ),
    "transposed along one axis": (
        (3, 2, 8, 4),
        {"padding": [(1, 1), (1, 1)], "lhs_dilation": (1, 2)},
        8 * 8 * 2 * 3 * 8 * 4,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sites_count_what_is_multiplied(name: str) -> None:
    shape, how, expected = CASES[name]
    given = {"window_strides": (1, 1), "dimension_numbers": NUMBERS, **how}

    def predict(params: Any, state: Any, x: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, params["w"], **given)

    site = find_sites(predict, {"w": jnp.zeros(shape)}, {}, jnp.zeros((2, 8, 8, 8)))["w"]
    assert site.multiply_adds == expected


def test_two_ways_to_write_one_function_cost_the_same() -> None:
    def up(params: Any, state: Any, x: jax.Array) -> jax.Array:
        return lax.conv_transpose(x, params["w"], (4, 4), "VALID", dimension_numbers=NUMBERS)

    def shuffled(params: Any, state: Any, x: jax.Array) -> jax.Array:
        return jnp.einsum("nhwc,ijcd->nhwijd", x, params["w"])

    params, x = {"w": jnp.ones((4, 4, 3, 5))}, jnp.ones((2, 6, 6, 3))
    counts = [find_sites(f, params, {}, x)["w"].multiply_adds for f in (up, shuffled)]
    assert counts == [36 * 16 * 3 * 5] * 2
