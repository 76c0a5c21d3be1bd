"""Masks on the way to the final sparsity, against naive ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.evaluators import Workbench
from paretax.evaluators.masking import Masker, mask_weights
from paretax.spaces.channels import channel_scores
from paretax.tasks import Arrays

SIZES = {"hidden/0/kernel": 30 * 6, "out/kernel": 6 * 2}
SHAPE = {"width": 6, "depth": 1}


def weights_of(bench: Workbench, candidate: dict[str, Any]) -> tuple[Arrays, Arrays]:
    """Random parameters and state of a candidate's model, none of them zero."""
    prepared = bench.prepared(candidate)
    rng = np.random.default_rng(0)
    return (
        {n: jnp.asarray(rng.normal(size=a.shape), a.dtype) for n, a in prepared.params.items()},
        {n: jnp.asarray(rng.uniform(size=a.shape), a.dtype) for n, a in prepared.state.items()},
    )


@pytest.fixture(scope="module")
def masker() -> Masker:
    """Has found none yet."""
    return Masker()


def masks_of(
    masker: Masker,
    bench: Workbench,
    candidate: dict[str, Any],
    params: Arrays,
    share: float,
    round_share: float | None = None,
) -> dict[str, np.ndarray]:
    prepared, deployed = bench.prepared(candidate), bench.deployed(candidate)
    _, state = weights_of(bench, candidate)
    _, found = masker.prune(prepared, deployed, candidate, params, state, share, round_share)
    return {n: np.broadcast_to(np.asarray(m), prepared.params[n].shape) for n, m in found.items()}


def largest(weights: Any, pruned: int) -> np.ndarray:
    """Where all but the `pruned` smallest are."""
    flat = np.abs(np.asarray(weights)).ravel()
    stays = np.ones(flat.size, bool)
    stays[np.argsort(flat, kind="stable")[:pruned]] = False
    return stays.reshape(np.shape(weights))


def test_masked_weights_are_zero_and_the_others_as_they_were() -> None:
    params = {"w": jnp.asarray([[1.0, 2.0], [3.0, jnp.nan]]), "b": jnp.asarray([4.0])}
    masks = {"w": jnp.asarray([[True, False], [True, False]])}
    found = mask_weights(params, masks)
    np.testing.assert_array_equal(found["w"], [[1.0, 0.0], [3.0, 0.0]])  # not NaN
    np.testing.assert_array_equal(found["b"], [4.0])
    column = mask_weights(params, {"w": jnp.asarray([[False], [True]])})
    np.testing.assert_array_equal(column["w"], [[0.0, 0.0], [3.0, jnp.nan]])
    assert mask_weights(params, {}) == params


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.875, 1.0])
def test_a_share_of_the_final_sparsity_is_of_the_smallest(
    masker: Masker, bench: Workbench, share: float
) -> None:
    candidate = {**SHAPE, "sparsity": 0.75, "sparsity@last": 0.5}
    params, _ = weights_of(bench, candidate)
    found = masks_of(masker, bench, candidate, params, share)
    assert found.keys() == SIZES.keys()  # no bias has a mask
    for (name, size), sparsity in zip(SIZES.items(), (0.75, 0.5), strict=True):
        pruned = round(share * round(size * sparsity))
        np.testing.assert_array_equal(found[name], largest(params[name], pruned))


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_global_scope_ranks_all_layers_together(
    masker: Masker, bench: Workbench, share: float
) -> None:
    candidate = {**SHAPE, "sparsity": 0.75, "pruning_scope": "global"}
    params, _ = weights_of(bench, candidate)
    params["out/kernel"] = params["out/kernel"] * 0.01  # smaller than nearly all others
    found = masks_of(masker, bench, candidate, params, share)
    total = sum(round(share * round(0.75 * size)) for size in SIZES.values())
    assert sum(int((~found[name]).sum()) for name in SIZES) == total
    small = np.abs(np.asarray(params["out/kernel"])).ravel()
    assert found["out/kernel"].ravel()[np.argmax(small)]  # a layer keeps its largest
    assert found["out/kernel"].sum() < 6


@pytest.mark.parametrize("done", [0.25, 0.5, 1.0])
def test_a_lottery_leaves_an_equal_share_in_each_round(
    masker: Masker, bench: Workbench, done: float
) -> None:
    candidate = {**SHAPE, "sparsity": 1 - 0.8**4, "pruning": "lottery_ticket"}
    params, _ = weights_of(bench, candidate)
    found = masks_of(masker, bench, candidate, params, 0.0, done)
    for (name, size), rate in zip(SIZES.items(), (0.2, 0.1), strict=True):
        pruned = round(size * (1 - (1 - rate) ** (4 * done)))
        np.testing.assert_array_equal(found[name], largest(params[name], pruned))


def test_a_pattern_is_applied_when_all_of_the_sparsity_is(masker: Masker, bench: Workbench) -> None:
    candidate = {**SHAPE, "pruning_pattern": "1:3", "pruning_pattern@last": "unstructured"}
    candidate |= {"sparsity@last": 0.5}
    params, _ = weights_of(bench, candidate)
    early = masks_of(masker, bench, candidate, params, 0.9)
    assert early["hidden/0/kernel"].all()
    np.testing.assert_array_equal(early["out/kernel"], largest(params["out/kernel"], 5))
    late = masks_of(masker, bench, candidate, params, 1.0)
    weights = np.abs(np.asarray(params["hidden/0/kernel"]))
    for column, stays in zip(weights.T, late["hidden/0/kernel"].T, strict=True):
        for group, kept in zip(column.reshape(-1, 3), stays.reshape(-1, 3), strict=True):
            assert list(kept) == [w == group.max() for w in group]
    np.testing.assert_array_equal(late["out/kernel"], largest(params["out/kernel"], 6))


# Channels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "gone"), [(0.0, 0), (0.5, 2), (1.0, 3)])
def test_the_least_important_channels_go_from_all_arrays(
    masker: Masker, image_bench: Workbench, share: float, gone: int
) -> None:
    candidate = {"channels": 6, "channel_sparsity": 0.5}
    params, _ = weights_of(image_bench, candidate)
    found = masks_of(masker, image_bench, candidate, params, share)
    (group,) = image_bench.deployed(candidate).groups
    scores = np.asarray(channel_scores(group, params))
    stays = largest(scores, gone)
    np.testing.assert_array_equal(found["conv/kernel"], np.broadcast_to(stays, (3, 3, 1, 6)))
    np.testing.assert_array_equal(found["conv/bias"], stays)
    rows = np.tile(stays, 9)  # 3 x 3 pixels of 6 channels
    np.testing.assert_array_equal(found["out/kernel"], np.repeat(rows[:, None], 2, axis=1))
    assert "out/bias" not in found


def test_channels_go_in_blocks(masker: Masker, image_bench: Workbench) -> None:
    candidate = {"channels": 8, "channel_sparsity": 0.5, "channel_block": 2}
    params, _ = weights_of(image_bench, candidate)
    for share, gone in ((0.4, 2), (1.0, 4)):
        stays = masks_of(masker, image_bench, candidate, params, share)["conv/bias"]
        assert (~stays).sum() == gone
        np.testing.assert_array_equal(stays[::2], stays[1::2])


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_weights_of_channels_that_go_do_not_count_as_pruned(
    masker: Masker, image_bench: Workbench, scope: str
) -> None:
    """What is left of each layer has the sparsity that was asked for."""
    candidate = {"channels": 6, "channel_sparsity": 0.5, "sparsity": 0.5, "pruning_scope": scope}
    params, _ = weights_of(image_bench, candidate)
    found = masks_of(masker, image_bench, candidate, params, 1.0)
    stays = found["conv/bias"]
    left = {"conv/kernel": found["conv/kernel"][..., stays]}
    left["out/kernel"] = found["out/kernel"][np.tile(stays, 9)]
    counts = {name: int((~mask).sum()) for name, mask in left.items()}
    expected = {"conv/kernel": round(27 / 2), "out/kernel": 54 // 2}
    assert sum(counts.values()) == sum(expected.values())
    if scope == "layer":
        assert counts == expected
    assert not found["conv/kernel"][..., ~stays].any()


def test_the_numbers_do_not_compile_again(bench: Workbench, compiled: list[str]) -> None:
    masker = Masker()
    candidate = {**SHAPE, "sparsity": 0.75}
    params, _ = weights_of(bench, candidate)
    masks_of(masker, bench, candidate, params, 0.5)
    assert compiled
    compiled.clear()
    masks_of(masker, bench, candidate, params, 0.7)
    masks_of(masker, bench, {**SHAPE, "sparsity": 0.3}, params, 1.0)
    masks_of(masker, bench, {**candidate, "pruning": "lottery_ticket"}, params, 0.0, 0.5)
    assert compiled == []
    masks_of(masker, bench, {**candidate, "pruning_scope": "global"}, params, 0.7)
    assert compiled  # the control: another program


def test_a_masked_weight_goes_first_again(masker: Masker, bench: Workbench) -> None:
    """So that masks grow, whatever the other weights have become."""
    candidate = {**SHAPE, "sparsity": 0.75}
    params, _ = weights_of(bench, candidate)
    before = masks_of(masker, bench, candidate, params, 0.5)
    noise = jax.random.normal(jax.random.key(1), (30, 6))
    masks = {name: jnp.asarray(mask) for name, mask in before.items()}
    changed = mask_weights({**params, "hidden/0/kernel": 1e-6 * noise}, masks)
    after = masks_of(masker, bench, candidate, changed, 0.8)
    for name in SIZES:
        assert not (after[name] & ~before[name]).any()
