"""The programs of one model: observing, simulating and deploying it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.compression import (
    compress,
    deploy,
    grid,
    observe,
    observe_histograms,
    ranges_from,
    simulate,
    widths_of,
)
from paretax.spaces.recipe import Recipe, masks
from paretax.spaces.sites import Site, find_sites

if TYPE_CHECKING:
    from tests.conftest import Net
    from tests.spaces.conftest import Example

Both = Callable[..., dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Programs:
    """The programs of one model, compiled once for each structure.

    Args:
        predict: the model.
        params: its weights.
        state: its state.
        inputs: a batch, also for calibration.
        sites: of the model.
        cache: compiled programs.
    """

    predict: Callable[..., Any]
    params: Mapping[str, Any]
    state: Mapping[str, Any]
    inputs: Any
    sites: dict[str, Site]
    cache: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, predict: Any, params: Any, state: Any, inputs: Any) -> Programs:
        sites = find_sites(predict, params, state, inputs)
        return cls(predict=predict, params=params, state=state, inputs=inputs, sites=sites)

    @classmethod
    def of_net(cls, net: Net) -> Programs:
        return cls.of(net.model.predict, net.params, net.state, net.inputs)

    @classmethod
    def of_example(cls, model: Example) -> Programs:
        return cls.of(model.predict, model.params, model.state, model.inputs)

    def program(self, key: Any, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        if key not in self.cache:
            self.cache[key] = jax.jit(make())
        return self.cache[key]

    def recipe(self, config: Mapping[str, Any]) -> Recipe:
        return Recipe.of(config, self.sites)

    def pruned(self, recipe: Recipe) -> Mapping[str, Any]:
        if not recipe.sparse:
            return self.params
        magnitudes = {n: jnp.abs(self.params[n]) for n in self.sites}
        kept = masks(recipe, self.sites, magnitudes, recipe.pruned(self.sites))
        return {n: jnp.where(kept[n], w, 0) if n in kept else w for n, w in self.params.items()}

    def ranges(self, recipe: Recipe) -> dict[str, jax.Array]:
        watch = self.program("observe", lambda: observe(self.predict, self.sites))
        params = self.pruned(recipe)
        largest = watch(params, self.state, self.inputs)
        histograms: dict[str, jax.Array] = {}
        if recipe.calibration != "absmax":
            count = self.program("count", lambda: observe_histograms(self.predict, self.sites))
            histograms = count(params, self.state, self.inputs, largest)
        return ranges_from(recipe, self.sites, largest, histograms)

    def grid(self, recipe: Recipe) -> Any:
        make = self.program(
            ("grid", recipe.structure),
            lambda: lambda p, r, w: grid(recipe, self.sites, p, r, w, {}),
        )
        return make(self.pruned(recipe), self.ranges(recipe), widths_of(recipe))

    def arrays(self, recipe: Recipe) -> dict[str, jax.Array]:
        params = self.pruned(recipe)
        return compress(recipe, self.sites, params, self.state, self.grid(recipe))

    def simulated(self, recipe: Recipe) -> Any:
        run = self.program(
            ("simulate", recipe.structure), lambda: simulate(self.predict, self.sites, recipe)
        )
        return run(self.pruned(recipe), self.state, self.inputs, self.grid(recipe))

    def deploy(self, recipe: Recipe) -> Callable[..., Any]:
        whole = [(t.weights_quantized, t.inputs_quantized) for t in recipe.treatments.values()]
        return self.program(
            ("deploy", recipe.structure, *whole),
            lambda: deploy(self.predict, self.sites, recipe, tuple(self.state)),
        )

    def deployed(self, recipe: Recipe) -> Any:
        return self.deploy(recipe)(self.arrays(recipe), self.inputs)

    def naive_pruned(self, name: str, sparsity: float) -> np.ndarray:
        """A weight without its smallest values, one after the other."""
        weight = np.asarray(self.params[name])
        flat = weight.ravel().copy()
        count = min(flat.size - 1, round(flat.size * sparsity))
        for i in sorted(range(flat.size), key=lambda i: (abs(flat[i]), i))[:count]:
            flat[i] = 0
        return flat.reshape(weight.shape)


@pytest.fixture(scope="session")
def new_programs() -> type[Programs]:
    """For a model of the test's own."""
    return Programs


@pytest.fixture(scope="module")
def nnx_programs(nnx_net: Net) -> Programs:
    return Programs.of_net(nnx_net)


@pytest.fixture(scope="module")
def linen_programs(linen_net: Net) -> Programs:
    return Programs.of_net(linen_net)


@pytest.fixture(scope="module")
def pair_programs(pair_net: Net) -> Programs:
    return Programs.of_net(pair_net)


@pytest.fixture(scope="module")
def stack_programs(example: Callable[[str], Example]) -> Programs:
    return Programs.of_example(example("stack-nnx"))


@pytest.fixture(params=["nnx", "linen", "pair"])
def programs(request: pytest.FixtureRequest) -> Programs:
    """Those of a model of each kind."""
    found: Programs = request.getfixturevalue(f"{request.param}_programs")
    return found


@pytest.fixture(scope="session")
def both() -> Both:
    """Makes a candidate with these widths; 32 stands for none."""

    def make(weight_bits: int, activation_bits: int, **more: Any) -> dict[str, Any]:
        sides = {"weight_bits": weight_bits, "activation_bits": activation_bits}
        return {n: bits for n, bits in sides.items() if bits < 32} | more

    return make
