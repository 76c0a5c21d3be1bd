"""Training of one candidate, by compiled programs that later candidates use again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.workbench import Prepared, Workbench
from paretax.spaces import training
from paretax.spaces.dimensions import choose
from paretax.spaces.training import make_optimizer
from paretax.tasks import Arrays

Pair = tuple[jax.Array, jax.Array]
"""(inputs, targets)"""

Carry = tuple[Arrays, Arrays, Any]
"""(params, state, state of the optimiser)"""


class DivergedError(ArithmeticError):
    """The loss or the outputs are not finite."""


class Trainer:
    """Trains candidates of one task.

    The compiled program depends on the model, the batch size and the optimiser; learning rate,
    weight decay, epochs and seed are inputs of it.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._programs: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(32)
        train = bench.data.train
        self._examples: Pair = jnp.asarray(train.inputs), jnp.asarray(train.targets)

    def train(self, candidate: Mapping[str, Any], seed: int) -> tuple[Arrays, Arrays]:
        """Train from scratch.

        Args:
            candidate: its training settings and the model's configuration are read.
            seed: of the initial weights, the order of the examples, and dropout.

        Returns:
            Parameters and state, by name.

        Raises:
            DivergedError: the mean loss of an epoch is not finite.
        """
        prepared = self._bench.prepared(candidate)
        chosen = choose(training.SETTINGS, candidate)
        batch, name = int(chosen["batch_size"]), str(chosen["optimizer"])
        init = self._programs.get((prepared.key, "init"), lambda: jax.jit(prepared.model.init))
        epoch = self._programs.get((prepared.key, name, batch), lambda: self._epoch(prepared, name))
        epochs = int(chosen["epochs"])
        # Of JAX's generators, rbg is the one whose programs compile fast: 0.9 s against 2.7 s with
        # threefry for the initial weights of an MLP with two hidden layers.
        params, state = init(jax.random.key(seed, impl="rbg"))
        carry: Carry = params, state, make_optimizer(name, 0.0, 0.0, 1).init(params)
        numbers = jnp.asarray(
            [
                chosen["learning_rate"],
                chosen["weight_decay"],
                epochs * (len(self._examples[0]) // batch),
            ],
            jnp.float32,
        )
        noise = jax.random.key(seed)
        for index in range(epochs):
            order = self._order(seed, index, batch)
            carry, loss = epoch(
                carry, numbers, order, jax.random.fold_in(noise, index), self._examples
            )
            if not math.isfinite(loss):
                raise DivergedError(f"the training loss is {loss} in epoch {index + 1} of {epochs}")
        return carry[0], carry[1]

    def _order(self, seed: int, epoch: int, batch: int) -> np.ndarray:
        """The examples of each step of an epoch, (steps, batch); what is left over is left out."""
        examples = len(self._examples[0])
        order = np.random.default_rng([seed, epoch]).permutation(examples).astype(np.int32)
        return order[: examples // batch * batch].reshape(-1, batch)

    def _epoch(self, prepared: Prepared, name: str) -> Callable[..., Any]:
        model, task = prepared.model, self._bench.task

        def step(
            carry: Carry,
            numbers: jax.Array,
            rows: jax.Array,
            index: jax.Array,
            noise: jax.Array,
            data: Pair,
        ) -> tuple[Carry, jax.Array]:
            params, state, memory = carry
            inputs, targets = data
            dropout = jax.random.fold_in(noise, index)

            def loss(params: Arrays) -> tuple[jax.Array, Arrays]:
                outputs, changed = model.apply(params, state, inputs[rows], dropout)
                return task.loss(outputs, targets[rows]), changed

            (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            optimizer = make_optimizer(name, numbers[0], numbers[1], numbers[2])
            updates, memory = optimizer.update(gradients, memory, params)
            return (optax.apply_updates(params, updates), state, memory), value

        def scanned(
            carry: Carry, numbers: jax.Array, order: jax.Array, noise: jax.Array, data: Pair
        ) -> tuple[Carry, jax.Array]:
            carry, losses = jax.lax.scan(
                lambda carry, given: step(carry, numbers, *given, noise, data),
                carry,
                (order, jnp.arange(len(order))),
            )
            return carry, losses.mean()

        if not self._slow_in_loops(prepared):
            return jax.jit(scanned, donate_argnums=0)
        one_step = jax.jit(step, donate_argnums=0)

        def stepped(
            carry: Carry, numbers: jax.Array, order: jax.Array, noise: jax.Array, data: Pair
        ) -> tuple[Carry, jax.Array]:
            losses = []
            for index, rows in enumerate(order):
                carry, value = one_step(carry, numbers, rows, np.int32(index), noise, data)
                losses.append(value)
            return carry, jnp.stack(losses).mean()

        return stepped

    @staticmethod
    def _slow_in_loops(prepared: Prepared) -> bool:
        """Whether an epoch is a loop over compiled steps instead of one compiled `scan`.

        XLA computes the gradient of a convolution about ten times slower inside a loop on the CPU
        (jax issue 12868; measured: 28 ms against 2.6 ms for 128 x 14 x 14 x 8 to 16 channels).
        """
        convolves = any(site.kind == "convolution" for site in prepared.sites.values())
        return convolves and jax.default_backend() == "cpu"


def to_numpy(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The arrays on the host."""
    return {name: np.asarray(array) for name, array in arrays.items()}
