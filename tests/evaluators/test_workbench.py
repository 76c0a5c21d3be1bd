"""A task's data and models, as the evaluators see them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.evaluators import Workbench
from paretax.evaluators.workbench import _narrow
from paretax.tasks import Data, Split, SupervisedTask, classification


def init(key: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
    return {"w": jax.random.normal(key, (3, 2))}


def apply(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ params["w"]


def data(inputs: Any = np.float32, targets: Any = np.int32) -> Data:
    split = Split(np.arange(12).reshape(4, 3).astype(inputs), np.array([0, 1, 0, 1], targets))
    return Data(train=split, validation=split, test=split)


def make_task(load: Any = data, run: Any = apply) -> SupervisedTask:
    return classification(
        "toy", load=load, build=lambda config: (init, run), defaults={"width": 2, "depth": 1}
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("float64", "float32"),
        ("float32", "float32"),
        ("float16", "float16"),
        ("int64", "int32"),
        ("uint64", "uint32"),
        ("int32", "int32"),
        ("uint8", "uint8"),
        ("bool", "int32"),
    ],
)
def test_arrays_get_the_types_that_jax_computes_with(given: str, expected: str) -> None:
    found = Workbench(make_task(lambda: data(given, given))).data
    for split in (found.train, found.validation, found.test):
        for array in (split.inputs, split.targets):
            assert str(array.dtype) == expected
            assert jnp.asarray(array).dtype == expected
    np.testing.assert_array_equal(found.train.targets, [0, 1, 0, 1])
    np.testing.assert_array_equal(found.train.inputs, data(given).train.inputs)


def test_lists_become_arrays() -> None:
    split = Split([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [0, 1])  # type: ignore[arg-type]
    load = lambda: Data(train=split, validation=split, test=split)  # noqa: E731
    found = Workbench(make_task(load)).data.train
    assert found.inputs.dtype == np.float32
    assert found.targets.dtype == np.int32
    assert found.inputs.shape == (2, 3)


@pytest.mark.parametrize("wrong", [None, (1, 2, 3), {"train": 1}, iter([1]), (i for i in [1])])
def test_data_of_another_type_is_refused(wrong: Any) -> None:
    bench = Workbench(make_task(lambda: wrong))
    with pytest.raises(
        UsageError,
        match=rf"data\(\) of task 'toy' must return paretax.Data, got {type(wrong).__name__}: "
        r"gather .*paretax.split\(inputs, targets\)",
    ):
        _ = bench.data


@pytest.mark.parametrize("kind", ["str", "object"])
def test_arrays_without_numbers_are_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="must hold numbers, got "):
        _ = Workbench(make_task(lambda: data(kind))).data


def test_what_overflows_when_narrowed_is_refused() -> None:
    split = Split(np.full((2, 3), 1e300), np.array([0, 1]))
    load = lambda: Data(train=split, validation=split, test=split)  # noqa: E731
    with np.errstate(over="ignore"), pytest.raises(UsageError, match="must be finite"):
        _ = Workbench(make_task(load)).data


def test_data_is_loaded_once() -> None:
    calls = []

    def load() -> Data:
        calls.append(1)
        return data()

    bench = Workbench(make_task(load))
    assert not calls
    assert bench.data is bench.data
    assert len(calls) == 1


def test_the_shape_of_a_batch_is_that_of_the_data() -> None:
    batch = Workbench(make_task(lambda: data(np.uint8))).batch_shape(7)
    assert (batch.shape, batch.dtype) == ((7, 3), np.uint8)


def test_build_reads_the_defaults_under_the_candidate() -> None:
    bench = Workbench(make_task())
    assert bench.config({}) == {"width": 2, "depth": 1}
    assert bench.config({"depth": 3, "epochs": 9}) == {"width": 2, "depth": 3}


def test_a_model_is_prepared_once_for_all_that_shares_its_configuration() -> None:
    built = []

    def build(config: Any) -> Any:
        built.append(dict(config))
        return init, apply

    bench = Workbench(replace(make_task(), model=build))
    first = bench.prepared({"width": 2, "learning_rate": 0.1})
    count = len(built)
    assert count > 0
    assert bench.prepared({"width": 2, "learning_rate": 0.2, "quantize": True}) is first
    assert bench.prepared({}) is first  # the defaults, said or not
    assert len(built) == count
    other = bench.prepared({"width": 3})
    assert other is not first
    assert other.key != first.key
    assert built[-1] == {"width": 3, "depth": 1}


def test_what_is_prepared_describes_the_model() -> None:
    prepared = Workbench(make_task()).prepared({})
    assert {n: s.shape for n, s in prepared.params.items()} == {"w": (3, 2)}
    assert prepared.state == {}
    assert prepared.outputs.shape == (2, 2)
    assert {n: s.shape for n, s in prepared.sites.items()} == {"w": (3, 2)}


@pytest.mark.parametrize(
    "run",
    [
        lambda params, x: (x @ params["w"],) * 2,
        lambda params, x: {"logits": x @ params["w"]},
        lambda params, x: (x @ params["w"]).sum(),
        lambda params, x: (x @ params["w"]).T[:1],
        lambda params, x: jnp.concatenate([x @ params["w"]] * 2),
        lambda params, x: None,
    ],
    ids=["tuple", "dictionary", "scalar", "transposed", "doubled", "nothing"],
)
def test_an_output_that_is_no_array_with_the_batch_first_is_refused(run: Any) -> None:
    bench = Workbench(make_task(run=run))
    with pytest.raises(
        UsageError,
        match=r"the model of task 'toy' must return one array with the batch first, got .* of 2",
    ):
        bench.prepared({})


def test_whole_numbers_that_do_not_fit_32_bits_are_refused() -> None:
    wide = np.array([[0], [2**31]], np.int64)
    with pytest.raises(UsageError, match="must fit int32"):
        _narrow(Split(wide, np.array([0, 1])))
