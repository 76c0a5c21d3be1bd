"""Random models, and random things to do to them; each from one number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tests.agreement import dense, images, plain, sequences
from tests.agreement.made import Made, Shape
from tests.agreement.reference import Array, Asked, Reference

from paretax.tasks import Data, Split, SupervisedTask, classification

CLASSES = 3
_TOKENS = 12
_DTYPES: Mapping[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": jnp.bfloat16},
    "bfloat16 weights": {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16},
    "float16": {"dtype": jnp.float16},
}


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A model and what is done to it.

    Args:
        place: what it was drawn from: (number of the model, set of techniques, their numbers).
        system: nnx, linen or pair.
        dtypes: a key of the table above.
        layers: its blocks, in order.
        task: of it.
        candidate: what is asked for.
    """

    place: tuple[int, int, int]
    system: str
    dtypes: str
    layers: tuple[Made, ...]
    task: SupervisedTask
    candidate: dict[str, Any]

    @property
    def weights(self) -> tuple[str, ...]:
        """The parameters that techniques must reach."""
        found = []
        for i, layer in enumerate(self.layers):
            own = layer.weights
            if layer.kind.startswith("LSTM"):
                own = sequences.recurrent_weights(self.system)
            found += [f"{_prefix(self.system, i)}/{name}" for name in own]
        return tuple(found)

    @property
    def rounds(self) -> bool:
        """Whether the model itself rounds to a grid."""
        return any(layer.kind == plain.ROUNDING for layer in self.layers)

    def outputs(self, ref: Reference, inputs: Array) -> Array:
        """The model in float64."""
        x = inputs.astype(np.float64)
        for i, layer in enumerate(self.layers):
            x = layer.naive(ref, _prefix(self.system, i), x)
        return x

    def asked(self, name: str) -> Asked:
        """What the candidate asks for at a weight."""
        chosen = self.candidate
        table = name.endswith("/embedding") and "/table/" not in name
        wide = chosen.get("quantize") is True
        whole = chosen.get("weight_bits", 8 if wide else None)
        if name == self.weights[-1]:
            whole = chosen.get("weight_bits@last", whole)
        inputs = chosen.get("activation_bits", 8 if wide else None)
        precision = chosen.get("precision")
        return Asked(
            weight_bits=whole,
            input_bits=None if table else inputs,
            precision=None if precision == "float32" else precision,
            scales=chosen.get("weight_scales", "channel"),
            group=int(chosen.get("group_size", 32)),
        )

    @property
    def words(self) -> str:
        """What a failure says."""
        layers = ", ".join(layer.kind for layer in self.layers)
        place = ".".join(map(str, self.place))
        return f"draw {place}: {self.system}, {self.dtypes}: {layers}; {self.candidate}"


def _prefix(system: str, place: int) -> str:
    return f"layers/{place}" if system == "nnx" else f"b{place}"


def draw(system: str, number: int, techniques: int = 0, numbers: int = 0) -> Drawn:
    """A model, and what is done to it.

    Args:
        system: in which the model is written: nnx, linen or pair.
        number: of the model.
        techniques: which set of techniques.
        numbers: which widths, shares and rates they have; programs are the same for all.
    """
    rng = np.random.default_rng([number, *system.encode()])
    dtypes = "float32"
    if system != "pair" and rng.random() < 0.3:
        dtypes = str(rng.choice([name for name in _DTYPES if name != "float32"]))
    start = str(rng.choice(["table", "image", "sequence", "tokens"]))
    layers = tuple(_layers(rng, system, start))
    if techniques:
        rng = np.random.default_rng([number, techniques, *system.encode()])
    candidate = _candidate(rng, start)
    if numbers:
        candidate |= _numbers(np.random.default_rng([number, techniques, numbers]), candidate)
    return Drawn(
        place=(number, techniques, numbers),
        system=system,
        dtypes=dtypes,
        layers=layers,
        task=classification(
            f"drawn{number}",
            load=lambda: _data(number, start),
            build=builder(system, layers, _DTYPES[dtypes]),
            defaults={},
        ),
        candidate=candidate,
    )


# The model ----------------------------------------------------------------------------------------

_START: Mapping[str, Shape] = {
    "table": (8,),
    "image": (6, 6, 2),
    "sequence": (4, 4),
    "tokens": (4,),
}


def _layers(rng: np.random.Generator, system: str, start: str) -> list[Made]:
    shape = _START[start]
    found: list[Made] = []

    def add(layer: Made) -> None:
        nonlocal shape
        found.append(layer)
        shape = layer.out

    if start == "tokens" and rng.random() < 0.25:
        return [sequences.tied(4, _TOKENS, 8)]
    if start == "tokens":
        add(sequences.embedding(4, _TOKENS, 8))
    for _ in range(int(rng.integers(1, 4))):
        ways = [make for make in _choices(rng, shape) if system in make.systems]
        add(ways[int(rng.integers(len(ways)))])
        if rng.random() < 0.3 and system != "pair":
            add((plain.batch_norm if rng.random() < 0.6 else plain.layer_norm)(shape))
        if rng.random() < 0.8:
            add(plain.activation(shape, str(rng.choice(plain.ACTIVATIONS))))
    if len(shape) == 3 and min(shape[:2]) > 1 and rng.random() < 0.4:
        add(plain.pooled(shape))
    if len(shape) > 1:
        add((plain.flat if rng.random() < 0.5 else plain.mean)(shape))
    add(dense.plain_dense(shape, CLASSES))
    return found


def _choices(rng: np.random.Generator, shape: Shape) -> list[Made]:
    """Layers that may come next, each with sizes of its own."""
    width = int(rng.choice([4, 6, 8, 12]))
    if len(shape) == 3:
        channels = shape[-1]
        groups = channels if rng.random() < 0.3 else 1
        out = width if groups == 1 else channels * int(rng.integers(1, 3))
        stride, dilation = (int(v) for v in rng.choice([(1, 1), (2, 1), (1, 2)]))
        usual = images.plain_convolution(shape, out, stride, dilation, groups)
        return [
            usual,
            usual,
            images.outputs_first(shape, width),
            images.upward(shape, width, turned=bool(rng.random() < 0.5)),
            dense.plain_dense(shape, width),
        ]
    many = [
        dense.plain_dense(shape, width),
        dense.plain_dense(shape, width),
        dense.residual(shape),
        dense.twice(shape),
        dense.stack(shape, "scanned"),
        dense.stack(shape, "sliced"),
        dense.gates(shape, width),
        dense.own_derivative(shape, width),
        *(dense.odd_dense(shape, width, form) for form in dense.FORMS),
    ]
    if len(shape) == 2:
        heads = 2 if shape[-1] % 2 == 0 else 1
        many += [sequences.recurrent(shape, width), sequences.attention(shape, heads)] * 2
    return many


def builder(system: str, layers: Sequence[Made], types: dict[str, Any]) -> Callable[..., Any]:
    """What a task of these layers builds; `types`: dtypes of the modules."""
    if system == "nnx":
        return lambda config, rngs: _Nnx(layers, types, rngs)
    if system == "linen":
        return lambda config: _Linen(tuple(layers), tuple(types.items()))

    def init(key: jax.Array, x: jax.Array) -> dict[str, Any]:
        found = {}
        for i, layer in enumerate(layers):
            assert layer.init is not None
            found[f"b{i}"] = layer.init(jax.random.fold_in(key, i))
        return found

    def apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
        for i, layer in enumerate(layers):
            assert layer.apply is not None
            x = layer.apply(params[f"b{i}"], x)
        return x

    return lambda config: (init, apply)


class _Nnx(nnx.Module):
    def __init__(self, layers: Sequence[Made], types: dict[str, Any], rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([layer.nnx(rngs, **types) for layer in layers if layer.nnx])

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x.astype(jnp.float32)


class _Linen(linen.Module):
    layers: tuple[Made, ...]
    types: tuple[tuple[str, Any], ...]

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for i, layer in enumerate(self.layers):
            assert layer.linen is not None
            run = layer.linen(f"b{i}", **dict(self.types))
            x = run(x, use_running_average=not train) if layer.kind == "batch norm" else run(x)
        return x.astype(jnp.float32)


def _data(number: int, start: str) -> Data:
    rng = np.random.default_rng([number, 1])
    shape = _START[start]

    def part(count: int) -> Split:
        labels = rng.permutation(np.arange(count) % CLASSES).astype(np.int32)
        if start == "tokens":
            return Split(rng.integers(0, _TOKENS, (count, *shape)).astype(np.int32), labels)
        return Split(rng.normal(size=(count, *shape)).astype(np.float32), labels)

    return Data(train=part(96), validation=part(33), test=part(40))


# What is done to it -------------------------------------------------------------------------------


def _candidate(rng: np.random.Generator, start: str) -> dict[str, Any]:
    """A few techniques at once; some combinations must be refused."""
    found: dict[str, Any] = {
        "epochs": 1,
        "batch_size": 32,
        "learning_rate": 0.01,
        "optimizer": str(rng.choice(["adamw", "sgd"])),
    }
    kind = rng.choice(["none", "whole", "whole", "whole", "weights", "inputs", "format"])
    if kind == "whole":
        found["quantize"] = True
    if kind in ("whole", "weights"):
        found["weight_bits"] = int(rng.choice([2, 3, 4, 5, 8]))
        found["weight_scales"] = str(rng.choice(["channel", "channel", "tensor", "group"]))
        found["group_size"] = int(rng.choice([2, 4]))
    if kind in ("whole", "inputs"):
        found["activation_bits"] = int(rng.choice([4, 6, 8]))
    if kind == "format":
        found["precision"] = str(rng.choice(["bfloat16", "float16", "float8"]))
    if kind in ("whole", "weights") and rng.random() < 0.4:
        found["qat"] = str(rng.choice(["ste", "lsq"]))
        found["qat_start"] = 0.0
    sparse = rng.choice(["none", "none", "some", "pattern", "global"])
    if sparse in ("some", "global"):
        found["sparsity"] = float(rng.choice([0.25, 0.5, 0.9]))
        found["pruning_scope"] = "global" if sparse == "global" else "layer"
    if sparse == "pattern":
        found["pruning_pattern"] = str(rng.choice(["2:4", "1:2"]))
    if rng.random() < 0.25:
        found["channel_sparsity"] = float(rng.choice([0.25, 0.5]))
    if start == "table" and rng.random() < 0.25:
        found["normalization"] = "standard"
    return found


def _numbers(rng: np.random.Generator, candidate: Mapping[str, Any]) -> dict[str, Any]:
    """Other numbers for the techniques of a candidate; its programs serve them all."""
    ways: Mapping[str, Callable[[], Any]] = {
        "learning_rate": lambda: round(10 ** rng.uniform(-3, -1), 6),
        "weight_bits": lambda: int(rng.integers(2, 9)),
        "activation_bits": lambda: int(rng.integers(2, 9)),
        "sparsity": lambda: round(rng.uniform(0.05, 0.95), 3),
    }
    found = {name: way() for name, way in ways.items() if name in candidate}
    if "weight_bits" in candidate and rng.random() < 0.4:
        found["weight_bits@last"] = int(rng.integers(2, 9))
    return found
