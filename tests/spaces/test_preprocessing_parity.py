"""Compiled preprocessing against scikit-learn in float64, on real tables and on hard ones."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest, f_classif, f_regression
from sklearn.impute import KNNImputer, MissingIndicator, SimpleImputer
from sklearn.preprocessing import (
    MinMaxScaler,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from paretax.spaces.preprocessing import Pipeline, fit
from paretax.tasks import load_task

TOLERANCE = 1e-5
NAN = np.nan


@cache
def table(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Inputs, targets, and how many of the first rows are for training."""
    if name == "penguins":
        data = load_task("penguins").data()
        inputs, targets = (
            np.concatenate([getattr(s, part) for s in (data.train, data.validation, data.test)])
            for part in ("inputs", "targets")
        )
        return inputs, targets, len(data.train)
    loaders = {
        "breast_cancer": load_breast_cancer,
        "diabetes": load_diabetes,
        "digits": load_digits,
        "wine": load_wine,
    }
    inputs, targets = loaders[name.removesuffix(" with holes")](return_X_y=True)
    order = np.random.default_rng(0).permutation(len(inputs))
    inputs, targets = inputs[order].astype(np.float32), targets[order]
    if name.endswith("with holes"):
        inputs[np.random.default_rng(1).random(inputs.shape) < 0.08] = NAN
    return inputs, targets, len(inputs) * 2 // 3


COMPILED: dict[Any, Any] = {}


def run(pipeline: Pipeline, inputs: np.ndarray) -> np.ndarray:
    """Equal programs on arrays of equal shapes are compiled once for all tests."""
    compiled = COMPILED.setdefault(pipeline.program, jax.jit(pipeline.apply))
    return np.asarray(compiled(pipeline.arrays, inputs))


def furthest(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to max(1, |expected|)."""
    assert found.shape == expected.shape
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())


def narrow(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32).astype(np.float64)


def peer(
    config: Mapping[str, Any], train: np.ndarray, targets: np.ndarray, inputs: np.ndarray
) -> np.ndarray:
    """scikit-learn's own objects one after the other, in float64.

    What fills a gap and what caps a value are rounded to float32, as documented: next to a value
    that the table has, float64 would tell the two apart, and ranks jump between them.
    """
    x, given = train.astype(np.float64), inputs.astype(np.float64)
    y, raw = given.copy(), given.copy()
    marks = None
    imputation = config.get("imputation", "none")
    if config.get("missing_indicator"):
        marks = MissingIndicator(error_on_new=False).fit(x)
    steps: list[Any] = []
    if imputation == "knn":
        steps.append(KNNImputer(n_neighbors=config.get("imputation_neighbors", 5)))
    elif imputation != "none":
        steps.append(SimpleImputer(strategy=imputation))
    steps.append(config.get("outliers", "none"))
    steps.append(
        {
            "none": None,
            "power": PowerTransformer(),
            "quantile": QuantileTransformer(
                n_quantiles=min(1000, len(x)),
                output_distribution=config.get("quantile_output", "uniform"),
            ),
            "polynomial": PolynomialFeatures(
                config.get("polynomial_degree", 2), include_bias=False
            ),
        }[config.get("transformation", "none")]
    )
    steps.append(
        {
            "none": None,
            "standard": StandardScaler(),
            "minmax": MinMaxScaler(),
            "robust": RobustScaler(),
        }[config.get("normalization", "none")]
    )
    if config.get("feature_selection"):
        score = f_classif if targets.dtype.kind in "iu" else f_regression
        steps.append(SelectKBest(score, k=config["feature_selection"]))
    if config.get("pca"):
        steps.append(PCA(config["pca"], svd_solver="full"))
    for step in steps:
        if step == "iqr":
            q1, q3 = np.quantile(x, [0.25, 0.75], axis=0)
            low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
            x, y = (narrow(np.clip(a, low, high)) for a in (x, y))
        elif step == "winsorize":
            share = config.get("winsor_quantile", 0.05)
            low, high = np.quantile(x, [share, 1 - share], axis=0)
            x, y = (narrow(np.clip(a, low, high)) for a in (x, y))
        elif step is not None and step != "none":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of constant features
                step.fit(x, targets)
            x, y = step.transform(x), step.transform(y)
            if isinstance(step, SimpleImputer | KNNImputer):
                x, y = narrow(x), narrow(y)
    return np.hstack([y, marks.transform(raw)]) if marks is not None else np.asarray(y)


def compared(config: Mapping[str, Any], name: str) -> float:
    inputs, targets, count = table(name)
    pipeline = fit(config, inputs[:count], targets[:count])
    found = run(pipeline, inputs)
    ours = furthest(found, pipeline.reference(inputs))
    theirs = furthest(found, peer(config, inputs[:count], targets[:count], inputs))
    return max(ours, theirs)


# Real tables --------------------------------------------------------------------------------------

TECHNIQUES: list[dict[str, Any]] = [
    {"outliers": "iqr"},
    {"outliers": "winsorize"},
    {"outliers": "winsorize", "winsor_quantile": 0.2},
    {"transformation": "power"},
    {"transformation": "quantile"},
    {"transformation": "quantile", "quantile_output": "normal"},
    {"transformation": "polynomial"},
    {"normalization": "standard"},
    {"normalization": "minmax"},
    {"normalization": "robust"},
    {"feature_selection": 3},
    {"pca": 3},
    {"pca": 0.999},
]
COMBINATIONS: list[dict[str, Any]] = [
    {"transformation": "polynomial", "pca": 5},  # terms of 1e6 that cancel
    {"transformation": "polynomial", "normalization": "standard", "pca": 5},
    {"transformation": "power", "normalization": "robust", "feature_selection": 4, "pca": 2},
    {"outliers": "iqr", "transformation": "quantile", "normalization": "standard", "pca": 2},
]
IMPUTATIONS = ["mean", "median", "most_frequent", "knn"]
HOLED = ["penguins", "breast_cancer with holes", "wine with holes", "diabetes with holes"]


@pytest.mark.parametrize("name", ["breast_cancer", "diabetes", "digits"])
@pytest.mark.parametrize("config", TECHNIQUES, ids=str)
def test_each_technique(name: str, config: dict[str, Any]) -> None:
    assert compared(config, name) < TOLERANCE


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
@pytest.mark.parametrize("config", COMBINATIONS, ids=str)
def test_combinations(name: str, config: dict[str, Any]) -> None:
    assert compared(config, name) < TOLERANCE


@pytest.mark.parametrize("name", HOLED)
@pytest.mark.parametrize("imputation", IMPUTATIONS)
def test_each_imputation(name: str, imputation: str) -> None:
    """Every row of the penguins too, though many donors are nearly as far as one another."""
    assert compared({"imputation": imputation, "missing_indicator": True}, name) < TOLERANCE


@pytest.mark.parametrize(
    ("imputation", "config"),
    [("median", c) for c in (*TECHNIQUES[3:8], *COMBINATIONS)]
    + [("knn", c) for c in (TECHNIQUES[4], *COMBINATIONS[1:])],
    ids=str,
)
def test_penguins_through_everything(imputation: str, config: dict[str, Any]) -> None:
    asked = {"imputation": imputation, "missing_indicator": True, **config}
    assert compared(asked, "penguins") < TOLERANCE


@pytest.mark.parametrize("neighbours", [1, 2, 10, 206])
def test_penguins_with_other_numbers_of_neighbours(neighbours: int) -> None:
    config = {"imputation": "knn", "imputation_neighbors": neighbours}
    assert compared(config, "penguins") < TOLERANCE


def test_cubes() -> None:
    config = {"transformation": "polynomial", "polynomial_degree": 3, "normalization": "minmax"}
    assert compared(config, "wine") < TOLERANCE


def test_selection_for_a_regression_and_for_classes() -> None:
    """Diabetes has real targets; as whole numbers they would be classes."""
    inputs, targets, _ = table("diabetes")
    for given, word in ((targets, "f_regression"), (targets[:, None], "f_regression")):
        pipeline = fit({"feature_selection": 4}, inputs, given)
        assert pipeline.steps == (f"select features: 4 of 10 by {word}",)
        kept = SelectKBest(f_regression, k=4).fit(inputs, targets).get_support(indices=True)
        np.testing.assert_array_equal(run(pipeline, inputs), inputs[:, kept])
    classes = fit({"feature_selection": 4}, inputs, targets.astype(np.int32))
    assert classes.steps == ("select features: 4 of 10 by f_classif",)


# Hard tables --------------------------------------------------------------------------------------


def hard(rows: int = 150) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "far from zero": 1e5 + rng.random(rows),
        "far from zero, few values": 1e6 + rng.random(rows).round(1),
        "constant": np.full(rows, 7.3),
        "constant zero": np.zeros(rows),
        "a single one": (np.arange(rows) == 3) * 1.0,
        "whole": rng.integers(0, 5, rows) * 1.0,
        "negative and skewed": -rng.lognormal(size=rows),
        "skewed": rng.lognormal(0, 3, rows),
        "heavy tails": rng.standard_cauchy(rows),
        "large": rng.normal(size=rows) * 1e12,
        "small": rng.normal(size=rows) * 1e-12,
    }


@pytest.mark.parametrize(
    "config",
    [
        *TECHNIQUES[:6],
        *TECHNIQUES[7:10],
        {"transformation": "power", "normalization": "robust"},
        {"transformation": "polynomial", "normalization": "standard"},
    ],
    ids=str,
)
def test_hard_features(config: dict[str, Any]) -> None:
    """On the training rows, and on rows beyond their range."""
    columns = hard()
    inputs = np.column_stack([*columns.values()]).astype(np.float32)
    pipeline = fit(config, inputs, np.arange(len(inputs)) % 2)
    beyond = np.concatenate([inputs, 1.5 * inputs, inputs - 1, -inputs])
    assert furthest(run(pipeline, beyond), pipeline.reference(beyond)) < TOLERANCE


@pytest.mark.parametrize("names", [["far from zero", "whole"], ["heavy tails", "skewed"]])
def test_components_of_hard_features(names: list[str]) -> None:
    columns = hard()
    inputs = np.column_stack([columns[n] for n in names]).astype(np.float32)
    pipeline = fit({"pca": 2}, inputs, np.arange(len(inputs)))
    beyond = np.concatenate([inputs, 1.5 * inputs, inputs - 1, -inputs])
    assert furthest(run(pipeline, beyond), pipeline.reference(beyond)) < TOLERANCE


def test_constant_features_stay_finite() -> None:
    inputs = np.column_stack([np.full(30, 2.5), np.zeros(30), np.arange(30)]).astype(np.float32)
    for config in (*TECHNIQUES[:10], {"feature_selection": 1}, {"pca": 2}):
        found = run(fit(config, inputs, np.arange(30) % 2), inputs)
        assert np.isfinite(found).all()
    np.testing.assert_array_equal(
        run(fit({"normalization": "standard"}, inputs, np.arange(30)), inputs)[:, :2], 0
    )
    kept = run(fit({"feature_selection": 1}, inputs, (np.arange(30) > 12) * 1), inputs)
    np.testing.assert_array_equal(kept, inputs[:, 2:])  # a constant says nothing of the class


def test_a_hard_exponent() -> None:
    """Where Yeo-Johnson's exponent is near 0 and near 2, its formula divides by almost nothing."""
    rng = np.random.default_rng(2)
    wanted = rng.normal(size=4000)
    for sign in (1, -1):
        inputs = (sign * np.expm1(0.3 * wanted + 2))[:, None].astype(np.float32)
        pipeline = fit({"transformation": "power"}, inputs, wanted)
        exponent = pipeline.arrays["preprocessing/transformation/exponent"][:, 0]
        assert abs(exponent[0 if sign == 1 else 1]) < 0.1
        for replaced in (0.0, 1e-9, -1e-7):
            arrays = {n: jnp.asarray(a) for n, a in pipeline.arrays.items()}
            arrays["preprocessing/transformation/exponent"] = jnp.full((2, 1), replaced)
            found = np.asarray(pipeline.apply(arrays, jnp.asarray(inputs)))
            assert np.isfinite(found).all()
            order = np.argsort(inputs[:, 0])
            assert (np.diff(found[order, 0]) >= 0).all()
        assert furthest(run(pipeline, inputs), pipeline.reference(inputs)) < TOLERANCE


def test_ranks_of_repeated_values_and_beyond_the_ends() -> None:
    inputs = np.asarray([1, 1, 1, 2, 3, 3, 3, 3, 5, 8], np.float32)[:, None]
    pipeline = fit({"transformation": "quantile"}, inputs, np.arange(10))
    asked = np.asarray([[-9], [1], [1.5], [2], [3], [4], [8], [80]], np.float32)
    expected = np.asarray([0, 0, 2.5, 3, 5.5, 7.5, 9, 9]) / 9
    np.testing.assert_allclose(run(pipeline, asked)[:, 0], expected, atol=1e-6)
    normal = fit({"transformation": "quantile", "quantile_output": "normal"}, inputs, np.arange(10))
    ends = run(normal, asked)[[0, -1], 0]
    np.testing.assert_allclose(ends, [-5.19933758, 5.19933758], rtol=1e-6)


def test_more_examples_than_quantiles_and_values_between_two_of_them() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(3000, 2)).astype(np.float32)
    inputs[:, 1] = np.round(inputs[:, 1], 1)
    asked = (rng.normal(size=(3000, 2)) * 1.2).astype(np.float32)
    asked[:1500, 1] = np.round(asked[:1500, 1], 1)
    for output in ("uniform", "normal"):
        config = {"transformation": "quantile", "quantile_output": output}
        pipeline = fit(config, inputs, np.zeros(3000))
        for rows in (inputs, asked):
            assert furthest(run(pipeline, rows), pipeline.reference(rows)) < TOLERANCE


@pytest.mark.parametrize("seed", range(3))
def test_random_tables_with_holes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = (rng.normal(size=(90, 6)) + rng.integers(-3, 4, 6)) * 10.0 ** rng.integers(-2, 4, 6)
    inputs[rng.random(inputs.shape) < 0.25] = NAN  # no two donors are equally far
    targets = rng.integers(0, 3, 90)
    for config in (
        {"imputation": "knn", "transformation": "power"},
        {"imputation": "knn", "imputation_neighbors": 1, "normalization": "standard", "pca": 2},
        {"imputation": "median", "missing_indicator": True, "transformation": "quantile"},
    ):
        pipeline = fit(config, inputs[:60], targets[:60])
        rows = inputs.astype(np.float32)
        assert furthest(run(pipeline, rows), pipeline.reference(rows)) < TOLERANCE


# Missing values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("imputation", IMPUTATIONS)
def test_values_missing_where_training_had_none(imputation: str) -> None:
    """They are filled like the others, and no column marks them."""
    rng = np.random.default_rng(0)
    train = rng.normal(size=(50, 3)).astype(np.float32)
    train[4, 0] = NAN
    pipeline = fit({"imputation": imputation, "missing_indicator": True}, train, np.zeros(50))
    rows = np.asarray([[NAN, NAN, 1.0], [0.5, NAN, NAN], [NAN] * 3, [1, 2, 3]], np.float32)
    found = run(pipeline, rows)
    assert found.shape == (4, 4)
    assert furthest(found, pipeline.reference(rows)) < TOLERANCE
    np.testing.assert_array_equal(found[:, 3], [1, 0, 1, 0])
    for row, whole in zip(rows, found, strict=True):  # one example at a time
        np.testing.assert_allclose(run(pipeline, row[None]), whole[None], rtol=1e-6)


def test_no_column_where_training_has_no_missing_value() -> None:
    train = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    pipeline = fit({"imputation": "mean", "missing_indicator": True}, train, np.zeros(20))
    assert run(pipeline, train).shape == (20, 3)
    assert "no column" in pipeline.steps[1]


def nearest(row: np.ndarray, train: np.ndarray, feature: int) -> list[tuple[Fraction, int]]:
    """Donors of a feature with their exact squared distances, nearest first."""
    found = []
    for index, donor in enumerate(train):
        shared = [i for i in range(len(row)) if not (np.isnan(row[i]) or np.isnan(donor[i]))]
        if shared and not np.isnan(donor[feature]):
            squares = [(Fraction(float(row[i])) - Fraction(float(donor[i]))) ** 2 for i in shared]
            found.append((sum(squares, Fraction(0)) * len(row) / len(shared), index))
    return sorted(found)


def naive(rows: np.ndarray, train: np.ndarray, neighbours: int) -> np.ndarray:
    """The definition: of donors that are equally far, those that come first."""
    filled = rows.astype(np.float64)
    for r, f in np.argwhere(np.isnan(rows)):
        near = [train[i, f] for _, i in nearest(rows[r], train, f)[:neighbours]]
        filled[r, f] = np.mean(near, dtype=np.float64) if near else np.nanmean(train[:, f])
    return filled


@pytest.mark.parametrize("neighbours", [1, 3, 12])
@pytest.mark.parametrize("kind", ["ties", "nearly ties", "far from zero"])
def test_neighbours_are_the_exact_ones(kind: str, neighbours: int) -> None:
    """Of the ones that are equally far the first; scikit-learn agrees wherever none are."""
    rng = np.random.default_rng(3)
    train, rows = rng.integers(0, 4, (2, 30, 4)).astype(np.float32)
    if kind == "nearly ties":
        train, rows = (1 + a * np.float32(1 / 3) for a in (train, rows))
    if kind == "far from zero":  # the terms of an expanded square are 1e12, its sum about 1
        train, rows = (
            a + np.float32(1e6) + rng.random(4).astype(np.float32) for a in (train, rows)
        )
    for a in (train, rows):
        a[rng.random(a.shape) < 0.3] = NAN
    config = {"imputation": "knn", "imputation_neighbors": neighbours}
    pipeline = fit(config, train, np.zeros(30))
    found = run(pipeline, rows)
    np.testing.assert_allclose(found, naive(rows, train, neighbours), rtol=1e-7)
    if kind == "far from zero":
        return  # there scikit-learn's distances are rounding errors
    reference, compared = pipeline.reference(rows), 0
    for r, f in np.argwhere(np.isnan(rows)):
        donors = [d for d, _ in nearest(rows[r], train, f)]
        if len(donors) <= neighbours or donors[neighbours - 1] != donors[neighbours]:
            np.testing.assert_allclose(found[r, f], reference[r, f], rtol=1e-6)
            compared += 1
    assert compared >= 5


def test_fewer_donors_than_neighbours() -> None:
    train = np.full((10, 2), NAN, np.float32)
    train[:, 0] = np.arange(10)
    train[[2, 5], 1] = [1.0, 4.0]
    pipeline = fit({"imputation": "knn", "imputation_neighbors": 7}, train, np.zeros(10))
    rows = np.asarray([[2, NAN], [NAN, 3], [NAN, NAN]], np.float32)
    found = run(pipeline, rows)
    np.testing.assert_allclose(found, [[2, 2.5], [3.5, 3], [4.5, 2.5]], rtol=1e-6)
    np.testing.assert_allclose(found, pipeline.reference(rows), rtol=1e-6)
