"""A task in one process: its data, its models in pure form, and what is deployed of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.errors import UsageError, users_code
from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.lifting import lift
from paretax.evaluators.own_derivatives import check_own_derivatives
from paretax.evaluators.randomness import training_key
from paretax.spaces import distillation, preprocessing, pruning, training
from paretax.spaces.channels import ChannelGroup, Channels, find_channels
from paretax.spaces.compression import deployed_shapes
from paretax.spaces.coverage import Coverage, check_coverage, coverage
from paretax.spaces.dimensions import choose
from paretax.spaces.preprocessing import Pipeline
from paretax.spaces.recipe import Recipe
from paretax.spaces.schedule import timeline
from paretax.spaces.shrinking import shrink, shrunk_shapes
from paretax.spaces.sites import Arrays, Predict, Site, find_sites, find_weights
from paretax.spaces.storage import stored_bytes
from paretax.spaces.structured import check_patterns, is_structured, removed_channels
from paretax.tasks import Data, Model, Split, Task, build_model
from paretax.tasks.outputs import check_distillation, outputs_of
from paretax.tasks.probing import check_targets

Shapes = Mapping[str, jax.ShapeDtypeStruct]

Numbers = dict[str, tuple[Any, ...]]
"""Constants that were lifted out of a model's `init` and `apply`, under these names."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a model is trained on: the task's inputs, preprocessed as a candidate asks.

    Args:
        key: equal keys, equal features.
        form: equal forms, equal programs and shapes.
        pipeline: that was fitted on the training split; None: the inputs as they are.
        train: the training split after it.
        validation: the validation split after it.
    """

    key: str
    form: str
    pipeline: Pipeline | None
    train: Split
    validation: Split

    def shape(self, batch: int) -> jax.ShapeDtypeStruct:
        """The shape of a batch."""
        inputs = self.train.inputs
        return jax.ShapeDtypeStruct((batch, *inputs.shape[1:]), inputs.dtype)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model that was traced once, as it is trained.

    Args:
        key: equal keys, equal graphs and shapes: equal programs, in which only `numbers` differ.
        model: its pure form, over features.
        init: (key, numbers) -> (params, state).
        apply: (params, state, inputs, (key, numbers)) -> (outputs, new state), in training mode.
        numbers: constants of `init` and `apply` that come from the candidate's own numbers.
        features: what it is trained on.
        sites: where it multiplies by weights, in training and in inference alike.
        others: why its other floating-point parameters are no sites, by name.
        params: shapes of the parameters.
        state: shapes of the state.
        outputs: shape of the outputs for a batch of two.
    """

    key: str
    model: Model
    init: Callable[..., tuple[dict[str, jax.Array], dict[str, jax.Array]]]
    apply: Callable[..., tuple[Any, Arrays]]
    numbers: Numbers
    features: Features
    sites: Mapping[str, Site]
    others: Mapping[str, str]
    params: Shapes
    state: Shapes
    outputs: Any
    shared: dict[str, Any] = field(repr=False)

    @property
    def channels(self) -> Channels:
        """Which channels can be removed; found once for all models of the same key."""
        if "channels" not in self.shared:
            self.shared["channels"] = find_channels(
                self.model.predict, self.params, self.state, self.features.shape(2)
            )
        found: Channels = self.shared["channels"]
        return found


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A candidate's model as it is deployed: preprocessing inside, removed channels gone.

    Args:
        key: equal keys, equal models.
        predict: (params, state, the task's own inputs) -> outputs.
        sites: of the smaller model.
        params: shapes of its parameters.
        state: shapes of its state, and of what preprocessing was fitted to.
        groups: of the channels that were removed.
        removed: how many of each group, by name.
        recipe: what is done to its sites.
    """

    key: str
    predict: Predict
    sites: Mapping[str, Site]
    params: Shapes
    state: Shapes
    groups: tuple[ChannelGroup, ...]
    removed: Mapping[str, int]
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class _Own:
    """What of a model is a candidate's own: see `Prepared`."""

    key: str
    init: Callable[..., Any]
    apply: Callable[..., Any]
    numbers: Numbers


class Workbench:
    """Loads a task's data once, and traces each of its models once.

    Args:
        task: what the user supplies.
        data: of another process's workbench; None: the task's.

    Raises:
        UsageError: data that the task protocol does not allow.
    """

    def __init__(self, task: Task, data: Data | None = None) -> None:
        self.task, self._data = task, data
        self._features: LeastRecentlyUsed[Features] = LeastRecentlyUsed(16)
        self._forms: dict[Any, str] = {}
        self._prepared: LeastRecentlyUsed[Prepared] = LeastRecentlyUsed(16)
        self._models: LeastRecentlyUsed[Callable[..., Prepared]] = LeastRecentlyUsed(256)
        self._arrays: LeastRecentlyUsed[Shapes] = LeastRecentlyUsed(128)
        self._pipelines: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(16)
        self._traced: LeastRecentlyUsed[Callable[..., Prepared]] = LeastRecentlyUsed(64)
        self._deployed: dict[str, tuple[Any, ...]] = {}
        self._fitting: set[Any] = set()
        self._missing = False

    @cached_property
    def data(self) -> Data:
        """The splits; float64 becomes float32, and int64 int32, as JAX computes with those."""
        data = self._data
        if data is None:
            with users_code(f"data() of task {self.task.name!r}"):
                data = self.task.data()
        if not isinstance(data, Data):
            raise UsageError(
                f"data() of task {self.task.name!r} must return paretax.Data, "
                f"got {type(data).__name__}: gather a loader's or generator's batches into one "
                "array of inputs and one of targets, and give them to paretax.split(inputs, "
                "targets); or give the three paretax.Split to paretax.Data"
            )
        found = Data(
            train=_narrow(data.train),
            validation=_narrow(data.validation),
            test=_narrow(data.test),
        )
        splits = (found.train, found.validation, found.test)
        floating = [s.inputs for s in splits if jnp.issubdtype(s.inputs.dtype, jnp.floating)]
        self._missing = any(np.isnan(inputs).any() for inputs in floating)
        return found

    def config(self, candidate: Mapping[str, Any]) -> dict[str, Any]:
        """What `build` reads for a candidate: the task's defaults with its values over them."""
        defaults = self.task.defaults
        return {name: candidate.get(name, default) for name, default in defaults.items()}

    def batch_shape(self, batch: int) -> jax.ShapeDtypeStruct:
        """The shape of a batch of the task's own inputs."""
        inputs = self.data.train.inputs
        return jax.ShapeDtypeStruct((batch, *inputs.shape[1:]), inputs.dtype)

    def features(self, candidate: Mapping[str, Any]) -> Features:
        """The preprocessed splits of a candidate; the pipeline sees the training split alone.

        Raises:
            UsageError: the preprocessing does not fit the data.
        """
        key = preprocessing.key(candidate)
        return self._features.get(key, lambda: self._fit(key, candidate))

    def _fit(self, key: str, candidate: Mapping[str, Any]) -> Features:
        train, validation = self.data.train, self.data.validation
        preprocessing.check(
            candidate, train.inputs.shape[1:], self._missing, len(train), train.targets
        )
        if not preprocessing.is_active(candidate):
            return Features(key="", form="", pipeline=None, train=train, validation=validation)
        pipeline = preprocessing.fit(candidate, train.inputs, train.targets)
        shapes = tuple((n, a.shape, str(a.dtype)) for n, a in sorted(pipeline.arrays.items()))
        form = self._forms.setdefault((pipeline.program, shapes), f"pipeline {len(self._forms)}")
        run = self._pipelines.get(form, lambda: jax.jit(pipeline.apply))
        arrays = {n: jnp.asarray(a) for n, a in pipeline.arrays.items()}
        train, validation = (
            Split(np.asarray(run(arrays, s.inputs)), s.targets) for s in (train, validation)
        )
        return Features(key=key, form=form, pipeline=pipeline, train=train, validation=validation)

    def prepared(self, candidate: Mapping[str, Any]) -> Prepared:
        """The traced model of a candidate.

        Raises:
            UsageError: `build` returned no model, or the model no array.
        """
        config, features = self.config(candidate), self.features(candidate)
        batch = int(choose(training.SETTINGS, candidate)["batch_size"]) if _lifts(config) else 2
        place = json.dumps([config, features.form, batch], sort_keys=True)
        make = self._models.get(place, lambda: self._prepare(config, features, batch))
        # Few, as each holds its features.
        return self._prepared.get((place, features.key), lambda: make(features=features))

    def model(self, candidate: Mapping[str, Any]) -> Model:
        """The model of a candidate as its `build` makes it; shared with no other candidate."""
        return build_model(self.task, self.config(candidate), self.features(candidate).shape(2))

    def _prepare(
        self, config: Mapping[str, Any], features: Features, batch: int
    ) -> Callable[..., Prepared]:
        """A candidate's own view of a traced model, which others may share; lacks `features`."""
        example = features.shape(2)
        own = None
        key = json.dumps(config, sort_keys=True)
        if _lifts(config):
            own = self._lifted(config, example, features.shape(batch))
            key = key if own is None else own.key
        key += features.form
        traced = self._traced.get(key, lambda: self._trace(key, config, example))
        if own is None:
            return traced
        return partial(traced, init=own.init, apply=own.apply, numbers=own.numbers)

    def _trace(
        self, key: str, config: Mapping[str, Any], example: jax.ShapeDtypeStruct
    ) -> Callable[..., Prepared]:
        model = build_model(self.task, config, example)
        params, state = dict(model.params), dict(model.state)
        closed, outputs = jax.make_jaxpr(model.predict, return_shape=True)(params, state, example)
        if any(isinstance(held, jax.core.Tracer) for held in closed.consts):
            model = build_model(self.task, config, example, eager=True)
        if not isinstance(outputs, jax.ShapeDtypeStruct) or outputs.shape[:1] != (2,):
            raise UsageError(
                f"the model of task {self.task.name!r} must return one array with the batch "
                f"first, got {outputs} for a batch of 2"
            )
        found = find_weights(model.predict, params, state, example)
        trained = find_weights(model.apply, params, state, example, jax.random.key(0)).sites
        alike = [n for n, s in found.sites.items() if n in trained and s.like(trained[n])]
        differ = "training uses it otherwise than inference"
        return partial(
            Prepared,
            key=key,
            model=model,
            init=lambda key, numbers: model.init(key),
            apply=lambda params, state, inputs, noise: model.apply(params, state, inputs, noise[0]),
            numbers={},
            sites={n: found.sites[n] for n in alike},
            others={**found.others, **{n: differ for n in found.sites if n not in alike}},
            params=params,
            state=state,
            outputs=outputs,
            shared={},
        )

    def _lifted(
        self,
        config: Mapping[str, Any],
        example: jax.ShapeDtypeStruct,
        trained: jax.ShapeDtypeStruct,
    ) -> _Own | None:
        """A model's functions with its fractions lifted out; None where they shape the graph.

        Args:
            config: the model's.
            example: shape of a small batch.
            trained: shape of a batch in training, by whose size a model may do something else.
        """
        model = build_model(self.task, config, example)
        nudged = {n: v * (1 - 2**-10) if isinstance(v, float) else v for n, v in config.items()}
        try:
            twin = build_model(self.task, nudged, example)
        except Exception:  # noqa: BLE001  the model's code may refuse the value in any way
            return None
        rest = json.dumps({n: v for n, v in config.items() if not isinstance(v, float)})
        key = jax.eval_shape(lambda: training_key(0))
        params, state = dict(model.params), dict(model.state)
        init = lift(model.init, twin.init, key)
        apply = lift(model.apply, twin.apply, params, state, trained, key)
        predict = lift(model.predict, None, params, state, example)
        if init is None or apply is None or predict is None:
            return None
        return _Own(
            key=" ".join([rest, *(part.fingerprint for part in (init, apply, predict))]),
            init=lambda key, numbers: init.run(numbers["init"], key),
            apply=lambda params, state, inputs, noise: apply.run(
                noise[1]["apply"], params, state, inputs, noise[0]
            ),
            numbers={"init": init.numbers, "apply": apply.numbers},
        )

    def deployed(self, candidate: Mapping[str, Any]) -> Deployed:
        """The model of a candidate as it is deployed.

        Raises:
            UsageError: what is asked for does not go with the model.
        """
        prepared = self.prepared(candidate)
        removed: dict[str, int] = {}
        if is_structured(candidate):
            removed = removed_channels(candidate, prepared.channels, prepared.sites)
        key = prepared.key + (json.dumps(removed, sort_keys=True) if removed else "")
        if prepared.features.pipeline is not None:
            key += "over the task's own inputs"
        if key not in self._deployed:
            self._deployed[key] = self._smaller(prepared, removed)
        groups, predict, sites, params, state = self._deployed[key]
        check_coverage(candidate, sites, prepared.others)
        recipe = Recipe.of(candidate, sites)
        check_patterns(candidate, recipe.patterns, groups, sites)
        if removed and candidate.get("qat") == "lsq":
            for part in (recipe, Recipe.of(candidate, prepared.sites)):
                if any(t.group is not None for t in part.treatments.values()):
                    raise UsageError(
                        "qat: lsq with weight_scales: group learns a step for each group of "
                        "inputs, and removed channels would cut through groups: use "
                        "weight_scales: channel, or qat: ste"
                    )
        if candidate.get("pruning") == "lottery_ticket" and (
            removed or (recipe.patterns and not any(t.sparsity for t in recipe.treatments.values()))
        ):
            raise UsageError(
                "a lottery ticket is found by `sparsity` alone: channels, heads and patterns N:M "
                "do not take part in its rounds; use pruning: one_shot or gradual for them"
            )
        return Deployed(
            key=key,
            predict=predict,
            sites=sites,
            params=params,
            state=state,
            groups=groups,
            removed=removed,
            recipe=recipe,
        )

    def coverage(self, candidate: Mapping[str, Any]) -> list[Coverage]:
        """How much of a candidate's model each technique touches that it asks for."""
        deployed, others = self.deployed(candidate), dict(self.prepared(candidate).others)
        for name in self.prepared(candidate).sites.keys() - deployed.sites.keys():
            others[name] = "without the removed channels the model uses it otherwise"
        return coverage(candidate, deployed.recipe, deployed.sites, others, deployed.params)

    def arrays(self, model: Deployed) -> Shapes:
        """The shapes of what a deployed program takes; worked out once for all bit-widths."""
        return self._arrays.get(
            (model.key, model.recipe.form),
            lambda: deployed_shapes(model.recipe, model.sites, model.params, model.state),
        )

    def dense_bytes(self, prepared: Prepared) -> int:
        """Stored bytes of a model as it is: its own dtypes, all weights, and its preprocessing."""
        if "bytes" not in prepared.shared:
            plain, pipeline = Recipe.plain(prepared.sites), prepared.features.pipeline
            fitted = {} if pipeline is None else _shapes(pipeline.arrays)
            state = {**prepared.state, **fitted}
            shapes = deployed_shapes(plain, prepared.sites, prepared.params, state)
            prepared.shared["bytes"] = stored_bytes(prepared.sites, plain, shapes)
        return int(prepared.shared["bytes"])

    def check_training(self, candidate: Mapping[str, Any]) -> None:
        """Refuse a training that cannot be laid out, before it begins.

        Raises:
            UsageError: the targets do not fit the outputs, a batch is larger than the training set,
                there are too few epochs for the schedule, a lottery's rewinding step is beyond its
                end, or a derivative of the model's own would be lost.
        """
        timeline(candidate)
        self.deployed(candidate)
        check_own_derivatives(candidate, self.prepared(candidate))
        chosen = choose((*training.SETTINGS, *pruning.SETTINGS), candidate)
        targets = self.data.train.targets
        outputs = self.prepared(candidate).outputs
        if (outputs.shape, outputs.dtype) not in self._fitting:
            known = {"train": self.data.train, "validation": self.data.validation}
            check_targets(self.task, known, outputs)
            self._fitting.add((outputs.shape, outputs.dtype))
        if (
            candidate.get("distill") is True
            and choose(distillation.SETTINGS, candidate)["alpha"] > 0
        ):
            check_distillation(self.task, outputs)
        if chosen["label_smoothing"] > 0 and outputs_of(self.task) != "classes":
            raise UsageError(
                f"label_smoothing needs outputs of classes, and task {self.task.name!r} does not "
                "say that its are: leave it at 0, or add outputs = 'classes' to the task"
            )
        if chosen["label_smoothing"] > 0 and (
            targets.dtype.kind not in "iu" or targets.ndim != len(outputs.shape) - 1
        ):
            raise UsageError(
                f"label_smoothing needs whole-number labels, one for each row of logits, got "
                f"targets of {targets.dtype} {targets.shape[1:]} and outputs {outputs.shape[1:]} "
                "an example: leave it at 0"
            )
        examples, batch = len(self.data.train), int(chosen["batch_size"])
        if batch > examples:
            raise UsageError(
                f"batch_size must not exceed the {examples} training examples, got {batch}: "
                "lower it"
            )
        steps = int(chosen["epochs"]) * (examples // batch)
        if chosen["pruning"] == "lottery_ticket" and int(chosen["rewind_step"]) >= steps:
            raise UsageError(
                f"rewind_step must lie before the last of the {steps} steps of a training, got "
                f"{chosen['rewind_step']}: lower it, or train longer"
            )

    def _smaller(self, prepared: Prepared, removed: Mapping[str, int]) -> tuple[Any, ...]:
        features, predict = prepared.features, prepared.model.predict
        params, state, sites = prepared.params, prepared.state, prepared.sites
        groups: tuple[ChannelGroup, ...] = ()
        if removed:
            groups = tuple(g for g in prepared.channels.groups if g.name in removed)
            counts = {g.name: g.size - removed[g.name] for g in groups}
            predict = shrink(predict, params, state, features.shape(2), groups, counts)
            params = shrunk_shapes(groups, counts, params)
            state = shrunk_shapes(groups, counts, state)
            smaller = find_sites(predict, params, state, features.shape(2))
            sites = {n: s for n, s in smaller.items() if n in sites}
        if features.pipeline is not None:
            predict = _preprocessed(features.pipeline, predict)
            state = {**state, **_shapes(features.pipeline.arrays)}
        return groups, predict, sites, params, state


def _lifts(config: Mapping[str, Any]) -> bool:
    """Whether a model has numbers that may be lifted out."""
    return any(isinstance(value, float) for value in config.values())


def _preprocessed(pipeline: Pipeline, predict: Predict) -> Predict:
    """A model that takes the task's own inputs."""

    def run(params: Arrays, state: Arrays, inputs: jax.Array) -> Any:
        fitted = {name: state[name] for name in pipeline.arrays}
        own = {name: array for name, array in state.items() if name not in fitted}
        return predict(params, own, pipeline.apply(fitted, inputs))

    return run


def _shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}


def _narrow(split: Split) -> Split:
    def convert(given: Any) -> np.ndarray:
        array: np.ndarray = np.asarray(given)
        if not (jnp.issubdtype(array.dtype, np.number) or array.dtype == np.bool_):
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
