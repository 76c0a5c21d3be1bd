"""One pure form for every kind of Flax model.

A model becomes `init` and `apply` over two flat dictionaries of arrays, keyed by path ("layers/0/
kernel"): `params`, which training changes, and `state`, which a forward pass in training mode
updates (batch statistics).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
from flax import nnx

from paretax.errors import UsageError
from paretax.tasks.task import Task, call_build

Arrays = dict[str, jax.Array]

_MODE_ARGUMENTS: Mapping[str, bool] = {  # name of a linen argument -> its value in training
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model as pure functions, traceable by JAX.

    Args:
        init: key -> (params, state).
        apply: (params, state, inputs, key) -> (outputs, new state), in training mode.
        predict: (params, state, inputs) -> outputs, in inference mode.
        params: shapes of the parameters.
        state: shapes of the state.
    """

    init: Callable[[jax.Array], tuple[Arrays, Arrays]]
    apply: Callable[[Arrays, Arrays, jax.Array, jax.Array], tuple[Any, Arrays]]
    predict: Callable[[Arrays, Arrays, jax.Array], Any]
    params: Mapping[str, jax.ShapeDtypeStruct]
    state: Mapping[str, jax.ShapeDtypeStruct]


def build_model(task: Task, config: Mapping[str, Any], example: jax.ShapeDtypeStruct) -> Model:
    """The model of a candidate in its pure form. Nothing is computed yet.

    Args:
        task: whose `build` is called.
        config: what `build` reads, defaults filled in.
        example: shape and dtype of a batch of inputs.

    Raises:
        UsageError: `build` returned something that is no model.
    """
    built: list[Any] = []

    def make(key: jax.Array) -> Any:
        model = call_build(task.build, config, nnx.Rngs(key), example)
        if isinstance(model, nnx.Module):
            graphs, parts = _split(model)
            built.append(graphs)
            return parts
        built.append(model)
        return ()

    parts = jax.eval_shape(make, jax.random.key(0))
    model = built[0]
    if isinstance(model, _Graphs):
        return _from_nnx(
            lambda key: call_build(task.build, config, nnx.Rngs(key), example), model, parts
        )
    if isinstance(model, linen.Module):
        return _from_linen(model, example)
    if isinstance(model, tuple) and len(model) == 2 and all(callable(f) for f in model):
        return _from_pair(*model, example)
    raise UsageError(
        f"build of task {task.name!r} must return a flax.nnx module, a flax.linen module or a pair "
        f"(init, apply), got {type(model).__name__}"
    )


class _Paths:
    """The two ways between a pytree and a flat dictionary, which JAX keeps sorted by name."""

    def __init__(self, tree: Any) -> None:
        leaves, self._treedef = jax.tree_util.tree_flatten_with_path(tree)
        self._names = ["/".join(filter(None, map(_part, path))) for path, _ in leaves]

    def flat(self, tree: Any) -> dict[str, Any]:
        return dict(zip(self._names, jax.tree.leaves(tree), strict=True))

    def tree(self, flat: Arrays) -> Any:
        return jax.tree.unflatten(self._treedef, [flat[name] for name in self._names])


def _part(key: Any) -> str:
    """One step of a path in words; nnx's variables add a step of their own, which says nothing."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            word = str(getattr(key, attribute))
            return "" if isinstance(key, jax.tree_util.GetAttrKey) and word == "value" else word
    return ""


@dataclass(frozen=True)
class _Graphs:
    """A module without its arrays."""

    training: Any
    inference: Any


def _split(module: nnx.Module) -> tuple[_Graphs, tuple[Any, Any, Any]]:
    """Both graphs of a module; its parameters, random-number streams, and the rest of the state."""
    module.train()
    graph, *parts = nnx.split(module, nnx.Param, nnx.RngState, ...)
    module.eval()
    return _Graphs(graph, nnx.graphdef(module)), (parts[0], parts[1], parts[2])


def _from_nnx(
    make: Callable[[jax.Array], nnx.Module], graphs: _Graphs, parts: tuple[Any, Any, Any]
) -> Model:
    """Dropout keys are not kept: each training step derives them from its own key.

    Args:
        make: builds the module.
        graphs: of it.
        parts: shapes of what `_split` gives.
    """
    params, rngs, state = parts
    rng_leaves, rng_def = jax.tree.flatten(rngs)
    params_at, state_at = _Paths(params), _Paths(state)

    def init(key: jax.Array) -> tuple[Arrays, Arrays]:
        _, (params, _, state) = _split(make(key))
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
        outputs = module(inputs)
        _, *after = nnx.split(module, nnx.Param, nnx.RngState, ...)
        return outputs, state_at.flat(after[2])

    return Model(
        init=init,
        apply=lambda params, state, x, key: run(params, state, x, key, True),
        predict=lambda params, state, x: run(params, state, x, jax.random.key(0), False)[0],
        params=params_at.flat(params),
        state=state_at.flat(state),
    )


def _from_linen(module: linen.Module, example: jax.ShapeDtypeStruct) -> Model:
    taken = inspect.signature(type(module).__call__).parameters
    training: dict[str, Any] = {
        name: value for name, value in _MODE_ARGUMENTS.items() if name in taken
    }
    inference: dict[str, Any] = {name: not value for name, value in training.items()}

    def variables(key: jax.Array) -> tuple[Any, Any]:
        streams = {"params": key, "dropout": jax.random.fold_in(key, 1)}
        made = module.init(streams, jnp.zeros(example.shape, example.dtype), **inference)
        return made["params"], {k: v for k, v in made.items() if k != "params"}

    params, state = jax.eval_shape(variables, jax.random.key(0))
    params_at, state_at, collections = _Paths(params), _Paths(state), list(state)

    def init(key: jax.Array) -> tuple[Arrays, Arrays]:
        params, state = variables(key)
        return params_at.flat(params), state_at.flat(state)

    def tree(params: Arrays, state: Arrays) -> dict[str, Any]:
        return {"params": params_at.tree(params), **state_at.tree(state)}

    def apply(
        params: Arrays, state: Arrays, inputs: jax.Array, key: jax.Array
    ) -> tuple[Any, Arrays]:
        outputs, changed = module.apply(
            tree(params, state), inputs, rngs={"dropout": key}, mutable=collections, **training
        )
        return outputs, state_at.flat(
            {k: changed.get(k, v) for k, v in state_at.tree(state).items()}
        )

    def predict(params: Arrays, state: Arrays, inputs: jax.Array) -> Any:
        return module.apply(tree(params, state), inputs, **inference)

    return Model(
        init=init,
        apply=apply,
        predict=predict,
        params=params_at.flat(params),
        state=state_at.flat(state),
    )


def _from_pair(
    init_function: Callable[..., Any],
    apply_function: Callable[..., Any],
    example: jax.ShapeDtypeStruct,
) -> Model:
    def make(key: jax.Array) -> Any:
        return init_function(key, jnp.zeros(example.shape, example.dtype))

    params = jax.eval_shape(make, jax.random.key(0))
    params_at = _Paths(params)

    def predict(params: Arrays, state: Arrays, inputs: jax.Array) -> Any:
        return apply_function(params_at.tree(params), inputs)

    return Model(
        init=lambda key: (params_at.flat(make(key)), {}),
        apply=lambda params, state, x, key: (predict(params, state, x), state),
        predict=predict,
        params=params_at.flat(params),
        state={},
    )
