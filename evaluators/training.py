"""Training of one candidate, by compiled programs that later candidates use again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.masking import Masker, mask_weights
from paretax.evaluators.teacher import Lesson
from paretax.evaluators.workbench import Prepared, Workbench
from paretax.spaces import distillation, pruning, quantization, training
from paretax.spaces.compression import Grid
from paretax.spaces.dimensions import choose
from paretax.spaces.distillation import similarity_loss, soft_target_loss
from paretax.spaces.fake_quantization import LEARNED, first_steps, train_on_grid
from paretax.spaces.pruning import lottery_rounds
from paretax.spaces.recipe import Recipe
from paretax.spaces.schedule import Epoch, timeline
from paretax.spaces.training import cosine, make_optimizer
from paretax.tasks import Arrays

Carry = tuple[Arrays, Arrays, Any]
"""(params, state, state of the optimiser)"""

Watch = Callable[[int, Arrays, Arrays], None]
"""Is told (steps done, params, state) after each epoch."""


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A round of a lottery.

    Args:
        round: its number; 0 is the dense network.
        masks: of its weights.
        carry: its trained parameters, state and optimiser's state.
    """

    round: int
    masks: Arrays
    carry: Carry


class DivergedError(ArithmeticError):
    """The loss or the outputs are not finite."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One candidate's training, as far as it is the same in all its rounds."""

    candidate: Mapping[str, Any]
    chosen: Mapping[str, Any]
    prepared: Prepared
    recipe: Recipe
    seed: int
    lesson: Lesson | None
    watch: Watch | None

    @property
    def batch(self) -> int:
        return int(self.chosen["batch_size"])

    @property
    def steps(self) -> int:
        """Of an epoch; examples that are left over are left out."""
        return len(self.prepared.features.train) // self.batch


class Trainer:
    """Trains candidates of one task.

    A compiled program depends on the model, the batch size, the optimiser, and which techniques
    take part; all else are numbers.

    Args:
        bench: the task.
        calibrator: finds grids.
    """

    def __init__(self, bench: Workbench, calibrator: Calibrator) -> None:
        self._bench, self._calibrator = bench, calibrator
        self._masker = Masker()
        self._programs: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(32)
        self._examples: LeastRecentlyUsed[tuple[jax.Array, jax.Array]] = LeastRecentlyUsed(4)

    def train(
        self,
        candidate: Mapping[str, Any],
        seed: int,
        lesson: Lesson | None = None,
        watch: Watch | None = None,
    ) -> tuple[Arrays, Arrays, Arrays]:
        """Train from scratch.

        Args:
            candidate: its training, pruning and quantisation settings, and the model's.
            seed: of the initial weights, the order of the examples, and dropout.
            lesson: what the teacher says of the training examples; needed to distil.
            watch: is told of every epoch.

        Returns:
            Parameters, state, and learned steps, by name: of the model at its full size, pruned.

        Raises:
            DivergedError: the mean loss of an epoch is not finite.
        """
        run = self._run(candidate, seed, lesson, watch)
        if run.chosen["pruning"] == "lottery_ticket" and run.recipe.sparse:
            *_, ticket = self._lottery(run)
            carry = ticket.carry
        else:
            carry, _ = self._epochs(run, self._start(run), {}, 0)
        params, state = carry[0], carry[1]
        learned = {n: v for n, v in params.items() if n.endswith(LEARNED)}
        params = {n: v for n, v in params.items() if n not in learned}
        learned = {n: v for n, v in learned.items() if _is_whole(run.recipe, n)}
        deployed = self._bench.deployed(candidate)
        if deployed.removed or deployed.recipe.sparse:
            masks = self._masker.masks(run.prepared, deployed, candidate, params, state, 1.0)
            params = mask_weights(params, masks)
        return params, state, learned

    def _run(
        self,
        candidate: Mapping[str, Any],
        seed: int,
        lesson: Lesson | None,
        watch: Watch | None,
    ) -> _Run:
        prepared = self._bench.prepared(candidate)
        settings = (*training.SETTINGS, *pruning.SETTINGS, *quantization.SETTINGS)
        return _Run(
            candidate=candidate,
            chosen=choose((*settings, *distillation.SETTINGS), candidate),
            prepared=prepared,
            recipe=Recipe.of(candidate, prepared.sites),
            seed=seed,
            lesson=lesson,
            watch=watch,
        )

    def _start(self, run: _Run, seed: int | None = None) -> Carry:
        init = self._programs.get(
            (run.prepared.key, "init"), lambda: jax.jit(run.prepared.model.init)
        )
        # Of JAX's generators, rbg is the one whose programs compile fast: 0.9 s against 2.7 s with
        # threefry for the initial weights of an MLP with two hidden layers.
        params, state = init(jax.random.key(run.seed if seed is None else seed, impl="rbg"))
        return params, state, make_optimizer(str(run.chosen["optimizer"]), 0.0, 0.0).init(params)

    def lottery(
        self, candidate: Mapping[str, Any], seed: int, watch: Watch | None = None
    ) -> Iterator[Ticket]:
        """Train, prune, rewind; again and again (Frankle and Carbin, arXiv:1803.03635, section 2).

        The weights that stay go back to their values at step `rewind_step` of the first training.

        Args:
            candidate: with `pruning: lottery_ticket`.
            seed: of everything.
            watch: is told of every epoch of every round.

        Yields:
            The dense network, then the ticket of each round, when it is trained. The last one has
            the candidate's sparsity.
        """
        yield from self._lottery(self._run(candidate, seed, None, watch))

    def fresh(
        self, candidate: Mapping[str, Any], ticket: Ticket, seed: int, watch: Watch | None = None
    ) -> Ticket:
        """The control: the same mask, trained from initial weights of another seed."""
        run = self._run(candidate, seed, None, watch)
        start = self._start(run, seed)
        carry, _ = self._epochs(run, start, ticket.masks, 0)
        return Ticket(round=ticket.round, masks=ticket.masks, carry=carry)

    def _lottery(self, run: _Run) -> Iterator[Ticket]:
        rewind = int(run.chosen["rewind_step"])
        deployed = self._bench.deployed(run.candidate)
        highest = max(t.sparsity for t in deployed.recipe.treatments.values())
        rounds, _ = lottery_rounds(run.candidate, highest)
        carry, start = self._epochs(run, self._start(run), {}, 0, keep=rewind)
        yield Ticket(round=0, masks={}, carry=carry)
        for number in range(1, rounds + 1):
            params = {n: v for n, v in carry[0].items() if not n.endswith(LEARNED)}
            masks = self._masker.masks(
                run.prepared, deployed, run.candidate, params, carry[1], 0.0, number / rounds
            )
            if number == rounds and run.chosen["ticket"] == "fresh":
                carry, _ = self._epochs(run, self._start(run, run.seed ^ 0x5EED), masks, 0)
            else:
                carry, _ = self._epochs(run, start, masks, rewind)
            yield Ticket(round=number, masks=masks, carry=carry)

    def _epochs(
        self, run: _Run, carry: Carry, masks: Arrays, first: int, keep: int = 0
    ) -> tuple[Carry, Carry]:
        """Train from step `first` to the end.

        Args:
            run: the candidate.
            carry: where the training stands.
            masks: fixed ones; empty where the timeline prunes.
            first: step.
            keep: the step whose carry is returned as well.

        Returns:
            The carry at the end, and at step `keep`.
        """
        carry = jax.tree.map(jnp.copy, (mask_weights(carry[0], masks), *carry[1:]))
        kept = jax.tree.map(jnp.copy, carry)
        deployed = self._bench.deployed(run.candidate) if _prunes(run) else None
        grid: Grid = {}
        pruned = -1.0
        laid = timeline(run.candidate)
        for index, epoch in enumerate(laid):
            if (index + 1) * run.steps <= first:
                continue
            if deployed is not None and epoch.pruned != pruned:
                # Also where nothing is gone yet: one program then serves all epochs.
                pruned = epoch.pruned
                params = {n: v for n, v in carry[0].items() if not n.endswith(LEARNED)}
                masks = self._masker.masks(
                    run.prepared, deployed, run.candidate, params, carry[1], pruned
                )
                carry = mask_weights(carry[0], masks), carry[1], carry[2]
            if epoch.quantized:
                carry, grid = self._on_grid(run, carry)
            order = self._order(run, index)
            cuts = sorted({0, run.steps, *(c - index * run.steps for c in (first, keep))})
            for begin, end in pairwise(cuts):
                if not 0 <= begin < end <= run.steps or index * run.steps + begin < first:
                    continue
                carry, loss = self._segment(
                    run, carry, index, epoch, order, begin, end, masks, grid
                )
                if not math.isfinite(loss):
                    raise DivergedError(
                        f"the training loss is {loss} in epoch {index + 1} of {len(laid)}"
                    )
                if index * run.steps + end == keep:
                    kept = jax.tree.map(jnp.copy, carry)
            if run.watch is not None:
                run.watch((index + 1) * run.steps, carry[0], carry[1])
        return carry, kept

    def _on_grid(self, run: _Run, carry: Carry) -> tuple[Carry, Grid]:
        """The grid for the coming epoch, and learned steps where they begin now."""
        prepared, (params, state, memory) = run.prepared, carry
        learn = run.chosen["qat"] == "lsq"
        model = {n: v for n, v in params.items() if not n.endswith(LEARNED)}
        grid = self._calibrator.grid(
            prepared.key,
            prepared.model.predict,
            prepared.sites,
            run.recipe,
            model,
            state,
            prepared.features.train.inputs,
            {n: v for n, v in params.items() if n.endswith(LEARNED)},
        )
        if learn and len(model) == len(params):
            params = {**params, **first_steps(grid)}
            memory = make_optimizer(str(run.chosen["optimizer"]), 0.0, 0.0, LEARNED).init(params)
        return (params, state, memory), grid

    def _order(self, run: _Run, epoch: int) -> np.ndarray:
        """The examples of each step of an epoch, (steps, batch)."""
        examples = len(run.prepared.features.train)
        order = np.random.default_rng([run.seed, epoch]).permutation(examples).astype(np.int32)
        return order[: run.steps * run.batch].reshape(-1, run.batch)

    def _segment(
        self,
        run: _Run,
        carry: Carry,
        index: int,
        epoch: Epoch,
        order: np.ndarray,
        begin: int,
        end: int,
        masks: Arrays,
        grid: Grid,
    ) -> tuple[Carry, float]:
        """Steps `begin` to `end` of an epoch."""
        chosen, key = run.chosen, run.prepared.key
        learn = epoch.quantized and chosen["qat"] == "lsq"
        lesson = run.lesson if epoch.distilled else None
        data, watch = self._data(run.prepared), None
        if lesson is not None:
            data |= lesson.arrays
            if chosen["feature_weight"] > 0 and lesson.features is not None:
                watch = list(run.prepared.sites)[-1]
                data["teacher_features"] = lesson.features
        form: tuple[Any, ...] = (str(chosen["optimizer"]), watch)
        if epoch.quantized:
            form = (*form, learn, run.recipe.structure)
        program = self._programs.get(
            (key, form),
            lambda: self._program(run.prepared, form[0], epoch.quantized, learn, watch),
        )
        since = index * run.steps + begin - epoch.first * run.steps
        numbers = {
            "learning_rate": chosen["learning_rate"] * epoch.rate,
            "weight_decay": chosen["weight_decay"],
            "decay": chosen["learning_rate_decay"] == "cosine",
            "since": since,
            "steps": epoch.length * run.steps,
            "alpha": chosen["alpha"],
            "temperature": chosen["temperature"],
            "feature_weight": chosen["feature_weight"],
        }
        noise = jax.random.fold_in(jax.random.key(run.seed), index)
        carry, loss = program(
            carry,
            {name: jnp.float32(value) for name, value in numbers.items()},
            order[begin:end],
            jnp.int32(begin),
            noise,
            data,
            masks,
            grid if epoch.quantized else {},
        )
        return carry, float(loss)

    def _data(self, prepared: Prepared) -> dict[str, jax.Array]:
        train = prepared.features.train
        inputs, targets = self._examples.get(
            prepared.features.key, lambda: (jnp.asarray(train.inputs), jnp.asarray(train.targets))
        )
        return {"inputs": inputs, "targets": targets}

    def _program(
        self, prepared: Prepared, name: str, quantized: bool, learn: bool, watch: str | None
    ) -> Callable[..., Any]:
        model, task = prepared.model, self._bench.task
        if quantized or watch is not None:
            forward = train_on_grid(model.apply, prepared.sites, learn=learn, watch=watch)
        else:
            forward = _plainly(model.apply)

        def step(
            carry: Carry,
            numbers: Mapping[str, jax.Array],
            rows: jax.Array,
            index: jax.Array,
            noise: jax.Array,
            data: Mapping[str, jax.Array],
            masks: Arrays,
            grid: Grid,
        ) -> tuple[Carry, jax.Array]:
            params, state, memory = carry
            part = {name: array[rows] for name, array in data.items()}
            dropout = jax.random.fold_in(noise, index)

            def loss(params: Arrays) -> tuple[jax.Array, Arrays]:
                kept = mask_weights(params, masks)
                (outputs, changed), features = forward(kept, state, part["inputs"], dropout, grid)
                value = task.loss(outputs, part["targets"])
                if "teacher_outputs" in part:
                    soft = soft_target_loss(
                        outputs, part["teacher_outputs"], numbers["temperature"]
                    )
                    value = (1.0 - numbers["alpha"]) * value + numbers["alpha"] * soft
                if "teacher_features" in part:
                    alike = similarity_loss(features, part["teacher_features"])
                    value = value + numbers["feature_weight"] * alike
                return value, changed

            (value, state), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            begun = numbers["since"] + index.astype(jnp.float32) - numbers["begin"]
            share = jnp.where(numbers["decay"] > 0, cosine(begun, numbers["steps"]), 1.0)
            rate = numbers["learning_rate"] * share
            optimizer = make_optimizer(
                name, rate, numbers["weight_decay"], LEARNED if learn else ()
            )
            updates, memory = optimizer.update(gradients, memory, params)
            params = mask_weights(optax.apply_updates(params, updates), masks)
            return (params, state, memory), value

        return _looped(step, self._slow_in_loops(prepared))

    @staticmethod
    def _slow_in_loops(prepared: Prepared) -> bool:
        """Whether an epoch is a loop over compiled steps instead of one compiled `scan`.

        XLA computes the gradient of a convolution about ten times slower inside a loop on the CPU
        (jax issue 12868; measured: 28 ms against 2.6 ms for 128 x 14 x 14 x 8 to 16 channels).
        """
        convolves = any(site.kind == "convolution" for site in prepared.sites.values())
        return convolves and jax.default_backend() == "cpu"


def _plainly(apply: Callable[..., Any]) -> Callable[..., Any]:
    """The model as it is, called as `train_on_grid`'s: no grid, and no features."""
    return lambda params, state, inputs, key, grid: (apply(params, state, inputs, key), None)


def _looped(step: Callable[..., Any], in_python: bool) -> Callable[..., Any]:
    """A program over all steps of a segment, from one step."""

    def scanned(
        carry: Carry,
        numbers: Mapping[str, jax.Array],
        order: jax.Array,
        begin: jax.Array,
        *rest: Any,
    ) -> tuple[Carry, jax.Array]:
        numbers = {**numbers, "begin": begin.astype(jnp.float32)}
        carry, losses = jax.lax.scan(
            lambda carry, given: step(carry, numbers, *given, *rest),
            carry,
            (order, begin + jnp.arange(len(order), dtype=jnp.int32)),
        )
        return carry, losses.mean()

    if not in_python:
        return jax.jit(scanned, donate_argnums=0)
    one_step = jax.jit(step, donate_argnums=0)

    def stepped(
        carry: Carry,
        numbers: Mapping[str, jax.Array],
        order: np.ndarray,
        begin: jax.Array,
        *rest: Any,
    ) -> tuple[Carry, jax.Array]:
        numbers = {**numbers, "begin": begin.astype(jnp.float32)}
        losses = []
        for index, rows in enumerate(order, int(begin)):
            carry, value = one_step(carry, numbers, rows, jnp.int32(index), *rest)
            losses.append(value)
        return carry, jnp.stack(losses).mean()

    return stepped


def _is_whole(recipe: Recipe, learned: str) -> bool:
    """Whether a learned step is of a site with whole numbers; others learn nothing."""
    treatment = recipe.treatments[learned.rpartition(".")[0]]
    return treatment.weights_quantized or treatment.inputs_quantized


def _prunes(run: _Run) -> bool:
    """Whether the timeline prunes, rather than the rounds of a lottery."""
    return run.chosen["pruning"] != "lottery_ticket" and any(
        epoch.pruned > 0 for epoch in timeline(run.candidate)
    )


def to_numpy(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The arrays on the host."""
    return {name: np.asarray(array) for name, array in arrays.items()}
