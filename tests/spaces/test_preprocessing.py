"""Which preprocessing a candidate asks for, what is refused, and what a fitted pipeline is."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.errors import UsageError
from paretax.spaces import preprocessing
from paretax.spaces.preprocessing import SETTINGS, Pipeline, check, fit, is_active, key
from paretax.spaces.preprocessing.techniques import TECHNIQUES

NAN = np.nan
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(40, 4)).astype(np.float32)
LABELS = np.arange(40) % 3


def run(pipeline: Pipeline, inputs: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(pipeline.apply)(pipeline.arrays, inputs))


# Settings -----------------------------------------------------------------------------------------

ALLOWED: dict[str, tuple[list[Any], list[Any]]] = {
    "normalization": (["none", "standard", "minmax", "robust"], ["zscore", True, 0]),
    "imputation": (["none", "mean", "median", "most_frequent", "knn"], ["mode", 1]),
    "imputation_neighbors": ([1, 5, 100], [0, -1, 2.0, True, "5"]),
    "missing_indicator": ([True, False], [0, 1, "true"]),
    "outliers": (["none", "iqr", "winsorize"], ["clip", False]),
    "winsor_quantile": ([0.01, 0.49], [0, 0.0, 0.5, 1, "0.1"]),
    "transformation": (["none", "power", "quantile", "polynomial"], ["log", 2]),
    "quantile_output": (["uniform", "normal"], ["none", 1]),
    "polynomial_degree": ([2, 3], [1, 4, 2.0, True]),
    "pca": ([0, 1, 10, 0.5, 0.99, 0.0], [-1, 1.0, 2.5, -0.5, True, "2"]),
    "feature_selection": ([0, 1, 10], [-1, 2.0, 0.5, True]),
}


def test_every_setting_and_its_values() -> None:
    assert {s.name for s in SETTINGS} == set(ALLOWED)
    assert len({s.name for s in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        allowed, refused = ALLOWED[setting.name]
        assert setting.allows(setting.default)
        assert [v for v in allowed if not setting.allows(v)] == []
        assert [v for v in refused if setting.allows(v)] == []


def test_every_named_technique_is_a_choice() -> None:
    by_name = {s.name: s for s in SETTINGS}
    for technique in TECHNIQUES:
        assert technique.place in by_name
        if technique.name:
            assert technique.name in by_name[technique.place].rule


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"width": 8, "learning_rate": 0.1},
        {s.name: s.default for s in SETTINGS},
        {"winsor_quantile": 0.1, "imputation_neighbors": 3, "polynomial_degree": 3},
        {"quantile_output": "normal"},
        {"missing_indicator": True},  # marks what is filled, and nothing is
        {"pca": 0.0, "feature_selection": 0},
    ],
)
def test_nothing_asked_for(config: dict[str, Any]) -> None:
    assert not is_active(config)
    assert key(config) == ""
    pipeline = fit(config, TABLE, LABELS)
    assert (dict(pipeline.arrays), pipeline.steps, pipeline.program) == ({}, (), ())
    np.testing.assert_array_equal(run(pipeline, TABLE), TABLE)
    np.testing.assert_array_equal(pipeline.reference(TABLE), TABLE)


@pytest.mark.parametrize(
    ("config", "counted"),
    [
        ({"normalization": "standard", "winsor_quantile": 0.1}, {"normalization": "standard"}),
        (
            {"outliers": "winsorize", "width": 3},
            {"outliers": "winsorize", "winsor_quantile": 0.05},
        ),
        ({"outliers": "iqr", "winsor_quantile": 0.2}, {"outliers": "iqr"}),
        ({"imputation": "mean", "imputation_neighbors": 3}, {"imputation": "mean"}),
        ({"imputation": "knn"}, {"imputation": "knn", "imputation_neighbors": 5}),
        (
            {"imputation": "mean", "missing_indicator": True},
            {"imputation": "mean", "missing_indicator": True},
        ),
        ({"pca": 0.5, "polynomial_degree": 3}, {"pca": 0.5}),
        (
            {"transformation": "quantile", "polynomial_degree": 3},
            {"transformation": "quantile", "quantile_output": "uniform"},
        ),
    ],
)
def test_the_key_has_what_counts(config: dict[str, Any], counted: dict[str, Any]) -> None:
    assert is_active(config)
    assert json.loads(key(config)) == counted
    assert key(config) == key(dict(reversed(config.items()))) == key(counted)


# What is refused ----------------------------------------------------------------------------------


def checked(config: dict[str, Any], **over: Any) -> None:
    known = {"example_shape": (4,), "has_missing": False, "examples": 40, "targets": LABELS}
    check(config, **{**known, **over})


@pytest.mark.parametrize(
    ("config", "over", "message"),
    [
        ({}, {"has_missing": True}, "need an imputation, got imputation 'none': set it to one of"),
        ({"missing_indicator": True}, {"has_missing": True}, "mean, median, most_frequent, knn"),
        ({"normalization": "z"}, {}, "must be one of none, standard, .*, got 'z'"),
        ({"pca": -1}, {}, "pca must be 0 for none, .*, got -1"),
        ({"pca": 5}, {}, "number of features, 4, and of training examples, 40, got 5: lower it"),
        ({"pca": 4}, {"examples": 3}, "features, 4, and of training examples, 3, got 4"),
        ({"pca": 4, "feature_selection": 3}, {}, "number of features, 3, .*, got 4"),
        ({"pca": 15, "transformation": "polynomial"}, {}, "number of features, 14, .* got 15"),
        ({"feature_selection": 5}, {}, "at most the number of features, 4, got 5: lower it"),
        (
            {"feature_selection": 35, "transformation": "polynomial", "polynomial_degree": 3},
            {},
            "at most the number of features, 34, got 35",
        ),
        (
            {"feature_selection": 2},
            {"targets": np.zeros((40, 2))},
            r"one target an example, got targets of shape \(2,\)",
        ),
        (
            {"imputation": "knn", "imputation_neighbors": 41},
            {},
            "at most the number of training examples, 40, got 41",
        ),
        (
            {"transformation": "polynomial", "polynomial_degree": 3},
            {"example_shape": (64,)},
            "at most 10000, got 47904 of degree 3 from 64 features",
        ),
        ({"normalization": "standard"}, {"example_shape": ()}, r"give the inputs the shape"),
    ],
)
def test_what_does_not_go_with_the_data(
    config: dict[str, Any], over: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        checked(config, **over)


@pytest.mark.parametrize("shape", [(8, 8, 1), (20, 3)])
@pytest.mark.parametrize(
    "config",
    [
        {"imputation": "knn"},
        {"imputation": "mean", "missing_indicator": True},
        {"transformation": "quantile"},
        {"transformation": "polynomial"},
        {"pca": 1},
        {"pca": 0.5},
        {"feature_selection": 1},
    ],
)
def test_what_is_for_tables_alone(shape: tuple[int, ...], config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"is for tables .examples, features., got examples of sh"):
        checked(config, example_shape=shape)
    checked(config)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"pca": 4},
        {"pca": 14, "transformation": "polynomial"},
        {"pca": 0.99},
        {"feature_selection": 4, "pca": 4},
        {"imputation": "knn", "imputation_neighbors": 40, "missing_indicator": True},
    ],
)
def test_what_just_fits(config: dict[str, Any]) -> None:
    checked(config)
    fit(config, TABLE, LABELS)


def test_what_cannot_be_fitted() -> None:
    missing = TABLE.copy()
    missing[:, 2] = NAN
    for imputation in ("mean", "median", "most_frequent", "knn"):
        with pytest.raises(
            UsageError, match=r"a value in the training .*, got only NaN in fea.* 2"
        ):
            fit({"imputation": imputation}, missing, LABELS)
    with pytest.raises(UsageError, match="need an imputation"):
        fit({"normalization": "standard"}, missing, LABELS)
    standard = {"normalization": "standard"}
    with pytest.raises(UsageError, match="needs numbers, got inputs of type <U1: encode"):
        fit(standard, np.full((3, 1), "a"), np.arange(3))
    with pytest.raises(UsageError, match=r"float32 holds, up to 3.40282e\+38, got 1e\+39: rescale"):
        fit(standard, np.asarray([[1e39], [0.0]]), np.arange(2))
    with pytest.raises(UsageError, match=r"at least one example.* got 0 and 0"):
        fit(standard, TABLE[:0], LABELS[:0])
    with pytest.raises(UsageError, match=r"polynomial' does not fit .*beyond float32.: leave it"):
        fit({"transformation": "polynomial"}, TABLE * 1e25, LABELS)


# What a pipeline is -------------------------------------------------------------------------------

EVERYTHING = {
    "imputation": "knn",
    "imputation_neighbors": 3,
    "missing_indicator": True,
    "outliers": "winsorize",
    "transformation": "polynomial",
    "normalization": "robust",
    "feature_selection": 6,
    "pca": 2,
}


def test_the_order_and_its_words() -> None:
    holed = TABLE.copy()
    holed[::7, 1] = NAN
    pipeline = fit(EVERYTHING, holed, LABELS)
    assert [place for place, _ in pipeline.program] == [
        "imputation",
        "outliers",
        "transformation",
        "normalization",
        "feature_selection",
        "pca",
        "missing_indicator",
    ]
    assert pipeline.steps[0] == "impute missing values: knn, 3 neighbours"
    assert pipeline.steps[1] == "cap outliers: at the quantiles 0.05 and 0.95"
    assert pipeline.steps[2] == "transform: 14 products of up to 2 of the 4 features"
    assert pipeline.steps[3] == "normalise: robust, median 0 and interquartile range 1"
    assert pipeline.steps[4] == "select features: 6 of 14 by f_classif"
    assert pipeline.steps[5].startswith("pca: 2 components of 6 features, 0.")
    assert pipeline.steps[6] == "mark missing values: 1 columns of 0 and 1, appended last"


def test_arrays_are_the_inputs_of_a_program() -> None:
    holed = TABLE.copy()
    holed[::7, 1] = NAN
    pipeline = fit(EVERYTHING, holed, LABELS)
    places = {place for place, _ in pipeline.program}
    for name, array in pipeline.arrays.items():
        prefix, place, _ = name.split("/")
        assert prefix == "preprocessing"
        assert place in places
        assert array.dtype in (np.float32, np.int32)
        assert array.size
        assert np.isfinite(array).all()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"normalization": "standard"}, {"normalization": "minmax"}),
        ({"outliers": "iqr"}, {"outliers": "winsorize", "winsor_quantile": 0.1}),
        (
            {"imputation": "knn", "imputation_neighbors": 2},
            {"imputation": "knn", "imputation_neighbors": 7},
        ),
        ({"imputation": "mean"}, {"imputation": "most_frequent"}),
    ],
)
def test_equal_programs_differ_in_their_arrays_alone(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    holed = TABLE.copy()
    holed[RNG.random(TABLE.shape) < 0.2] = NAN if "imputation" in one else 0
    first, second = (fit(config, holed, LABELS) for config in (one, other))
    assert first.program == second.program
    shapes = [{n: (a.shape, a.dtype) for n, a in p.arrays.items()} for p in (first, second)]
    assert shapes[0] == shapes[1]
    compiled = jax.jit(first.apply)  # given the other's arrays, it is the other
    found = np.asarray(compiled(second.arrays, holed))
    np.testing.assert_allclose(found, second.reference(holed), rtol=1e-5, atol=1e-6)
    assert not np.array_equal(found, compiled(first.arrays, holed))


def test_other_arrays_of_a_model_are_left_alone() -> None:
    pipeline = fit({"normalization": "standard"}, TABLE, LABELS)
    arrays = {**pipeline.arrays, "kernel": np.zeros(3), "preprocessing/pca/tail": np.zeros(3)}
    found = jax.jit(pipeline.apply)(arrays, TABLE)
    np.testing.assert_array_equal(found, run(pipeline, TABLE))


def test_fitting_changes_no_inputs() -> None:
    holed = TABLE.copy()
    holed[::7, 1] = NAN
    before, labels = holed.copy(), LABELS.copy()
    pipeline = fit(EVERYTHING, holed, labels)
    pipeline.reference(holed)
    run(pipeline, holed)
    np.testing.assert_array_equal(holed, before)
    np.testing.assert_array_equal(labels, LABELS)


def test_fitting_twice_gives_the_same() -> None:
    config = {"transformation": "quantile", "pca": 0.9}
    first, second = (fit(config, TABLE, LABELS) for _ in range(2))
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[name])


@pytest.mark.parametrize(
    "config",
    [
        EVERYTHING,
        {"imputation": "median", "transformation": "power", "normalization": "minmax"},
        {"imputation": "mean", "transformation": "quantile", "quantile_output": "normal"},
    ],
)
def test_one_exported_program_serves_every_batch_size(config: dict[str, Any]) -> None:
    holed = TABLE.copy()
    holed[::7, 1] = NAN
    pipeline = fit(config, holed, LABELS)
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in pipeline.arrays.items()}
    inputs = jax.ShapeDtypeStruct((batch, 4), jnp.float32)
    exported = jax.export.export(jax.jit(pipeline.apply))(shapes, inputs)
    program = jax.export.deserialize(exported.serialize())
    whole = run(pipeline, holed)
    assert whole.dtype == np.float32
    for size in (1, 17):
        found = program.call(dict(pipeline.arrays), holed[:size])
        np.testing.assert_allclose(found, whole[:size], rtol=1e-5, atol=1e-6)


# Images, series and whole numbers -----------------------------------------------------------------

CHANNELWISE: list[dict[str, Any]] = [
    {"normalization": "standard"},
    {"normalization": "minmax"},
    {"normalization": "robust"},
    {"imputation": "median", "outliers": "iqr"},
    {"imputation": "mean", "outliers": "winsorize", "normalization": "standard"},
    {"imputation": "most_frequent", "transformation": "power"},
]


@pytest.mark.parametrize("shape", [(12, 5, 4, 3), (12, 20, 3), (60, 2, 2, 1, 1)])
@pytest.mark.parametrize("config", CHANNELWISE)
def test_statistics_are_per_channel(shape: tuple[int, ...], config: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    inputs = rng.gamma(2.0, 20.0, shape) * np.arange(1, shape[-1] + 1)
    if "imputation" in config:
        inputs[rng.random(shape) < 0.1] = NAN
    labels = np.arange(len(inputs)) % 2
    pipeline = fit(config, inputs, labels)
    found = run(pipeline, inputs.astype(np.float32))
    assert found.shape == shape
    np.testing.assert_allclose(found, pipeline.reference(inputs), rtol=1e-5, atol=1e-5)
    rows = inputs.reshape(-1, shape[-1])
    flat = fit(config, rows, np.zeros(len(rows)))
    np.testing.assert_allclose(
        run(flat, rows.astype(np.float32)), found.reshape(rows.shape), rtol=1e-6, atol=1e-6
    )
    if config == {"normalization": "standard"}:
        axes = tuple(range(len(shape) - 1))
        np.testing.assert_allclose(found.mean(axis=axes), 0, atol=1e-5)
        np.testing.assert_allclose(found.std(axis=axes), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64, np.bool_])
def test_whole_numbers_become_float32(dtype: Any) -> None:
    inputs = np.random.default_rng(0).integers(0, 2, (30, 3)).astype(dtype)
    pipeline = fit({"normalization": "standard"}, inputs, np.arange(30))
    found = run(pipeline, inputs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pipeline.reference(inputs), atol=1e-6)


def test_the_public_names() -> None:
    assert set(preprocessing.__all__) == {
        "SETTINGS",
        "Pipeline",
        "check",
        "fit",
        "is_active",
        "key",
    }
