"""Distillation: a student learns from a teacher's outputs as well as from labels.

Hinton, Vinyals and Dean, 2015, arXiv:1503.02531. How outputs are matched depends on what they are:
the task says so, or has a loss of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from paretax.spaces.dimensions import Setting, is_number, not_negative, positive, switch
from paretax.tasks.outputs import (
    DistillationLoss,
    outputs_of,
    own_distillation_loss,
)
from paretax.tasks.task import OutputKind, Task

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


def output_loss(task: Task) -> DistillationLoss | None:
    """(student's outputs, teacher's, temperature) -> scalar; None where the task does not say."""
    own = own_distillation_loss(task)
    if own is not None:
        return own
    kind = outputs_of(task)
    return None if kind is None else _LOSSES[kind]


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
        The mean over the batch and its positions, a scalar.
    """
    soft, own = (
        jax.nn.log_softmax(z.astype(jnp.float32) / temperature) for z in (teacher, student)
    )
    shares = jnp.exp(soft)
    apart = jnp.where(
        shares > 0, soft - own, 0.0
    )  # a class that the teacher rules out adds nothing
    divergence = jnp.sum(shares * apart, axis=-1)
    return jnp.square(temperature) * jnp.mean(divergence)


def soft_sigmoid_loss(student: jax.Array, teacher: jax.Array, temperature: jax.Array) -> jax.Array:
    """T^2 times the divergence of softened independent yes-or-no outputs.

    The same as `soft_target_loss` for two classes with the logits (z, 0), which a sigmoid is: the
    Kullback-Leibler divergence between Bernoulli distributions sigmoid(z / T), one for each
    label (Yang et al., 2023, arXiv:2308.06453).

    Args:
        student: logits (batch, ...).
        teacher: finite logits of the same shape.
        temperature: T, may be traced.

    Returns:
        The mean over all outputs, a scalar.
    """
    soft, own = (z.astype(jnp.float32) / temperature for z in (teacher, student))
    yes = jax.nn.sigmoid(soft) * (jax.nn.log_sigmoid(soft) - jax.nn.log_sigmoid(own))
    no = jax.nn.sigmoid(-soft) * (jax.nn.log_sigmoid(-soft) - jax.nn.log_sigmoid(-own))
    return jnp.square(temperature) * jnp.mean(yes + no)


def value_loss(student: jax.Array, teacher: jax.Array, temperature: jax.Array) -> jax.Array:
    """The mean squared difference of real outputs, in the square of their unit.

    Ba and Caruana, 2014, arXiv:1312.6184, equation 1, for any outputs. It has the scale of a mean
    squared error, so that `alpha` weighs it against such a loss; the temperature has no part.

    Args:
        student: values (batch, ...).
        teacher: values of the same shape.
        temperature: is not used.
    """
    return jnp.mean(jnp.square(student.astype(jnp.float32) - teacher.astype(jnp.float32)))


_LOSSES: Mapping[OutputKind, DistillationLoss] = {
    "classes": soft_target_loss,
    "sigmoids": soft_sigmoid_loss,
    "values": value_loss,
}


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
