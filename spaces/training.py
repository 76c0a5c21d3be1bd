"""Training hyperparameters: the optimiser, its numbers, and how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from paretax.spaces.dimensions import choice, not_negative, positive, share, whole

_DIRECTIONS: Mapping[str, Callable[[], optax.GradientTransformation]] = {
    "adamw": optax.scale_by_adam,
    "lion": optax.scale_by_lion,
    "sgd": lambda: optax.trace(decay=0.9, nesterov=True),
}

SETTINGS = (
    choice("optimizer", *_DIRECTIONS),
    positive("learning_rate", 1e-3),
    choice("learning_rate_decay", "cosine", "none"),
    not_negative("weight_decay"),
    not_negative("gradient_clip"),
    share("label_smoothing"),
    whole("batch_size", 128, least=1),
    whole("epochs", 20, least=1, most=1_000_000, number=True),
)


def make_optimizer(
    name: str,
    learning_rate: jax.Array | float,
    weight_decay: jax.Array | float,
    decays: Any = None,
) -> optax.GradientTransformation:
    """The update rule; the numbers may be traced, so one program serves all of their values.

    Weight decay is decoupled from the gradient for every optimiser (Loshchilov and Hutter, 2019,
    arXiv:1711.05101, algorithm 2).

    Args:
        name: "adamw" (Kingma and Ba, arXiv:1412.6980), "lion" (Chen et al., arXiv:2302.06675) or
            "sgd" (Nesterov momentum 0.9).
        learning_rate: of this step.
        weight_decay: the share of each weight that a step removes, times the learning rate.
        decays: shaped as the parameters are, 1 where they decay and 0 where not; None: all do.
    """

    def decay(updates: Any, params: Any) -> Any:
        shares = jax.tree.map(lambda _: 1.0, updates) if decays is None else decays
        return jax.tree.map(lambda u, p, d: u + weight_decay * d * p, updates, params, shares)

    return optax.chain(_DIRECTIONS[name](), optax.stateless(decay), optax.scale(-learning_rate))


def cosine(step: jax.Array, steps: jax.Array | int) -> jax.Array:
    """The share of the learning rate at a step: it falls to zero along half a cosine.

    Loshchilov and Hutter, 2017, arXiv:1608.03983, equation 5 without restarts.

    Args:
        step: since the cosine began.
        steps: that it takes in all.
    """
    return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1.0)))


def smoothed_loss(
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    outputs: jax.Array,
    labels: jax.Array,
    share: jax.Array,
) -> jax.Array:
    """A loss under smoothed labels: a share of each label is spread evenly over all classes.

    Szegedy et al., 2016, arXiv:1512.00567, section 7, for any loss that is linear in the target's
    distribution, as cross-entropy is.

    Args:
        loss: (outputs, labels) -> scalar.
        outputs: (batch, ..., classes).
        labels: whole numbers, (batch, ...); those of no class (padding) stay as they are.
        share: that is spread; 0 leaves the labels.
    """
    count = outputs.shape[-1]
    some = (labels >= 0) & (labels < count)
    every: Callable[[jax.Array], jax.Array] = jax.vmap(
        lambda c: loss(outputs, jnp.where(some, c, labels))
    )
    classes = jnp.arange(count, dtype=labels.dtype)
    return (1.0 - share) * loss(outputs, labels) + share * every(classes).mean()
