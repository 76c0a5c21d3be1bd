"""Simulating and deploying one model: the same integers in both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces import compression
from paretax.spaces.products import Product, replace_products
from paretax.spaces.recipe import Recipe

if TYPE_CHECKING:
    from tests.spaces.compression.conftest import Programs


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`simulate` and `deploy` also return what each site multiplies: inputs, weights, product."""

    def recording(function: Any, sites: Any, handler: Any, join: Any = None) -> Any:
        if join is not None:  # it observes
            return replace_products(function, sites, handler, join)

        def noting(product: Product, x: Any, given: Any) -> Any:
            seen = []

            def bare(inputs: Any, weight: Any, dtype: Any) -> Any:
                y = product.bare(inputs, weight, dtype)
                seen.append({"inputs": inputs, "weight": weight, "product": y})
                return y

            return handler(replace(product, bare=bare), x, given)[0], tuple(seen)

        replaced = replace_products(function, sites, noting, lambda one, other: (*one, *other))
        return lambda *args: (replaced(*args), None)

    monkeypatch.setattr(compression, "replace_products", recording)


MIXTURE = {
    "weight_bits": 6,
    "activation_bits": 7,
    "weight_bits@first": 8,
    "activation_bits@first": 8,
    "weight_bits@last": 2,
    "activation_bits@attention": 4,
    "weight_bits@attention": 3,
}
WHOLE: dict[str, dict[str, Any]] = {
    "8 and 8": {"quantize": True},
    "3 and 4": {"weight_bits": 3, "activation_bits": 4},
    "mixture": MIXTURE,
    "groups": {"quantize": True, "weight_bits": 4, "weight_scales": "group", "group_size": 2},
    "tensor": {"weight_bits": 5, "activation_bits": 8, "weight_scales": "tensor"},
    "mse": {"weight_bits": 3, "activation_bits": 3, "calibration": "mse"},
    "percentile": {
        "weight_bits": 8,
        "activation_bits": 8,
        "calibration": "percentile",
        "calibration_percentile": 97.0,
    },
    "sparse": {"weight_bits": 8, "activation_bits": 6, "sparsity": 0.6},
}
INTEGERS = {
    "nnx": ("8 and 8", "3 and 4", "mixture", "sparse", "tensor"),
    "pair": ("3 and 4", "groups", "percentile", "mse"),
    "stack-nnx": ("8 and 8", "mixture", "groups"),
    "tokens-linen": ("mixture",),
    "cnn-linen": ("groups",),
    "separable-nnx": ("8 and 8",),
    "residual-nnx": ("8 and 8",),
}


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("name", INTEGERS)
def test_simulated_and_deployed_integers_are_the_same(
    request: pytest.FixtureRequest, new_programs: type[Programs], name: str
) -> None:
    """Weights, inputs and their sums, at every site; and so the outputs."""
    if "-" in name:
        programs = new_programs.of_example(request.getfixturevalue("example")(name))
    else:
        programs = new_programs.of_net(request.getfixturevalue(f"{name}_net"))
    for how in INTEGERS[name]:
        check_integers(programs, programs.recipe(WHOLE[how]))


def check_integers(programs: Programs, recipe: Recipe) -> None:
    simulated, one = programs.simulated(recipe)
    deployed, other = programs.deployed(recipe)
    assert set(one) == set(other) == set(programs.sites)
    for weight, site in programs.sites.items():
        assert len(one[weight]) == len(other[weight]) >= 1
        treatment = recipe.treatments[weight]
        lead = site.shape[: site.stack]
        for a, b in zip(one[weight], other[weight], strict=True):
            assert a["weight"].dtype == jnp.float32
            assert b["weight"].dtype == jnp.int8
            if site.kind != "embedding":
                assert b["inputs"].dtype == jnp.int8
                assert b["product"].dtype == jnp.int32
                limit = 2 ** (treatment.activation_bits - 1) - 1
                assert int(jnp.max(jnp.abs(b["inputs"].astype(jnp.int32)))) <= limit
            for part in ("inputs", "weight", "product"):
                assert a[part].shape[: site.stack] == lead
                np.testing.assert_array_equal(
                    np.asarray(a[part], np.float64),
                    np.asarray(b[part], np.float64),
                    err_msg=f"{weight}: {part}",
                )
    np.testing.assert_array_equal(simulated, deployed)
