"""Lanes: trainings that advance block by block, and what the next block of each takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.compiling import compile_fast
from paretax.evaluators.course import Course, Stretch, followed_by
from paretax.evaluators.masking import Masker
from paretax.evaluators.randomness import training_key
from paretax.evaluators.steps import BLOCK, Carry, Form, first_memory
from paretax.evaluators.teacher import Lesson
from paretax.evaluators.workbench import Deployed, Numbers, Prepared, Workbench
from paretax.spaces import distillation, pruning, quantization, training
from paretax.spaces.compression import Grid
from paretax.spaces.dimensions import choose
from paretax.spaces.fake_quantization import LEARNED, first_steps
from paretax.spaces.recipe import Recipe
from paretax.spaces.schedule import Epoch, timeline
from paretax.tasks import Arrays

Watch = Callable[[int, Arrays, Arrays], None]
"""Is told (steps done, params, state) after each epoch."""


class DivergedError(ArithmeticError):
    """The loss or the outputs are not finite."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One candidate's training, as far as it does not change on the way."""

    candidate: Mapping[str, Any]
    chosen: Mapping[str, Any]
    prepared: Prepared
    deployed: Deployed
    recipe: Recipe
    laid: Sequence[Epoch]
    seed: int
    noise: jax.Array
    lesson: Lesson | None
    watch: Watch | None

    @property
    def batch(self) -> int:
        return int(self.chosen["batch_size"])

    @property
    def steps(self) -> int:
        """Of an epoch; examples that are left over are left out."""
        return len(self.prepared.features.train) // self.batch

    @property
    def end(self) -> int:
        """All steps."""
        return self.steps * len(self.laid)

    def check(self, losses: np.ndarray, step: int) -> None:
        """Refuse losses that are not finite.

        Args:
            losses: of steps one after another.
            step: steps before them.

        Raises:
            DivergedError: names the first such epoch.
        """
        bad = np.flatnonzero(~np.isfinite(losses))
        if bad.size:
            place = (step + int(bad[0])) // self.steps + 1
            raise DivergedError(
                f"the training loss is {losses[bad[0]]} in epoch {place} of {len(self.laid)}"
            )

    def step_after(self, epochs: int | None) -> int:
        """The steps of so many epochs, at most all; None: all."""
        return self.end if epochs is None else min(self.end, epochs * self.steps)

    @property
    def prunes(self) -> bool:
        """Whether the timeline prunes, rather than the rounds of a lottery."""
        by_rounds = self.chosen["pruning"] == "lottery_ticket"
        return not by_rounds and any(epoch.pruned > 0 for epoch in self.laid)

    @property
    def has_rounds(self) -> bool:
        """Whether it is a lottery, which trains again and again."""
        return bool(self.chosen["pruning"] == "lottery_ticket" and self.recipe.sparse)

    @property
    def learns_steps(self) -> bool:
        """Whether training on the grid learns the grid's steps."""
        return bool(self.chosen["qat"] == "lsq")


@dataclass(kw_only=True)
class Stand:
    """Where a training stands; owned by the one who advances it."""

    carry: Carry
    step: int = 0
    masks: Arrays = field(default_factory=dict)
    grid: Grid = field(default_factory=dict)
    pruned: float = -1.0
    gridded: int = -1  # the epoch that the grid is of
    course: Course = ()

    def goes_on(self, carry: Carry, count: int, *, lanes: int = 0, place: int = 0) -> None:
        """So many steps are done, in a program of so many lanes; 0: alone."""
        self.course = followed_by(self.course, Stretch(first=self.step, lanes=lanes, place=place))
        self.carry, self.step = carry, self.step + count


@dataclass(frozen=True, kw_only=True)
class Block:
    """What the program of a block takes beside the carry.

    Args:
        form: of the program.
        own: what is the lane's own, in the program's order; `None` where `data` stands.
        data: the examples, which lanes share.
    """

    form: Form
    own: tuple[Any, ...]
    data: Mapping[str, jax.Array]

    @property
    def args(self) -> tuple[Any, ...]:
        """All of it: numbers, rows, begin, count, noise, data, masks, grid."""
        return tuple(self.data if part is None else part for part in self.own)


class Lanes:
    """Prepares lanes and their blocks.

    Args:
        bench: the task.
        calibrator: finds grids.
    """

    def __init__(self, bench: Workbench, calibrator: Calibrator) -> None:
        self._bench, self._calibrator = bench, calibrator
        self.masker = Masker()
        self._programs: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(64)
        self._examples: LeastRecentlyUsed[dict[str, jax.Array]] = LeastRecentlyUsed(4)

    def lane(
        self,
        candidate: Mapping[str, Any],
        seed: int,
        lesson: Lesson | None,
        watch: Watch | None,
    ) -> Lane:
        """The lane of a candidate; see `Trainer.train`."""
        prepared = self._bench.prepared(candidate)
        settings = (*training.SETTINGS, *pruning.SETTINGS, *quantization.SETTINGS)
        return Lane(
            candidate=candidate,
            chosen=choose((*settings, *distillation.SETTINGS), candidate),
            prepared=prepared,
            deployed=self._bench.deployed(candidate),
            recipe=Recipe.of(candidate, prepared.sites),
            laid=timeline(candidate),
            seed=seed,
            noise=training_key(seed),
            lesson=lesson,
            watch=watch,
        )

    def start(self, lane: Lane, seed: int | None = None) -> Carry:
        """The carry before the first step, of the lane's seed or of another one."""
        optimizer = str(lane.chosen["optimizer"])

        def start(key: jax.Array, numbers: Numbers) -> Carry:
            params, state = lane.prepared.init(key, numbers)
            return params, state, first_memory(optimizer, params)

        key = (lane.prepared.key, "start", optimizer)
        program = self._programs.get(key, lambda: compile_fast(start))
        noise = lane.noise if seed is None else training_key(seed)
        carry: Carry = program(noise, lane.prepared.numbers)
        return carry

    def _alike(self, lane: Lane, index: int) -> int:
        """The step up to which epochs need no new masks and no new grid after this one."""
        first, after = lane.laid[index], index + 1
        calibrated = first.quantized and not lane.learns_steps
        if not calibrated and lane.watch is None:
            while after < len(lane.laid) and lane.laid[after] == first:
                after += 1
        return after * lane.steps

    def _set_up(self, lane: Lane, stand: Stand, index: int) -> None:
        """The masks and the grid of an epoch."""
        epoch = lane.laid[index]
        if lane.prunes and epoch.pruned != stand.pruned:
            # Also where nothing is gone yet: one program then serves all epochs.
            stand.pruned = epoch.pruned
            params, state, memory = stand.carry
            params, stand.masks = self.masker.prune(
                lane.prepared, lane.deployed, lane.candidate, params, state, epoch.pruned
            )
            stand.carry = params, state, memory
        begun = stand.gridded >= 0
        if epoch.quantized and stand.gridded != index and not (begun and lane.learns_steps):
            stand.gridded = index
            self._on_grid(lane, stand)

    def _on_grid(self, lane: Lane, stand: Stand) -> None:
        """The grid for the coming epoch, and learned steps where they begin now."""
        params, state, _ = stand.carry
        stand.grid = self._calibrator.grid(
            lane.prepared.key,
            lane.prepared.model.predict,
            lane.prepared.sites,
            lane.recipe,
            params,
            state,
            lane.prepared.features.train.inputs,
            {},
        )
        if lane.learns_steps:
            params = {**params, **first_steps(stand.grid)}
            stand.carry = params, state, first_memory(str(lane.chosen["optimizer"]), params)

    def next(self, lane: Lane, stand: Stand, until: int) -> tuple[Block, int]:
        """The next block of a lane, whose stand is set up for it, and how many steps it takes.

        Args:
            lane: what is trained.
            stand: where it stands; gets the masks and the grid of the coming epoch.
            until: steps that may be done after it.
        """
        index = stand.step // lane.steps
        self._set_up(lane, stand, index)
        count = min(until, self._alike(lane, index), stand.step + BLOCK) - stand.step
        return self._block(lane, stand, count), count

    def _block(self, lane: Lane, stand: Stand, count: int) -> Block:
        epoch = lane.laid[stand.step // lane.steps]
        chosen, prepared = lane.chosen, lane.prepared
        lesson = lane.lesson if epoch.distilled else None
        data, watch = self._data(prepared), None
        if lesson is not None:
            data = {**data, **lesson.arrays}
            if chosen["feature_weight"] > 0 and lesson.features is not None:
                watch = list(prepared.sites)[-1]
                data["teacher_features"] = lesson.features
        form = Form(
            optimizer=str(chosen["optimizer"]),
            quantized=epoch.quantized,
            learned=epoch.quantized and lane.learns_steps,
            watch=watch,
            structure=lane.recipe.structure if epoch.quantized else (),
            smoothed=chosen["label_smoothing"] > 0,
            clipped=chosen["gradient_clip"] > 0,
        )
        numbers = {
            "learning_rate": chosen["learning_rate"] * epoch.rate,
            "decay": chosen["learning_rate_decay"] == "cosine",
            "first_step": epoch.first * lane.steps,
            "steps": epoch.length * lane.steps,
            **{n: chosen[n] for n in ("weight_decay", "gradient_clip", "label_smoothing")},
            **{n: chosen[n] for n in ("alpha", "temperature", "feature_weight")},
        }
        return Block(
            form=form,
            own=(
                {name: np.float32(value) for name, value in numbers.items()},
                self._rows(lane, stand.step, count),
                np.int32(stand.step),
                np.int32(count),
                (lane.noise, prepared.numbers),
                None,
                stand.masks,
                stand.grid if epoch.quantized else {},
            ),
            data=data,
        )

    def _rows(self, lane: Lane, step: int, count: int) -> np.ndarray:
        """The examples of steps, (BLOCK, batch), each epoch in an order of its own."""
        found = np.zeros((BLOCK, lane.batch), np.int32)
        examples = len(lane.prepared.features.train)
        done = 0
        while done < count:
            epoch, offset = divmod(step + done, lane.steps)
            order = np.random.default_rng([lane.seed, epoch]).permutation(examples)
            part = order[: lane.steps * lane.batch].reshape(-1, lane.batch)[offset:][: count - done]
            found[done : done + len(part)] = part
            done += len(part)
        return found

    def _data(self, prepared: Prepared) -> dict[str, jax.Array]:
        train = prepared.features.train
        return self._examples.get(
            prepared.features.key,
            lambda: {"inputs": jnp.asarray(train.inputs), "targets": jnp.asarray(train.targets)},
        )

    def finish(self, lane: Lane, carry: Carry) -> tuple[Arrays, Arrays, Arrays]:
        """Parameters, state and learned steps of a trained lane: at its full size, pruned."""
        params, state = carry[0], carry[1]
        learned = {n: v for n, v in params.items() if n.endswith(LEARNED)}
        params = {n: v for n, v in params.items() if n not in learned}
        learned = {n: v for n, v in learned.items() if _is_whole(lane.recipe, n)}
        if lane.deployed.removed or lane.deployed.recipe.sparse:
            params, _ = self.masker.prune(
                lane.prepared, lane.deployed, lane.candidate, params, state, 1.0
            )
        return params, state, learned


def _is_whole(recipe: Recipe, learned: str) -> bool:
    """Whether a learned step is of a site with whole numbers; others learn nothing."""
    treatment = recipe.treatments[learned.rpartition(".")[0]]
    return treatment.weights_quantized or treatment.inputs_quantized
