"""Weights in other layouts than they are stored in are compressed like all others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.fake_quantization import train_on_grid

if TYPE_CHECKING:
    from tests.spaces.compression.conftest import Programs

close = np.testing.assert_allclose
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One product.

    Args:
        weights: shapes, by name.
        run: (weights, inputs) -> outputs; linear in each.
        x: shape of the inputs.
        axes: along which each weight's scales are shared.
        adds: multiply-adds of one example, by weight.
    """

    weights: Mapping[str, Shape]
    run: Callable[[Any, Any], Any]
    x: Shape
    axes: Mapping[str, tuple[int, ...]]
    adds: Mapping[str, int]


def one(shape: Shape, run: Any, x: Shape, axes: tuple[int, ...], adds: int) -> Case:
    return Case(weights={"w": shape}, run=run, x=x, axes={"w": axes}, adds={"w": adds})


def several(count: int, shape: Shape, run: Any, x: Shape, axes: tuple[int, ...], adds: int) -> Case:
    names = [f"w{i}" for i in range(count)]
    return Case(
        weights=dict.fromkeys(names, shape),
        run=run,
        x=x,
        axes=dict.fromkeys(names, axes),
        adds=dict.fromkeys(names, adds),
    )


def convolve(x: Any, w: Any, numbers: tuple[str, str, str], **more: Any) -> Any:
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers, **more)


NHWC = ("NHWC", "HWIO", "NHWC")
CASES: dict[str, Case] = {
    "transposed": one((6, 4), lambda p, x: x @ p["w"].T, (5, 4), (1,), 24),
    "transposed twice": one((4, 6), lambda p, x: x @ p["w"].T.T, (5, 4), (0,), 24),
    "transposed by einsum": one(
        (6, 4), lambda p, x: jnp.einsum("bi,oi->bo", x, p["w"]), (5, 4), (1,), 24
    ),
    "on the left": one((6, 4), lambda p, x: (p["w"] @ x.T).T, (5, 4), (1,), 24),
    "inputs of two axes, merged": one(
        (2, 3, 6), lambda p, x: x @ p["w"].reshape(6, 6), (5, 6), (0, 1), 36
    ),
    "outputs of two axes, merged": one(
        (4, 2, 3), lambda p, x: x @ p["w"].reshape(4, 6), (5, 4), (0,), 24
    ),
    "outputs split": one(
        (4, 6), lambda p, x: jnp.einsum("bi,ihd->bhd", x, p["w"].reshape(4, 2, 3)), (5, 4), (0,), 24
    ),
    "inputs split": one(
        (6, 4),
        lambda p, x: jnp.einsum("bhd,hdo->bo", x.reshape(5, 2, 3), p["w"].reshape(2, 3, 4)),
        (5, 6),
        (0,),
        24,
    ),
    "inputs and outputs mixed": one(
        (4, 6), lambda p, x: x @ p["w"].reshape(6, 4), (5, 6), (0, 1), 24
    ),
    "flat, then cut": one((40,), lambda p, x: x @ p["w"][8:32].reshape(4, 6), (5, 4), (0,), 24),
    "flattened on the way": one(
        (4, 6), lambda p, x: x @ p["w"].ravel().reshape(4, 6), (5, 4), (1, 0), 24
    ),
    "with a new axis": one(
        (4, 6), lambda p, x: jnp.matmul(x[None], p["w"][None])[0], (5, 4), (0,), 24
    ),
    "squeezed": one((1, 4, 6, 1), lambda p, x: x @ p["w"].squeeze(), (5, 4), (1,), 24),
    "repeated": one(
        (4, 6),
        lambda p, x: jnp.matmul(jnp.stack([x, 2 * x]), jnp.broadcast_to(p["w"], (2, 4, 6))).sum(0),
        (5, 4),
        (0,),
        48,
    ),
    "one of a stack": one((3, 4, 6), lambda p, x: x @ p["w"][1], (5, 4), (1,), 24),
    "each of a stack": one((3, 4, 6), lambda p, x: sum(x @ w for w in p["w"]), (5, 4), (1,), 72),
    "unstacked": one(
        (4, 3, 6), lambda p, x: sum(x @ w for w in jnp.unstack(p["w"], axis=1)), (5, 4), (0,), 72
    ),
    "stacked in the middle": one((4, 3, 6), lambda p, x: x @ p["w"][:, -1], (5, 4), (0,), 24),
    "looked up in a stack": one(
        (3, 4, 6),
        lambda p, x: jax.lax.fori_loop(0, 3, lambda i, y: y + x @ p["w"][i], jnp.zeros((5, 6))),
        (5, 4),
        (1,),
        72,
    ),
    "a reversed stack in a loop": one(
        (3, 4, 6),
        lambda p, x: jax.lax.scan(
            lambda y, w: (y + x @ w, None), jnp.zeros((5, 6)), p["w"][::-1], reverse=True
        )[0],
        (5, 4),
        (1,),
        72,
    ),
    "a transposed stack in a loop": one(
        (4, 6, 3),
        lambda p, x: jax.lax.scan(
            lambda y, w: (y + x @ w, None), jnp.zeros((5, 6)), p["w"].transpose(2, 0, 1)
        )[0],
        (5, 4),
        (0,),
        72,
    ),
    "cut": one((8, 9), lambda p, x: x @ p["w"][2:6, ::2], (5, 4), (0,), 20),
    "split in two": one(
        (4, 6), lambda p, x: x @ (jnp.split(p["w"], 2, axis=1)[1]), (5, 4), (0,), 12
    ),
    "reversed": one((4, 6), lambda p, x: x @ p["w"][::-1, ::-1], (5, 4), (0,), 24),
    "frozen": one((4, 6), lambda p, x: x @ jax.lax.stop_gradient(p["w"]), (5, 4), (0,), 24),
    "multiplied": one((4, 6), lambda p, x: x @ (0.3 * p["w"]), (5, 4), (0,), 24),
    "divided and negative": one(
        (6, 4), lambda p, x: x @ (-p["w"] / jnp.sqrt(5.0)).T, (5, 4), (1,), 24
    ),
    "in a jit and a checkpoint": one(
        (6, 4),
        lambda p, x: jax.checkpoint(lambda w: x @ w)(jax.jit(jnp.transpose)(p["w"]) * 2.0),
        (5, 4),
        (1,),
        24,
    ),
    "a kernel as PyTorch stores it": one(
        (6, 4, 3, 2),
        lambda p, x: convolve(x, p["w"].transpose(2, 3, 1, 0), NHWC),
        (2, 5, 5, 4),
        (2, 3, 1),
        25 * 6 * 4 * 6,
    ),
    "a kernel of two axes": one(
        (36, 8),
        lambda p, x: convolve(x, p["w"].reshape(3, 3, 4, 8), NHWC),
        (2, 5, 5, 4),
        (0,),
        25 * 8 * 36,
    ),
    "a transposed convolution": one(
        (3, 3, 6, 4),
        lambda p, x: jax.lax.conv_transpose(
            x, p["w"], (2, 2), "SAME", dimension_numbers=NHWC, transpose_kernel=True
        ),
        (2, 5, 5, 4),
        (0, 1, 3),
        25 * 6 * 36,  # zeros between the inputs are not multiplied
    ),
    "a grouped kernel, transposed": one(
        (8, 2, 3, 3),
        lambda p, x: convolve(x, p["w"].transpose(2, 3, 1, 0), NHWC, feature_group_count=2),
        (2, 5, 5, 4),
        (2, 3, 1),
        25 * 8 * 18,
    ),
    "joined along the outputs": several(
        3,
        (4, 6),
        lambda p, x: x @ jnp.concatenate([p["w0"], p["w1"], p["w2"]], 1),
        (5, 4),
        (0,),
        24,
    ),
    "joined along the inputs": several(
        2, (2, 6), lambda p, x: x @ jnp.concatenate([p["w0"], p["w1"]]), (5, 4), (0,), 12
    ),
    "joined on the left": several(
        2, (6, 4), lambda p, x: (jnp.concatenate([p["w0"], p["w1"]]) @ x.T).T, (5, 4), (1,), 24
    ),
    "joined with what is no weight": several(
        1, (2, 6), lambda p, x: x @ jnp.concatenate([p["w0"], jnp.ones((2, 6))]), (5, 4), (0,), 12
    ),
    "joined and cut again": Case(
        weights={"w0": (4, 6), "w1": (4, 6), "w2": (4, 6)},
        run=lambda p, x: x @ jnp.concatenate([p["w0"], p["w1"], p["w2"]], 1)[:, 2:16],
        x=(5, 4),
        axes={"w0": (0,), "w1": (0,), "w2": (0,)},
        adds={"w0": 16, "w1": 24, "w2": 16},
    ),
    "joined, transposed and reshaped": several(
        2,
        (6, 4),
        lambda p, x: jnp.einsum(
            "bi,ihd->bhd", x, jnp.concatenate([p["w0"], p["w1"]]).T.reshape(4, 6, 2)
        ),
        (5, 4),
        (1,),
        24,
    ),
    "kernels joined along the outputs": several(
        2,
        (3, 3, 4, 6),
        lambda p, x: convolve(x, jnp.concatenate([p["w0"], p["w1"]], 3), NHWC),
        (2, 5, 5, 4),
        (0, 1, 2),
        25 * 36 * 6,
    ),
    "kernels joined along the inputs": several(
        2,
        (6, 2, 3, 3),
        lambda p, x: convolve(x, jnp.concatenate([p["w0"], p["w1"]], 1), ("NHWC", "OIHW", "NHWC")),
        (2, 5, 5, 4),
        (2, 3, 1),
        25 * 18 * 6,
    ),
    "stacked and indexed": several(
        2,
        (4, 6),
        lambda p, x: x @ (w := jnp.stack([p["w0"], p["w1"]]))[1] + x @ w[0],
        (5, 4),
        (0,),
        24,
    ),
    "stacked for a batch of products": several(
        2,
        (4, 6),
        lambda p, x: jnp.einsum(
            "ebi,eio->ebo", jnp.stack([x, -x]), jnp.stack([p["w0"], p["w1"]])
        ).transpose(1, 0, 2),
        (5, 4),
        (0,),
        24,
    ),
    "stacked for a loop": several(
        3,
        (4, 6),
        lambda p, x: jax.lax.scan(
            lambda y, w: (0.5 * y + x @ w, None),
            jnp.zeros((5, 6)),
            jnp.stack([p["w0"], p["w1"], p["w2"]]),
            reverse=True,
        )[0],
        (5, 4),
        (0,),
        24,
    ),
    "used as it is and transposed": one(
        (4, 4), lambda p, x: x @ p["w"] + x @ p["w"].T, (5, 4), (1, 0), 32
    ),
    "sliced by a loop and used whole": one(
        (3, 4, 6),
        lambda p, x: (
            jax.lax.scan(lambda y, w: (y + x @ w, None), jnp.zeros((5, 6)), p["w"])[0]
            + x @ p["w"][0]
        ),
        (5, 4),
        (1,),
        96,
    ),
}
TECHNIQUES: dict[str, dict[str, Any]] = {
    "w8a8": {"quantize": True},
    "w4": {"weight_bits": 4},
    "w2a3": {"weight_bits": 2, "activation_bits": 3},
    "a8": {"activation_bits": 8},
    "float8": {"precision": "float8"},
    "groups": {"weight_bits": 4, "activation_bits": 8, "weight_scales": "group", "group_size": 2},
    "tensor": {"weight_bits": 4, "weight_scales": "tensor"},
    "sparse": {"weight_bits": 8, "sparsity": 0.5},
    "nearest": {"weight_bits": 3, "activation_bits": 6, "calibration": "mse"},
}


def programs_of(new_programs: type[Programs], case: Case) -> Programs:
    rng = np.random.default_rng(0)
    params = {
        n: jnp.asarray(rng.normal(size=s) * np.geomspace(0.1, 3, s[-1]), jnp.float32)
        for n, s in case.weights.items()
    }
    x = jnp.asarray(rng.normal(size=case.x), jnp.float32)
    return new_programs.of(lambda p, s, x: case.run(p, x), params, {}, x)


@pytest.mark.parametrize("how", CASES)
def test_sites_with_their_axes_and_multiply_adds(new_programs: type[Programs], how: str) -> None:
    case = CASES[how]
    sites = programs_of(new_programs, case).sites
    assert {n: s.axes for n, s in sites.items()} == case.axes
    assert {n: s.multiply_adds for n, s in sites.items()} == case.adds
    assert {n: s.shape for n, s in sites.items()} == case.weights


def rounded(values: np.ndarray, largest: np.ndarray, limit: float) -> np.ndarray:
    """On a grid of whole steps, in float64."""
    step = np.where(largest > 0, largest / limit, 1.0)
    return np.clip(np.rint(values / step), -limit, limit) * step


@pytest.mark.parametrize("how", CASES)
def test_outputs_are_those_of_weights_on_the_grid(new_programs: type[Programs], how: str) -> None:
    """The model itself, with each weight rounded as it is stored, scale by scale."""
    case = CASES[how]
    programs = programs_of(new_programs, case)
    recipe = programs.recipe({"weight_bits": 3})
    params = {}
    for name, weight in programs.params.items():
        exact = np.asarray(weight, np.float64)
        largest = np.abs(exact).max(axis=case.axes[name], keepdims=True)
        params[name] = jnp.asarray(rounded(exact, largest, 3.0), jnp.float32)
    expected = case.run(params, programs.inputs)
    close(programs.simulated(recipe), expected, rtol=1e-4, atol=1e-5)
    close(programs.deployed(recipe), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - case.run(programs.params, programs.inputs)).max() > 0.05


SOME = ("transposed", "each of a stack", "a transposed convolution", "joined along the inputs")
DRAWN = [(how, "w8a8") for how in CASES] + [(h, t) for h in SOME for t in TECHNIQUES if t != "w8a8"]


@pytest.mark.parametrize(("how", "technique"), DRAWN)
def test_the_deployed_program_computes_what_was_simulated(
    new_programs: type[Programs], how: str, technique: str
) -> None:
    programs = programs_of(new_programs, CASES[how])
    recipe = programs.recipe(TECHNIQUES[technique])
    found, plain = programs.deployed(recipe), CASES[how].run(programs.params, programs.inputs)
    np.testing.assert_array_equal(found, programs.simulated(recipe))
    assert not np.array_equal(found, plain)
    if technique == "w8a8":
        close(found, plain, atol=0.03 * float(np.abs(plain).max()))


def tied(p: Any, s: Any, tokens: Any) -> Any:
    """Rows are looked up, and the table is the output layer as well."""
    return 0.5 * jnp.sin(p["e"][tokens]) @ p["e"].T


@pytest.mark.parametrize("technique", ["w8a8", "w4", "a8", "float8"])
def test_a_tied_table_is_stored_once_with_a_scale_for_each_row(
    new_programs: type[Programs], technique: str
) -> None:
    rng = np.random.default_rng(0)
    params = {"e": jnp.asarray(rng.normal(size=(11, 6)), jnp.float32)}
    programs = new_programs.of(tied, params, {}, jnp.asarray([[3, 1, 0], [10, 2, 2]]))
    recipe = programs.recipe(TECHNIQUES[technique])
    arrays = programs.arrays(recipe)
    assert technique == "a8" or arrays["e.scale"].shape == (11, 1)
    found = programs.deployed(recipe)
    if technique == "w8a8":  # sums of whole numbers, which have no order
        np.testing.assert_array_equal(found, programs.simulated(recipe))
    close(found, programs.simulated(recipe), rtol=1e-5, atol=1e-6)
    plain = tied(params, {}, programs.inputs)
    close(found, plain, atol=(0.3 if technique == "w4" else 0.1) * float(np.abs(plain).max()))
    if technique == "w4":
        exact = np.asarray(params["e"], np.float64)
        rows = rounded(exact, np.abs(exact).max(axis=1, keepdims=True), 7.0)
        expected = tied({"e": jnp.asarray(rows, jnp.float32)}, {}, programs.inputs)
        close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_weight_has_no_gradient_on_the_grid(new_programs: type[Programs]) -> None:
    case = CASES["frozen"]
    programs = programs_of(new_programs, case)
    steps = programs.grid(programs.recipe({"quantize": True}))
    apply = lambda p, s, x, key: (case.run(p, x), s)  # noqa: E731
    run = train_on_grid(apply, programs.sites, learn=False)

    def loss(params: Any) -> Any:
        return run(params, {}, programs.inputs, jax.random.key(0), steps)[0][0].sum()

    np.testing.assert_array_equal(jax.grad(loss)(programs.params)["w"], 0)
