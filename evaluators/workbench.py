"""A task in one process: its data, its models in pure form, and their sites."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from paretax.errors import UsageError
from paretax.spaces.sites import Site, find_sites
from paretax.tasks import Data, Model, Split, Task, build_model

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model that was traced once.

    Args:
        key: canonical JSON of the parameters that `build` read; equal keys, equal models.
        model: its pure form.
        sites: where it multiplies by weights.
        params: shapes of the parameters.
        state: shapes of the state.
        outputs: shape of the outputs for a batch of two.
    """

    key: str
    model: Model
    sites: Mapping[str, Site]
    params: Shapes
    state: Shapes
    outputs: Any


class Workbench:
    """Loads a task's data once, and traces each of its models once.

    Args:
        task: what the user supplies.

    Raises:
        UsageError: data that the task protocol does not allow.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._prepared: dict[str, Prepared] = {}

    @cached_property
    def data(self) -> Data:
        """The splits; float64 becomes float32, and int64 int32, as JAX computes with those."""
        data = self.task.data()
        if not isinstance(data, Data):
            raise UsageError(
                f"data() of task {self.task.name!r} must return paretax.Data, "
                f"got {type(data).__name__}"
            )
        return Data(
            train=_narrow(data.train),
            validation=_narrow(data.validation),
            test=_narrow(data.test),
        )

    def config(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """What `build` reads for a candidate: the task's defaults with its values over them."""
        defaults = self.task.defaults
        return {name: candidate.get(name, default) for name, default in defaults.items()}

    def batch_shape(self, batch: int) -> jax.ShapeDtypeStruct:
        """The shape of a batch of inputs."""
        inputs = self.data.train.inputs
        return jax.ShapeDtypeStruct((batch, *inputs.shape[1:]), inputs.dtype)

    def prepared(self, candidate: Mapping[str, Any]) -> Prepared:
        """The traced model of a candidate.

        Raises:
            UsageError: `build` returned no model, or the model no array.
        """
        config = self.config(candidate)
        key = json.dumps(config, sort_keys=True)
        if key not in self._prepared:
            example = self.batch_shape(2)
            model = build_model(self.task, config, example)
            params, state = jax.eval_shape(model.init, jax.random.key(0))
            outputs = jax.eval_shape(model.predict, params, state, example)
            if not isinstance(outputs, jax.ShapeDtypeStruct) or outputs.shape[:1] != (2,):
                raise UsageError(
                    f"the model of task {self.task.name!r} must return one array with the batch "
                    f"first, got {outputs} for a batch of 2"
                )
            self._prepared[key] = Prepared(
                key=key,
                model=model,
                sites=find_sites(model.predict, params, state, example),
                params=params,
                state=state,
                outputs=outputs,
            )
        return self._prepared[key]


def _narrow(split: Split) -> Split:
    def convert(given: Any) -> np.ndarray:
        array: np.ndarray = np.asarray(given)
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
            raise UsageError(f"a task's arrays must hold numbers, got dtype {array.dtype}")
        narrow = {"float64": np.float32, "int64": np.int32, "uint64": np.uint32, "bool": np.int32}
        dtype = np.dtype(narrow.get(str(array.dtype), array.dtype))
        if array.size and np.issubdtype(dtype, np.integer) and array.dtype != np.bool_:
            info = np.iinfo(dtype)
            if array.min() < info.min or array.max() > info.max:
                raise UsageError(
                    f"a task's whole numbers must fit {dtype}, got {array.min()} to {array.max()}"
                )
        return array.astype(dtype)

    return Split(convert(split.inputs), convert(split.targets))
