"""Distillation: a student learns from a teacher's outputs as well as from labels.

Hinton, Vinyals and Dean, 2015, arXiv:1503.02531.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from paretax.spaces.dimensions import Setting, is_number, not_negative, positive, switch

SETTINGS = (
    switch("distill"),
    positive("temperature", 4.0),
    Setting(
        name="alpha",
        default=0.9,
        rule="a share from 0 to 1",
        number=True,
        allows=lambda v: is_number(v) and 0 <= float(v) <= 1,
    ),
    not_negative("feature_weight"),
)


def soft_target_loss(student: jax.Array, teacher: jax.Array, temperature: jax.Array) -> jax.Array:
    """T^2 times the cross entropy between softened outputs, less the teacher's own entropy.

    Hinton et al., section 2: targets softmax(z / T), and the factor T^2 keeps the gradient's size
    when T changes. The teacher's entropy does not depend on the student; without it the loss is
    the Kullback-Leibler divergence, and 0 where the two agree.

    Args:
        student: logits (batch, ..., classes).
        teacher: logits of the same shape.
        temperature: T, may be traced.

    Returns:
        The mean over the batch, a scalar.
    """
    soft = jax.nn.log_softmax(teacher / temperature)
    own = jax.nn.log_softmax(student / temperature)
    shares = jnp.exp(soft)
    apart = jnp.where(
        shares > 0, soft - own, 0.0
    )  # a class that the teacher rules out adds nothing
    divergence = jnp.sum(shares * apart, axis=-1)
    return jnp.square(temperature) * jnp.mean(divergence)


def similarity_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """How differently two networks see which examples of a batch are alike.

    Tung and Mori, 2019, arXiv:1907.09682, equations 2 to 4: the batch's Gram matrix of features,
    its rows of unit length; the squared difference over b^2. No layer joins the two networks, so
    their widths may differ.

    Args:
        student: features (batch, ...).
        teacher: features (batch, ...).
    """

    def gram(features: jax.Array) -> jax.Array:
        flat = features.reshape(features.shape[0], -1).astype(jnp.float32)
        product = flat @ flat.T
        length = jnp.sum(product**2, axis=1, keepdims=True)
        some = length > 0  # rows of zeros stay zeros
        return product * jnp.where(some, jax.lax.rsqrt(jnp.where(some, length, 1.0)), 0.0)

    return jnp.sum(jnp.square(gram(student) - gram(teacher))) / student.shape[0] ** 2
