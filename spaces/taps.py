"""How often the windows of a convolution meet its inputs: what is really multiplied."""

from __future__ import annotations

import math
from typing import Any

from jax.extend.core import JaxprEqn


def taps(
    *,
    size: int,
    inputs: int,
    outputs: int,
    stride: int = 1,
    pad: int = 0,
    dilation: int = 1,
    spread: int = 1,
) -> int:
    """Positions of the window, summed over all outputs, at which there is something to multiply.

    Along one dimension. Zeros that are put between inputs, as a transposed convolution does, do not
    count. The zeros around the inputs do, as is custom: an edge costs what the inside costs. But no
    output can meet more inputs than there are, which decides where the window is larger than what
    it slides over (a compiler may swap inputs and weights).

    Args:
        size: of the window.
        inputs: length of what it slides over.
        outputs: length of the result.
        stride: of the window.
        pad: zeros before the first input; below zero, inputs are cut off.
        dilation: distance between neighbours in the window.
        spread: distance to which neighbouring inputs are moved apart, with zeros between.

    Example:
        >>> taps(size=3, inputs=8, outputs=8, pad=1)
        24
        >>> taps(size=4, inputs=8, outputs=32, pad=3, spread=4)  # transposed: one for each output
        32
    """
    total = 0
    # Whether a place holds an input repeats itself after `spread` places.
    for first in range(min(spread, outputs)):
        met = sum((first * stride + i * dilation - pad) % spread == 0 for i in range(size))
        total += min(met, inputs) * len(range(first, outputs, spread))
    return total


def convolution_multiply_adds(eqn: JaxprEqn) -> int:
    """Of a `conv_general_dilated`, for its whole batch; see `taps`."""
    _, kernel, result = shapes(eqn)
    numbers: Any = eqn.params["dimension_numbers"]
    batch, features = (result[numbers.out_spec[i]] for i in (0, 1))
    return int(batch * features * kernel[numbers.rhs_spec[1]] * windows_met(eqn))


def shapes(eqn: JaxprEqn) -> list[tuple[int, ...]]:
    """Of what an equation takes, and then of what it gives."""
    arrays: list[Any] = [var.aval for var in (*eqn.invars, *eqn.outvars)]
    return [tuple(array.shape) for array in arrays]


def windows_met(eqn: JaxprEqn) -> int:
    """Of a `conv_general_dilated`: `taps` of all its dimensions, multiplied."""
    inputs, kernel, result = shapes(eqn)
    given: Any = eqn.params
    numbers = given["dimension_numbers"]
    return math.prod(
        taps(
            size=kernel[numbers.rhs_spec[i + 2]],
            inputs=inputs[numbers.lhs_spec[i + 2]],
            outputs=result[numbers.out_spec[i + 2]],
            stride=given["window_strides"][i],
            pad=given["padding"][i][0],
            dilation=given["rhs_dilation"][i],
            spread=given["lhs_dilation"][i],
        )
        for i in range(len(numbers.rhs_spec) - 2)
    )
