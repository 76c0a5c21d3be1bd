"""The pure form of flax.nnx modules."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from paretax.errors import UsageError
from paretax.tasks.pure import Arrays, Model, Paths

_SOWS = r"\s*Using 'Module\.(sow|perturb)"  # begins a warning of flax.nnx


@dataclass(frozen=True)
class Graphs:
    """A module without its arrays."""

    training: Any
    inference: Any


def split_module(module: nnx.Module) -> tuple[Graphs, tuple[Any, Any, Any]]:
    """Both graphs of a module; its parameters, random-number streams, and the rest of the state."""
    nnx.pop(module, nnx.Intermediate)  # of a call in its constructor
    module.train()
    graph, *parts = nnx.split(module, nnx.Param, nnx.RngState, ...)
    module.eval()
    return Graphs(graph, nnx.graphdef(module)), (parts[0], parts[1], parts[2])


def from_nnx(
    make: Callable[[jax.Array], nnx.Module], graphs: Graphs, parts: tuple[Any, Any, Any]
) -> Model:
    """Dropout keys are not kept: each training step derives them from its own key.

    What a call sows is dropped.

    Args:
        make: builds the module.
        graphs: of it.
        parts: shapes of what `split_module` gives.
    """
    params, rngs, state = parts
    rng_leaves, rng_def = jax.tree.flatten(rngs)
    params_at, state_at = Paths(params), Paths(state)
    there = {path for path, _ in nnx.to_flat_state(state)}

    def init(key: jax.Array) -> tuple[Arrays, Arrays]:
        _, (params, _, state) = split_module(make(key))
        return params_at.flat(params), state_at.flat(state)

    def run(
        params: Arrays, state: Arrays, inputs: jax.Array, key: jax.Array, train: bool
    ) -> tuple[Any, Arrays]:
        fresh = [
            jax.random.fold_in(key, i)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else jnp.zeros(leaf.shape, leaf.dtype)
            for i, leaf in enumerate(rng_leaves)
        ]
        module = nnx.merge(
            graphs.training if train else graphs.inference,
            params_at.tree(params),
            jax.tree.unflatten(rng_def, fresh),
            state_at.tree(state),
        )
        with warnings.catch_warnings():
            # Flax wants its capture() around modules that sow; what they sow is dropped here.
            warnings.filterwarnings("ignore", _SOWS, DeprecationWarning)
            outputs = module(inputs)
        _, *after = nnx.split(module, nnx.Param, nnx.RngState, ...)
        _check_new(after[2], there)
        return outputs, state_at.known(after[2])

    return Model(
        init=init,
        apply=lambda params, state, x, key: run(params, state, x, key, True),
        predict=lambda params, state, x: run(params, state, x, jax.random.key(0), False)[0],
        params=params_at.flat(params),
        state=state_at.flat(state),
    )


def _check_new(state: Any, there: set[Any]) -> None:
    """Refuse variables that a call has made to keep, which it would make again in each call.

    Those that it only shows are dropped: intermediates, what is sown (a tuple), plain arrays.
    """
    for path, variable in nnx.to_flat_state(state):
        if path in there or isinstance(variable, nnx.Intermediate):
            continue
        if isinstance(variable, nnx.Variable) and not isinstance(variable.get_value(), tuple):
            raise UsageError(
                f"a call of the model makes {'/'.join(map(str, path))!r}, a "
                f"{type(variable).__name__}: make it in the constructor, or as an "
                "nnx.Intermediate where it is only shown"
            )
