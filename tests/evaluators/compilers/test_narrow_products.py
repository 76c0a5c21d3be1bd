"""What narrow candidates become in the programs of GPUs: kernels of that dtype."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as linen
import jax
import numpy as np
import pytest
from flax import nnx

import paretax
from paretax.evaluators import Target, Workbench
from paretax.evaluators.compilers import Compiler, Store
from paretax.evaluators.kernels import Kernel
from paretax.evaluators.target import MODELLED
from paretax.evaluators.targets import TargetsEvaluator

GPUS = ("a100", "h100", "b200")
SIDE, CHANNELS = 56, 64


class Linen(linen.Module):
    """Blocks of a ResNet: convolutions with a normalisation or a bias, added to their inputs."""

    wide: int = CHANNELS

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for stride, width in ((1, self.wide), (2, 2 * self.wide)):
            settings: Mapping[str, Any] = {"use_bias": False}
            y = linen.Conv(width, (3, 3), stride, **settings)(x)
            y = linen.relu(linen.BatchNorm(use_running_average=not train)(y))
            y = linen.Conv(width, (3, 3))(y)
            x = linen.relu(y + linen.Conv(width, (1, 1), stride, **settings)(x))
        x = linen.Conv(width, (3, 3), feature_group_count=width)(x)
        x = linen.ConvTranspose(width, (2, 2), strides=(2, 2))(x)
        return linen.Dense(10)(linen.relu(linen.Dense(256)(x.mean((1, 2)))))


class Nnx(nnx.Module):
    """Likewise."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, CHANNELS, (3, 3), rngs=rngs)
        self.first = nnx.Conv(CHANNELS, CHANNELS, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(CHANNELS, rngs=rngs)
        self.second = nnx.Conv(CHANNELS, CHANNELS, (3, 3), rngs=rngs)
        self.hidden = nnx.Linear(CHANNELS, 256, rngs=rngs)
        self.out = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.stem(x))
        x = nnx.relu(x + self.second(nnx.relu(self.norm(self.first(x)))))
        return self.out(nnx.relu(self.hidden(x.mean((1, 2)))))


def load() -> paretax.Data:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, SIDE, SIDE, 3), np.float32)
    return paretax.split(images, np.arange(40) % 10, seed=0)


BENCHES = {
    "linen": lambda _: Linen(),
    "nnx": lambda _: Nnx(nnx.Rngs(0)),
}


@pytest.fixture(scope="module", params=BENCHES)
def bench(request: pytest.FixtureRequest) -> Workbench:
    build = BENCHES[request.param]
    return Workbench(paretax.classification(request.param, load=load, build=build, defaults={}))


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(Store(Path(tmp_path_factory.mktemp("compiled"))))


def read(
    bench: Workbench, compiler: Compiler, name: str, candidate: Mapping[str, Any]
) -> tuple[list[Kernel], float]:
    """The kernels that multiply, and the modelled seconds of a call with 256 images."""
    target = Target.of(name, batch=256, measure=False)
    program = TargetsEvaluator(bench, [target], MODELLED, compiler).program(candidate, 256)
    made = compiler.compile(target.profile, program)
    seconds = target.latency_model.predict(made).seconds
    return [k for k in made.kernels if k.products], seconds


@pytest.mark.parametrize("name", GPUS)
def test_sixteen_bits_are_multiplied_as_such(
    bench: Workbench, compiler: Compiler, name: str
) -> None:
    wide, slow = read(bench, compiler, name, {})
    assert {k.dtype for k in wide} == {"f32"}
    for precision, dtype in (("bfloat16", "bf16"), ("float16", "fp16")):
        narrow, fast = read(bench, compiler, name, {"precision": precision})
        assert {k.dtype for k in narrow} == {dtype}, precision
        assert sum(k.kind != "dot" for k in narrow) == sum(k.kind != "dot" for k in wide)
        least = 1.5 if bench.task.name == "linen" else 1.3  # which is mostly inputs and one block
        assert slow > least * fast, precision


@pytest.mark.parametrize("name", GPUS)
def test_no_convolution_of_eight_bits_is_multiplied_in_32(
    bench: Workbench, compiler: Compiler, name: str
) -> None:
    eighth, _ = read(bench, compiler, name, {"precision": "float8"})
    assert {k.dtype for k in eighth if k.kind != "dot"} == {"bf16" if name == "a100" else "fp8"}
    assert {k.dtype for k in eighth if k.kind == "dot"} <= {"fp8", "fp16", "bf16"}
    whole, _ = read(bench, compiler, name, {"quantize": True})
    assert {k.dtype for k in whole} == {"int8"}
