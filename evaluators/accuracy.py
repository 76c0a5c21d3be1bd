"""The task's metric: train, prune, distil and quantise, then score in the deployed arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.errors import UsageError
from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.compilation import deployed_program
from paretax.evaluators.compiling import CompileClock
from paretax.evaluators.course import Course, course_to_json
from paretax.evaluators.lanes import DivergedError, Watch
from paretax.evaluators.measurement import (
    Evaluation,
    Failure,
    Measurement,
    Provenance,
    Reason,
)
from paretax.evaluators.sampling_error import sampling_error
from paretax.evaluators.scoring import metric_of, widened
from paretax.evaluators.size import count_bytes
from paretax.evaluators.teacher import Lesson
from paretax.evaluators.training import Axis, Trained, Trainer, Training, to_numpy
from paretax.evaluators.workbench import Deployed, Workbench
from paretax.spaces.candidate import Candidate
from paretax.spaces.channels import kept_indices
from paretax.spaces.compression import Grid, compress, in_stored_format, inputs_of, simulate
from paretax.spaces.fake_quantization import LEARNED
from paretax.spaces.quantization import expand, largest_weight
from paretax.spaces.recipe import masks, steps_in_words
from paretax.spaces.schedule import in_words
from paretax.spaces.shrinking import shrink_arrays
from paretax.spaces.sites import Site
from paretax.spaces.structured import group_block
from paretax.tasks import Arrays, Split

_CLOCK = CompileClock()
_SUSPENDED = 256  # trainings that are kept between rungs
_CHUNK = 512  # examples that are scored at a time


@dataclass(frozen=True, kw_only=True)
class Suspended:
    """A training that goes on later.

    Args:
        training: where it stands.
        seconds: that were spent on it and are in no measurement yet.
        diverged: why it does not go on.
    """

    training: Training
    seconds: float = 0.0
    diverged: DivergedError | None = None


def _key(candidate: Mapping[str, Any], seed: int) -> tuple[Candidate, int]:
    return Candidate(candidate), seed


class AccuracyEvaluator:
    """Scores a candidate by the task's metric on the validation split.

    Args:
        bench: the task.
        lesson: of the teacher; None where there is none.
        axis: how populations are trained.
    """

    def __init__(self, bench: Workbench, lesson: Lesson | None = None, axis: Axis = "auto") -> None:
        self.provides: tuple[str, ...] = (bench.task.metric.name,)
        self._bench, self._lesson = bench, lesson
        self._calibrator = Calibrator()
        self._trainer = Trainer(bench, self._calibrator, axis)
        self._programs: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(64)
        self._suspended: dict[tuple[Candidate, int], Suspended] = {}

    def evaluate(self, candidate: Mapping[str, Any], seed: int, course: Course = ()) -> Evaluation:
        """Train a candidate, from where it stands, and score it on the validation split.

        Args:
            candidate: what is trained.
            seed: of its training.
            course: the way that its training went before, to go the same one.
        """
        start, compiled = time.perf_counter(), _CLOCK.seconds
        suspended = self._suspended.pop(_key(candidate, seed), None) or self._begin(candidate, seed)
        try:
            self._advance(suspended, None, course)
            weights = self._deployed(candidate, self._trainer.finish(suspended.training))
            trained = time.perf_counter()
            value = self.score(candidate, weights, self._bench.data.validation)
        except DivergedError as error:
            return Evaluation(failure=Failure(reason=Reason.DIVERGED, message=str(error)))
        end = time.perf_counter()
        spent = {"compile": _CLOCK.seconds - compiled, "score": end - trained}
        about: dict[str, Any] = {"steps": self.steps(candidate), "seconds": spent}
        about |= _ran(suspended.training)
        if covered := self._bench.coverage(candidate):
            about["coverage"] = [one.to_json() for one in covered]
        seconds = end - start + suspended.seconds
        found = [self._measurement(value, "validation", seconds, about)]
        deployed = self._bench.deployed(candidate)
        if deployed.recipe.sparse and deployed.recipe.scope == "global":
            kept = final_masks(deployed, parts(deployed, weights)[0])
            pruned = {n: int((~np.asarray(mask)).sum()) for n, mask in kept.items()}
            found.append(count_bytes(self._bench, candidate, pruned))
        return Evaluation(measurements=tuple(found), weights=to_numpy(weights))

    def advance(
        self, candidate: Mapping[str, Any], seed: int, epochs: int, course: Course = ()
    ) -> Evaluation:
        """Train a candidate up to a rung, and score it there on the validation split.

        It is scored in the form that it has then: pruned as far as its schedule has come, and in
        floating point. The training stays here, and `advance` and `evaluate` go on with it.

        Args:
            candidate: what is trained.
            seed: of its training.
            epochs: of the rung.
            course: the way that its training went before, to go the same one.
        """
        start, compiled = time.perf_counter(), _CLOCK.seconds
        key = _key(candidate, seed)
        suspended = self._suspended.pop(key, None) or self._begin(candidate, seed)
        try:
            self._advance(suspended, epochs, course)
            trained = time.perf_counter()
            value = self._score_now(suspended.training)
        except DivergedError as error:
            return Evaluation(failure=Failure(reason=Reason.DIVERGED, message=str(error)))
        end = time.perf_counter()
        seconds = end - start + suspended.seconds
        self._suspend(key, replace(suspended, seconds=0.0))
        spent = {"compile": _CLOCK.seconds - compiled, "score": end - trained}
        about = {"epoch": epochs, "seconds": spent, **_ran(suspended.training)}
        return Evaluation(measurements=(self._measurement(value, "validation", seconds, about),))

    def advance_together(
        self, members: Sequence[tuple[Mapping[str, Any], int]], epochs: int | None = None
    ) -> None:
        """Move a population on in one program, where the device is faster so.

        `advance` and `evaluate` then find each member where it should be; those that cannot be
        trained, or are better trained one by one, are left to them.

        Args:
            members: candidates, each with its seed.
            epochs: of the rung; None: to the end.
        """
        if not self._trainer.may_batch:
            return
        found = []
        for candidate, seed in members:
            key = _key(candidate, seed)
            try:
                before = self._suspended.get(key) or self._begin(candidate, seed)
            except UsageError:
                continue  # `advance` and `evaluate` say what is wrong
            if before.diverged is None:
                found.append((key, before))
        start = time.perf_counter()
        trainings = [before.training for _, before in found]
        try:
            moved = self._trainer.advance_together(trainings, [epochs] * len(found))
        except (jax.errors.JaxRuntimeError, MemoryError):
            # One by one, from the start, it shows whose program does not compile or does not fit.
            for key, _ in found:
                self._suspended.pop(key, None)
            return
        seconds = (time.perf_counter() - start) / max(1, len(moved))
        for i, diverged in moved.items():
            key, before = found[i]
            self._suspend(key, replace(before, seconds=seconds, diverged=diverged))

    def _begin(self, candidate: Mapping[str, Any], seed: int) -> Suspended:
        lesson = self._lesson_of(candidate)
        return Suspended(training=self._trainer.begin(candidate, seed, lesson))

    def _advance(self, suspended: Suspended, epochs: int | None, course: Course) -> None:
        if suspended.diverged is not None:
            raise suspended.diverged
        self._trainer.retrace(suspended.training, epochs, course)

    def _suspend(self, key: tuple[Candidate, int], suspended: Suspended) -> None:
        """Keep a training for later; of too many, the one that waits longest begins again."""
        self._suspended.pop(key, None)
        self._suspended[key] = suspended
        if len(self._suspended) > _SUSPENDED:
            del self._suspended[next(iter(self._suspended))]

    def _score_now(self, training: Training) -> float:
        """The metric on the validation split of a model in training."""
        prepared = training.lane.prepared
        params, state, _ = training.stand.carry
        params = {n: v for n, v in params.items() if not n.endswith(LEARNED)}
        run = self._programs.get(
            (prepared.key, "in training"), lambda: jax.jit(prepared.model.predict)
        )
        validation = prepared.features.validation
        outputs = in_chunks(lambda chunk: run(params, state, chunk), validation.inputs)
        if np.isnan(outputs).any():
            raise DivergedError("the model's outputs are not numbers (NaN)")
        return metric_of(self._bench.task, outputs, validation.targets)

    def train(
        self, candidate: Mapping[str, Any], seed: int, watch: Watch | None = None
    ) -> dict[str, jax.Array]:
        """Trained arrays as they are deployed: pruned, removed channels gone.

        Parameters, state, what preprocessing was fitted to, and the logarithms of learned steps.

        Raises:
            DivergedError: the loss is not finite.
            UsageError: the candidate distils, and there is no teacher.
        """
        lesson = self._lesson_of(candidate)
        return self._deployed(candidate, self._trainer.train(candidate, seed, lesson, watch))

    def _lesson_of(self, candidate: Mapping[str, Any]) -> Lesson | None:
        """What a candidate's teacher says, once its training is checked."""
        self._bench.check_training(candidate)
        if candidate.get("distill") is not True:
            return None
        lesson = self._lesson
        if lesson is None:
            raise UsageError("distill: true needs a teacher: add `teacher` to the config")
        if candidate.get("feature_weight", 0) and lesson.inner is None:
            raise UsageError(
                f"feature_weight needs a teacher whose layers can be seen, and "
                f"{lesson.teacher} is a compiled program: leave it at 0, or give the teacher "
                "as a candidate"
            )
        return lesson

    def _deployed(self, candidate: Mapping[str, Any], trained: Trained) -> dict[str, jax.Array]:
        """Trained arrays as they are deployed."""
        params, state, learned = trained
        deployed = self._bench.deployed(candidate)
        if deployed.removed:
            params, state, learned = _shrink(deployed, candidate, params, state, learned)
        pipeline = self._bench.features(candidate).pipeline
        fitted = {} if pipeline is None else {n: jnp.asarray(a) for n, a in pipeline.arrays.items()}
        return {**params, **state, **fitted, **learned}

    def steps(self, candidate: Mapping[str, Any]) -> list[str]:
        """What is done to a candidate, in order, in words."""
        deployed = self._bench.deployed(candidate)
        done = steps_in_words(deployed.recipe, deployed.sites)
        gone = [
            f"{n} of {g.size} {g.kind} of {g.name}"
            for g in deployed.groups
            for n in [deployed.removed[g.name]]
        ]
        done["prune"] = ", ".join(filter(None, [*gone, done["prune"]]))
        if candidate.get("distill") is True and self._lesson is not None:
            done["distill"] = f"distilled from {self._lesson.teacher}"
        pipeline = self._bench.features(candidate).pipeline
        before = list(pipeline.steps) if pipeline is not None else []
        return [*before, *in_words(candidate, done)]

    def repeat(self, candidate: Mapping[str, Any], seed: int) -> Evaluation:
        """As `evaluate`, without weights; with the standard error of the validation split."""
        found = self.evaluate(candidate, seed)
        if found.failure is not None or found.weights is None:
            return found
        score, *_ = found.measurements
        about = self._with_error(candidate, found.weights, self._bench.data.validation)
        detail = {"split": "validation", "seconds": score.detail["seconds"], **about}
        return Evaluation(measurements=(replace(score, detail=detail),))

    def test(self, candidate: Mapping[str, Any], weights: Mapping[str, Any]) -> Measurement:
        """Score trained weights on the test split; for the final front alone."""
        start = time.perf_counter()
        value = self.score(candidate, weights, self._bench.data.test)
        about = self._with_error(candidate, weights, self._bench.data.test)
        return self._measurement(value, "test", time.perf_counter() - start, about)

    def _with_error(
        self, candidate: Mapping[str, Any], weights: Mapping[str, Any], split: Split
    ) -> dict[str, float]:
        """The standard error of the metric that comes from a split's size; empty if not known."""
        outputs = widened(self.outputs(candidate, weights, split.inputs))
        error = sampling_error(self._bench.task.metric.compute, outputs, split.targets)
        return {} if error is None else {"standard_error": error}

    def _measurement(
        self, value: float, split: str, seconds: float, about: Mapping[str, Any] | None = None
    ) -> Measurement:
        metric = self._bench.task.metric
        return Measurement(
            objective=metric.name,
            value=value,
            unit=metric.unit,
            provenance=Provenance.MEASURED,
            seconds=seconds,
            detail={"split": split, **(about or {})},
        )

    def score(
        self, candidate: Mapping[str, Any], weights: Mapping[str, Any], split: Split
    ) -> float:
        """The metric of trained weights on a split, through the candidate's deployed arithmetic.

        Raises:
            DivergedError: an output is NaN (infinite logits are those of impossible classes), or
                the metric is not finite.
        """
        outputs = self.outputs(candidate, weights, split.inputs)
        if np.isnan(outputs).any():
            raise DivergedError("the trained model's outputs are not numbers (NaN)")
        value = metric_of(self._bench.task, outputs, split.targets)
        if not np.isfinite(value):
            name = self._bench.task.metric.name
            raise DivergedError(f"the metric {name} is {value}, and must be finite")
        return value

    def outputs(
        self, candidate: Mapping[str, Any], weights: Mapping[str, Any], inputs: np.ndarray
    ) -> np.ndarray:
        """What a trained model computes, in the candidate's deployed arithmetic."""
        deployed = self._bench.deployed(candidate)
        recipe, sites = deployed.recipe, deployed.sites
        params, state, _ = parts(deployed, weights)
        grid = self.grid(deployed, weights)
        if not recipe.quantized or _below_float32(sites):  # the deployed program itself
            arrays = compress(recipe, sites, params, state, grid)
            program = self._programs.get(
                (deployed.key, "deployed", recipe.form), lambda: deployed_program(deployed)
            )
            return in_chunks(lambda chunk: program(arrays, chunk), inputs)
        run = self._programs.get(
            (deployed.key, recipe.structure),
            lambda: jax.jit(simulate(deployed.predict, sites, recipe)),
        )
        stored = in_stored_format(recipe, sites, params)
        return in_chunks(lambda chunk: run(stored, state, chunk, grid), inputs)

    def inner(
        self, candidate: Mapping[str, Any], weights: Mapping[str, Any], inputs: np.ndarray
    ) -> np.ndarray | None:
        """What enters a trained model's last product; None where it has no site."""
        deployed = self._bench.deployed(candidate)
        params, state, _ = parts(deployed, weights)
        if not deployed.sites:
            return None
        run = jax.jit(inputs_of(deployed.predict, deployed.sites, list(deployed.sites)[-1]))
        return in_chunks(lambda chunk: run(params, state, chunk), inputs)

    def grid(self, deployed: Deployed, weights: Mapping[str, Any]) -> Grid:
        """The steps of a deployed model's sites, from its weights and training examples."""
        if not deployed.recipe.has_steps:
            return {}
        params, state, learned = parts(deployed, weights)
        inputs = self._bench.data.train.inputs
        return self._calibrator.grid(
            deployed.key,
            deployed.predict,
            deployed.sites,
            deployed.recipe,
            params,
            state,
            inputs,
            learned,
        )


def _ran(training: Training) -> dict[str, Any]:
    """How a training ran, where it shared programs with others: a journal retraces it by that."""
    course = training.stand.course
    return {"lanes": course_to_json(course)} if course else {}


def _below_float32(sites: Mapping[str, Site]) -> bool:
    """Whether a model computes in bfloat16 or float16.

    A sum that is added up in another order then differs by half a per cent, and where more is
    rounded after it, by any number: no other program's outputs are those of the deployed one.
    """
    names = {name for site in sites.values() for name in site.dtypes}
    floating = [np.dtype(name) for name in names if jnp.issubdtype(name, jnp.floating)]
    return any(dtype.itemsize < 4 for dtype in floating)


def _shrink(
    deployed: Deployed, candidate: Mapping[str, Any], params: Arrays, state: Arrays, learned: Arrays
) -> tuple[Arrays, Arrays, Arrays]:
    """The arrays without the channels that were removed."""
    kept = {
        g.name: kept_indices(g, params, deployed.removed[g.name], block=group_block(candidate, g))
        for g in deployed.groups
    }
    smaller: Arrays = {}
    for name, step in learned.items():
        weight = name.rpartition(".")[0]
        if name.endswith(LEARNED[0]):  # one a channel: goes with its channel
            shape = params[weight].shape
            whole = jnp.broadcast_to(expand(jnp.exp(step), shape), shape)
            left = jnp.asarray(shrink_arrays(deployed.groups, kept, {weight: whole})[weight])
            scales = deployed.recipe.treatments[weight]  # inputs are gone, and groups may be
            smaller[name] = jnp.log(largest_weight(left, scales.shared, scales.group))
        else:
            smaller[name] = step
    return (
        shrink_arrays(deployed.groups, kept, params),
        shrink_arrays(deployed.groups, kept, state),
        smaller,
    )


def final_masks(deployed: Deployed, params: Arrays) -> dict[str, jax.Array]:
    """Which weights of each site are stored, from weights that were pruned already."""
    magnitudes = {n: jnp.abs(jnp.asarray(params[n])) for n in deployed.sites}
    counts = deployed.recipe.pruned(deployed.sites)
    return masks(deployed.recipe, deployed.sites, magnitudes, counts)


def parts(deployed: Deployed, weights: Mapping[str, Any]) -> tuple[Arrays, Arrays, Arrays]:
    """Parameters, state and learned steps out of all arrays of a trained model."""
    params = {name: jnp.asarray(weights[name]) for name in deployed.params}
    state = {name: jnp.asarray(weights[name]) for name in deployed.state}
    learned = {n: jnp.asarray(a) for n, a in weights.items() if n.endswith(LEARNED)}
    return params, state, learned


def in_chunks(predict: Callable[[np.ndarray], Any], inputs: np.ndarray) -> np.ndarray:
    """Outputs of all inputs, a bounded number at a time; the last chunk is filled by repetition."""
    if len(inputs) == 0:
        return np.asarray(predict(np.zeros((1, *inputs.shape[1:]), inputs.dtype)))[:0]
    size = min(_CHUNK, len(inputs))
    found = []
    for start in range(0, len(inputs), size):
        chunk = inputs[start : start + size]
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
        found.append(np.asarray(predict(filled))[: len(chunk)])
    return np.concatenate(found)
