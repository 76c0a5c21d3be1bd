"""The one form that every model has: functions over flat dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from paretax.errors import UsageError

Arrays = dict[str, jax.Array]

DTYPES = (
    *("float32", "bfloat16", "float16"),
    *("int32", "int16", "int8", "uint32", "uint16", "uint8", "bool"),
)
"""Those that a model's arrays may have."""


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


def check_dtypes(model: Model, task: str) -> None:
    """Refuse arrays that cannot be kept as they are.

    Raises:
        UsageError: names the first one.
    """
    for name, array in {**model.params, **model.state}.items():
        if str(array.dtype) not in DTYPES:
            raise UsageError(
                f"array {name!r} of the model of task {task!r} must have one of the dtypes "
                f"{', '.join(DTYPES)}, got {array.dtype}: cast it in the model (float64 and int64 "
                "exist under jax_enable_x64 alone, which paretax does without; a complex array can "
                "be kept as two real ones)"
            )


def whole_numbers_apart(model: Model) -> Model:
    """A model whose parameters are all real: whole numbers (indices, keys) join its state.

    They have no gradient, so a step of training leaves them as they are.
    """
    fixed = [n for n, a in model.params.items() if not jnp.issubdtype(a.dtype, jnp.inexact)]
    if not fixed:
        return model

    def whole(params: Arrays, state: Arrays) -> tuple[Arrays, Arrays]:
        held = {f"params/{n}" for n in fixed}
        return (
            {**params, **{n: state[f"params/{n}"] for n in fixed}},
            {n: a for n, a in state.items() if n not in held},
        )

    def apart(params: Any, state: Any) -> tuple[Any, Any]:
        held = {f"params/{n}": params[n] for n in fixed}
        return {n: a for n, a in params.items() if n not in fixed}, {**state, **held}

    def apply(params: Arrays, state: Arrays, x: jax.Array, key: jax.Array) -> tuple[Any, Arrays]:
        outputs, after = model.apply(*whole(params, state), x, key)
        return outputs, {**after, **{f"params/{n}": state[f"params/{n}"] for n in fixed}}

    params, state = apart(model.params, model.state)
    return replace(
        model,
        init=lambda key: apart(*model.init(key)),
        apply=apply,
        predict=lambda params, state, x: model.predict(*whole(params, state), x),
        params=params,
        state=state,
    )


class Paths:
    """The two ways between a pytree and a flat dictionary, which JAX keeps sorted by name.

    Raises:
        UsageError: two leaves have one name.
    """

    def __init__(self, tree: Any) -> None:
        leaves, self._treedef = jax.tree_util.tree_flatten_with_path(tree)
        self._names = _names(leaves)
        self._shapes = [(leaf.shape, leaf.dtype) for _, leaf in leaves]
        twice = [name for name in self._names if self._names.count(name) > 1]
        if twice:
            raise UsageError(
                f"every array of a model needs a name of its own, and two are called {twice[0]!r}: "
                "rename one, and keep slashes out of names"
            )

    def flat(self, tree: Any) -> dict[str, Any]:
        """The arrays of a tree of this structure, by name."""
        return dict(zip(self._names, jax.tree.leaves(tree), strict=True))

    def tree(self, flat: Arrays) -> Any:
        """The inverse of `flat`."""
        return jax.tree.unflatten(self._treedef, [flat[name] for name in self._names])

    def known(self, tree: Any) -> dict[str, Any]:
        """The arrays of a tree that may have grown; what is not of this structure is left out.

        Raises:
            UsageError: an array is gone, or has another shape or dtype.
        """
        leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
        found = {name: leaf for name, (_, leaf) in zip(_names(leaves), leaves, strict=True)}
        for name, (shape, dtype) in zip(self._names, self._shapes, strict=True):
            if name not in found:
                raise UsageError(
                    f"the model's state {name!r} is gone after a call: a call may change the "
                    "values of its arrays alone"
                )
            after = found[name]
            if (after.shape, after.dtype) != (shape, dtype):
                raise UsageError(
                    f"the model's state {name!r} must keep its shape and dtype in a call, got "
                    f"{after.dtype} {after.shape} after {dtype} {shape}: what a call only shows "
                    "(sow) belongs into nnx.Intermediate or the collection 'intermediates'"
                )
        return {name: found[name] for name in self._names}


def _names(leaves: list[tuple[Any, Any]]) -> list[str]:
    return ["/".join(filter(None, map(_part, path))) for path, _ in leaves]


def _part(key: Any) -> str:
    """One step of a path in words; nnx's variables add a step of their own, which says nothing."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            word = str(getattr(key, attribute))
            return "" if isinstance(key, jax.tree_util.GetAttrKey) and word == "value" else word
    return ""
