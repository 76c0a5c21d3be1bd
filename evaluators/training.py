"""Training of candidates, by compiled programs that later candidates use again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.compiling import compile_fast
from paretax.evaluators.masking import Masker, mask_weights
from paretax.evaluators.randomness import training_key
from paretax.evaluators.steps import (
    BLOCK,
    Carry,
    Form,
    first_memory,
    loops_on_host,
    make_block,
)
from paretax.evaluators.teacher import Lesson
from paretax.evaluators.workbench import Deployed, Prepared, Workbench
from paretax.spaces import distillation, pruning, quantization, training
from paretax.spaces.compression import Grid
from paretax.spaces.dimensions import choose
from paretax.spaces.fake_quantization import LEARNED, first_steps
from paretax.spaces.pruning import lottery_rounds
from paretax.spaces.recipe import Recipe
from paretax.spaces.schedule import Epoch, timeline
from paretax.tasks import Arrays

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

    @property
    def prunes(self) -> bool:
        """Whether the timeline prunes, rather than the rounds of a lottery."""
        by_rounds = self.chosen["pruning"] == "lottery_ticket"
        return not by_rounds and any(epoch.pruned > 0 for epoch in self.laid)

    @property
    def learns_steps(self) -> bool:
        """Whether training on the grid learns the grid's steps."""
        return bool(self.chosen["qat"] == "lsq")


@dataclass(kw_only=True)
class _Stand:
    """Where a training stands; owned by the one who advances it."""

    carry: Carry
    step: int = 0
    masks: Arrays = field(default_factory=dict)
    grid: Grid = field(default_factory=dict)
    pruned: float = -1.0
    gridded: int = -1  # the epoch that the grid is of


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
        self._programs: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(128)
        self._examples: LeastRecentlyUsed[dict[str, jax.Array]] = LeastRecentlyUsed(4)

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
            DivergedError: the loss of a step is not finite.
        """
        run = self._run(candidate, seed, lesson, watch)
        if run.chosen["pruning"] == "lottery_ticket" and run.recipe.sparse:
            *_, ticket = self._lottery(run)
            carry = ticket.carry
        else:
            stand = _Stand(carry=self._start(run))
            self._advance(run, stand, run.end)
            carry = stand.carry
        params, state = carry[0], carry[1]
        learned = {n: v for n, v in params.items() if n.endswith(LEARNED)}
        params = {n: v for n, v in params.items() if n not in learned}
        learned = {n: v for n, v in learned.items() if _is_whole(run.recipe, n)}
        if run.deployed.removed or run.deployed.recipe.sparse:
            params, _ = self._masker.prune(
                run.prepared, run.deployed, candidate, params, state, 1.0
            )
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
            deployed=self._bench.deployed(candidate),
            recipe=Recipe.of(candidate, prepared.sites),
            laid=timeline(candidate),
            seed=seed,
            noise=training_key(seed),
            lesson=lesson,
            watch=watch,
        )

    def _start(self, run: _Run, seed: int | None = None) -> Carry:
        optimizer = str(run.chosen["optimizer"])

        def start(key: jax.Array) -> Carry:
            params, state = run.prepared.model.init(key)
            return params, state, first_memory(optimizer, params)

        key = (run.prepared.key, "start", optimizer)
        program = self._programs.get(key, lambda: compile_fast(start))
        carry: Carry = program(run.noise if seed is None else training_key(seed))
        return carry

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
        carry = self._masked(run, self._start(run, seed), ticket.masks, 0)
        return Ticket(round=ticket.round, masks=ticket.masks, carry=carry)

    def _lottery(self, run: _Run) -> Iterator[Ticket]:
        rewind = int(run.chosen["rewind_step"])
        highest = max(t.sparsity for t in run.deployed.recipe.treatments.values())
        rounds, _ = lottery_rounds(run.candidate, highest)
        stand = _Stand(carry=self._start(run))
        self._advance(run, stand, rewind)
        start = _copy(stand.carry)
        self._advance(run, stand, run.end)
        carry = stand.carry
        yield Ticket(round=0, masks={}, carry=carry)
        for number in range(1, rounds + 1):
            _, masks = self._masker.prune(
                run.prepared, run.deployed, run.candidate, *carry[:2], 0.0, number / rounds
            )
            if number == rounds and run.chosen["ticket"] == "fresh":
                carry = self._masked(run, self._start(run, run.seed ^ 0x5EED), masks, 0)
            else:
                carry = self._masked(run, _copy(start), masks, rewind)
            yield Ticket(round=number, masks=masks, carry=carry)

    def _masked(self, run: _Run, carry: Carry, masks: Arrays, step: int) -> Carry:
        """The end of a training under fixed masks, from the step where the carry stands."""
        carry = (mask_weights(carry[0], masks), *carry[1:])
        stand = _Stand(carry=carry, step=step, masks=masks)
        self._advance(run, stand, run.end)
        return stand.carry

    def _advance(self, run: _Run, stand: _Stand, until: int) -> None:
        """Train until so many steps are done.

        Raises:
            DivergedError: the loss of a step is not finite.
        """
        while stand.step < until:
            index = stand.step // run.steps
            epoch = run.laid[index]
            self._set_up(run, stand, index, epoch)
            count = min(until, self._alike(run, index)) - stand.step
            while count > 0:
                taken = min(count, BLOCK)
                losses = self._block(run, stand, epoch, taken)
                bad = np.flatnonzero(~np.isfinite(losses[:taken]))
                if bad.size:
                    place = (stand.step + int(bad[0])) // run.steps + 1
                    raise DivergedError(
                        f"the training loss is {losses[bad[0]]} in epoch {place} of {len(run.laid)}"
                    )
                stand.step += taken
                count -= taken
            if run.watch is not None and stand.step % run.steps == 0:
                run.watch(stand.step, stand.carry[0], stand.carry[1])

    def _alike(self, run: _Run, index: int) -> int:
        """The step up to which epochs need no new masks and no new grid after this one."""
        first, after = run.laid[index], index + 1
        calibrated = first.quantized and not run.learns_steps
        if not calibrated and run.watch is None:
            while after < len(run.laid) and run.laid[after] == first:
                after += 1
        return after * run.steps

    def _set_up(self, run: _Run, stand: _Stand, index: int, epoch: Epoch) -> None:
        """The masks and the grid of an epoch."""
        if run.prunes and epoch.pruned != stand.pruned:
            # Also where nothing is gone yet: one program then serves all epochs.
            stand.pruned = epoch.pruned
            params, state, memory = stand.carry
            params, stand.masks = self._masker.prune(
                run.prepared, run.deployed, run.candidate, params, state, epoch.pruned
            )
            stand.carry = params, state, memory
        begun = stand.gridded >= 0
        if epoch.quantized and stand.gridded != index and not (begun and run.learns_steps):
            stand.gridded = index
            self._on_grid(run, stand)

    def _on_grid(self, run: _Run, stand: _Stand) -> None:
        """The grid for the coming epoch, and learned steps where they begin now."""
        params, state, _ = stand.carry
        stand.grid = self._calibrator.grid(
            run.prepared.key,
            run.prepared.model.predict,
            run.prepared.sites,
            run.recipe,
            params,
            state,
            run.prepared.features.train.inputs,
            {},
        )
        if run.learns_steps:
            params = {**params, **first_steps(stand.grid)}
            stand.carry = params, state, first_memory(str(run.chosen["optimizer"]), params)

    def _rows(self, run: _Run, step: int, count: int) -> np.ndarray:
        """The examples of steps, (BLOCK, batch), each epoch in an order of its own."""
        found = np.zeros((BLOCK, run.batch), np.int32)
        examples = len(run.prepared.features.train)
        done = 0
        while done < count:
            epoch, offset = divmod(step + done, run.steps)
            order = np.random.default_rng([run.seed, epoch]).permutation(examples)
            part = order[: run.steps * run.batch].reshape(-1, run.batch)[offset:][: count - done]
            found[done : done + len(part)] = part
            done += len(part)
        return found

    def _block(self, run: _Run, stand: _Stand, epoch: Epoch, count: int) -> np.ndarray:
        """Take steps, and return their losses."""
        chosen, prepared = run.chosen, run.prepared
        lesson = run.lesson if epoch.distilled else None
        data, watch = self._data(prepared), None
        if lesson is not None:
            data = {**data, **lesson.arrays}
            if chosen["feature_weight"] > 0 and lesson.features is not None:
                watch = list(prepared.sites)[-1]
                data["teacher_features"] = lesson.features
        form = Form(
            optimizer=str(chosen["optimizer"]),
            quantized=epoch.quantized,
            learned=epoch.quantized and run.learns_steps,
            watch=watch,
            structure=run.recipe.structure if epoch.quantized else (),
            smoothed=chosen["label_smoothing"] > 0,
            clipped=chosen["gradient_clip"] > 0,
        )
        program = self._programs.get(
            (prepared.key, form),
            lambda: make_block(prepared, self._bench.task, form, on_host=loops_on_host(prepared)),
        )
        numbers = {
            "learning_rate": chosen["learning_rate"] * epoch.rate,
            "decay": chosen["learning_rate_decay"] == "cosine",
            "first_step": epoch.first * run.steps,
            "steps": epoch.length * run.steps,
            **{n: chosen[n] for n in ("weight_decay", "gradient_clip", "label_smoothing")},
            **{n: chosen[n] for n in ("alpha", "temperature", "feature_weight")},
        }
        losses: np.ndarray
        stand.carry, losses = program(
            stand.carry,
            {name: np.float32(value) for name, value in numbers.items()},
            self._rows(run, stand.step, count),
            np.int32(stand.step),
            np.int32(count),
            run.noise,
            data,
            stand.masks,
            stand.grid if epoch.quantized else {},
        )
        return losses

    def _data(self, prepared: Prepared) -> dict[str, jax.Array]:
        train = prepared.features.train
        return self._examples.get(
            prepared.features.key,
            lambda: {"inputs": jnp.asarray(train.inputs), "targets": jnp.asarray(train.targets)},
        )


def _copy(carry: Carry) -> Carry:
    """A carry that a program may not overwrite when it takes the other one."""
    copied: Carry = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), carry)
    return copied


def _is_whole(recipe: Recipe, learned: str) -> bool:
    """Whether a learned step is of a site with whole numbers; others learn nothing."""
    treatment = recipe.treatments[learned.rpartition(".")[0]]
    return treatment.weights_quantized or treatment.inputs_quantized


def to_numpy(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The arrays on the host."""
    return {name: np.asarray(array) for name, array in arrays.items()}
