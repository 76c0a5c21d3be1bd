"""Populations: lanes of one signature that advance together, in one program with a batch axis.

Each lane computes what it would alone, up to rounding: on accelerators, products over a batch of
matrices are summed in another order than those over one. Weights of the lanes of a batch differ
from those of training alone by at most 1e-4 of the largest after a few hundred steps of the tests.
What a lane computes does not depend on what the others do, so copies of it retrace its training.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from paretax.evaluators.cache import LeastRecentlyUsed
from paretax.evaluators.course import MOST_LANES, Stretch
from paretax.evaluators.lanes import Block, DivergedError, Lane, Lanes, Stand
from paretax.evaluators.runtime import cache_folder
from paretax.evaluators.steps import Carry, block_of
from paretax.tasks import Task

_SHARE = 0.9  # of the device's memory that a program may take

_Key = tuple[Any, ...]


class Population:
    """Trains lanes together.

    Args:
        task: whose loss is minimised.
        lanes: prepares their blocks.
    """

    def __init__(self, task: Task, lanes: Lanes) -> None:
        self._task, self._lanes = task, lanes
        self._programs: LeastRecentlyUsed[Callable[..., Any]] = LeastRecentlyUsed(32)
        self._fits: dict[_Key, int] = {}  # lanes at once, where the memory does not hold more

    def advance(
        self, members: Sequence[Lane], stands: Sequence[Stand], until: Sequence[int]
    ) -> dict[int, DivergedError]:
        """Train members until so many steps of each are done.

        Args:
            members: the lanes.
            stands: where each stands; they are moved on.
            until: steps that are done then.

        Returns:
            The errors of those that diverged, by place.
        """
        failed: dict[int, DivergedError] = {}
        while True:
            groups: dict[_Key, list[tuple[int, Block, int]]] = {}
            for i, (lane, stand) in enumerate(zip(members, stands, strict=True)):
                if i in failed or stand.step >= until[i]:
                    continue
                block, count = self._lanes.next(lane, stand, until[i])
                groups.setdefault(_key(lane, stand, block), []).append((i, block, count))
            if not groups:
                return failed
            for key, group in groups.items():
                self._advance(key, group, members, stands, failed)

    def retrace(self, lane: Lane, stand: Stand, stretch: Stretch, until: int) -> None:
        """Train a lane on, as it was trained among others: with copies of it in their places.

        Args:
            lane: what is trained.
            stand: where it stands; it is moved on.
            stretch: the program's width, and the lane's place in it.
            until: steps that are done then.

        Raises:
            DivergedError: the loss of a step is not finite.
        """
        width, place = stretch.lanes, stretch.place
        while stand.step < until:
            block, count = self._lanes.next(lane, stand, until)
            key = _key(lane, stand, block)
            after, losses = self._run(key, lane, [stand.carry] * width, [block] * width)
            lane.check(losses[place][:count], stand.step)
            stand.goes_on(after[place], count, lanes=width, place=place)

    def pays(self, members: Sequence[Lane]) -> bool:
        """Whether a batch axis is faster on this device than lane by lane; measured once."""
        if len(members) < 2:
            return False
        lane = members[0]
        stand = Stand(carry=self._lanes.start(lane))
        block, _ = self._lanes.next(lane, stand, lane.end)
        width = min(_power_of_two(len(members)), MOST_LANES)
        about = [jax.devices()[0].device_kind, str(_key(lane, stand, block)), str(width)]
        name = hashlib.sha256("\n".join(about).encode()).hexdigest()[:24]
        place = cache_folder("lanes") / f"{name}.json"
        with suppress(OSError, ValueError, KeyError):  # not measured yet, or not readable
            return bool(json.loads(place.read_text("utf-8"))["batch_pays"])
        seconds = {n: self._time(lane, stand, block, n) for n in (1, width)}
        found = seconds[width] < width * seconds[1]
        with suppress(OSError):  # no place to keep it: it is measured again next time
            place.write_text(json.dumps({"batch_pays": found, "seconds": seconds}) + "\n", "utf-8")
        return found

    def _time(self, lane: Lane, stand: Stand, block: Block, width: int) -> float:
        """Seconds of a block for so many copies of a lane, once compiled."""
        key = _key(lane, stand, block)
        carries, blocks = [stand.carry] * width, [block] * width
        self._run(key, lane, carries, blocks)
        start = time.perf_counter()
        self._run(key, lane, carries, blocks)
        return time.perf_counter() - start

    def _advance(
        self,
        key: _Key,
        group: Sequence[tuple[int, Block, int]],
        members: Sequence[Lane],
        stands: Sequence[Stand],
        failed: dict[int, DivergedError],
    ) -> None:
        """One block of each lane of a group, as many lanes at a time as the memory holds."""
        place = 0
        while place < len(group):
            width = min(MOST_LANES, self._fits.get(key, MOST_LANES))
            part = group[place : place + width]
            carries = [stands[i].carry for i, _, _ in part]
            try:
                after, losses = self._run(
                    key, members[part[0][0]], carries, [block for _, block, _ in part]
                )
            except (jax.errors.JaxRuntimeError, MemoryError) as error:
                exhausted = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
                if not exhausted or len(part) == 1:
                    raise
                self._fits[key] = _power_of_two(len(part)) // 2
                continue
            lanes = _power_of_two(len(part))
            for lane, (i, _, count) in enumerate(part):
                try:
                    members[i].check(losses[lane][:count], stands[i].step)
                except DivergedError as error:
                    failed[i] = error
                stands[i].goes_on(after[lane], count, lanes=lanes, place=lane)
            place += len(part)

    def _run(
        self, key: _Key, lane: Lane, carries: list[Carry], blocks: list[Block]
    ) -> tuple[list[Carry], np.ndarray]:
        """The program on these lanes, filled up with lanes that take no step."""
        width = _power_of_two(len(blocks))
        spare = width - len(blocks)
        own = [block.own for block in blocks] + [_idle(blocks[0].own)] * spare
        carry = _stack([*carries, *[carries[0]] * spare])
        numbers, rows, begin, count, noise, _, masks, grid = _stack(own)
        args = (carry, numbers, rows, begin, count, noise, blocks[0].data, masks, grid)
        args = _sharded(args, width)
        program = self._programs.get(
            (key, width), lambda: self._compile(lane, blocks[0], args, width)
        )
        after, losses = program(*args)
        return _unstack(after, len(blocks)), np.asarray(losses)[: len(blocks)]

    def _compile(self, lane: Lane, block: Block, args: Any, width: int) -> Callable[..., Any]:
        """The program for so many lanes.

        Raises:
            MemoryError: the compiler says that the device does not hold it.
        """
        one = block_of(lane.prepared, self._task, block.form)
        many = jax.vmap(one, in_axes=(0, 0, 0, 0, 0, 0, None, 0, 0))
        compiled = jax.jit(many, donate_argnums=0).lower(*args).compile()
        limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
        memory = compiled.memory_analysis()
        if limit is not None and memory is not None:
            needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
            if needed > _SHARE * limit:
                raise MemoryError(f"{width} lanes need {needed} bytes of {limit}")
        return compiled


def _key(lane: Lane, stand: Stand, block: Block) -> _Key:
    """Blocks of equal keys may share a program and its data.

    Masks are part of it by their shapes: one of channels alone has one for each channel, and
    another of the same weight one for each element.
    """
    prepared = lane.prepared
    own, data = _shapes((stand.carry, block.own)), _shapes(block.data)
    return prepared.key, block.form, lane.batch, prepared.features.key, own, data


def _shapes(tree: Any) -> tuple[str, ...]:
    """The structure of a tree, and its arrays' shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    return (str(structure), *(f"{np.shape(a)} {jnp.result_type(a)}" for a in leaves))


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _idle(own: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a lane takes that only fills up."""
    return (*own[:3], np.int32(0), *own[4:])


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstack(tree: Any, count: int) -> list[Any]:
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(count)]


def _sharded(args: tuple[Any, ...], width: int) -> tuple[Any, ...]:
    """Lanes spread over all local devices, the data on each of them."""
    devices = jax.local_devices()
    if len(devices) == 1 or width % len(devices):
        return args
    mesh = Mesh(np.asarray(devices), ("lanes",))
    by_lane, everywhere = (NamedSharding(mesh, PartitionSpec(*p)) for p in (("lanes",), ()))
    return tuple(
        jax.device_put(part, everywhere if place == 6 else by_lane)
        for place, part in enumerate(args)
    )
