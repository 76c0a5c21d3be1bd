"""Which channels of a group go, and what that takes of each array."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.spaces.small_arrays import PARAMS, B, C, O, T, find, normal

from paretax.errors import UsageError
from paretax.spaces.channels import channel_masks, channel_scores, kept_indices


def chain(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["u"] + p["b"]) @ p["w"]


(GROUP,) = find(chain).groups


def test_scores_are_norms_over_the_group() -> None:
    u, w = np.asarray(PARAMS["u"]), np.asarray(PARAMS["w"])
    naive = [np.sqrt((u[:, c] ** 2).sum() + (w[c] ** 2).sum()) for c in range(C)]
    np.testing.assert_allclose(channel_scores(GROUP, PARAMS), naive, rtol=1e-6)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_scores_of_flattened_members(order: tuple[int, int, int]) -> None:
    def flattened(p: Any, x: Any) -> Any:
        return (x @ p["u"]).transpose(order).reshape(B, -1) @ p["w"]

    params = {"u": PARAMS["u"], "w": normal(0, (T * C, O))}
    (group,) = find(flattened, params).groups
    u, w = np.asarray(params["u"]), np.asarray(params["w"])
    split = w.reshape(T, C, O) if order == (0, 1, 2) else w.reshape(C, T, O).swapaxes(0, 1)
    naive = [np.sqrt((u[:, c] ** 2).sum() + (split[:, c] ** 2).sum()) for c in range(C)]
    np.testing.assert_allclose(channel_scores(group, params), naive, rtol=1e-6)


@settings(max_examples=30)
@given(
    values=st.lists(st.sampled_from([0.0, -1.0, 1.0, 0.5, 2.0]), min_size=C, max_size=C),
    removed=st.integers(0, C - 1),
)
def test_exactly_the_least_important_go(values: list[float], removed: int) -> None:
    params = {"u": jnp.array([values]), "w": jnp.zeros((C, 1)), "b": jnp.ones(C)}
    left = sorted(sorted(range(C), key=lambda c: abs(values[c]))[removed:])
    assert kept_indices(GROUP, params, removed).tolist() == left
    masks = channel_masks([GROUP], params, {"u": removed})
    assert {n: m.shape for n, m in masks.items()} == {"u": (1, C), "w": (C, 1), "b": (C,)}
    for mask in masks.values():
        assert np.flatnonzero(mask.ravel()).tolist() == left


def test_blocks_of_neighbours_go_together() -> None:
    params = {"u": jnp.array([[9.0, 0, 3, 4, 1, 7]]), "w": jnp.zeros((C, 1)), "b": jnp.ones(C)}
    assert kept_indices(GROUP, params, 2, block=2).tolist() == [0, 1, 4, 5]
    assert kept_indices(GROUP, params, 4, block=2).tolist() == [0, 1]
    assert kept_indices(GROUP, params, 3, block=3).tolist() == [0, 1, 2]
    masks = channel_masks([GROUP], params, {"u": 2}, block=2)
    assert np.asarray(masks["b"]).tolist() == [True, True, False, False, True, True]


def test_one_program_serves_all_counts() -> None:
    traces = []

    @jax.jit
    def run(params: Any, count: Any) -> Any:
        traces.append(count)
        return channel_masks([GROUP], params, {"u": count})["b"]

    for count in range(C):
        kept = kept_indices(GROUP, PARAMS, count)
        assert np.flatnonzero(run(PARAMS, count)).tolist() == kept.tolist()
    assert len(traces) == 1


def test_masks_of_several_groups_of_one_array() -> None:
    channels = find(lambda p, x: jnp.sin(jnp.sin(x @ p["u"]) @ p["v"]) @ p["w"])
    masks = channel_masks(channels.groups, PARAMS, {"u": 2, "v": 3})
    first, second = (
        kept_indices(g, PARAMS, n) for g, n in zip(channels.groups, (2, 3), strict=True)
    )
    rows, columns = np.isin(np.arange(C), first), np.isin(np.arange(C), second)
    np.testing.assert_array_equal(masks["v"], rows[:, None] & columns)
    assert "b" not in masks


def test_only_given_arrays_have_masks() -> None:
    assert list(channel_masks([GROUP], {n: PARAMS[n] for n in "uw"}, {"u": 1})) == ["u", "w"]
    assert channel_masks([GROUP], PARAMS, {}) == {}


@pytest.mark.parametrize(
    ("removed", "block", "message"),
    [
        (6, 1, "would empty"),
        (9, 1, "would empty"),
        (-1, 1, "at least 0, got -1"),
        (3, 2, "a multiple of 2, and at least 0, got 3"),
        (2, 4, "block must divide the number of channels of 'u', 6, got 4"),
        (2, 0, "got 0"),
    ],
)
def test_counts_that_cannot_be(removed: int, block: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        channel_masks([GROUP], PARAMS, {"u": removed}, block=block)
    with pytest.raises(UsageError, match=message):
        kept_indices(GROUP, PARAMS, removed, block=block)


def test_unknown_groups() -> None:
    with pytest.raises(UsageError, match=r"unknown group of channels 'w'.* Valid: u"):
        channel_masks([GROUP], PARAMS, {"w": 1})
