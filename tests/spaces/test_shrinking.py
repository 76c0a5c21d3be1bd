"""The shrunk model computes what the full model does with zeros at the removed channels."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretax.errors import UsageError
from paretax.spaces.channels import ChannelGroup, channel_masks, find_channels, kept_indices
from paretax.spaces.shrinking import shrink, shrink_arrays, shrunk_shapes
from paretax.spaces.sites import find_sites
from paretax.tasks import build_model

if TYPE_CHECKING:
    from tests.spaces.conftest import Zoo

ROOT = Path(__file__).parents[2]
Kept = dict[str, np.ndarray]
Groups = Sequence[ChannelGroup]


@cache
def groups_of(zoo: Zoo) -> Groups:
    return find_channels(zoo.predict, zoo.params, zoo.state, zoo.inputs).groups


@cache
def forward(zoo: Zoo) -> Callable[..., Any]:
    """The full model, compiled once."""
    return jax.jit(zoo.predict)


def some(groups: Groups, seed: int) -> Kept:
    """Channels drawn by chance, whatever their weights; at least one of each group goes."""
    rng = np.random.default_rng(seed)
    counts = [int(rng.integers(1, group.size)) for group in groups]
    return {
        group.name: np.sort(rng.choice(group.size, count, replace=False))
        for group, count in zip(groups, counts, strict=True)
    }


def masked(groups: Groups, kept: Kept, arrays: Any) -> dict[str, Any]:
    """Zeros at the removed channels, one entry of one member's axis at a time."""
    out = {name: np.array(array) for name, array in arrays.items()}
    for group in groups:
        for member in group.members:
            if member.array in out:
                axis = np.moveaxis(out[member.array], member.axis, 0)
                for i in range(len(axis)):
                    if (i // member.inner) % group.size not in kept[group.name]:
                        axis[i] = 0
    return out


def shrunk_model(
    predict: Any, params: Any, state: Any, inputs: Any, groups: Groups, kept: Kept
) -> tuple[Any, Any, Any]:
    """The shrunk program, its parameters and its state."""
    counts = {name: len(indices) for name, indices in kept.items()}
    run = shrink(predict, params, state, inputs, groups, counts)
    small = [shrink_arrays(groups, kept, arrays) for arrays in (params, state)]
    return run, small[0], small[1]


@cache
def of_zoo(zoo: Zoo) -> tuple[Kept, Any, Any, Any]:
    """What is kept of a model's channels, the shrunk program, its parameters and its state."""
    groups = groups_of(zoo)
    kept = some(groups, 0)
    run, params, state = shrunk_model(zoo.predict, zoo.params, zoo.state, zoo.inputs, groups, kept)
    return kept, jax.jit(run), params, state


def close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# Models of every kind -----------------------------------------------------------------------------


def test_as_with_zeros(zoo: Zoo) -> None:
    """The full model's state stays as it is, also where channels are removed."""
    groups = groups_of(zoo)
    kept, run, params, state = of_zoo(zoo)
    full = masked(groups, kept, zoo.params)
    expected = forward(zoo)(full, zoo.state, zoo.inputs)
    close(run(params, state, zoo.inputs), expected, zoo.tolerance)
    assert np.abs(expected - forward(zoo)(zoo.params, zoo.state, zoo.inputs)).max() > 1e-3


def test_shapes_and_work_shrink(zoo: Zoo) -> None:
    groups = groups_of(zoo)
    kept, run, params, state = of_zoo(zoo)
    counts = {name: len(indices) for name, indices in kept.items()}
    arrays = {**zoo.params, **zoo.state}
    shapes = shrunk_shapes(groups, counts, arrays)
    for name, array in {**params, **state}.items():
        assert (array.shape, array.dtype) == (shapes[name].shape, shapes[name].dtype)
    touched = {member.array for group in groups for member in group.members}
    assert touched == {name for name in arrays if shapes[name].shape != arrays[name].shape}

    def flops(function: Any, *args: Any) -> float:
        cost: Any = function.lower(*args).cost_analysis()
        return float(cost["flops"])

    left = flops(run, params, state, zoo.inputs)
    assert left < 0.9 * flops(forward(zoo), zoo.params, zoo.state, zoo.inputs)


def test_weights_enter_their_products_as_they_are(zoo: Zoo) -> None:
    groups = groups_of(zoo)
    _, run, params, state = of_zoo(zoo)
    before = find_sites(zoo.predict, zoo.params, zoo.state, zoo.inputs)
    after = find_sites(run, params, state, zoo.inputs)
    weights = {m.array for g in groups for m in g.members if m.role != "parameter"}
    assert weights - {"embed/embedding"} <= set(after)  # it is looked up
    for name, site in before.items():
        assert after[name].axes == site.axes
        assert after[name].shape == params[name].shape


def test_a_symbolic_batch_size(zoo: Zoo) -> None:
    _, run, params, state = of_zoo(zoo)
    (batch,) = jax.export.symbolic_shape("batch")
    shape = jax.ShapeDtypeStruct((batch, *zoo.inputs.shape[1:]), zoo.inputs.dtype)
    exported = jax.export.export(run)(params, state, shape)
    expected = run(params, state, zoo.inputs)
    close(exported.call(params, state, zoo.inputs), expected, zoo.tolerance)


def test_what_the_masks_keep(zoo: Zoo) -> None:
    """The masks of the least important channels zero what the kept indices leave out."""
    groups = groups_of(zoo)
    removed = {group.name: group.size // 2 for group in groups}
    arrays = {**zoo.params, **zoo.state}
    masks = jax.jit(lambda arrays: channel_masks(groups, arrays, removed))(arrays)
    kept = {g.name: kept_indices(g, zoo.params, removed[g.name]) for g in groups}
    expected = masked(groups, kept, zoo.params)
    for name, array in zoo.params.items():
        found = np.where(masks[name], array, 0) if name in masks else array
        np.testing.assert_array_equal(found, expected[name])
    left = shrink_arrays(groups, kept, arrays)
    for name, mask in masks.items():
        whole = np.broadcast_to(mask, arrays[name].shape)
        assert whole.sum() == left[name].size


def test_removed_entries_do_not_matter_once_nothing_sums_over_them(zoo: Zoo) -> None:
    """With the consumers zeroed, whatever the producers hold leaves the outputs as they are."""
    groups = [g for g in groups_of(zoo) if any(m.role == "consumer" for m in g.members)]
    kept = some(groups, 3)
    silent = masked(groups, kept, zoo.params)
    noise = {n: np.random.default_rng(4).normal(size=a.shape) for n, a in zoo.params.items()}
    noisy = {n: np.where(silent[n] == 0, noise[n], silent[n]) for n in silent}
    for group in groups:
        for member in (m for m in group.members if m.role == "consumer"):
            along = np.moveaxis(noisy[member.array], member.axis, 0)
            gone = [
                i
                for i in range(len(along))
                if (i // member.inner) % group.size not in kept[group.name]
            ]
            along[gone] = 0
    params = {n: jnp.asarray(a, zoo.params[n].dtype) for n, a in noisy.items()}
    expected = forward(zoo)(silent, zoo.state, zoo.inputs)
    close(forward(zoo)(params, zoo.state, zoo.inputs), expected, zoo.tolerance)


@pytest.mark.parametrize("api", ["nnx", "linen"])
def test_the_models_of_the_examples(api: str) -> None:
    """Channels, heads and features of heads can go, and all products but the last one shrink."""
    task = runpy.run_path(str(ROOT / "examples" / "own_models.py"))[f"{api}_task"]
    inputs = jnp.asarray(task.data().train.inputs[:4])
    model = build_model(task, task.defaults, jax.eval_shape(lambda: inputs))
    params, state = model.init(jax.random.key(0))
    channels = find_channels(model.predict, params, state, inputs)
    assert [(g.kind, g.size) for g in channels.groups] == [
        *[("channels", 16)] * 2,
        ("heads", 4),
        *[("channels", 4)] * 2,
    ]
    assert list(channels.refused.values()) == ["it is an output of the model"]
    kept = some(channels.groups, 0)
    run, small, small_state = shrunk_model(
        model.predict, params, state, inputs, channels.groups, kept
    )
    expected = jax.jit(model.predict)(masked(channels.groups, kept, params), state, inputs)
    close(jax.jit(run)(small, small_state, inputs), expected)


# A function alone ---------------------------------------------------------------------------------

PARAMS = {"u": jnp.ones((3, 4)), "w": jnp.ones((4, 2))}
X = jnp.ones((5, 3))


def predict(params: Any, state: Any, x: Any) -> Any:
    return jnp.sin(x @ params["u"]) @ params["w"]


GROUPS = find_channels(predict, PARAMS, {}, X).groups


def test_nothing_removed() -> None:
    kept = {group.name: np.arange(group.size) for group in GROUPS}
    run, params, state = shrunk_model(predict, PARAMS, {}, X, GROUPS, kept)
    np.testing.assert_array_equal(run(params, state, X), predict(PARAMS, {}, X))


def test_shapes_alone_are_enough() -> None:
    shapes = jax.eval_shape(lambda: (PARAMS, X))
    assert find_channels(predict, shapes[0], {}, shapes[1]).groups == GROUPS
    run = shrink(predict, shapes[0], {}, shapes[1], GROUPS, {"u": 1})
    left = shrunk_shapes(GROUPS, {"u": 1}, shapes[0])
    assert jax.eval_shape(run, left, {}, shapes[1]).shape == (5, 2)


def test_numpy_arrays_stay_numpy_arrays() -> None:
    arrays = {name: np.asarray(array) for name, array in PARAMS.items()}
    left = shrink_arrays(GROUPS, {"u": np.array([1, 3])}, arrays)
    assert isinstance(left["u"], np.ndarray)
    np.testing.assert_array_equal(left["u"], arrays["u"][:, [1, 3]])
    np.testing.assert_array_equal(left["w"], arrays["w"][[1, 3]])


# Programs drawn by chance -------------------------------------------------------------------------

C = 12
LAYERS: dict[str, Callable[[Any, Any], Any]] = {
    "dense": lambda p, x: x @ p["w"],
    "bias": lambda p, x: x + p["b"],
    "fixed factor": lambda p, x: x @ (p["w"] * 0.5) @ (-p["v"] / 3),
    "reshaped weight": lambda p, x: x @ p["square"].reshape(C, C),
    "stacked": lambda p, x: jnp.tanh(x @ p["stack"][1]) @ p["stack"][0],
    "residual": lambda p, x: x + jnp.tanh(x @ p["w"]) @ p["v"],
    "gate": lambda p, x: x * jax.nn.sigmoid(x @ p["w"]),
    "sigmoid": lambda p, x: jax.nn.sigmoid(x),
    "cosine": lambda p, x: jnp.cos(x),
    "divide": lambda p, x: x / (1 + x * x),
    "divided by a parameter": lambda p, x: x / (p["b"] + 3),
    "transposed": lambda p, x: (p["w"].T @ x.transpose(0, 2, 1)).transpose(0, 2, 1),
    "split": lambda p, x: (x.reshape(*x.shape[:2], 3, 4) * p["split"]).reshape(x.shape),
    "split otherwise": lambda p, x: jnp.sin(x.reshape(*x.shape[:2], 4, 3)).reshape(x.shape),
    "within": lambda p, x: jnp.einsum(
        "bthi,hij->bthj", x.reshape(*x.shape[:2], 3, 4), p["each"]
    ).reshape(x.shape),
    "attend": lambda p, x: jnp.einsum("bts,bsc->btc", jnp.einsum("btc,bsc->bts", x, x @ p["w"]), x),
    "heads": lambda p, x: jnp.einsum(
        "bths,bshd->bthd",
        jnp.einsum("bthd,bshd->bths", *[(x @ p[n]).reshape(*x.shape[:2], 3, 4) for n in "wv"]),
        x.reshape(*x.shape[:2], 3, 4),
    ).reshape(x.shape),
    "flattened": lambda p, x: jnp.tanh(x.reshape(x.shape[0], -1) @ p["flat"])[:, None] + x @ p["w"],
    "depthwise": lambda p, x: jax.lax.conv_general_dilated(
        x, p["depth"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"), feature_group_count=C
    ),
    "grouped": lambda p, x: jax.lax.conv_general_dilated(
        x, p["group"], (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"), feature_group_count=2
    ),
    "gram": lambda p, x: jnp.einsum("btc,btd,bsd->bsc", x, x, x) / 10,
    "norm": lambda p, x: x / (1 + jnp.abs(x).sum(-1, keepdims=True)),
    "reversed": lambda p, x: x[..., ::-1],
    "half": lambda p, x: jnp.concatenate([x[..., :6] @ p["half"], x[..., 6:]], axis=-1),
    "shift": lambda p, x: jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1],
    "scaled": lambda p, x: (p["w"] * p["b"]).sum(0) * x,
    "unstacked": lambda p, x: jnp.stack(
        [jnp.tanh(row @ p["w"]) for row in jnp.unstack(x, axis=1)], 1
    ),
}
_SHAPES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys("wv", (C, C)),
    "b": (C,),
    "split": (3, 4),
    "square": (3, 4, 4, 3),
    "stack": (2, C, C),
    "each": (3, 4, 4),
    "flat": (2 * C, C),
    "depth": (3, 1, C),
    "group": (3, C // 2, C),
    "half": (6, 6),
}


@settings(max_examples=20)
@given(
    names=st.lists(st.sampled_from(sorted(LAYERS)), min_size=2, max_size=4), seed=st.integers(0, 9)
)
def test_programs_drawn_by_chance(names: list[str], seed: int) -> None:
    """Whatever the layers are, each group that is found can be removed exactly."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"in": (5, C), "out": (C, 2)}
    shapes |= {f"{i}/{n}": s for i in range(len(names)) for n, s in _SHAPES.items()}
    params = {n: jnp.asarray(rng.normal(0, 0.4, s), jnp.float32) for n, s in shapes.items()}

    def predict(params: Any, state: Any, x: Any) -> Any:
        x = x @ params["in"]
        for i, name in enumerate(names):
            x = LAYERS[name]({n: params[f"{i}/{n}"] for n in _SHAPES}, x)
        return x @ params["out"]

    x = jnp.asarray(rng.normal(size=(3, 2, 5)), jnp.float32)
    groups = find_channels(predict, params, {}, x).groups
    if not groups:
        return
    kept = some(groups, seed)
    run, small, _ = shrunk_model(predict, params, {}, x, groups, kept)
    expected = predict(masked(groups, kept, params), {}, x)
    np.testing.assert_allclose(run(small, {}, x), expected, rtol=1e-3, atol=1e-3)


def test_channels_go_through_an_array_that_is_taken_apart() -> None:
    params = {"in": jnp.ones((5, 4)), "out": jnp.ones((4, 2))}

    def predict(params: Any, state: Any, x: Any) -> Any:
        first, second = jnp.unstack(jnp.tanh(x @ params["in"]), axis=1)
        return (first * second) @ params["out"]

    found = find_channels(predict, params, {}, jnp.ones((3, 2, 5))).groups
    assert [group.size for group in found] == [4]


# Misuse -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 5, -1])
def test_counts_are_from_one_to_the_size(count: int) -> None:
    with pytest.raises(UsageError, match=f"from 1 to 4, got {count}"):
        shrunk_shapes(GROUPS, {"u": count}, PARAMS)
    with pytest.raises(UsageError, match=f"from 1 to 4, got {count}"):
        shrink(predict, PARAMS, {}, X, GROUPS, {"u": count})


@pytest.mark.parametrize("kept", [[], [4], [-1, 0], [2, 1], [1, 1], [0.5], [[1]]])
def test_indices_are_ascending_and_in_range(kept: Any) -> None:
    with pytest.raises(UsageError, match="ascending whole numbers"):
        shrink_arrays(GROUPS, {"u": np.array(kept)}, PARAMS)


def test_unknown_groups() -> None:
    with pytest.raises(UsageError, match="unknown group of channels 'w'"):
        shrink(predict, PARAMS, {}, X, GROUPS, {"w": 1})
    with pytest.raises(UsageError, match="unknown group of channels 'v'"):
        shrink_arrays(GROUPS, {"v": np.array([0])}, PARAMS)


def test_groups_of_another_model() -> None:
    def other(params: Any, state: Any, x: Any) -> Any:
        return jax.nn.softmax(x @ params["u"]) @ params["w"]

    with pytest.raises(UsageError, match="'u' is none of them"):
        shrink(other, PARAMS, {}, X, GROUPS, {"u": 2})


def test_arrays_that_were_not_cut() -> None:
    run = shrink(predict, PARAMS, {}, X, GROUPS, {"u": 2})
    with pytest.raises(UsageError, match=r"'u' must have the shape .*\(3, 2\), got \(3, 4\)"):
        run(PARAMS, {}, X)
    with pytest.raises(UsageError, match="unknown array 'b'"):
        run({**shrink_arrays(GROUPS, {"u": np.array([0, 1])}, PARAMS), "b": X}, {}, X)
