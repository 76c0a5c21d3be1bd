"""The built-in tasks: real data, fixed splits, and models that can be built."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from palmerpenguins import load_penguins
from sklearn.datasets import load_breast_cancer, load_digits

from paretax.spaces import SETTINGS, check_space, parse_space
from paretax.spaces.preprocessing import fit
from paretax.tasks import BUILT_IN, Data, Task, accuracy, build_model, load_task
from paretax.tasks.mnist5k import _max_pool


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is documented of a task.

    Args:
        sizes: examples of the three splits.
        shape: of an example.
        classes: how many there are.
        digest: of the splits in order; it pins which example is in which.
        missing: values that are NaN.
    """

    sizes: tuple[int, int, int]
    shape: tuple[int, ...]
    classes: int
    digest: str
    missing: int = 0


EXPECTED = {
    "breast_cancer": Expected(sizes=(341, 114, 114), shape=(30,), classes=2, digest="f8d4524a6735"),
    "digits": Expected(sizes=(1168, 270, 359), shape=(64,), classes=10, digest="87c801c8c6cc"),
    "mnist5k": Expected(
        sizes=(4000, 500, 500), shape=(28, 28, 1), classes=10, digest="bdad2de8a0ec"
    ),
    "mnist5k_vit": Expected(
        sizes=(4000, 500, 500), shape=(28, 28, 1), classes=10, digest="bdad2de8a0ec"
    ),
    "penguins": Expected(
        sizes=(206, 69, 69), shape=(5,), classes=3, digest="deaae8c785c4", missing=19
    ),
}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A task and its data, loaded once."""

    task: Task
    data: Data
    expected: Expected


@pytest.fixture(scope="module", params=BUILT_IN)
def loaded(request: pytest.FixtureRequest) -> Loaded:
    task = load_task(request.param)
    return Loaded(task=task, data=task.data(), expected=EXPECTED[request.param])


def parts(data: Data) -> Any:
    return (data.train, data.validation, data.test)


def test_sizes_and_types(loaded: Loaded) -> None:
    assert tuple(len(p) for p in parts(loaded.data)) == loaded.expected.sizes
    for part in parts(loaded.data):
        assert part.inputs.shape[1:] == loaded.expected.shape
        assert part.inputs.dtype == np.float32
        assert part.targets.dtype == np.int32
        assert part.targets.shape == (len(part),)
        assert not np.isinf(part.inputs).any()
        assert set(part.targets.tolist()) == set(range(loaded.expected.classes))
    assert np.isnan(rows(loaded.data)).sum() == loaded.expected.missing


def test_the_splits_are_the_same_in_any_process(loaded: Loaded) -> None:
    digest = hashlib.sha256()
    for part in parts(loaded.data):
        digest.update(part.targets.tobytes())
        digest.update(np.packbits(part.inputs > 0).tobytes())
    assert digest.hexdigest()[:12] == loaded.expected.digest


def test_the_splits_are_stratified(loaded: Loaded) -> None:
    whole = np.concatenate([p.targets for p in parts(loaded.data)])
    for part in parts(loaded.data):
        counts = np.bincount(part.targets)
        assert np.abs(counts - np.bincount(whole) * len(part) / len(whole)).max() < 2


def rows(data: Data) -> np.ndarray:
    return np.concatenate([p.inputs.reshape(len(p), -1) for p in parts(data)])


def ordered(table: np.ndarray) -> np.ndarray:
    return table[np.lexsort(table.T)]


def test_every_digit_is_in_one_split() -> None:
    inputs, _ = load_digits(return_X_y=True)
    found = rows(load_task("digits").data())
    np.testing.assert_array_equal(ordered(found * 16), ordered(inputs.astype(np.float32)))


def test_every_tumour_is_in_one_split() -> None:
    """Scaled by the training split's mean and deviation, and by nothing of the others."""
    inputs, _ = load_breast_cancer(return_X_y=True)
    data = load_task("breast_cancer").data()
    np.testing.assert_allclose(data.train.inputs.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(data.train.inputs.std(axis=0), 1, atol=1e-5)
    found = np.sort(rows(data), axis=0)
    expected = np.sort(inputs, axis=0)
    slope = (expected[-1] - expected[0]) / (found[-1] - found[0])
    np.testing.assert_allclose(
        (found - found[0]) * slope + expected[0], expected, rtol=1e-3, atol=1e-3
    )


def test_every_penguin_is_in_one_split() -> None:
    """As it was measured; the two of which nothing was are the only equal ones."""
    table = load_penguins()
    expected = table[["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]]
    found = rows(load_task("penguins").data())
    np.testing.assert_array_equal(ordered(found[:, :4]), ordered(expected.to_numpy(np.float32)))
    sexes = [(found[:, 4] == value).sum() for value in (0, 1)]
    assert sexes == [(table["sex"] == name).sum() for name in ("female", "male")]
    assert np.isnan(found[:, 4]).sum() == 11
    assert np.isnan(found).all(axis=1).sum() == 2
    adelie = [s.inputs[s.targets == 0] for s in parts(load_task("penguins").data())]
    assert np.nanmax(np.concatenate(adelie)[:, 0]) == np.float32(46.0)  # the short bills


def test_no_example_is_there_twice(loaded: Loaded) -> None:
    table = rows(loaded.data)
    table = table[~np.isnan(table).all(axis=1)]
    assert len({row.tobytes() for row in table}) == len(table)


@pytest.mark.parametrize("loaded", ["digits", "mnist5k"], indirect=True)
def test_pixels_are_scaled(loaded: Loaded) -> None:
    table = rows(loaded.data)
    assert (table.min(), table.max()) == (0.0, 1.0)


def test_default_models_map_examples_to_logits(loaded: Loaded) -> None:
    task, data = loaded.task, loaded.data
    example = jax.ShapeDtypeStruct((1, *loaded.expected.shape), jnp.float32)
    model = build_model(task, task.defaults, example)
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(0, 0.1, a.shape), a.dtype) for n, a in params.items()}
    inputs = data.validation.inputs[:8]
    if loaded.expected.missing:  # they need preprocessing
        inputs = fit(
            {"imputation": "mean", "normalization": "standard"},
            data.train.inputs,
            data.train.targets,
        ).reference(inputs)
    outputs = jax.jit(model.predict)(params, state, inputs.astype(np.float32))
    assert outputs.shape == (8, loaded.expected.classes)
    loss = float(task.loss(outputs, jnp.asarray(data.validation.targets[:8])))
    assert 0 < loss < 10
    score = task.metric.compute(np.asarray(outputs), data.validation.targets[:8])
    assert 0 <= score <= 1
    assert task.metric is accuracy
    assert state == {}


def test_the_penguins_model_takes_what_preprocessing_leaves() -> None:
    task = load_task("penguins")
    for features in (1, 5, 26):
        for depth in (0, 1, 3):
            sizes = sizes_of(task, {"width": 4, "depth": depth}, (features,))
            widths = [features, *[4] * depth]
            for i in range(depth):
                assert sizes[f"hidden_{i}/kernel"] == (widths[i], 4)
            assert sizes["out/kernel"] == (widths[-1], 3)
            assert len(sizes) == 2 * (depth + 1) + 1


def sizes_of(task: Task, config: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
    model = build_model(task, config, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    params, state = jax.eval_shape(model.init, jax.random.key(0))
    outputs = jax.eval_shape(model.predict, params, state, jnp.zeros((3, *shape)))
    return {name: a.shape for name, a in params.items()} | {"outputs": outputs.shape}


@pytest.mark.parametrize(
    ("name", "features", "classes"), [("digits", 64, 10), ("breast_cancer", 30, 2)]
)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_perceptrons_follow_their_config(
    name: str, features: int, classes: int, depth: int
) -> None:
    sizes = sizes_of(load_task(name), {"width": 5, "depth": depth}, (features,))
    widths = [features, *[5] * depth]
    for i in range(depth):
        assert sizes[f"hidden/{i}/kernel"] == (widths[i], widths[i + 1])
    assert sizes["out/kernel"] == (widths[-1], classes)
    assert sizes["outputs"] == (3, classes)
    assert len(sizes) == 2 * (depth + 1) + 1


@pytest.mark.parametrize(
    ("depth", "flat"), [(1, 14 * 14 * 4), (2, 7 * 7 * 8), (3, 3 * 3 * 16), (4, 32)]
)
def test_convolutional_nets_follow_their_config(depth: int, flat: int) -> None:
    config = {"channels": 4, "depth": depth, "hidden": 6}
    sizes = sizes_of(load_task("mnist5k"), config, (28, 28, 1))
    channels = [1, 4, 8, 16, 32]
    for i in range(depth):
        assert sizes[f"convolutions/{i}/kernel"] == (3, 3, channels[i], channels[i + 1])
    assert sizes["hidden/kernel"] == (flat, 6)
    assert sizes["outputs"] == (3, 10)


def test_max_pooling_is_that_of_flax() -> None:
    """Also where a row is left over."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6, 3)))
    expected = nnx.max_pool(x, (2, 2), strides=(2, 2))
    np.testing.assert_array_equal(_max_pool(x), expected)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_space_may_vary_the_defaults_beside_the_settings(name: str) -> None:
    task = load_task(name)
    space = parse_space({**task.defaults, **{s.name: s.default for s in SETTINGS}})
    check_space(space, SETTINGS, task.defaults, task.name)
