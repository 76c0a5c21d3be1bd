"""Pairs of float32 against exact fractions, inside compiled programs as well."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import jax
import numpy as np
import pytest

from paretax.spaces.preprocessing.arithmetic import (
    Pair,
    halves,
    minus,
    pair,
    parts,
    plus,
    product,
    times,
    total,
)

RNG = np.random.default_rng(0)
A, B = (
    (RNG.normal(size=2000) * 10.0 ** RNG.integers(-6, 7, 2000)).astype(np.float32) for _ in "ab"
)
C = (A * (1 + RNG.normal(size=2000) * 1e-6)).astype(np.float32)  # next to A, so that digits cancel


def exact(value: Pair) -> list[Fraction]:
    high, low = (np.asarray(a).tolist() for a in value)
    return [Fraction(a) + Fraction(b) for a, b in zip(high, low, strict=True)]


def fractions(x: np.ndarray) -> list[Fraction]:
    return [Fraction(v) for v in np.asarray(x, np.float64).tolist()]


@pytest.mark.parametrize("b", [B, C])
@pytest.mark.parametrize("run", [lambda f: f, jax.jit])
def test_a_sum_has_no_error(run: Callable[..., Callable[..., Pair]], b: np.ndarray) -> None:
    for sign in (np.float32(1), np.float32(-1)):
        found = run(total)(A, sign * b)
        np.testing.assert_array_equal(found.high, A + sign * b)
        expected = [x + y for x, y in zip(fractions(A), fractions(sign * b), strict=True)]
        assert exact(found) == expected


def test_halves_have_twelve_bits_and_lose_nothing() -> None:
    top, rest = (np.asarray(a) for a in jax.jit(halves)(A))
    np.testing.assert_array_equal(top.astype(np.float64) + rest, A)
    for half in (top, rest):
        mantissa = np.frexp(half)[0] * 2.0**12
        np.testing.assert_array_equal(mantissa, np.round(mantissa))


@pytest.mark.parametrize("run", [lambda f: f, jax.jit])
def test_a_product_to_46_bits(run: Callable[..., Callable[..., Pair]]) -> None:
    for found, x, y in zip(exact(run(product)(A, B)), fractions(A), fractions(B), strict=True):
        assert abs(found - x * y) <= abs(x * y) / 2**46


def test_what_is_computed_with_pairs() -> None:
    """On numbers of 48 bits, of which float32 alone would hold half."""
    x, y = (a.astype(np.float64) * (1 + RNG.random(2000) * 1e-7) for a in (A, B))
    left, right = (Pair(*map(jax.numpy.asarray, parts(a))) for a in (x, y))
    jit: Callable[[Callable[..., Pair]], Callable[..., Pair]] = jax.jit
    cases: list[tuple[Callable[..., Pair], Callable[..., Fraction], int]] = [
        (times, lambda a, b: a * b, 43),
        (plus, lambda a, b: a + b, 45),
        (minus, lambda a, b: a - b, 45),
    ]
    for compiled, naive, bits in cases:
        for found, a, b in zip(
            exact(jit(compiled)(left, right)), fractions(x), fractions(y), strict=True
        ):
            scale = abs(a * b) if compiled is times else max(abs(a), abs(b))
            assert abs(found - naive(a, b)) <= scale / 2**bits


def test_parts_and_pair() -> None:
    high, low = parts(np.asarray([np.pi, 0.0, -1e10 / 3]))
    assert high.dtype == low.dtype == np.float32
    np.testing.assert_allclose(high.astype(np.float64) + low, [np.pi, 0, -1e10 / 3], rtol=2**-47)
    assert exact(pair(jax.numpy.asarray(A))) == fractions(A)
