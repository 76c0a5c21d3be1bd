"""Training on the grid: the forward pass is the deployed one, and gradients go through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.compression import INPUT_STEP, WEIGHT_STEP, grid, observe, simulate, widths_of
from paretax.spaces.fake_quantization import LEARNED, first_steps, train_on_grid
from paretax.spaces.recipe import Recipe
from paretax.spaces.sites import Site, find_sites

if TYPE_CHECKING:
    from tests.conftest import Net
    from tests.spaces.conftest import Example

close = np.testing.assert_allclose
KEY = jax.random.key(0)


def training(predict: Callable[..., Any]) -> Callable[..., Any]:
    """The model as in training, without dropout."""
    return lambda params, state, inputs, key: (predict(params, state, inputs), state)


def calibrated(model: Any, config: dict[str, Any]) -> tuple[dict[str, Site], Recipe, Any]:
    sites = find_sites(model.predict, model.params, model.state, model.inputs)
    recipe = Recipe.of(config, sites)
    ranges = observe(model.predict, sites)(model.params, model.state, model.inputs)
    steps = jax.jit(lambda p, r, w: grid(recipe, sites, p, r, w, {}))(
        model.params, ranges, widths_of(recipe)
    )
    return sites, recipe, steps


def with_steps(params: Any, steps: Any) -> dict[str, jax.Array]:
    return {**params, **first_steps(steps)}


CONFIGS: dict[str, dict[str, Any]] = {
    "8 and 8": {"quantize": True},
    "mixture": {"weight_bits": 4, "activation_bits": 6, "weight_bits@first": 8},
    "one side": {"weight_bits": 3, "activation_bits@last": 4},
    "groups": {"quantize": True, "weight_scales": "group", "group_size": 2},
}


@pytest.mark.parametrize(
    ("name", "how", "learn"),
    [
        ("cnn-nnx", "8 and 8", False),
        ("cnn-nnx", "mixture", True),
        ("cnn-nnx", "one side", False),
        ("cnn-nnx", "one side", True),
        ("stack-linen", "groups", True),
    ],
)
def test_the_forward_pass_is_the_deployed_one(
    example: Callable[[str], Example], name: str, learn: bool, how: str
) -> None:
    """To within the rounding of sums: the deployed program scales after summing."""
    model = example(name)
    sites, recipe, steps = calibrated(model, CONFIGS[how])
    run = jax.jit(train_on_grid(training(model.predict), sites, learn=learn))
    params = with_steps(model.params, steps) if learn else model.params
    (found, state), features = run(params, model.state, model.inputs, KEY, steps)
    expected = jax.jit(simulate(model.predict, sites, recipe))(
        model.params, model.state, model.inputs, steps
    )
    plain = jax.jit(model.predict)(model.params, model.state, model.inputs)
    assert features is None
    jax.tree.map(np.testing.assert_array_equal, state, dict(model.state))
    close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(found - plain).max()) > 1e-3


@pytest.mark.parametrize("learn", [False, True])
def test_without_a_grid_all_is_in_floating_point(net: Net, learn: bool) -> None:
    predict = net.model.predict
    sites = find_sites(predict, net.params, net.state, net.inputs)
    run = jax.jit(train_on_grid(training(predict), sites, learn=learn))
    (found, _), _ = run(net.params, net.state, net.inputs, KEY, {})
    np.testing.assert_array_equal(found, jax.jit(predict)(net.params, net.state, net.inputs))


def test_widths_of_floating_point_leave_a_site_alone(example: Callable[[str], Example]) -> None:
    model = example("mlp-nnx")
    sites, _, steps = calibrated(model, {})
    for learn in (False, True):
        run = jax.jit(train_on_grid(training(model.predict), sites, learn=learn))
        params = with_steps(model.params, steps) if learn else model.params
        (found, _), _ = run(params, model.state, model.inputs, KEY, steps)
        close(found, model.predict(model.params, model.state, model.inputs), rtol=1e-5, atol=1e-6)


# One product, by hand -----------------------------------------------------------------------------

PARAMS = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)}
X = jnp.asarray(np.random.default_rng(1).normal(size=(5, 6)), jnp.float32)
WEIGHT, INPUT = f"w{WEIGHT_STEP}", f"w{INPUT_STEP}"


def apply(params: Any, state: Any, x: Any, key: Any) -> Any:
    return x @ params["w"], state


def one_product(scales: str = "channel") -> tuple[dict[str, Site], Any]:
    """A grid whose inputs reach up to 1, so that some are clipped."""
    sites = find_sites(lambda p, s, x: x @ p["w"], PARAMS, {}, X)
    config = {"weight_bits": 3, "activation_bits": 4, "weight_scales": scales, "group_size": 2}
    recipe = Recipe.of(config, sites)
    return sites, grid(recipe, sites, PARAMS, {"w": jnp.float32(1)}, widths_of(recipe), {})


def on_grid(values: Any, step: Any, limit: float) -> np.ndarray:
    found: np.ndarray = np.clip(np.rint(np.asarray(values) / step), -limit, limit) * step
    return found


def test_gradients_pass_straight_through() -> None:
    """That of a weight is the rounded input, times the incoming one; and the other way round."""
    sites, steps = one_product()
    run = train_on_grid(apply, sites, learn=False)
    incoming = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)

    def total(params: Any, x: Any) -> jax.Array:
        return jnp.sum(incoming * run(params, {}, x, KEY, steps)[0][0])

    of_params, of_x = jax.jit(jax.grad(total, argnums=(0, 1)))(PARAMS, X)
    w = on_grid(PARAMS["w"], np.asarray(steps["w"]["weight_step"]), 3)
    x = on_grid(X, float(steps["w"]["input_step"]), 7)
    close(of_params["w"], x.T @ incoming, rtol=1e-5, atol=1e-6)
    clipped = np.abs(np.asarray(X)) > 1
    assert clipped.any()
    close(of_x, np.where(clipped, 0, incoming @ w.T), rtol=1e-5, atol=1e-6)


def naive_lsq(values: np.ndarray, step: np.ndarray, limit: int) -> np.ndarray:
    """Esser et al., equation 3."""
    ratio = values / step
    ends = np.sign(ratio) * limit
    found: np.ndarray = np.where(np.abs(ratio) >= limit, ends, np.rint(ratio) - ratio)
    return found


@pytest.mark.parametrize("scales", ["channel", "tensor", "group"])
def test_gradients_of_learned_steps_are_the_papers(scales: str) -> None:
    """Times the step: its logarithm is learned. N is the number of values under one step."""
    sites, steps = one_product(scales)
    learned = {n: s + 0.1 for n, s in first_steps(steps).items()}  # nothing lies on an edge
    run = train_on_grid(apply, sites, learn=True)
    incoming = np.random.default_rng(2).normal(size=(5, 3)).astype(np.float32)

    def total(params: Any) -> jax.Array:
        return jnp.sum(incoming * run(params, {}, X, KEY, steps)[0][0])

    found = jax.jit(jax.grad(total))({**PARAMS, **learned})
    w_step, x_step = (np.exp(np.asarray(learned[n], np.float64)) for n in (WEIGHT, INPUT))
    whole = np.repeat(w_step, 2, axis=0) if scales == "group" else w_step
    weights, x = np.asarray(PARAMS["w"], np.float64), np.asarray(X, np.float64)
    of_w = (on_grid(x, x_step, 7).T @ incoming) * naive_lsq(weights, whole, 3)
    shape = {"channel": (1, 6, 3), "tensor": (1, 18, 1), "group": (3, 2, 3)}[scales]
    of_w = of_w.reshape(shape).sum(axis=1).reshape(w_step.shape)
    sharing = 18 / w_step.size
    close(found[WEIGHT], of_w * w_step / np.sqrt(sharing * 3), rtol=1e-4, atol=1e-5)
    of_x = np.sum((incoming @ on_grid(weights, whole, 3).T) * naive_lsq(x, x_step, 7))
    close(found[INPUT], of_x * x_step / np.sqrt(30 * 7), rtol=1e-4, atol=1e-5)


def test_learned_steps_reduce_the_loss() -> None:
    """From steps that are three times too large, by plain gradient descent."""
    sites, steps = one_product()
    learned = {n: s + np.log(3) for n, s in first_steps(steps).items()}
    run = train_on_grid(apply, sites, learn=True)

    @jax.jit
    def loss(learned: Any) -> jax.Array:
        found = run({**PARAMS, **learned}, {}, X, KEY, steps)[0][0]
        return jnp.mean(jnp.square(found - X @ PARAMS["w"]))

    slope = jax.jit(jax.grad(loss))
    losses = [float(loss(learned))]
    for _ in range(60):
        gradient = slope(learned)
        learned = {n: s - 0.3 * gradient[n] for n, s in learned.items()}
        losses.append(float(loss(learned)))
    assert losses[-1] < 0.5 * losses[0]


def test_first_steps_are_the_calibrated_ones(example: Callable[[str], Example]) -> None:
    model = example("stack-linen")
    sites, recipe, steps = calibrated(model, {"quantize": True})
    learned = first_steps(steps)
    assert set(learned) == {n + suffix for n in sites for suffix in LEARNED}
    for name in sites:
        close(jnp.exp(learned[f"{name}{WEIGHT_STEP}"]), steps[name]["weight_step"], rtol=1e-6)
        close(jnp.exp(learned[f"{name}{INPUT_STEP}"]), steps[name]["input_step"], rtol=1e-6)
    again = grid(recipe, sites, model.params, {}, widths_of(recipe), learned)
    for name, numbers in again.items():
        for key, value in numbers.items():
            close(value, steps[name][key], rtol=1e-6)


# Features -----------------------------------------------------------------------------------------


def test_features_are_the_inputs_of_a_site(pair_net: Net) -> None:
    """As they were before they are rounded."""
    net = pair_net
    predict = net.model.predict
    sites = find_sites(predict, net.params, net.state, net.inputs)
    run = jax.jit(train_on_grid(training(predict), sites, learn=False, watch="out"))
    (outputs, _), found = run(net.params, net.state, net.inputs, KEY, {})
    x = np.asarray(net.inputs).reshape(-1, 16)
    hidden = np.maximum(
        x @ np.asarray(net.params["first/w"]) + np.asarray(net.params["first/b"]), 0
    )
    close(found, hidden, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs, jax.jit(predict)(net.params, net.state, net.inputs))


def test_features_of_a_stack_are_its_last_layers(example: Callable[[str], Example]) -> None:
    model = example("stack-nnx")
    sites = find_sites(model.predict, model.params, model.state, model.inputs)
    name = "blocks/attention/query/kernel"
    run = jax.jit(train_on_grid(training(model.predict), sites, learn=False, watch=name))
    _, found = run(model.params, model.state, model.inputs, KEY, {})
    assert found.shape == (5, 7, 8)
    largest = observe(model.predict, sites)(model.params, model.state, model.inputs)
    close(jnp.abs(found).max(), largest[name][-1], rtol=1e-5)
    assert len(np.unique(np.asarray(largest[name]))) == 3


def test_gradients_flow_through_features() -> None:
    sites, _ = one_product()

    def deeper(params: Any, state: Any, x: Any, key: Any) -> Any:
        return jnp.tanh(x * params["gain"]) @ params["w"], state

    params = {**PARAMS, "gain": jnp.float32(2)}
    run = train_on_grid(deeper, sites, learn=False, watch="w")
    found = jax.grad(lambda p: jnp.sum(run(p, {}, X, KEY, {})[1]))(params)
    expected = jnp.sum(X / jnp.square(jnp.cosh(2 * X)))
    close(found["gain"], expected, rtol=1e-4)
    np.testing.assert_array_equal(found["w"], np.zeros((6, 3)))
