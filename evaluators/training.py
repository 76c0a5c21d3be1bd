"""Training of candidates, by compiled programs that later candidates use again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.calibrating import Calibrator
from paretax.evaluators.course import Course
from paretax.evaluators.lanes import DivergedError, Lane, Lanes, Stand, Watch
from paretax.evaluators.masking import mask_weights
from paretax.evaluators.population import Population
from paretax.evaluators.steps import Carry, Form, loops_on_host, make_block
from paretax.evaluators.teacher import Lesson
from paretax.evaluators.workbench import Prepared, Workbench
from paretax.spaces.pruning import lottery_rounds
from paretax.tasks import Arrays

Trained = tuple[Arrays, Arrays, Arrays]
"""(parameters, state, learned steps), by name: of a model at its full size, pruned"""

Axis = Literal["auto", "loop", "batch"]
"""Whether a population trains lane by lane, in one program with a batch axis, or as is faster."""


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


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training, and where it stands."""

    lane: Lane
    stand: Stand


class Trainer:
    """Trains candidates of one task.

    A compiled program depends on the model, the batch size, the optimiser, and which techniques
    take part; all else are numbers.

    Args:
        bench: the task.
        calibrator: finds grids.
        axis: how populations are trained.
    """

    def __init__(self, bench: Workbench, calibrator: Calibrator, axis: Axis = "auto") -> None:
        self._bench, self._axis = bench, axis
        self._lanes = Lanes(bench, calibrator)
        self._population = Population(bench.task, self._lanes)
        self._programs: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(128)

    def train(
        self,
        candidate: Mapping[str, Any],
        seed: int,
        lesson: Lesson | None = None,
        watch: Watch | None = None,
    ) -> Trained:
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
        training = self.begin(candidate, seed, lesson, watch)
        self.advance(training)
        return self.finish(training)

    def begin(
        self,
        candidate: Mapping[str, Any],
        seed: int,
        lesson: Lesson | None = None,
        watch: Watch | None = None,
    ) -> Training:
        """A training before its first step; see `train`."""
        lane = self._lanes.lane(candidate, seed, lesson, watch)
        return Training(lane=lane, stand=Stand(carry=self._lanes.start(lane)))

    def advance(self, training: Training, epochs: int | None = None) -> None:
        """Train on until so many epochs are done; None: to the end.

        Args:
            training: is moved on. A lottery is trained to its end in any case.
            epochs: from the beginning.

        Raises:
            DivergedError: the loss of a step is not finite.
        """
        lane, stand = training.lane, training.stand
        if lane.has_rounds:
            *_, ticket = self._lottery(lane)
            stand.carry, stand.step = ticket.carry, lane.end
            return
        self._advance(lane, stand, lane.step_after(epochs))

    def retrace(self, training: Training, epochs: int | None, course: Course) -> None:
        """Train on as `advance` does, the way that a training went before.

        Args:
            training: is moved on; where there is a course, it has not begun.
            epochs: from the beginning.
            course: whether it ran alone, and among how many lanes; empty: as `advance` does.

        Raises:
            DivergedError: the loss of a step is not finite.
        """
        lane, stand = training.lane, training.stand
        end = lane.step_after(epochs)
        for place, stretch in enumerate(course):
            after = course[place + 1].first if place + 1 < len(course) else end
            self._advance(lane, stand, min(stretch.first, end))
            if stretch.lanes:
                self._population.retrace(lane, stand, stretch, min(after, end))
        self.advance(training, epochs)

    def finish(self, training: Training) -> Trained:
        """What a training gives when it ends here."""
        return self._lanes.finish(training.lane, training.stand.carry)

    @property
    def may_batch(self) -> bool:
        """Whether a population may train in one program here.

        In `auto` never on the CPU: a lane at a time keeps the core as busy (measured, see
        benchmarks/scaling.py), and then each lane's bits are those of training alone.
        """
        return self._axis == "batch" or (self._axis == "auto" and jax.default_backend() != "cpu")

    def advance_together(
        self, members: Sequence[Training], epochs: Sequence[int | None]
    ) -> dict[int, DivergedError | None]:
        """Train a population on, in one program.

        A lane that diverges does not disturb the others.

        Args:
            members: are moved on.
            epochs: as of `advance`, for each of them.

        Returns:
            By place, what `advance` raises; nothing for lotteries, and nothing at all where the
            device trains lane by lane: those have not moved.
        """
        places = [i for i, member in enumerate(members) if not member.lane.has_rounds]
        lanes = [members[i].lane for i in places]
        if not self.may_batch or len(places) < 2:
            return {}
        if self._axis == "auto" and not self._population.pays(lanes):
            return {}
        until = [members[i].lane.step_after(epochs[i]) for i in places]
        failed = self._population.advance(lanes, [members[i].stand for i in places], until)
        return {i: failed.get(place) for place, i in enumerate(places)}

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
        yield from self._lottery(self._lanes.lane(candidate, seed, None, watch))

    def fresh(
        self, candidate: Mapping[str, Any], ticket: Ticket, seed: int, watch: Watch | None = None
    ) -> Ticket:
        """The control: the same mask, trained from initial weights of another seed."""
        lane = self._lanes.lane(candidate, seed, None, watch)
        carry = self._masked(lane, self._lanes.start(lane, seed), ticket.masks, 0)
        return Ticket(round=ticket.round, masks=ticket.masks, carry=carry)

    def _lottery(self, lane: Lane) -> Iterator[Ticket]:
        rewind = int(lane.chosen["rewind_step"])
        highest = max(t.sparsity for t in lane.deployed.recipe.treatments.values())
        rounds, _ = lottery_rounds(lane.candidate, highest)
        stand = Stand(carry=self._lanes.start(lane))
        self._advance(lane, stand, rewind)
        start = _copy(stand.carry)
        self._advance(lane, stand, lane.end)
        carry = stand.carry
        yield Ticket(round=0, masks={}, carry=carry)
        for number in range(1, rounds + 1):
            _, masks = self._lanes.masker.prune(
                lane.prepared, lane.deployed, lane.candidate, *carry[:2], 0.0, number / rounds
            )
            if number == rounds and lane.chosen["ticket"] == "fresh":
                carry = self._masked(lane, self._lanes.start(lane, lane.seed ^ 0x5EED), masks, 0)
            else:
                carry = self._masked(lane, _copy(start), masks, rewind)
            yield Ticket(round=number, masks=masks, carry=carry)

    def _masked(self, lane: Lane, carry: Carry, masks: Arrays, step: int) -> Carry:
        """The end of a training under fixed masks, from the step where the carry stands."""
        carry = (mask_weights(carry[0], masks), *carry[1:])
        stand = Stand(carry=carry, step=step, masks=masks)
        self._advance(lane, stand, lane.end)
        return stand.carry

    def _advance(self, lane: Lane, stand: Stand, until: int) -> None:
        """Train until so many steps are done.

        Raises:
            DivergedError: the loss of a step is not finite.
        """
        prepared = lane.prepared
        while stand.step < until:
            block, count = self._lanes.next(lane, stand, until)
            stand.carry, losses = self._program(prepared, block.form)(stand.carry, *block.args)
            lane.check(losses[:count], stand.step)
            stand.goes_on(stand.carry, count)
            if lane.watch is not None and stand.step % lane.steps == 0:
                lane.watch(stand.step, stand.carry[0], stand.carry[1])

    def _program(self, prepared: Prepared, form: Form) -> Callable[..., tuple[Carry, np.ndarray]]:
        return self._programs.get(
            (prepared.key, form),
            lambda: make_block(prepared, self._bench.task, form, on_host=loops_on_host(prepared)),
        )


def _copy(carry: Carry) -> Carry:
    """A carry that a program may not overwrite when it takes the other one."""
    copied: Carry = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), carry)
    return copied


def to_numpy(arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The arrays on the host."""
    return {name: np.asarray(array) for name, array in arrays.items()}
