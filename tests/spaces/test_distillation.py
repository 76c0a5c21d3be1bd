"""Distillation's losses against their formulae."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.distillation import (
    similarity_loss,
    soft_sigmoid_loss,
    soft_target_loss,
    value_loss,
)

RNG = np.random.default_rng(0)
STUDENT = RNG.normal(0, 2, (6, 5))
TEACHER = RNG.normal(0, 2, (6, 5))


def softmax(z: np.ndarray) -> np.ndarray:
    e: np.ndarray = np.exp(z - z.max(axis=-1, keepdims=True))
    shares: np.ndarray = e / e.sum(axis=-1, keepdims=True)
    return shares


def naive(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T^2 (cross entropy - entropy), in float64."""
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    cross, own = -(p * np.log(q)).sum(axis=-1), -(p * np.log(p)).sum(axis=-1)
    return float(temperature**2 * np.mean(cross - own))


loss = jax.jit(soft_target_loss)
gradient = jax.jit(jax.grad(soft_target_loss))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_the_loss_is_the_formula(temperature: float) -> None:
    found = loss(STUDENT, TEACHER, temperature)
    assert found.shape == ()
    np.testing.assert_allclose(found, naive(STUDENT, TEACHER, temperature), rtol=2e-4)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_the_gradient_is_that_of_softened_outputs(temperature: float) -> None:
    """T (q - p) / batch: Hinton et al., equation 2, times T^2."""
    p, q = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    expected = temperature * (q - p) / len(STUDENT)
    found = gradient(jnp.asarray(STUDENT, jnp.float32), TEACHER, temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)


def test_the_gradient_tends_to_matching_logits() -> None:
    """(z - v) / N of logits with mean zero as T grows: equation 4, with the factor T^2."""
    z, v = (a - a.mean(axis=-1, keepdims=True) for a in (STUDENT, TEACHER))
    expected = (z - v) / 5 / len(z)
    sizes, off = [], []
    for temperature in (10.0, 30.0, 100.0):
        found = np.asarray(gradient(jnp.asarray(z, jnp.float32), v, temperature))
        sizes.append(np.linalg.norm(found))
        off.append(np.abs(found - expected).max())
    assert off[0] > off[1] > off[2]
    assert off[2] < 0.02 * np.abs(expected).max()
    np.testing.assert_allclose(sizes, np.linalg.norm(expected), rtol=0.1)  # of one size for all T


@pytest.mark.parametrize("temperature", [0.5, 4.0, 100.0])
def test_where_both_agree_loss_and_gradient_vanish(temperature: float) -> None:
    """Also where their logits differ by a constant, which softmax does not see."""
    same = jnp.asarray(TEACHER, jnp.float32)
    for student, slack in ((same, 0.0), (same + 3.0, 1e-6 * temperature**2)):
        assert abs(float(loss(student, same, temperature))) <= slack
        found = gradient(student, same, temperature)
        np.testing.assert_allclose(found, 0, atol=1e-6 * max(temperature, 1))


def test_the_loss_is_never_below_zero() -> None:
    for seed in range(20):
        one, other = jnp.asarray(np.random.default_rng(seed).normal(0, 9, (2, 3, 4)), jnp.float32)
        assert float(loss(one, other, 2.0)) > 0


def test_more_axes_than_the_batch_are_averaged() -> None:
    student, teacher = (RNG.normal(size=(2, 3, 4, 5)) for _ in range(2))
    found = loss(student, teacher, 3.0)
    flat = naive(student.reshape(-1, 5), teacher.reshape(-1, 5), 3.0)
    np.testing.assert_allclose(found, flat, rtol=1e-4)


def test_large_logits_stay_finite() -> None:
    far = jnp.array([[1e4, -1e4, 0.0]])
    for pair in ((far, -far), (far, far), (0 * far, far)):
        assert np.isfinite(float(loss(*pair, 1.0)))
        assert np.isfinite(np.asarray(gradient(*pair, 1.0))).all()
    assert np.isnan(float(loss(far.at[0, 0].set(jnp.nan), far, 1.0)))


# Similarity ---------------------------------------------------------------------------------------


def naive_similarity(student: np.ndarray, teacher: np.ndarray) -> float:
    """Tung and Mori, equations 2 to 4, row by row in float64."""

    def gram(features: np.ndarray) -> np.ndarray:
        flat = features.reshape(len(features), -1)
        rows = np.array([[float(a @ b) for b in flat] for a in flat])
        unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    return float(np.sum((gram(student) - gram(teacher)) ** 2) / len(student) ** 2)


IMAGES = RNG.normal(size=(6, 4, 4, 3))
WIDE = RNG.normal(size=(6, 40))
alike = jax.jit(similarity_loss)


def test_similarity_is_the_formula_for_networks_of_any_width() -> None:
    for student, teacher in (
        (IMAGES, WIDE),
        (WIDE, IMAGES),
        (WIDE[:, :3], WIDE),
        (WIDE, 9 * WIDE[::-1]),
    ):
        np.testing.assert_allclose(
            alike(student, teacher), naive_similarity(student, teacher), rtol=1e-4, atol=1e-9
        )


def test_equal_gram_matrices_have_no_loss_and_no_gradient() -> None:
    turn, _ = np.linalg.qr(RNG.normal(size=(40, 40)))
    student = jnp.asarray(WIDE, jnp.float32)
    for teacher in (WIDE, 7.5 * WIDE, 1e-4 * WIDE, -WIDE, WIDE @ turn, np.hstack([WIDE, WIDE])):
        other = jnp.asarray(teacher, jnp.float32)
        assert float(alike(student, other)) < 1e-11
        found = jax.grad(similarity_loss)(student, other)
        np.testing.assert_allclose(found, 0, atol=1e-7)
    assert float(alike(student, student[::-1])) > 0.01


def test_features_of_zero_are_like_none() -> None:
    """Such as those of dead units: no division by zero."""
    dead = jnp.zeros((6, 3))
    assert float(alike(dead, dead)) == 0
    assert float(alike(dead, WIDE)) == pytest.approx(1 / 6)  # six rows of length 1, over 36
    assert np.isfinite(np.asarray(jax.grad(similarity_loss)(dead, jnp.asarray(WIDE)))).all()


def test_whole_and_low_precision_features_do_as_well() -> None:
    whole = np.arange(12).reshape(4, 3)
    expected = naive_similarity(whole, whole[::-1])
    for dtype in (jnp.int32, jnp.bfloat16):
        found = alike(jnp.asarray(whole, dtype), jnp.asarray(whole[::-1], dtype))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_class_that_the_teacher_rules_out_adds_nothing() -> None:
    """A logit of minus infinity, as masked outputs have."""
    student = jnp.asarray([[0.5, -0.2, 3.0]])
    teacher = jnp.asarray([[1.0, 2.0, -jnp.inf]])
    found, gradient = jax.value_and_grad(soft_target_loss)(student, teacher, jnp.float32(2.0))
    shares = jax.nn.softmax(jnp.asarray([0.5, 1.0]))
    own = jax.nn.log_softmax(student[0] / 2.0)[:2]
    np.testing.assert_allclose(found, 4.0 * jnp.sum(shares * (jnp.log(shares) - own)), rtol=1e-5)
    assert np.isfinite(gradient).all()


# Independent sigmoids, values ---------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_sigmoids_are_bernoulli_distributions(temperature: float) -> None:
    p, q = (1 / (1 + np.exp(-z / temperature)) for z in (TEACHER, STUDENT))
    expected = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    scalar = jnp.float32(temperature)
    found = soft_sigmoid_loss(jnp.asarray(STUDENT), jnp.asarray(TEACHER), scalar)
    np.testing.assert_allclose(found, temperature**2 * expected.mean(), rtol=2e-4)
    slopes = jax.grad(soft_sigmoid_loss)(jnp.asarray(STUDENT), jnp.asarray(TEACHER), scalar)
    np.testing.assert_allclose(slopes, temperature * (q - p) / p.size, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_sigmoid_is_a_softmax_over_its_logit_and_zero(temperature: float) -> None:
    student, teacher = (jnp.stack([z, np.zeros_like(z)], axis=-1) for z in (STUDENT, TEACHER))
    scalar = jnp.float32(temperature)
    one = soft_sigmoid_loss(student[..., 0], teacher[..., 0], scalar)
    np.testing.assert_allclose(one, soft_target_loss(student, teacher, scalar), rtol=1e-4)


def test_sure_sigmoids_stay_finite() -> None:
    student, teacher = jnp.array([300.0, -300.0, 300.0]), jnp.array([-300.0, -300.0, 0.0])
    value, slopes = jax.value_and_grad(soft_sigmoid_loss)(student, teacher, jnp.float32(1.0))
    np.testing.assert_allclose(value, (300 + 0 + 150 - np.log(2)) / 3, rtol=1e-5)
    np.testing.assert_allclose(slopes, np.array([1, 0, 0.5]) / 3, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 4, 4, 2)])
def test_values_are_matched_by_their_squared_difference(shape: tuple[int, ...]) -> None:
    one, other = RNG.normal(50, 9, (2, *shape))
    for temperature in (1.0, 7.0):
        found = value_loss(jnp.asarray(one), jnp.asarray(other), jnp.float32(temperature))
        np.testing.assert_allclose(found, ((one - other) ** 2).mean(), rtol=1e-4)


@pytest.mark.parametrize("loss", [soft_target_loss, soft_sigmoid_loss, value_loss])
def test_half_precision_is_matched_in_float32(loss: Any) -> None:
    student, teacher = (jnp.asarray(z, jnp.bfloat16) for z in (STUDENT, TEACHER))
    found = loss(student, teacher, jnp.float32(4.0))
    full = loss(*(z.astype(jnp.float32) for z in (student, teacher)), jnp.float32(4.0))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, full, rtol=1e-6)
