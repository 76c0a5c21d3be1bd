"""Tokens that are no rows of a table are refused, however the table is looked up."""

from __future__ import annotations

from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from paretax.errors import UsageError
from paretax.evaluators import Workbench
from paretax.evaluators.tokens import check_tokens
from paretax.tasks import Data, Split, classification


def data(largest: int, split: str) -> Data:
    x = np.random.default_rng(0).integers(0, 20, (40, 6)).astype(np.int32)
    parts = {n: Split(x, np.arange(40) % 2) for n in ("train", "validation", "test")}
    odd = x.copy()
    odd[7, 3] = largest
    return Data(**{**parts, split: Split(odd, np.arange(40) % 2)})


class NnxNet(nnx.Module):
    """Flax's own look-up, which gives NaN."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.table, self.out = nnx.Embed(20, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(self.table(x).mean(1))


class LinenNet(linen.Module):
    """The same in flax.linen."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y: jax.Array = linen.Dense(2)(linen.Embed(20, 4)(x).mean(1))
        return y


def init(key: jax.Array, x: jax.Array) -> Any:
    return {
        "table": jax.random.normal(key, (20, 4)),
        "w": jax.random.normal(jax.random.fold_in(key, 1), (4, 2)),
    }


def indexed(params: Any, x: jax.Array) -> jax.Array:
    y: jax.Array = params["table"][x].mean(1) @ params["w"]
    return y


def mapped(params: Any, x: jax.Array) -> jax.Array:
    """Has a token for unknown ones."""
    return indexed(params, jnp.where(x < 20, x, 0))


BUILDS: dict[str, Any] = {
    "nnx": lambda config, rngs: NnxNet(rngs),
    "linen": lambda config: LinenNet(),
    "indexed": lambda config: (init, indexed),
}


def check(build: Any, found: Data) -> None:
    task = classification("tokens", load=lambda: found, build=build, defaults={})
    bench = Workbench(task)
    check_tokens(bench.prepared({}), bench.data.splits)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", BUILDS)
def test_tokens_beyond_the_table(kind: str, split: str) -> None:
    words = f"the {split} inputs go up to 25, .* a table of 20 rows.* give the table 26 rows"
    with pytest.raises(UsageError, match=words):
        check(BUILDS[kind], data(25, split))
    check(BUILDS[kind], data(19, split))


def test_a_model_with_a_token_for_unknown_ones() -> None:
    check(lambda config: (init, mapped), data(25, "test"))


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", BUILDS)
def test_negative_tokens(kind: str, split: str) -> None:
    words = f"the {split} inputs go down to -3, .* a table of 20 rows.*-1 is the last row.*mask"
    with pytest.raises(UsageError, match=words):
        check(BUILDS[kind], data(-3, split))


MASKS: dict[str, Any] = {
    "masked": lambda p, x: ((x >= 0)[..., None] * p["table"][x]).mean(1) @ p["w"],
    "moved up": lambda p, x: indexed(p, x + 1),
    "the last row for all": lambda p, x: indexed(p, jnp.where(x < 0, 19, x)),
    "the first row for all": lambda p, x: indexed(p, jnp.maximum(x, 0)),
}


@pytest.mark.parametrize("how", MASKS)
def test_a_model_that_knows_negative_tokens(how: str) -> None:
    found = data(-1, "train")
    if how == "moved up":
        parts = {n: Split(np.minimum(s.inputs, 18), s.targets) for n, s in found.splits.items()}
        found = Data(**parts)
    check(lambda config: (init, MASKS[how]), found)
