"""One pure form for every kind of Flax model.

A model becomes `init` and `apply` over two flat dictionaries of arrays, keyed by path ("layers/0/
kernel"): `params`, which training changes, and `state`, which a forward pass in training mode
updates (batch statistics).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
from flax import nnx

from paretax.errors import UsageError
from paretax.tasks.linen_models import from_linen
from paretax.tasks.nnx_models import Graphs, from_nnx, split_module
from paretax.tasks.pure import Arrays, Model, Paths, check_dtypes, whole_numbers_apart
from paretax.tasks.task import Task, call_build


def build_model(
    task: Task, config: Mapping[str, Any], example: jax.ShapeDtypeStruct, *, eager: bool = False
) -> Model:
    """The model of a candidate in its pure form. None of its parameters is computed yet.

    Args:
        task: whose `build` is called.
        config: what `build` reads, defaults filled in.
        example: shape and dtype of a batch of inputs.
        eager: whether arrays that need no random numbers are computed as the module is built: a
            layer of a `flax.nnx` module may be a function that uses one from around it.

    Raises:
        UsageError: `build` returned something that is no model, or one with arrays of a dtype that
            cannot be kept.
    """
    built: list[Any] = []

    def call(key: jax.Array) -> Any:
        with jax.ensure_compile_time_eval() if eager else nullcontext():
            return call_build(task.build, config, nnx.Rngs(key), example)

    def make(key: jax.Array) -> Any:
        model = call(key)
        if isinstance(model, nnx.Module):
            graphs, parts = split_module(model)
            built.append(graphs)
            return parts
        built.append(model)
        return ()

    parts = jax.eval_shape(make, jax.random.key(0))
    model = built[0]
    if isinstance(model, linen.Module | tuple):  # again, so that arrays around it are arrays
        model = call(jax.random.key(0))
    if isinstance(model, Graphs):
        found = from_nnx(call, model, parts)
    elif isinstance(model, linen.Module):
        found = from_linen(model, example)
    elif isinstance(model, tuple) and len(model) == 2 and all(callable(f) for f in model):
        found = _from_pair(*model, example)
    else:
        raise UsageError(
            f"build of task {task.name!r} must return a flax.nnx module, a flax.linen module or a "
            f"pair (init, apply), got {type(model).__name__}"
        )
    check_dtypes(found, task.name)
    return whole_numbers_apart(found)


def _from_pair(
    init_function: Callable[..., Any],
    apply_function: Callable[..., Any],
    example: jax.ShapeDtypeStruct,
) -> Model:
    def make(key: jax.Array) -> Any:
        return init_function(key, jnp.zeros(example.shape, example.dtype))

    params = jax.eval_shape(make, jax.random.key(0))
    params_at = Paths(params)

    def predict(params: Arrays, state: Arrays, inputs: jax.Array) -> Any:
        return apply_function(params_at.tree(params), inputs)

    return Model(
        init=lambda key: (params_at.flat(make(key)), {}),
        apply=lambda params, state, x, key: (predict(params, state, x), state),
        predict=predict,
        params=params_at.flat(params),
        state={},
    )
