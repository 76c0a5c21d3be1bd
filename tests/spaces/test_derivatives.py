"""Derivatives that a model has of its own, where its program is run again with other products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun

from paretax.spaces.compression import grid, observe, simulate, widths_of
from paretax.spaces.derivatives import traced_rule, untraceable
from paretax.spaces.fake_quantization import train_on_grid
from paretax.spaces.quantization import codes
from paretax.spaces.recipe import Recipe
from paretax.spaces.sites import find_sites

Layer = Callable[[Any, Any], Any]
"""(inputs (5, 6), weight (6, 6)) -> outputs (5, 6)"""

rng = np.random.default_rng(0)
W = jnp.asarray(rng.normal(size=(6, 6)), jnp.float32)
X = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32)
TARGET = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32)
KEY = jax.random.key(0)


@jax.custom_vjp
def binary(x: Any, w: Any) -> Any:
    return jnp.sign(x) @ w


binary.defvjp(
    lambda x, w: (binary(x, w), (x, w)),
    lambda kept, g: ((g @ kept[1].T) * (jnp.abs(kept[0]) <= 1), 2.0 * jnp.sign(kept[0]).T @ g),
)


@jax.custom_jvp
def forward_mode(x: Any, w: Any) -> Any:
    return jnp.sign(x) @ w


@forward_mode.defjvp
def _(given: Any, moved: Any) -> Any:
    (x, w), (dx, dw) = given, moved
    return forward_mode(x, w), 0.5 * (dx @ w) + 3.0 * (jnp.sign(x) @ dw)


def gradient(x: Any, w: Any) -> Any:
    function: Any = jax.custom_gradient(
        lambda x, w: (jnp.sign(x) @ w, lambda g: (g @ w.T * 0.5, jnp.sign(x).T @ g * 2.0))
    )
    return function(x, w)


@jax.custom_vjp
def scaled(w: Any) -> Any:
    """Gives the weight on as it is."""
    return w


scaled.defvjp(lambda w: (w, w), lambda w, g: (g * 3.0 + 0.1 * w,))


@jax.custom_vjp
def turned(w: Any, by: Any) -> Any:
    """Gives the weight on in another layout, times a number."""
    return jnp.swapaxes(w, 1, 2) * by


turned.defvjp(
    lambda w, by: (turned(w, by), by),
    lambda by, g: (jnp.swapaxes(g, 1, 2) * by * 3.0, jnp.sum(g) * 0.1),
)


def nested(x: Any, w: Any) -> Any:
    outer = jax.custom_vjp(lambda x, w: binary(jnp.sin(x), w))
    outer.defvjp(
        lambda x, w: (outer(x, w), (x, w)),
        lambda kept, g: (g @ kept[1].T, 5.0 * jnp.sin(kept[0]).T @ g),
    )
    return outer(x, w)


def in_a_scan(x: Any, w: Any) -> Any:
    return jax.lax.scan(lambda carry, _: (binary(carry, w), None), x, None, length=2)[0]


LAYERS: dict[str, Layer] = {
    "custom_vjp": binary,
    "custom_jvp": forward_mode,
    "custom_gradient": gradient,
    "a weight that is given on": lambda x, w: x @ scaled(w),
    "a transposed weight": lambda x, w: binary(x, w.T),
    "a weight times a number": lambda x, w: binary(x, 0.5 * w),
    "joined weights": lambda x, w: binary(x, jnp.concatenate([w[:, 3:], 2.0 * w[:, :3]], axis=1)),
    "given on in another layout": lambda x, w: x @ turned(w[None], jnp.sum(x) / 9.0)[0],
    "within a call": lambda x, w: jax.jit(binary)(x, w),
    "within a checkpoint": lambda x, w: jax.checkpoint(binary)(x, w),
    "within another": nested,
    "within a scan": in_a_scan,
    "of narrow weights": lambda x, w: binary(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)).astype(
        jnp.float32
    ),
}


def model(layer: Layer) -> Callable[..., Any]:
    return lambda params, state, x, key: (layer(x * params["s"], params["w"]), state)


def loss(outputs: Any) -> Any:
    return jnp.sum((outputs - TARGET) ** 2)


PARAMS = {"w": W, "s": jnp.float32(1.1)}


@pytest.mark.parametrize("name", LAYERS)
def test_they_are_kept_where_products_are_watched(name: str) -> None:
    apply = model(LAYERS[name])
    sites = find_sites(apply, PARAMS, {}, X, KEY)
    assert list(sites) == ["w"]
    run = train_on_grid(apply, sites, learn=False)
    found = jax.jit(jax.grad(lambda p: loss(run(p, {}, X, KEY, {})[0][0])))(PARAMS)
    wanted = jax.jit(jax.grad(lambda p: loss(apply(p, {}, X, KEY)[0])))(PARAMS)
    for weight in PARAMS:
        np.testing.assert_allclose(found[weight], wanted[weight], rtol=1e-5, atol=1e-5)


def on_the_grid(layer: Layer, config: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(params -> outputs in training, the deployed outputs, the grid of the weight)"""
    apply = model(layer)

    def predict(params: Any, state: Any, x: Any) -> Any:
        return apply(params, state, x, KEY)[0]

    sites = find_sites(predict, PARAMS, {}, X)
    recipe = Recipe.of(config, sites)
    ranges = observe(predict, sites)(PARAMS, {}, X)
    steps = grid(recipe, sites, PARAMS, ranges, widths_of(recipe), {})
    run = train_on_grid(apply, sites, learn=False)
    deployed = simulate(predict, sites, recipe)(PARAMS, {}, X, steps)
    return lambda params: run(params, {}, X, KEY, steps)[0][0], deployed, steps["w"]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("config", [{"weight_bits": 4}, {"weight_bits": 4, "activation_bits": 5}])
def test_the_value_is_the_deployed_one(name: str, config: dict[str, Any]) -> None:
    train, deployed, _ = on_the_grid(LAYERS[name], config)
    tolerance = 3e-2 if "narrow" in name else 1e-5
    np.testing.assert_allclose(train(PARAMS), deployed, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", sorted({*LAYERS} - {"of narrow weights"}))
def test_the_gradient_is_the_users_at_weights_on_the_grid(name: str) -> None:
    layer = LAYERS[name]
    train, _, numbers = on_the_grid(layer, {"weight_bits": 4})

    def trained(params: Any) -> Any:
        outputs = train(params)
        return loss(outputs), outputs

    found, outputs = jax.grad(trained, has_aux=True)(PARAMS)
    step = numbers["weight_step"]
    rounded = codes(W, step, numbers["weight_limit"]) * step
    at = W if "given on" in name else rounded

    def plain(params: Any) -> Any:
        return layer(X * params["s"], params["w"])

    wanted = jax.vjp(plain, {**PARAMS, "w": at})[1](jax.grad(loss)(outputs))[0]
    np.testing.assert_allclose(found["w"], wanted["w"], rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(found["w"]).max()) > 0.1


def test_sites_within_are_told() -> None:
    seen: set[str] = set()
    params = {"a": W, "b": W, "c": W}

    def apply(params: Any, state: Any, x: Any, key: Any) -> Any:
        return binary(x @ params["a"], params["b"]) @ scaled(params["c"]), state

    sites = find_sites(apply, params, {}, X, KEY)
    run = train_on_grid(apply, sites, learn=False, within=seen)
    jax.eval_shape(run, params, {}, X, KEY, {})
    assert seen == {"b"}


def test_a_rule_that_uses_what_is_around_it_is_named() -> None:
    def around(x: Any) -> Any:
        scale = jnp.mean(x)

        def leaning(y: Any) -> Any:
            return y

        function = jax.custom_vjp(leaning)
        function.defvjp(lambda y: (y, None), lambda _, g: (g * scale,))
        return function(x)

    assert untraceable(jax.make_jaxpr(around)(X)) == "leaning"
    assert untraceable(jax.make_jaxpr(jax.jit(around))(X)) == "leaning"
    for fine in (jax.nn.relu, jnp.tanh, lambda x: binary(x, W), lambda x: gradient(x, W)):
        assert untraceable(jax.make_jaxpr(fine)(X)) is None


def test_a_traced_rule_is_the_derivative() -> None:
    (eqn,) = jax.make_jaxpr(binary)(X, W).eqns
    rule = traced_rule(eqn)
    assert rule is not None
    for found, wanted in zip(
        jaxpr_as_fun(rule)(X, W, TARGET), jax.vjp(binary, X, W)[1](TARGET), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
