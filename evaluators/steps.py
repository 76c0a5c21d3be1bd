"""The compiled program that takes training steps: one graph for all numbers of a candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from paretax.evaluators.masking import mask_weights
from paretax.evaluators.packing import Packing
from paretax.evaluators.workbench import Numbers, Prepared
from paretax.spaces.compression import Grid
from paretax.spaces.distillation import output_loss, similarity_loss
from paretax.spaces.fake_quantization import LEARNED, train_on_grid
from paretax.spaces.training import cosine, make_optimizer, smoothed_loss
from paretax.tasks import Arrays, Task

BLOCK = 256
"""Steps that a program takes at most before the host looks at the losses."""

Carry = tuple[Arrays, Arrays, Any]
"""(params, state, state of the optimiser)"""


Noise = tuple[jax.Array, Numbers]
"""(key of the training, the candidate's numbers in the model)"""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the graph of a training step depends on, beside the model and its shapes.

    Args:
        optimizer: its name.
        quantized: whether the forward pass is on the grid.
        learned: whether the grid's steps are learned.
        watch: the site whose inputs are matched with the teacher's; None: none.
        structure: of the recipe, where the forward pass is on the grid.
        smoothed: whether labels are smoothed.
        clipped: whether gradients are clipped.
    """

    optimizer: str
    quantized: bool = False
    learned: bool = False
    watch: str | None = None
    structure: tuple[Any, ...] = ()
    smoothed: bool = False
    clipped: bool = False


def first_memory(optimizer: str, params: Arrays) -> Any:
    """The state of an optimiser before the first step."""
    return make_optimizer(optimizer, 0.0, 0.0).init(_wide(Packing(params).pack(params)))


def _wide(arrays: Arrays) -> Arrays:
    """At least float32, in which optimisers compute and keep their state.

    The squares of gradients, and Adam's epsilon, are nothing in float16, and a mean over a thousand
    steps does not move in bfloat16.
    """
    return {n: a.astype(jnp.promote_types(a.dtype, jnp.float32)) for n, a in arrays.items()}


def make_step(prepared: Prepared, task: Task, form: Form, packing: Packing) -> Callable[..., Any]:
    """One step: (carry, numbers, rows, step, noise, data, masks, grid) -> (carry, loss).

    Parameters, masks and the optimiser's state are packed. Parameters keep their dtypes; an update
    is rounded once, when it is added.

    `numbers` are scalars by name, `rows` the examples' places in `data`, `step` the number of
    steps before this one.
    """
    apply = prepared.apply
    if form.quantized or form.watch is not None:
        forward = train_on_grid(apply, prepared.sites, learn=form.learned, watch=form.watch)
    else:
        forward = _plainly(apply)

    match, decays = output_loss(task), None
    if form.learned:
        decays = packing.pack({n: float(not n.endswith(LEARNED)) for n in packing.shapes})

    def step(
        carry: Carry,
        numbers: Mapping[str, jax.Array],
        rows: jax.Array,
        step: jax.Array,
        noise: Noise,
        data: Mapping[str, jax.Array],
        masks: Arrays,
        grid: Grid,
    ) -> tuple[Carry, jax.Array]:
        vectors, state, memory = carry
        part = {name: array[rows] for name, array in data.items()}
        key = jax.random.fold_in(noise[0], step), noise[1]

        def loss(params: Arrays) -> tuple[jax.Array, Arrays]:
            (outputs, changed), features = forward(params, state, part["inputs"], key, grid)
            if jnp.issubdtype(outputs.dtype, jnp.floating):  # losses sum and square in float32
                outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
            if form.smoothed:
                share = numbers["label_smoothing"]
                value = smoothed_loss(task.loss, outputs, part["targets"], share)
            else:
                value = task.loss(outputs, part["targets"])
            if "teacher_outputs" in part and match is not None:
                soft = match(outputs, part["teacher_outputs"], numbers["temperature"])
                value = (1.0 - numbers["alpha"]) * value + numbers["alpha"] * soft
            if "teacher_features" in part:
                alike = similarity_loss(features, part["teacher_features"])
                value = value + numbers["feature_weight"] * alike
            return value, changed

        params = packing.unpack(vectors)
        (value, state), found = jax.value_and_grad(loss, has_aux=True)(params)
        gradients = mask_weights(_wide(packing.pack(found)), masks)
        if form.clipped:
            gradients = _clip(gradients, numbers["gradient_clip"])
        begun = step.astype(jnp.float32) - numbers["first_step"]
        share = jnp.where(numbers["decay"] > 0, cosine(begun, numbers["steps"]), 1.0)
        optimizer = make_optimizer(
            form.optimizer,
            numbers["learning_rate"] * share,
            numbers["weight_decay"],
            decays,
        )
        updates, memory = optimizer.update(gradients, memory, _wide(vectors))
        vectors = mask_weights(optax.apply_updates(vectors, updates), masks)
        return (vectors, state, memory), value

    return step


def _plainly(apply: Callable[..., Any]) -> Callable[..., Any]:
    """The model as it is, called as `train_on_grid`'s: no grid, and no features."""
    return lambda params, state, inputs, key, grid: (apply(params, state, inputs, key), None)


def _clip(gradients: Arrays, largest: jax.Array) -> Arrays:
    """Gradients whose global norm is at most `largest` (Pascanu et al., 2013, arXiv:1211.5063)."""
    norm = optax.tree.norm(gradients)
    factor = jnp.minimum(1.0, largest / jnp.maximum(norm, np.finfo(np.float32).tiny))
    return {name: gradient * factor for name, gradient in gradients.items()}


def _packed(
    prepared: Prepared, task: Task, form: Form, take: Callable[..., Any]
) -> Callable[..., tuple[Carry, jax.Array]]:
    """`take(step, carry, masks)` on packed parameters: (carry, masks) -> (carry, losses)."""

    def run(carry: Carry, masks: Arrays) -> tuple[Carry, jax.Array]:
        params, state, memory = carry
        packing = Packing(jax.tree.map(jax.typeof, params))
        whole = packing.pack({n: masks.get(n, True) for n in params}) if masks else {}
        step = make_step(prepared, task, form, packing)
        (vectors, state, memory), losses = take(step, (packing.pack(params), state, memory), whole)
        return (packing.unpack(vectors), state, memory), losses

    return run


def block_of(prepared: Prepared, task: Task, form: Form) -> Callable[..., tuple[Carry, jax.Array]]:
    """Many steps: (carry, numbers, rows, begin, count, noise, data, masks, grid).

    `rows` is (BLOCK, batch), of which the first `count` are taken; `begin` the number of steps
    before. Returns the carry, and the losses of the steps, (BLOCK,), 0 where none was taken.
    """

    def block(
        carry: Carry, numbers: Any, rows: jax.Array, begin: jax.Array, count: jax.Array, *rest: Any
    ) -> tuple[Carry, jax.Array]:
        noise, data, masks, grid = rest

        def take(step: Callable[..., Any], carry: Carry, masks: Arrays) -> Any:
            def body(i: jax.Array, so_far: tuple[Carry, jax.Array]) -> tuple[Carry, jax.Array]:
                carry, losses = so_far
                carry, value = step(carry, numbers, rows[i], begin + i, noise, data, masks, grid)
                return carry, losses.at[i].set(value.astype(jnp.float32))

            return jax.lax.fori_loop(0, count, body, (carry, jnp.zeros(len(rows), jnp.float32)))

        return _packed(prepared, task, form, take)(carry, masks)

    return block


def make_block(
    prepared: Prepared, task: Task, form: Form, *, on_host: bool
) -> Callable[..., tuple[Carry, np.ndarray]]:
    """The compiled program of `block_of`, which uses the memory of the carry that it is given.

    Args:
        prepared: the model.
        task: for its loss.
        form: of the steps.
        on_host: call a compiled step again and again, instead of one compiled loop.
    """
    if not on_host:
        program = jax.jit(block_of(prepared, task, form), donate_argnums=0)

        def whole(*given: Any) -> tuple[Carry, np.ndarray]:
            carry, losses = program(*given)
            return carry, np.asarray(losses)

        return whole

    def single(
        carry: Carry, numbers: Any, rows: jax.Array, number: jax.Array, *rest: Any
    ) -> tuple[Carry, jax.Array]:
        noise, data, masks, grid = rest

        def take(step: Callable[..., Any], carry: Carry, masks: Arrays) -> Any:
            return step(carry, numbers, rows, number, noise, data, masks, grid)

        return _packed(prepared, task, form, take)(carry, masks)

    one = jax.jit(single, donate_argnums=0)

    def looped(
        carry: Carry, numbers: Any, rows: np.ndarray, begin: int, count: int, *rest: Any
    ) -> tuple[Carry, np.ndarray]:
        losses = []
        for i in range(count):
            carry, value = one(carry, numbers, rows[i], np.int32(begin + i), *rest)
            losses.append(value)
        return carry, np.asarray([np.asarray(value) for value in losses])

    return looped


def loops_on_host(prepared: Prepared) -> bool:
    """Whether a compiled loop is slower than a loop over compiled steps.

    XLA computes the gradient of a convolution about ten times slower inside a loop on the CPU
    (jax issue 12868; measured: 28 ms against 2.6 ms for 128 x 14 x 14 x 8 to 16 channels).
    """
    convolves = any(site.kind == "convolution" for site in prepared.sites.values())
    return convolves and jax.default_backend() == "cpu"
