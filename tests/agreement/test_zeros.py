"""Weights and inputs that are all zero, under every grid: finite, and the same in all readings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.agreement import dense, images, plain
from tests.agreement.checking import compare
from tests.agreement.drawing import Drawn, builder
from tests.agreement.made import Made
from tests.agreement.readings import Readings

from paretax.tasks import Data, Split, classification

_TECHNIQUES: dict[str, dict[str, Any]] = {
    "int8": {"quantize": True},
    "2 bits, one scale": {"weight_bits": 2, "activation_bits": 4, "weight_scales": "tensor"},
    "groups": {"weight_bits": 4, "weight_scales": "group", "group_size": 2},
    "inputs": {"activation_bits": 8},
    "learned steps": {"quantize": True, "qat": "lsq", "qat_start": 0.0},
    "float8": {"precision": "float8"},
}


def _data(zero: str) -> Data:
    rng = np.random.default_rng(0)

    def part(name: str, count: int) -> Split:
        inputs = rng.normal(size=(count, 6, 6, 2)).astype(np.float32)
        return Split(inputs * (name not in zero), np.arange(count, dtype=np.int32) % 3)

    return Data(train=part("train", 64), validation=part("validation", 32), test=part("test", 40))


def _drawn(techniques: str, zero: str = "") -> Drawn:
    layers: list[Made] = [images.plain_convolution((6, 6, 2), 4, 1, 1, 1)]
    layers += [plain.activation(layers[0].out, "relu"), plain.mean(layers[0].out)]
    layers.append(dense.plain_dense((4,), 3))
    return Drawn(
        place=(0, 0, 0),
        system="pair",
        dtypes="float32",
        layers=tuple(layers),
        task=classification(
            "zeros", load=lambda: _data(zero), build=builder("pair", layers, {}), defaults={}
        ),
        candidate={"epochs": 1, "batch_size": 32, "optimizer": "sgd", **_TECHNIQUES[techniques]},
    )


def _with_biases(trained: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Biases that are not zero, so that outputs are not either."""
    rng = np.random.default_rng(1)
    biases = {name: array for name, array in trained.items() if name.endswith("bias")}
    return {**trained, **{n: rng.normal(size=b.shape).astype(b.dtype) for n, b in biases.items()}}


@pytest.mark.parametrize("techniques", _TECHNIQUES)
def test_weights_that_are_all_zero(techniques: str) -> None:
    drawn = _drawn(techniques)
    readings = Readings(drawn.task)
    weights = _with_biases(readings.trained(drawn))
    for names in (["b0/kernel"], ["b3/kernel"], ["b0/kernel", "b3/kernel"]):
        for places in (0, slice(None)):  # a channel, and the whole tensor
            zeroed = {name: weights[name].copy() for name in names}
            for array in zeroed.values():
                array[..., places] = 0
            assert compare(drawn, readings, {**weights, **zeroed}) == "equal"


@pytest.mark.parametrize("zero", ["train", "test"])
@pytest.mark.parametrize("techniques", _TECHNIQUES)
def test_inputs_that_are_all_zero(techniques: str, zero: str) -> None:
    drawn = _drawn(techniques, zero)
    readings = Readings(drawn.task)
    assert compare(drawn, readings, _with_biases(readings.trained(drawn))) == "equal"
