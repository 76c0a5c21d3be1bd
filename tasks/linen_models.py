"""The pure form of flax.linen modules."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp

from paretax.errors import UsageError
from paretax.tasks.pure import Arrays, Model, Paths

_MODE_ARGUMENTS: Mapping[str, bool] = {  # name of an argument -> its value in training
    "train": True,
    "training": True,
    "is_training": True,
    "is_train": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
    "eval": False,
    "is_eval": False,
}

_SHOWN = ("intermediates", "perturbations")  # collections that a call only shows
_KEPT = ("params", "batch_stats")  # collections that keep their shapes


def from_linen(module: linen.Module, example: jax.ShapeDtypeStruct) -> Model:
    """What a call sows is dropped; streams of random numbers have any names.

    Raises:
        UsageError: a collection that a call changes and needs does not keep its shapes.
    """
    taken = inspect.signature(type(module).__call__).parameters
    training: dict[str, Any] = {
        name: value for name, value in _MODE_ARGUMENTS.items() if name in taken
    }
    inference: dict[str, Any] = {name: not value for name, value in training.items()}

    def make(key: jax.Array) -> dict[str, Any]:
        streams = {"params": key, "dropout": jax.random.fold_in(key, 1)}
        made = module.init(streams, jnp.zeros(example.shape, example.dtype), **inference)
        return {name: part for name, part in dict(made).items() if name not in _SHOWN}

    def call(variables: Any, inputs: jax.Array, key: jax.Array, mutable: Any) -> Any:
        # Streams of other names than "dropout" are drawn from "params".
        streams = {"dropout": key, "params": jax.random.fold_in(key, 1)}
        return module.apply(variables, inputs, rngs=streams, mutable=mutable, **training)

    made = jax.eval_shape(make, jax.random.key(0))
    kept = _kept(made, call, example)

    def variables(key: jax.Array) -> tuple[Any, Any]:
        made = make(key)
        return made.get("params", {}), {name: made[name] for name in kept}

    params, state = jax.eval_shape(variables, jax.random.key(0))
    params_at, state_at = Paths(params), Paths(state)

    def init(key: jax.Array) -> tuple[Arrays, Arrays]:
        params, state = variables(key)
        return params_at.flat(params), state_at.flat(state)

    def tree(params: Arrays, state: Arrays) -> dict[str, Any]:
        return {"params": params_at.tree(params), **state_at.tree(state)}

    def apply(
        params: Arrays, state: Arrays, inputs: jax.Array, key: jax.Array
    ) -> tuple[Any, Arrays]:
        outputs, changed = call(tree(params, state), inputs, key, kept)
        return outputs, state_at.known(
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


def _kept(made: Mapping[str, Any], call: Any, example: jax.ShapeDtypeStruct) -> list[str]:
    """The collections that training carries on: all but those that a call makes grow (sow).

    Args:
        made: shapes of all collections.
        call: (variables, inputs, key, mutable) -> (outputs, changed).
        example: shape and dtype of a batch.
    """
    names = [name for name in made if name != "params"]
    doubtful = [name for name in names if name not in _KEPT]
    if not doubtful:
        return names
    double = jax.ShapeDtypeStruct((2 * example.shape[0], *example.shape[1:]), example.dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def after(kept: Iterable[str]) -> Any:
        mutable = list(kept)
        held = {name: part for name, part in made.items() if name in ("params", *mutable)}
        return jax.eval_shape(lambda v, x, k: call(v, x, k, mutable), held, double, key)[1]

    changed = after(names)
    grown = [n for n in doubtful if n not in changed or not _alike(changed[n], made[n])]
    kept = [name for name in names if name not in grown]
    if grown:
        try:
            after(kept)
        except Exception as error:
            raise UsageError(
                f"the collection {grown[0]!r} of the linen module changes its arrays' shapes or "
                f"number in a call, and the module does not do without it: what a call only shows "
                f"belongs into self.sow ({type(error).__name__}: {error})"
            ) from error
    return kept


def _alike(one: Any, other: Any) -> bool:
    """Whether two trees have the same structure, shapes and dtypes."""
    shapes = [
        (jax.tree.structure(tree), [(a.shape, a.dtype) for a in jax.tree.leaves(tree)])
        for tree in (one, other)
    ]
    return bool(shapes[0] == shapes[1])
